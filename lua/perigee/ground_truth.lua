-- The exact answer: every row compared with every query, by a flat index that lives for this call.

local core = require "perigee.core"

local OF_SEARCH <const> = { filter = true, k = true }

---@param base perigee.Matrix
---@param queries perigee.Matrix|number[]|string
---@param k integer
---@param options { metric: string?, place: string?, ids: any, filter: any, threads: integer? }?
---@return perigee.Hits?, string?, string?
return function(base, queries, k, options)
  local build, search = {}, {}
  for key, value in pairs(options or {}) do
    if OF_SEARCH[key] then
      search[key] = value
    else
      build[key] = value
    end
  end
  search.threads = build.threads
  local flat <close>, message, code = core.flat.build(base, build)
  if not flat then
    return nil, message, code
  end
  return flat:search(queries, k, search)
end
