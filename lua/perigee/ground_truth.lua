-- The exact answer: every row compared with every query, by a flat index that lives for this call.

local core = require "perigee.core"

---@param base perigee.Matrix
---@param queries perigee.Queries
---@param k integer
---@param options perigee.GroundTruth?
---@return perigee.Hits?, string?, string?
return function(base, queries, k, options)
  local build, search = {}, {}
  for key, value in pairs(options or {}) do
    build[key] = value
  end
  search.filter, build.filter = build.filter, nil
  search.threads = build.threads
  -- Errors are caught only to name the caller's line instead of one of this file.
  local built, flat, message, code = pcall(core.flat.build, base, build)
  if not built then
    error(flat, 2)
  elseif not flat then
    return nil, message, code
  end
  local index <close> = flat
  local searched, hits, why, word = pcall(index.search, index, queries, k, search)
  if not searched then
    error(hits, 2)
  elseif not hits then
    return nil, why, word
  end
  return hits
end
