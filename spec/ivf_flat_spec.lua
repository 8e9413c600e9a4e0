-- Inverted lists of whole rows: exactness over the lists looked at, recall, growing, bad input.

local pg = require "perigee"
local support = require "spec.support"

local k <const> = 10
local METRICS <const> = { "sqeuclidean", "euclidean", "inner_product", "cosine" }

local function same(a, b)
  assert.equal(a.neighbors:pack(), b.neighbors:pack())
  assert.equal(a.distances:pack(), b.distances:pack())
end

local function search(index, queries, options)
  return assert(index:search(queries, k, options))
end

describe("ivf_flat", function()
  local rows, queries = support.clustered(700, 13, 12, 71), support.clustered(40, 13, 12, 72)

  it("is exact when all lists are probed, in every metric and dtype", function()
    for _, metric in ipairs(METRICS) do
      for _, dtype in ipairs { "f32", "f16", "i8", "u8" } do
        local typed, asked = rows:as(dtype), queries
        if dtype == "i8" or dtype == "u8" then
          typed = support.clustered(700, 13, 12, 73, 60):as(dtype)
          asked = typed:gather { 0, 5, 699, 350 }
        end
        if metric ~= "cosine" or dtype ~= "u8" then -- a row of zeros has no direction
          local index = support.build("ivf_flat", typed, { metric = metric, n_lists = 17 })
          local truth = assert(pg.ground_truth(typed, asked, k, { metric = metric }))
          same(truth, search(index, asked, { n_probes = 17 }))
          same(truth, search(index, asked, { n_probes = 1000 }))
        end
      end
    end
  end)

  it("finds more with more probes, and looks at as many rows as their lists hold", function()
    for _, metric in ipairs(METRICS) do
      local index = support.build("ivf_flat", rows, { metric = metric, n_lists = 20 })
      local truth = assert(pg.ground_truth(rows, queries, k, { metric = metric }))
      local before, looked = 0, 0
      for _, n_probes in ipairs { 1, 3, 8, 20 } do
        local hits = search(index, queries, { n_probes = n_probes })
        local recall = assert(pg.recall(hits, truth))
        assert.is_true(recall >= before and hits.info.visited > looked)
        before, looked = recall, hits.info.visited
      end
      assert.equal(1, before)
      assert.equal(700, looked)
    end
  end)

  it("gives ids of its own, says what it is, and counts its lists", function()
    local ids = {}
    for i = 1, 700 do
      ids[i] = 10000 + 3 * i
    end
    local index = support.build("ivf_flat", rows, { n_lists = 9, ids = ids })
    assert.equal(10003, search(index, rows:slice(0, 1)).neighbors:row(0)[1])
    local info = index:info()
    assert.equal("ivf_flat", info.kind)
    assert.equal(9, info.params.n_lists)
    assert.equal(700, info.lists.entries)
    assert.near(700 / 9, info.lists.mean, 1e-6)
    assert.is_true(info.lists.smallest <= info.lists.mean)
    assert.is_true(info.lists.largest >= info.lists.mean)
    assert.equal(0, info.lists.empty)
    assert.matches("list scan", index:explain())
  end)

  it("refuses fewer rows than lists and says what to set", function()
    assert.error_matches(function() support.build("ivf_flat", rows) end,
      "n_lists: 1024 given for 700 rows, allowed: 1%.%.700; set it to about 27")
    assert.error_matches(function() support.build("ivf_flat", rows, { n_lists = 0 }) end, "n_lists")
    assert.error_matches(function()
      support.build("ivf_flat", rows, { kmeans_trainset_fraction = 0 })
    end, "kmeans_trainset_fraction")
    local index = support.build("ivf_flat", rows, { n_lists = 4 })
    assert.error_matches(function() search(index, queries, { n_probes = 0 }) end, "n_probes")
  end)

  it("is built the same for the same seed", function()
    local one = support.build("ivf_flat", rows, { n_lists = 15, seed = 5, threads = 1 })
    local two = support.build("ivf_flat", rows, { n_lists = 15, seed = 5, threads = 2 })
    same(search(one, queries, { n_probes = 2 }), search(two, queries, { n_probes = 2 }))
  end)
end)

