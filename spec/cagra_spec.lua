-- CAGRA: recall on the small real sets with their ties and equal rows, the same answer at any
-- batch and number of threads, every metric and dtype, connectivity.

local pg = require "perigee"
local support = require "spec.support"

local place = support.place
local k <const> = 10

local function recall_of(index, set, options)
  return assert(pg.recall(assert(index:search(set.queries, k, options)), set.truth))
end

describe("pg.cagra", function()
  for _, name in ipairs { "packages", "sift" } do
    for _, algo in ipairs { "exact", "nn_descent", "ivf_flat" } do
      it(("with defaults and %s reaches recall@10 of 0.97 on %s"):format(algo, name), function()
        local set = support.small(name)
        local index = support.build("cagra", set.rows, { metric = set.metric, build_algo = algo })
        local recall = recall_of(index, set)
        assert.is_true(recall >= 0.97, ("recall %.4f"):format(recall))
        assert.equal("graph", assert(index:search(set.queries, k)).info.path)
      end)
    end
  end

  for _, metric in ipairs { "sqeuclidean", "euclidean", "inner_product", "cosine" } do
    for _, dtype in ipairs { "f32", "f16", "i8", "u8" } do
      it(("finds the nearest rows under %s among %s rows"):format(metric, dtype), function()
        local set = support.small "sift" -- as i8 its largest values stop at 127
        local rows, queries = set.rows:slice(0, 2000):as(dtype), set.queries:as(dtype)
        local index = support.build("cagra", rows, { metric = metric })
        local truth = assert(pg.ground_truth(rows, queries, k, { metric = metric }))
        local recall = assert(pg.recall(assert(index:search(queries, k)), truth))
        local floor = metric == "inner_product" and 0.9 or 0.95
        assert.is_true(recall >= floor, ("recall %.4f"):format(recall))
      end)
    end
  end

  it("answers the same at batch 1, in parts, as a whole, on one thread", function()
    local set = support.small "packages"
    local index = support.build("cagra", set.rows, { metric = set.metric })
    local whole = assert(index:search(set.queries, k))
    local one = assert(index:search(set.queries, k, { threads = 1 }))
    assert.is_true(whole.neighbors:equals(one.neighbors))
    assert.is_true(whole.distances:equals(one.distances))
    for _, size in ipairs { 1, 7, 64 } do
      for first = 0, #set.queries - 1, size do
        local stop = math.min(first + size, #set.queries)
        local part = assert(index:search(set.queries:slice(first, stop), k))
        assert.is_true(part.neighbors:equals(whole.neighbors:slice(first, stop)))
        assert.is_true(part.distances:equals(whole.distances:slice(first, stop)))
      end
    end
  end)

  for _, algo in ipairs { "nn_descent", "ivf_flat" } do
    it(("is the same %s graph from the same seed, on any threads"):format(algo), function()
      local set = support.small "packages"
      local function bytes(options)
        local path = support.path ".perigee"
        options.metric, options.build_algo = set.metric, algo
        assert(support.build("cagra", set.rows, options):save(path))
        return support.read(path)
      end
      local first = bytes { seed = 3, threads = 1 }
      assert.is_true(first == bytes { seed = 3, threads = 1 })
      assert.is_true(first == bytes { seed = 3, threads = 2 })
      assert.is_false(first == bytes { seed = 4, threads = 1 })
      support.clean()
    end)
  end

  it("finds more with a larger itopk_size", function()
    local set = support.small "sift"
    local index = support.build("cagra", set.rows, { metric = set.metric, graph_degree = 8,
      intermediate_graph_degree = 16 })
    local low = recall_of(index, set, { itopk_size = 10 })
    local high = recall_of(index, set, { itopk_size = 256 })
    assert.is_true(high > low and high >= 0.98, ("%.4f, then %.4f"):format(low, high))
  end)

  it("reports exact distances, smallest first", function()
    local set = support.small "packages"
    for _, metric in ipairs { "sqeuclidean", "cosine", "inner_product" } do
      local index = support.build("cagra", set.rows, { metric = metric })
      local hits = assert(index:search(set.queries, k))
      assert.is_true(assert(index:score(set.queries, hits.neighbors)):equals(hits.distances))
      for q = 0, 9 do
        local rank, last = 0, nil
        for id, distance in hits:each(q) do
          rank = rank + 1
          local measured = support.measures[metric](set.queries:row(q), set.rows:row(id))
          assert.near(measured, distance, 1e-5)
          if last then
            assert.is_true(metric == "inner_product" and distance <= last
              or metric ~= "inner_product" and distance >= last)
          end
          last = distance
        end
        assert.equal(k, rank)
      end
    end
  end)

  it("does not lose rows that equal many others", function()
    local list = {}
    math.randomseed(9)
    for r = 1, 600 do -- three points 150 times each, among 150 others
      list[r] = r % 4 == 0 and { math.random(), math.random(), 3 } or { r % 4, 0, 0 }
    end
    local rows = pg.matrix(list)
    for _, algo in ipairs { "exact", "nn_descent", "ivf_flat" } do
      local index = support.build("cagra", rows, { graph_degree = 8, intermediate_graph_degree = 16,
        build_algo = algo })
      local truth = assert(pg.ground_truth(rows, rows, k))
      local recall = assert(pg.recall(assert(index:search(rows, k)), truth))
      assert.is_true(recall >= 0.97, ("%s: recall %.4f"):format(algo, recall))
    end
  end)

  it("finds the right bunch among many that lie far apart", function()
    local rows = support.clustered(6000, 12, 150, 21, 400)
    local queries = rows:slice(0, 300)
    local degrees = { graph_degree = 16, intermediate_graph_degree = 32 }
    local index = support.build("cagra", rows, degrees)
    local recall = assert(pg.recall(assert(index:search(queries, k)),
      assert(pg.ground_truth(rows, queries, k))))
    assert.is_true(recall >= 0.99, ("recall %.4f"):format(recall))
    assert.is_true(index:info().sections.landmarks >= 4 * 140)
    local path = support.path ".perigee"
    assert(index:save(path))
    local back = assert(pg.open(path, { place = support.place }))
    assert.is_true(assert(back:search(queries, k)).neighbors
      :equals(assert(index:search(queries, k)).neighbors))
    support.clean()
  end)

  it("reaches every row", function()
    local rows = support.clustered(500, 4, 40, 14) -- clusters far apart, of a dozen rows each
    local index = support.build("cagra", rows, { graph_degree = 4, intermediate_graph_degree = 8 })
    local hits = assert(index:search(rows, 500, { itopk_size = 500 }))
    assert.equal(0, hits.info.missing)
  end)

  it("takes ids, and filters in their terms", function()
    local set = support.small "packages"
    local list = {}
    for r = 0, set.rows.rows - 1 do
      list[r + 1] = { 1000000 + 7 * r }
    end
    local ids = pg.matrix(list, "i64")
    local plain = support.build("cagra", set.rows, { metric = set.metric })
    local named = support.build("cagra", set.rows, { metric = set.metric, ids = ids })
    local a, b = assert(plain:search(set.queries, k)), assert(named:search(set.queries, k))
    for q = 0, #set.queries - 1 do
      local x, y = a.neighbors:row(q), b.neighbors:row(q)
      for j = 1, k do
        assert.equal(1000000 + 7 * x[j], y[j])
      end
    end
    local f = pg.filter.ids { 1000000 + 7 * 5, 1000000 + 7 * 9, 5 }
    local hits = assert(named:search(set.queries, 3, { filter = f }))
    local seen = {}
    for id in hits:each(0) do
      seen[id] = true
    end
    assert.same({ [1000035] = true, [1000063] = true }, seen)
  end)

  it("moves to a place and answers the same there", function()
    local set = support.small "packages"
    local here = assert(pg.cagra.build(set.rows, { metric = set.metric }))
    local there, message, code = here:to(place)
    if not there and code == "unsupported" then
      pending(message)
    end
    assert.is_true(assert(there:search(set.queries, k)).neighbors
      :equals(assert(here:search(set.queries, k)).neighbors))
    assert.equal(place, there.place)
  end)

  it("searches a single row, and k of all rows", function()
    local one = support.build("cagra", pg.matrix { { 1, 2 } })
    assert.same({ 0, -1, -1 }, assert(one:search({ 1, 2 }, 3)).neighbors:row(0))
    local rows = support.clustered(50, 3, 2, 15)
    local hits = assert(support.build("cagra", rows):search(rows, 50))
    assert.equal(0, hits.info.missing)
    assert.equal(1, pg.recall(hits, assert(pg.ground_truth(rows, rows, 50))))
  end)

  it("tells what it did", function()
    local set = support.small "packages"
    local index = support.build("cagra", set.rows, { metric = set.metric })
    local info = index:info()
    assert.equal("cagra", info.kind)
    assert.is_true(info.bytes >= set.rows.rows * (96 * 4 + 64 * 4))
    local hits = assert(index:search(set.queries, k))
    assert.is_true(hits.info.visited > k and hits.info.visited < set.rows.rows)
    assert.equal(1, hits.info.selectivity)
    assert.equal(0, hits.info.missing)
  end)
end)
