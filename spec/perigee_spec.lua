-- The module as a guest: no globals, no output, nothing cached from a state, clean in a state of
-- its own.

local pg = require "perigee"
local support = require "spec.support"

describe("require \"perigee\"", function()
  it("makes no globals and prints nothing", function()
    local out, status = support.child [[
      local before = {}
      for key in pairs(_G) do before[key] = true end
      local pg = require "perigee"
      pg.doctor()
      pg.help()
      for key in pairs(_G) do if not before[key] then print(key) end end
    ]]
    assert.same({ "", 0 }, { out, status })
  end)

  it("gives one table, with a version", function()
    assert.equal(pg, require "perigee")
    assert.matches("^%d+%.%d+%.%d+$", pg.version)
  end)

  it("is refused by another Lua with an error, not a crash", function()
    local tried = 0
    for _, lua in ipairs { "lua5.1", "lua5.2", "lua5.3" } do
      local pipe = io.popen(lua .. " -e 'print(pcall(require, \"perigee.core\"))' 2>&1")
      local out = pipe:read "a"
      local _, _, status = pipe:close()
      if status ~= 127 then
        tried = tried + 1
        assert.equal(0, status)
        assert.matches("^false\t.*perigee.core", out)
      end
    end
    if tried == 0 then
      pending "no other Lua is installed"
    end
  end)

  it("leaves a process that exits in the middle alone", function()
    for _, how in ipairs { "os.exit(0, true)", "os.exit(0)", "return", "os.exit(0, false)" } do
      local _, status = support.child(([[
        local pg = require "perigee"
        local rows = assert(pg.load "spec/data/packages.fvecs")
        local where = { place = %q }
        index = pg.cagra.build(rows, where) or assert(pg.flat.build(rows, where))
        hits = assert(index:search(rows:slice(0, 10), 5))
        %s
      ]]):format(support.place, how))
      assert.equal(0, status)
    end
  end)

  it("gives its parts' functions the caller's line in errors", function()
    local _, message = pcall(function() pg.load(nil) end)
    assert.matches("^spec/perigee_spec.lua:%d+: bad argument #1 to 'load'", message)
  end)
end)
