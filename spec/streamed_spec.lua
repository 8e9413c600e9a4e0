-- Rows that a device has no room for: they stay on the host and pass through it in chunks, and the
-- answer is the CPU's to the bit.

local pg = require "perigee"
local support = require "spec.support"
local quota = require "spec.support.quota"

local place, within, room = quota.place, quota.within, quota.room
local METRICS <const> = { "sqeuclidean", "euclidean", "inner_product", "cosine" }

local function same(a, b)
  return a.neighbors:equals(b.neighbors) and a.distances:equals(b.distances)
end

local function ranged(index, queries, radius, options)
  local offsets, ids, distances = index:range_search(queries, radius, options)
  assert(offsets, ids)
  return { offsets = offsets, neighbors = ids, distances = distances }
end

describe("pg.flat.build, residence", function()
  after_each(support.clean)

  local rows = support.clustered(3001, 24, 7, 1)
  local queries = support.clustered(33, 24, 7, 2)

  it("keeps rows on the host when they do not fit, and says so", function()
    within(200000, function() -- the rows are 288096 bytes
      local index <close> = assert(pg.flat.build(rows, { place = place }))
      assert.is_true(index:info().streamed)
      assert.equal("auto", index:info().params.residence)
      assert.equal(place, index.place)
      assert.matches("streamed from the host", index:explain())
      assert.equal("cpu", index:dataset().place)
    end)
    local index <close> = assert(pg.flat.build(rows, { place = place }))
    assert.is_false(index:info().streamed)
    assert.is_nil(index:explain():find("streamed", 1, true))
  end)

  it("gives the CPU's answer under every metric and dtype, in chunks of any size", function()
    for i, metric in ipairs(METRICS) do
      for j, dtype in ipairs { "f32", "f16", "i8" } do
        local base, asked = rows:as(dtype), queries:as(dtype)
        local options = { metric = metric }
        local flat = pg.flat.build(base, options)
        local wanted = flat and assert(flat:search(asked, 10))
        within(room(60000 + 20000 * i + 7000 * j), function()
          options.place, options.residence = place, "host"
          local index, message = pg.flat.build(base, options)
          if not wanted then -- rows of no direction
            assert.is_nil(index)
            return
          end
          assert(index, message)
          assert.is_true(same(wanted, assert(index:search(asked, 10))))
        end)
      end
    end
  end)

  it("obeys filters, one for all and one for each, and wrappers", function()
    local filters = {}
    for q = 1, #queries do
      local range = pg.filter.range(q * 7, 40 * q + 50)
      filters[q] = q % 3 == 0 and pg.filter.ids { q, 5, 2900 } or range
    end
    local options = { metric = "euclidean" }
    local host = assert(pg.flat.build(rows, options))
    within(room(90000), function()
      options.place, options.residence = place, "host"
      local index <close> = assert(pg.flat.build(rows, options))
      for _, filter in ipairs { filters[1], filters[3], filters, pg.filter.ids {} } do
        local search = { filter = filter }
        assert.is_true(same(assert(host:search(queries, 12, search)),
          assert(index:search(queries, 12, search))))
      end
      assert.is_true(same(assert(host:filtered(filters[9]):search(queries, 5)),
        assert(index:filtered(filters[9]):search(queries, 5))))
    end)
  end)

  it("finds all rows within a distance, with filters and of the nearest alone", function()
    local filters = {}
    for q = 1, #queries do
      filters[q] = pg.filter.range(q * 9, 60 * q + 200)
    end
    for i, metric in ipairs(METRICS) do
      local host = assert(pg.flat.build(rows, { metric = metric }))
      local reach = assert(host:search(queries, 40)).distances:row(0)
      for j, radius in ipairs { reach[40], reach[1] } do
        local asked = { {}, { filter = filters }, { filter = filters[5], max_results = 7 } }
        for _, options in ipairs(asked) do
          local wanted = ranged(host, queries, radius, options)
          within(room(60000 + 30000 * i * j), function()
            local index <close> = assert(pg.flat.build(rows,
              { metric = metric, place = place, residence = "host" }))
            local found = ranged(index, queries, radius, options)
            assert.is_true(found.offsets:equals(wanted.offsets))
            assert.is_true(same(wanted, found))
          end)
        end
      end
    end
  end)

  it("finds more rows within a distance than the device has room to name", function()
    local wanted = ranged(assert(pg.flat.build(rows)), queries, 1e9)
    assert.equal(#rows * #queries, #wanted.neighbors)
    within(room(80000), function() -- 12 bytes each of 64 rows and 33 queries are 25344
      local index <close> = assert(pg.flat.build(rows, { place = place, residence = "host" }))
      assert.is_true(same(wanted, ranged(index, queries, 1e9)))
    end)
  end)

  it("scores, extends, removes, saves and opens", function()
    local path = support.path ".perigee"
    local options = { metric = "cosine", place = place, residence = "host" }
    local host = assert(pg.flat.build(rows, { metric = "cosine" }))
    local index = assert(pg.flat.build(rows, options))
    assert.is_true(assert(index:score(queries:slice(0, 2), { 5, -1, 7, 3000 }))
      :equals(assert(host:score(queries:slice(0, 2), { 5, -1, 7, 3000 }))))
    for _, either in ipairs { host, index } do
      assert(either:extend(support.clustered(100, 24, 3, 5)))
      assert.equal(2, assert(either:remove { 3, 3050 }))
    end
    assert.is_true(index:info().streamed)
    local wanted = assert(host:search(queries, 10))
    assert.is_true(same(wanted, assert(index:search(queries, 10))))
    assert(index:save(path))
    local again = assert(pg.open(path, { place = place, map = true }))
    assert.is_true(again:info().streamed)
    assert.is_true(same(wanted, assert(again:search(queries, 10))))
    assert.is_true(same(wanted, assert(assert(again:to "cpu"):search(queries, 10))))
    assert.is_false(assert(again:to "cpu"):info().streamed)
  end)

  it("leaves its answer on the device when asked to", function()
    local index = assert(pg.flat.build(rows, { place = place, residence = "host" }))
    local wanted = assert(index:search(queries, 10))
    local hits = assert(index:search(queries:to(place), 10, { place = place, stream = 0 }))
    assert.equal(place, hits.neighbors.place)
    assert.is_true(same(wanted, hits))
  end)

  it("tells its progress over all rows and stops when told to", function()
    local index = assert(pg.flat.build(rows, { place = place, residence = "host" }))
    local last, total
    local function follow(stage, done, all)
      if stage == "search" then
        assert.is_true(done >= (last or 0) and done <= all)
        last, total = done, all
      end
    end
    within(200000, function() assert(index:search(queries, 10, { progress = follow })) end)
    assert.is_true(total == nil or total == #rows)
    local none, _, code = index:search(queries, 10, { progress = function() return false end })
    assert.is_true(none ~= nil or code == "cancelled") -- it may be over before it is asked
    assert(index:search(queries, 10))
  end)

  it("needs room for something", function()
    local index = assert(pg.flat.build(rows, { place = place, residence = "host" }))
    within(2000, function()
      local none, message, code = index:search(queries, 10)
      assert.is_nil(none)
      assert.equal("memory", code)
      assert.matches("bytes needed", message)
    end)
    assert(index:search(queries, 10))
    within(200000, function()
      local none, _, code = pg.flat.build(rows, { place = place, residence = "device" })
      assert.is_nil(none)
      assert.equal("memory", code)
    end)
    assert.error_matches(function() pg.flat.build(rows, { residence = "moon" }) end, "residence")
  end)
end)

describe("pg.ground_truth", function()
  after_each(support.clean)

  it("streams a mapped file that the device has no room for", function()
    local path = support.path ".fvecs"
    assert(support.clustered(5000, 15, 4, 8):save(path))
    local base = assert(pg.load(path, { map = true }))
    local queries = base:slice(0, 50)
    local wanted = assert(pg.ground_truth(base, queries, 20))
    within(150000, function() -- the rows are 300000 bytes
      local found = assert(pg.ground_truth(base, queries, 20, { place = place }))
      assert.is_true(same(wanted, found))
    end)
  end)
end)
