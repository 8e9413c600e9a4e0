-- Little memory on a device: what specs of streaming run within.

local pg = require "perigee"
local support = require "spec.support"

local M = {}

-- A device: the one that the specs run on, or a pretended one.
M.place = support.place:find "^cuda" and support.place or "fake:0"

local function rest()
  collectgarbage()
  collectgarbage()
  assert(pg.trim(M.place))
end

---Runs fn with so many bytes of the device, beside what is held.
function M.within(bytes, fn)
  rest()
  local before = 0
  for _, device in ipairs(pg.devices()) do
    for _, count in pairs(device.place == M.place and device.bytes_held or {}) do
      before = before + count
    end
  end
  assert(pg.limit(M.place, before + bytes))
  local ok, message = pcall(fn)
  assert(pg.limit(M.place, 0))
  assert(ok, message)
end

---So many bytes for rows, and what work by matrix products wants beside them on a GPU.
function M.room(bytes)
  return M.place:find "^cuda" and bytes + (64 << 20) or bytes
end

return M
