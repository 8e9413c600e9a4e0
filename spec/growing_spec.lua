-- Rows that come to an index and rows that leave it: what holds for every kind that can.

local pg = require "perigee"
local support = require "spec.support"

local function numbers(first, stop)
  local list = {}
  for i = first, stop - 1 do
    list[#list + 1] = i
  end
  return list
end

local function sorted_ids(hits, query)
  local ids = {}
  for id in hits:each(query) do
    ids[#ids + 1] = id
  end
  table.sort(ids)
  return table.concat(ids, " ")
end

local function first_of(index, query)
  return assert(index:search(query, 1)).neighbors:row(0)[1]
end

-- Kinds that grow, with options that suit few rows and searches that look at all of them.
local KINDS <const> = {
  flat = {}, ivf_flat = { n_lists = 5 }, ivf_sq = { n_lists = 5 },
  ivf_rabitq = { n_lists = 5, bits_per_dim = 8 },
}
local EXACT <const> = { flat = true, ivf_flat = true }

local function build_kind(kind, rows, options)
  local all = {}
  for _, from in ipairs { KINDS[kind], options or {} } do
    for key, value in pairs(from) do
      all[key] = value
    end
  end
  return support.build(kind, rows, all)
end

for kind in pairs(KINDS) do
  local function build(rows, options)
    return build_kind(kind, rows, options)
  end

  describe("index:extend of " .. kind, function()
    it("answers as an index of all rows would", function()
      if not EXACT[kind] then return end -- codes follow from the rows that it was built with
      local rows, queries = support.clustered(300, 9, 6, 31), support.clustered(20, 9, 6, 32)
      for _, metric in ipairs { "sqeuclidean", "inner_product", "cosine" } do
        local whole = build(rows, { metric = metric })
        local grown = build(rows:slice(0, 100), { metric = metric })
        for first = 100, 280, 20 do
          assert.equal(grown, assert(grown:extend(rows:slice(first, first + 20))))
        end
        assert.equal(300, grown.rows)
        local expected, found = assert(whole:search(queries, 10)), assert(grown:search(queries, 10))
        assert.equal(expected.neighbors:pack(), found.neighbors:pack())
        assert.equal(expected.distances:pack(), found.distances:pack())
      end
    end)

    it("takes ids, also when there were none before", function()
      local rows = support.clustered(30, 4, 30, 33)
      local index = build(rows:slice(0, 10))
      assert(index:extend(rows:slice(10, 20), { ids = numbers(1001, 1011) }))
      assert.equal(3, first_of(index, rows:row(3)))
      assert.equal(1004, first_of(index, rows:row(13)))
      assert.has_error(function() index:extend(rows:slice(20, 30)) end)
      local _, message, code = index:extend(rows:slice(20, 21), { ids = { 1004 } })
      assert.equal("invalid", code)
      assert.matches("1004", message)
      assert.equal(20, index.rows)
    end)

    it("refuses rows of another shape or dtype and loses nothing", function()
      local index = build(support.clustered(10, 4, 3, 34))
      assert.error_matches(function() index:extend(pg.matrix(2, 5, "f32")) end, "4")
      assert.error_matches(function() index:extend(pg.matrix(2, 4, "u8")) end, "f32")
      local nothing, _, code = index:extend(pg.matrix { { 1, 2, 0 / 0, 4 } })
      assert.is_nil(nothing)
      assert.equal("invalid", code)
      assert.equal(10, index.rows)
      assert(index:extend(pg.matrix(0, 4, "f32")))
      assert.equal(10, index.rows)
    end)

    it("leaves the rows that others hold alone", function()
      if kind ~= "flat" then return end -- keeps no rows to hold
      local rows = support.clustered(20, 4, 4, 35)
      local one, two = build(rows), build(rows)
      local before = assert(one:dataset())
      assert(one:extend(pg.matrix { { 1, 1, 1, 1 } }))
      local kept = assert(one:dataset())
      assert(one:extend(pg.matrix { { 2, 2, 2, 2 } }))
      assert(two:extend(pg.matrix { { 3, 3, 3, 3 } }))
      assert.equal(20, before.rows)
      assert.equal(21, kept.rows)
      assert.same({ 1, 1, 1, 1 }, kept:row(20))
      assert.same({ 2, 2, 2, 2 }, assert(one:dataset()):row(21))
      assert.same({ 3, 3, 3, 3 }, assert(two:dataset()):row(20))
    end)

    it("survives saving and opening", function()
      local rows = support.clustered(40, 5, 4, 36)
      local index = build(rows:slice(0, 20))
      assert(index:extend(rows:slice(20, 40)))
      local path = support.path ".perigee"
      assert(index:save(path))
      local again = assert(pg.open(path, { place = support.place }))
      assert.equal(assert(index:search(rows, 5)).neighbors:pack(),
        assert(again:search(rows, 5)).neighbors:pack())
    end)
  end)

  describe("index:remove of " .. kind, function()
    it("no longer answers the rows, and counts them", function()
      local rows = support.clustered(200, 6, 5, 41)
      local index = build(rows)
      local gone = {}
      for id = 0, 199, 3 do
        gone[#gone + 1] = id
      end
      assert.equal(#gone, assert(index:remove(gone)))
      assert.equal(0, assert(index:remove(gone)))
      assert.equal(0, assert(index:remove { 500, -7 }))
      assert.equal(#gone, index:info().removed)
      local hits = assert(index:search(rows:slice(0, 30), 200))
      assert.equal(30 * #gone, hits.info.missing)
      for q = 0, 29 do
        for id in hits:each(q) do
          assert.not_equal(0, id % 3)
        end
      end
    end)

    it("goes with a filter, with saving, and down to no rows at all", function()
      local rows = support.clustered(50, 6, 5, 42)
      local index = build(rows)
      assert.equal(10, assert(index:remove(numbers(0, 10))))
      local hits = assert(index:search(rows:slice(0, 5), 8, { filter = pg.filter.range(5, 15) }))
      assert.equal("10 11 12 13 14", sorted_ids(hits, 0))
      local path = support.path ".perigee"
      assert(index:save(path))
      local again = assert(pg.open(path, { place = support.place }))
      assert.equal(10, again:info().removed)
      assert.equal(assert(index:search(rows, 40)).neighbors:pack(),
        assert(again:search(rows, 40)).neighbors:pack())
      assert.equal(40, assert(index:remove(numbers(0, 50))))
      assert.equal(5 * 3, assert(index:search(rows:slice(0, 5), 3)).info.missing)
      assert(index:extend(rows:slice(7, 8)))
      assert.equal(50, first_of(index, rows:row(7)))
    end)

    it("frees the ids of the rows", function()
      local rows = support.clustered(10, 4, 10, 43)
      local ids = numbers(100, 110)
      local index = build(rows, { ids = ids })
      assert.equal(1, assert(index:remove { 104 }))
      assert(index:extend(rows:slice(4, 5), { ids = { 104 } }))
      assert.equal(104, first_of(index, rows:row(4)))
      assert.equal(2, assert(index:remove { 104, 103 }))
      assert.equal(3, index:info().removed)
    end)

    it("is not for combinators", function()
      local rows = support.clustered(10, 4, 3, 44)
      local filtered = build(rows):filtered(pg.filter.range(0, 5))
      for _, verb in ipairs { "extend", "remove" } do
        local _, message, code = filtered[verb](filtered, verb == "extend" and rows or { 1 })
        assert.equal("unsupported", code)
        assert.matches("filtered", message)
      end
    end)
  end)
end

describe("index:refined", function()
  it("keeps ids, and says so when rows came that it has not", function()
    local rows = support.clustered(60, 8, 5, 45)
    local ids = numbers(500, 560)
    local index = build_kind("flat", rows, { ids = ids })
    local better = assert(index:refined(rows))
    assert.equal(507, first_of(better, rows:row(7)))
    assert(index:extend(pg.matrix { { 90, 90, 90, 90, 90, 90, 90, 90 } }, { ids = { 9 } }))
    local _, message, code = better:search(pg.matrix { { 90, 90, 90, 90, 90, 90, 90, 90 } }, 1)
    assert.equal("unsupported", code)
    assert.matches("60", message)
  end)
end)
