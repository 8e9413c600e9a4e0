-- The bar of `progress = true`: one line on stderr, wiped at the end. Where nobody watches
-- (stderr is a file or a pipe) each stage is told once, when the next one begins.

local core = require "perigee.core"

local M = {}

local CELLS <const> = 24
local PARTS <const> = { "▏", "▎", "▍", "▌", "▋", "▊", "▉" }

---A bar of `CELLS` cells filled to `share` of 1, to an eighth of a cell.
---@param share number
---@return string
function M.cells(share)
  local eighths = math.floor(math.max(0, math.min(1, share)) * CELLS * 8 + 0.5)
  local full, part = eighths // 8, eighths % 8
  local text = ("█"):rep(full) .. (PARTS[part] or "")
  return text .. (" "):rep(CELLS - full - (part > 0 and 1 or 0))
end

---@param stage string
---@param done integer
---@param total integer  0: not counted
---@param seconds number
---@return string
function M.line(stage, done, total, seconds)
  if total <= 0 then
    return ("%-28s %6.1f s"):format(stage, seconds)
  end
  return ("%-28s ▕%s▏ %3d %% %6.1f s"):format(stage, M.cells(done / total),
    math.floor(100 * done / total), seconds)
end

---A progress function that draws; called without arguments it ends the line.
---@param out file*?  stderr when left out
---@param watched boolean?  whether a person is watching; asked of the system when left out
---@return fun(stage: string?, done: integer?, total: integer?)
function M.bar(out, watched)
  out = out or io.stderr
  if watched == nil then
    watched = core.terminal()
  end
  local last, began
  return function(stage, done, total)
    if stage ~= last then
      if last and not watched then
        out:write(("%s: %.1f s\n"):format(last, os.time() - began))
      end
      last, began = stage, os.time()
    end
    if not watched then
      return
    elseif stage then
      out:write("\r\27[K", M.line(stage, done, total, os.time() - began))
    else
      out:write "\r\27[K"
    end
    out:flush()
  end
end

return M
