-- perigee.accept: a Lua function that says which answers may stand.

local pg = require "perigee"
require "perigee.accept"
local support = require "spec.support"

local set = support.small "packages"
local n <const> = set.rows.rows

-- Hits as lists of ids, one a query.
local function lists(hits)
  local all = {}
  for q = 0, #hits - 1 do
    all[q + 1] = {}
    for id in hits:each(q) do
      table.insert(all[q + 1], id)
    end
  end
  return all
end

-- A function that accepts what passes, and checks how it is called.
local function accepting(passes, calls)
  return function(ids)
    calls.count = (calls.count or 0) + 1
    local answer = {}
    for i, id in ipairs(ids) do
      assert(math.type(id) == "integer" and id >= 0 and id < n)
      assert(not calls[id], "asked twice")
      calls[id] = true
      answer[i] = passes(id)
    end
    return answer
  end
end

describe("accept", function()
  local index = support.build("flat", set.rows, { metric = set.metric })
  local queries = set.queries:slice(0, 20)

  it("gives what a filter of the same rows gives", function()
    for _, step in ipairs { 1, 2, 10, 300 } do
      local allowed, calls = {}, {}
      for id = 0, n - 1, step do
        allowed[#allowed + 1] = id
      end
      local hits = assert(index:search(queries, 10,
        { accept = accepting(function(id) return id % step == 0 end, calls) }))
      local wanted = assert(index:search(queries, 10, { filter = pg.filter.ids(allowed) }))
      assert.is_true(hits.neighbors:equals(wanted.neighbors))
      assert.is_true(hits.distances:equals(wanted.distances))
      assert.equal(wanted.info.missing, hits.info.missing)
    end
  end)

  it("asks once about an id, in batches, not row by row", function()
    local calls = {}
    local seventh = accepting(function(id) return id % 7 == 0 end, calls)
    assert(index:search(queries, 10, { accept = seventh }))
    assert.is_true(calls.count >= 1 and calls.count <= 20)
  end)

  it("goes on until nothing is left, and pads", function()
    local calls = {}
    local hits = assert(index:search(queries, 5,
      { accept = accepting(function(id) return id == 17 or id == 3999 end, calls) }))
    assert.equal(20 * 3, hits.info.missing)
    for _, list in ipairs(lists(hits)) do
      table.sort(list)
      assert.same({ 17, 3999 }, list)
    end
    hits = assert(index:search(queries, 5, { accept = function() return {} end }))
    assert.equal(100, hits.info.missing)
    assert.equal(-math.huge, hits.distances:row(0)[1])
  end)

  it("goes past the limit on k", function()
    local list = {}
    for r = 1, 20000 do
      list[r] = { r - 1 }
    end
    local line = support.build("flat", pg.matrix(list))
    local hits = assert(line:search({ 0 }, 3, { accept = function(ids)
      local answer = {}
      for i, id in ipairs(ids) do
        answer[i] = id >= 19000 and id % 2 == 1
      end
      return answer
    end }))
    assert.same({ 19001, 19003, 19005 }, hits.neighbors:row(0))
  end)

  it("goes with filters, one or one a query", function()
    local f, g = pg.filter.range(0, 1000), pg.filter.range(500, 700)
    local even = function(ids)
      local answer = {}
      for i, id in ipairs(ids) do
        answer[i] = id % 2 == 0
      end
      return answer
    end
    for _, list in ipairs(lists(assert(index:search(queries, 5, { filter = f, accept = even })))) do
      assert.equal(5, #list)
      for _, id in ipairs(list) do
        assert.is_true(id < 1000 and id % 2 == 0)
      end
    end
    local two = assert(index:search(queries:slice(0, 2), 5, { filter = { f, g }, accept = even }))
    for _, id in ipairs(lists(two)[2]) do
      assert.is_true(id >= 500 and id < 700)
    end
  end)

  it("takes every form of query, on every searcher", function()
    local graph = support.build("cagra", set.rows, { metric = set.metric })
    local all = function(ids)
      local answer = {}
      for i in ipairs(ids) do
        answer[i] = true
      end
      return answer
    end
    local query = queries:slice(2, 3)
    local wanted = lists(assert(graph:search(query, 5)))
    for _, form in ipairs { query, query:row(0), query:pack(), { query:row(0) } } do
      assert.same(wanted, lists(assert(graph:search(form, 5, { accept = all }))))
    end
    assert.equal(0, #assert(graph:search(queries:slice(0, 0), 5, { accept = all })))
    assert.equal(5, #lists(assert(graph:filtered(pg.filter.range(0, 50)):search(query, 5,
      { accept = all })))[1])
  end)

  it("names misuse, and lets the function's error through", function()
    assert.error_matches(function() index:search(queries, 5, { accept = function() end }) end,
      "accept: a nil returned, allowed: a list")
    assert.error_matches(function()
      index:search(queries, 5, { accept = function() error("own", 0) end })
    end, "^own$")
    local _, message = pcall(function()
      index:search(queries, 5, { accept = function() end, out = assert(index:search(queries, 5)) })
    end)
    assert.matches("^spec/accept_spec.lua:%d+: option 'out' does not go with 'accept'", message)
    assert.error_matches(function() index:search(queries, 0, { accept = function() end }) end,
      "k: 0 given, allowed: 1%.%.16384")
  end)
end)