describe("ivf_flat of awkward rows", function()
  it("finds rows that are all equal, and more equal ones than any list should hold", function()
    for _, n in ipairs { 1, 2, 33, 500 } do
      local list = {}
      for i = 1, n do
        list[i] = { 3, -1, 2, 0.5, 7 }
      end
      local index = support.build("ivf_flat", pg.matrix(list), { n_lists = math.min(n, 8) })
      local hits = search(index, { 3, -1, 2, 0.5, 7 }, { n_probes = 1 })
      assert.equal(math.max(0, k - n), hits.info.missing)
      for id, distance in hits:each(0) do
        assert.is_true(id < n)
        assert.equal(0, distance)
      end
    end
  end)

  it("finds k rows even where the nearest lists hold fewer", function()
    local rows = support.clustered(60, 4, 30, 74)
    local index = support.build("ivf_flat", rows, { n_lists = 30 })
    local hits = assert(index:search(rows, 40, { n_probes = 1 }))
    assert.equal(0, hits.info.missing)
    assert.matches("all lists", hits.info.path)
    same(assert(pg.ground_truth(rows, rows, 40)), hits)
  end)

  it("finds them for n from 1 on, dim from 1 on, columns that are constant", function()
    local all = support.clustered(80, 40, 9, 75)
    for n = 1, 80, 7 do
      local rows = all:slice(0, n)
      local index = support.build("ivf_flat", rows, { n_lists = math.max(1, n // 4) })
      same(assert(pg.ground_truth(rows, all, k)), search(index, all, { n_probes = 100 }))
    end
    for _, dim in ipairs { 1, 2, 3, 31, 33, 64, 65 } do
      local rows = support.clustered(50, dim, 5, dim)
      local index = support.build("ivf_flat", rows, { n_lists = 6 })
      same(assert(pg.ground_truth(rows, rows, k)), search(index, rows, { n_probes = 6 }))
    end
    local list = {}
    for i = 1, 90 do
      list[i] = { 1, i % 9, 1e6, 0 }
    end
    local constant = pg.matrix(list)
    local index = support.build("ivf_flat", constant, { n_lists = 12 })
    same(assert(pg.ground_truth(constant, constant, k)), search(index, constant, { n_probes = 12 }))
  end)
end)

describe("ivf_flat on real rows", function()
  local FLOORS <const> = {
    packages = { [20] = 0.90, [50] = 0.99 }, sift = { [20] = 0.97, [50] = 0.99 },
  }

  for name, floors in pairs(FLOORS) do
    it("reaches its recall on " .. name, function()
      local set = support.small(name)
      local index = support.build("ivf_flat", set.rows, { metric = set.metric, n_lists = 100 })
      for n_probes, floor in pairs(floors) do
        local recall = assert(pg.recall(search(index, set.queries, { n_probes = n_probes }),
          set.truth))
        assert.is_true(recall >= floor, ("%d probes: recall %.4f"):format(n_probes, recall))
      end
    end)
  end
end)

describe("ivf_flat in batches", function()
  it("answers the same at any batch and number of threads", function()
    local rows, queries = support.clustered(3000, 20, 30, 76), support.clustered(1025, 20, 30, 77)
    for _, metric in ipairs { "sqeuclidean", "inner_product", "cosine" } do
      local index = support.build("ivf_flat", rows, { metric = metric, n_lists = 40 })
      local whole = search(index, queries, { n_probes = 7, threads = 1 })
      for threads = 2, 8, 3 do
        same(whole, search(index, queries, { n_probes = 7, threads = threads }))
      end
      for _, size in ipairs { 1, 5, 12, 13, 100, 1024 } do
        local some = search(index, queries:slice(1, 1 + size), { n_probes = 7, threads = size % 3 })
        assert.equal(whole.neighbors:slice(1, 1 + size):pack(), some.neighbors:pack())
        assert.equal(whole.distances:slice(1, 1 + size):pack(), some.distances:pack())
      end
    end
  end)

  it("allocates nothing once a search of the shape has run", function()
    local rows = support.clustered(2000, 16, 20, 78)
    local index = support.build("ivf_flat", rows, { n_lists = 30 })
    local asked = rows:slice(0, 64)
    local out = search(index, asked)
    search(index, asked, { out = out })
    local before = pg.stats().acquired
    search(index, asked, { out = out })
    assert.equal(before, pg.stats().acquired)
  end)
end)

describe("an ivf_flat index that grows", function()
  local rows, queries = support.clustered(900, 11, 25, 79), support.clustered(50, 11, 25, 80)

  it("answers as one that was built of all rows by the same centroids", function()
    for _, metric in ipairs { "sqeuclidean", "inner_product", "cosine" } do
      local options = { metric = metric, n_lists = 30, add_data_on_build = false }
      local whole = support.build("ivf_flat", rows, options)
      assert.equal(0, whole.rows)
      assert.equal(k * #queries, search(whole, queries).info.missing)
      assert(whole:extend(rows))
      local built = support.build("ivf_flat", rows, { metric = metric, n_lists = 30 })
      local grown = support.build("ivf_flat", rows, options)
      for first = 0, 899, 45 do
        assert(grown:extend(rows:slice(first, first + 45)))
      end
      for _, n_probes in ipairs { 1, 6, 30 } do
        local expected = search(built, queries, { n_probes = n_probes })
        same(expected, search(whole, queries, { n_probes = n_probes }))
        same(expected, search(grown, queries, { n_probes = n_probes }))
      end
      assert.equal(built:info().lists.largest, grown:info().lists.largest)
    end
  end)

  it("takes few rows at a time without taking room for many", function()
    local grown = support.build("ivf_flat", rows:slice(0, 500), { n_lists = 20 })
    for r = 500, 899 do
      assert(grown:extend(rows:slice(r, r + 1)))
    end
    same(assert(pg.ground_truth(rows, queries, k)), search(grown, queries, { n_probes = 20 }))
    assert.is_true(grown:info().bytes < 1.5 * (900 * (44 + 4) + 20 * 56))
  end)

  it("moves its centroids when asked to", function()
    local fixed = support.build("ivf_flat", rows:slice(0, 300), { n_lists = 10 })
    local moving = support.build("ivf_flat", rows:slice(0, 300),
      { n_lists = 10, adaptive_centers = true })
    for _, index in ipairs { fixed, moving } do
      assert(index:extend(rows:slice(300, 900)))
      same(assert(pg.ground_truth(rows, queries, k)), search(index, queries, { n_probes = 10 }))
    end
    assert.is_true(moving:info().params.adaptive_centers)
  end)

  it("drops removed rows from its lists once they are many", function()
    local index = support.build("ivf_flat", rows, { n_lists = 16 })
    local gone, kept = {}, {}
    for id = 0, 899 do
      local list = id % 3 == 0 and gone or kept
      list[#list + 1] = id
    end
    assert.equal(1, assert(index:remove { 3 }))
    assert.equal(900, index:info().lists.entries)
    assert.equal(#gone - 1, assert(index:remove(gone)))
    assert.equal(600, index:info().lists.entries)
    local truth = assert(pg.ground_truth(rows, queries, k, { filter = pg.filter.ids(kept) }))
    same(truth, search(index, queries, { n_probes = 16 }))
    local hits = search(index, queries, { n_probes = 16, filter = pg.filter.range(0, 6) })
    assert.equal((k - 4) * #queries, hits.info.missing)
    assert(index:extend(rows:slice(0, 1)))
    assert.equal(900, search(index, rows:slice(0, 1)).neighbors:row(0)[1])
  end)

  it("refuses ids for rows that it does not add", function()
    local ids = {}
    for i = 1, 900 do
      ids[i] = i
    end
    assert.error_matches(function()
      support.build("ivf_flat", rows, { n_lists = 4, add_data_on_build = false, ids = ids })
    end, "add_data_on_build")
  end)
end)

describe("an ivf_flat file", function()
  local rows = support.clustered(400, 7, 10, 81)

  after_each(support.clean)

  it("holds what was grown and removed, without the room between", function()
    for _, metric in ipairs { "sqeuclidean", "cosine" } do
      local index = support.build("ivf_flat", rows:slice(0, 100), { metric = metric, n_lists = 12 })
      assert(index:extend(rows:slice(100, 400)))
      assert.equal(3, assert(index:remove { 7, 8, 250 }))
      local path = support.path ".perigee"
      assert(index:save(path))
      for _, map in ipairs { false, true } do
        local again = assert(pg.open(path, { place = support.place, map = map }))
        same(search(index, rows, { n_probes = 3 }), search(again, rows, { n_probes = 3 }))
        assert.is_true(again:info().bytes < index:info().bytes)
        assert.equal(397, again:info().lists.entries)
        assert(again:extend(rows:slice(7, 8)))
        assert.equal(400, search(again, rows:slice(7, 8)).neighbors:row(0)[1])
      end
    end
  end)

  it("moves to another place and back", function()
    local index = assert(pg.ivf_flat.build(rows, { n_lists = 12, metric = "cosine" }))
    assert(index:extend(rows:slice(3, 9)))
    local there = assert(index:to "fake:0")
    local expected = search(index, rows, { n_probes = 2 })
    same(expected, search(there, rows, { n_probes = 2 }))
    same(expected, search(assert(there:to "cpu"), rows, { n_probes = 2 }))
    assert(there:extend(rows:slice(9, 40)))
    assert(there:extend(rows:slice(40, 41)))
    assert.equal(4, assert(there:remove { 0, 1, 2, 3 }))
    assert.equal(438, there.rows)
    assert.equal(#rows * 3, assert(there:search(rows, 437)).info.missing)
  end)
end)
