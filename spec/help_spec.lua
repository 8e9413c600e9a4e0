-- perigee.help and perigee.show: what a person reads at the prompt.

local pg = require "perigee"
local core = require "perigee.core"
local help = require "perigee.help"
local show = require "perigee.show"
local support = require "spec.support"

describe("help.text", function()
  it("prints the table that validates", function()
    local text = help.text(pg.cagra.build)
    for _, row in ipairs(core.params("cagra", "build")) do
      assert.truthy(text:find("  " .. row.name .. " ", 1, true), row.name)
      assert.truthy(text:find(row.meaning, 1, true), row.meaning)
    end
    assert.matches("graph_degree +64 ", text)
    assert.matches("auto, exact, nn_descent, ivf_flat", text)
    assert.matches("place", text)
  end)

  it("finds a function, a method, a handle, a kind, a name", function()
    local m = pg.matrix(2, 2)
    assert.matches("^pg.load%(", help.text(pg.load))
    assert.matches("^s:search%(", help.text(core.Searcher.search))
    assert.matches("itopk_size", help.text(core.Searcher.search))
    assert.matches("^m:slice%(", help.text(m.slice))
    assert.matches("m:gather%(", help.text(m))
    assert.matches("pg.cagra.defaults%(", help.text(pg.cagra))
    assert.equal(help.text(pg.load), help.text "pg.load")
    assert.equal(help.text(pg.load), help.text "load")
    assert.equal(help.text(m), help.text "Matrix")
    assert.matches("pg.recall%(", help.text())
    assert.matches("pg.recall%(", help.text(pg))
    assert.matches("no help", help.text(print))
    assert.matches("no help", help.text "nothing")
    assert.matches("no help", help.text(7))
    assert.matches("no help", help.text {})
  end)

  it("knows every function of the module", function()
    local function walk(value)
      for key, field in pairs(value) do
        if type(field) == "table" then
          walk(field)
        elseif type(field) == "function" then
          assert.truthy(help.brief(field), key)
        end
      end
    end
    walk(pg)
    for _, word in ipairs { "Matrix", "Searcher", "Hits", "Filter" } do
      walk(core[word])
    end
    assert.is_nil(help.brief(print))
  end)
end)

describe("show.value", function()
  it("writes a matrix by shape, dtype and first rows", function()
    local text = show.value(pg.matrix { { 1, 2.5, -3 }, { 4, 5, 6 } })
    assert.equal("Matrix 2 x 3 f32 on cpu\n  0:  1  2.5  -3\n  1:  4    5   6", text)
    text = show.value(pg.matrix(100, 50, "f16"))
    assert.matches("^Matrix 100 x 50 f16 on cpu\n", text)
    assert.matches("…\n", text)
    assert.matches("95 more rows$", text)
    assert.equal("Matrix 0 x 3 f32 on cpu", show.value(pg.matrix(0, 3)))
    assert.matches("^Matrix 1 x 1 f32 on " .. support.place .. "\n",
      show.value(pg.matrix(1, 1):to(support.place)))
  end)

  it("writes hits as a table", function()
    local index = assert(pg.flat.build(pg.matrix { { 0 }, { 1 }, { 3 } }, { ids = { 10, 20, 30 } }))
    assert.equal("Hits 1 x 2 (exact, cpu)\n  rank  id  distance\n     1  10         0\n"
      .. "     2  20         1", show.value(assert(index:search({ 0 }, 2))))
    local text = show.value(assert(index:search({ { 0 }, { 3 } }, 2)))
    assert.matches("query", text)
    assert.matches("30 %(0%)", text)
    text = show.value(assert(index:search(pg.matrix(20, 1), 2)))
    assert.matches("12 more queries$", text)
  end)

  it("writes a searcher with its tree, a filter, a closed handle", function()
    local index = assert(pg.flat.build(pg.matrix { { 0 }, { 1 } }))
    local text = show.value(assert(index:filtered(pg.filter.range(0, 1))))
    assert.matches("^Searcher filtered, ", text)
    assert.matches("\n  └─ flat", text)
    assert.equal("Filter 1 of 9 rows", show.value(pg.filter.range(3, 4, 9)))
    index:close()
    assert.equal("Searcher (closed)", show.value(index))
    local m = pg.matrix(1, 1)
    m:close()
    assert.equal("Matrix (closed)", show.value(m))
  end)

  it("writes plain data", function()
    assert.equal("nil", show.value(nil))
    assert.equal("text", show.value "text")
    assert.equal("1.5", show.value(1.5))
    assert.equal('{ 1, 2, a = "x\\ny" }', show.value { 1, 2, a = "x\ny" })
    assert.equal("{}", show.value {})
    assert.equal('{ ["a b"] = true }', show.value { ["a b"] = true })
    local circle = {}
    circle.self = circle
    assert.equal("{ self = {…} }", show.value(circle))
    local many = {}
    for i = 1, 100 do
      many[i] = i
    end
    assert.matches("…", show.value(many))
    assert.matches("^function pg.load%(", show.value(pg.load))
    assert.equal(tostring(print), show.value(print))
    assert.matches("kind = \"flat\"",
      show.value(assert(pg.flat.build(pg.matrix(2, 2))):info()))
  end)
end)

describe("core.methods", function()
  it("lists what may follow a handle, for completion", function()
    local function set(value)
      local names = {}
      for _, name in ipairs(core.methods(value)) do
        names[name] = true
      end
      return names
    end
    local m = set(pg.matrix(1, 1))
    assert.is_true(m.rows and m.slice and m.close)
    assert.is_true(set(pg.filter.range(0, 1)).count)
    assert.same({}, core.methods(7))
    assert.same({}, core.methods())
  end)
end)
