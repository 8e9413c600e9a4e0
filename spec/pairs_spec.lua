-- pg.pairwise and pg.knn_graph: by brute force in Lua, to the bit what a search reports, how good
-- the approximate ways are, awkward sizes, bad input.

local pg = require "perigee"
local support = require "spec.support"

local METRICS <const> = { "sqeuclidean", "euclidean", "inner_product", "cosine" }

local function random_rows(rows, cols, seed, dtype)
  math.randomseed(seed)
  local list = {}
  for r = 1, rows do
    list[r] = {}
    for c = 1, cols do
      list[r][c] = dtype and math.random(1, 100) or math.random() - 0.5
    end
  end
  return assert(pg.matrix(list, dtype))
end

describe("pg.pairwise", function()
  it("is what brute force finds, for every metric and dtype", function()
    for _, dtype in ipairs { "f32", "f16", "i8", "u8" } do
      local whole = dtype ~= "f32" and "i8" or nil
      local a = assert(random_rows(7, 13, 1, whole):as(dtype))
      local b = assert(random_rows(11, 13, 2, whole):as(dtype))
      local a_f32, b_f32 = assert(a:as "f32"), assert(b:as "f32")
      for _, metric in ipairs(METRICS) do
        local found <close> = assert(pg.pairwise(a, b, { metric = metric }))
        assert.same({ 7, 11, "f32" }, { found.rows, found.cols, found.dtype })
        for i, row in found:each() do
          for j = 0, 10 do
            local wanted = support.measures[metric](a_f32:row(i), b_f32:row(j))
            assert.near(wanted, row[j + 1], 1e-5 * math.max(1, math.abs(wanted)))
          end
        end
      end
    end
  end)

  it("knows l1, and hamming of bits", function()
    local a, b = random_rows(3, 21, 1), random_rows(40, 21, 2)
    local found <close> = assert(pg.pairwise(a, b, { metric = "l1" }))
    for i, row in found:each() do
      local query = a:row(i)
      for j = 0, 39 do
        local sum = 0
        for c, value in ipairs(b:row(j)) do
          sum = sum + math.abs(value - query[c])
        end
        assert.near(sum, row[j + 1], 1e-5)
      end
    end
    local bits <close> = assert(pg.pairwise(assert(pg.matrix({ { 1, 255 } }, "u8")),
      assert(pg.matrix({ { 1, 255 }, { 2, 0 } }, "u8")), { metric = "hamming" }))
    assert.same({ 0, 10 }, bits:row(0))
  end)

  it("is to the bit what a search reports", function()
    for _, name in ipairs { "sift", "packages" } do
      local set = support.small(name)
      local a, b = set.queries:slice(0, 20), set.rows:slice(0, 700)
      for _, metric in ipairs(METRICS) do
        local found <close> = assert(pg.pairwise(a, b, { metric = metric }))
        local flat <close> = assert(pg.flat.build(b, { metric = metric }))
        local hits <close> = assert(flat:search(a, 700))
        for q = 0, 19 do
          local row = found:row(q)
          for id, distance in hits:each(q) do
            assert.equal(distance, row[id + 1])
          end
        end
      end
    end
  end)

  it("is the same on any number of threads and by any pieces", function()
    local rows = support.small("packages").rows
    local whole <close> = assert(pg.pairwise(rows:slice(0, 300), rows, { threads = 1 }))
    for threads = 2, 8, 3 do
      local more <close> = assert(pg.pairwise(rows:slice(0, 300), rows, { threads = threads }))
      assert.is_true(whole:equals(more))
    end
    local part <close> = assert(pg.pairwise(rows:slice(100, 101), rows:slice(7, 90)))
    local wanted = whole:row(100)
    for j, value in ipairs(part:row(0)) do
      assert.equal(wanted[7 + j], value)
    end
  end)

  it("takes floats of either width together, and tables", function()
    local a, b = random_rows(5, 9, 1), random_rows(6, 9, 2)
    local f16 = assert(b:as "f16")
    local mixed <close> = assert(pg.pairwise(a, f16))
    local turned <close> = assert(pg.pairwise(f16, a))
    local wide <close> = assert(pg.pairwise(a, assert(f16:as "f32")))
    assert.is_true(mixed:equals(wide))
    for i = 0, 4 do
      for j = 0, 5 do
        assert.equal(wide:row(i)[j + 1], turned:row(j)[i + 1])
      end
    end
    local small <close> = assert(pg.pairwise({ { 0, 0 } }, { { 3, 4 } }, { metric = "euclidean" }))
    assert.equal(5, small:row(0)[1])
  end)

  it("works at another place", function()
    local a, b = random_rows(33, 20, 1), random_rows(70, 20, 2)
    for _, metric in ipairs(METRICS) do
      local here <close> = assert(pg.pairwise(a, b, { metric = metric }))
      for _, place in ipairs { "ref", "fake:1" } do
        local there <close> = assert(pg.pairwise(assert(a:to(place)), assert(b:to(place)),
          { metric = metric }))
        assert.equal(place, there.place)
        assert.is_true(here:equals(assert(there:to "cpu")))
      end
    end
  end)

  it("names what is wrong", function()
    local a = random_rows(5, 9, 1)
    local function refused(pattern, ...)
      local ok, message = pcall(pg.pairwise, ...)
      assert.is_false(ok)
      assert.matches(pattern, message)
    end
    refused("a has 9 columns and b 8", a, random_rows(5, 8, 1))
    refused("a is at cpu and b at fake:0", a, assert(a:to "fake:0"))
    refused("a: f32 given, rows of u8 need u8", a, random_rows(5, 9, 1, "u8"))
    refused("b: 0 rows", a, a:slice(2, 2))
    refused("b: i64 given", a, random_rows(5, 9, 1, "i64"))
    refused("option 'metric'.*hamster", a, a, { metric = "hamster" })
    refused("unknown option 'metrc': did you mean 'metric'", a, a, { metrc = "cosine" })
    local none, message, code = pg.pairwise({ { 1, 2 } }, { { 1, 2 }, { 0, 0 } },
      { metric = "cosine" })
    assert.is_nil(none)
    assert.equal("invalid", code)
    assert.matches("b.*row 1", message)
  end)
end)

-- Every list is sorted, without the row itself and without repeats, and its distances are right.
local function check_lists(rows, neighbors, distances, metric)
  local flat <close> = assert(pg.flat.build(rows, { metric = metric }))
  local scored <close> = assert(flat:score(rows, neighbors))
  assert.is_true(scored:equals(distances))
  local sign = metric == "inner_product" and -1 or 1
  for r, list in neighbors:each() do
    local values, seen = distances:row(r), {}
    for j, id in ipairs(list) do
      assert.is_true(id ~= r and (id == -1 or not seen[id]))
      assert.is_true(j == 1 or sign * values[j - 1] <= sign * values[j])
      seen[id] = true
    end
  end
end

describe("pg.knn_graph", function()
  it("is exact where that is asked for", function()
    for _, metric in ipairs(METRICS) do
      local rows = random_rows(90, 7, 3)
      local neighbors, distances = pg.knn_graph(rows, 12, { metric = metric, build_algo = "exact" })
      assert(neighbors, distances)
      assert.same({ 90, 12, "i64" }, { neighbors.rows, neighbors.cols, neighbors.dtype })
      check_lists(rows, neighbors, distances, metric)
      for r = 0, 89, 7 do
        local wanted = support.nearest(rows, rows:row(r), 12, metric, function(id)
          return id ~= r
        end)
        for j, pair in ipairs(wanted) do
          assert.near(pair[2], distances:row(r)[j], 1e-4)
        end
      end
    end
  end)

  it("finds nearly all by every way, on real rows", function()
    for _, name in ipairs { "sift", "packages" } do
      local set = support.small(name)
      local truth, values = pg.knn_graph(set.rows, 10,
        { metric = set.metric, build_algo = "exact" })
      assert(truth, values)
      for _, way in ipairs { "auto", "nn_descent", "ivf_flat" } do
        local neighbors, distances = pg.knn_graph(set.rows, 10,
          { metric = set.metric, build_algo = way })
        assert(neighbors, distances)
        check_lists(set.rows, neighbors, distances, set.metric)
        local recall = pg.recall({ neighbors = neighbors, distances = distances,
          metric = set.metric }, { neighbors = truth, distances = values, metric = set.metric })
        assert.is_true(recall >= 0.94, ("%s by %s: %g"):format(name, way, recall))
      end
    end
  end)

  it("is the same on any number of threads", function()
    local rows = support.small("sift").rows
    for _, way in ipairs { "exact", "nn_descent", "ivf_flat" } do
      local options = { build_algo = way, threads = 1 }
      local neighbors, distances = pg.knn_graph(rows, 9, options)
      for _, threads in ipairs { 2, 7 } do
        options.threads = threads
        local again, values = pg.knn_graph(rows, 9, options)
        assert.is_true(neighbors:equals(again))
        assert.is_true(distances:equals(values))
      end
    end
  end)

  it("takes every dtype, duplicates, and few rows", function()
    for _, dtype in ipairs { "f16", "i8", "u8" } do
      local rows = assert(random_rows(60, 5, 4, "i8"):as(dtype))
      local neighbors, distances = pg.knn_graph(rows, 5)
      check_lists(rows, neighbors, distances, "sqeuclidean")
    end
    for _, way in ipairs { "exact", "nn_descent", "ivf_flat" } do
      local equal = {}
      for r = 1, 40 do
        equal[r] = { 1, 2, 3 }
      end
      local rows = assert(pg.matrix(equal))
      local neighbors, distances = pg.knn_graph(rows, 6, { build_algo = way })
      assert(neighbors, distances)
      check_lists(rows, neighbors, distances, "sqeuclidean")
      for _, list in distances:each() do
        assert.same({ 0, 0, 0, 0, 0, 0 }, list)
      end
      -- fewer rows than neighbours
      for count = 1, 4 do
        neighbors, distances = pg.knn_graph(rows:slice(0, count), 6, { build_algo = way })
        assert(neighbors, distances)
        for r, list in neighbors:each() do
          for j = 1, 6 do
            assert.equal(j < count, list[j] ~= -1)
            assert.equal(j < count and 0 or math.huge, distances:row(r)[j])
          end
        end
      end
    end
  end)

  it("is made where it is asked to be", function()
    local rows = random_rows(50, 6, 5)
    local neighbors, distances = pg.knn_graph(rows, 4)
    assert.equal("cpu", neighbors.place)
    for _, place in ipairs { "ref", "fake:0" } do
      for _, from in ipairs { rows, assert(rows:to(place)) } do
        local there, values = pg.knn_graph(from, 4, { place = place })
        assert.same({ place, place }, { there.place, values.place })
        assert.is_true(neighbors:equals(assert(there:to "cpu")))
        assert.is_true(distances:equals(assert(values:to "cpu")))
      end
    end
  end)

  it("names what is wrong", function()
    local rows = random_rows(20, 4, 6)
    local function refused(pattern, ...)
      local ok, message = pcall(pg.knn_graph, ...)
      assert.is_false(ok)
      assert.matches(pattern, message)
    end
    refused("k: 0 given, allowed: 1..1024", rows, 0)
    refused("k: 1025 given, allowed: 1..1024", rows, 1025)
    refused("rows: 0 given", rows:slice(3, 3), 2)
    refused("build_algo.*'best'", rows, 2, { build_algo = "best" })
    refused("unknown option 'build_alg': did you mean 'build_algo'", rows, 2, { build_alg = 1 })
    local none, message, code = pg.knn_graph({ { 1, 0 }, { 0, 0 } }, 1, { metric = "cosine" })
    assert.is_nil(none)
    assert.equal("invalid", code)
    assert.matches("row 1", message)
  end)

  it("can be cancelled, and leaves nothing behind", function()
    local rows = support.small("sift").rows
    local blocks = pg.stats().blocks
    for _, way in ipairs { "exact", "nn_descent", "ivf_flat" } do
      local calls = 0
      local none, _, code = pg.knn_graph(rows, 16, { build_algo = way, progress = function()
        calls = calls + 1
        return calls < 2
      end })
      if calls >= 2 then
        assert.is_nil(none)
        assert.equal("cancelled", code)
      end
    end
    collectgarbage()
    collectgarbage()
    assert.is_true(pg.stats().blocks <= blocks)
  end)
end)
