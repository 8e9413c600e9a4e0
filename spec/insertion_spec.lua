-- Graphs built by insertion: as good as their floors, whatever comes and goes.

local pg = require "perigee"
local support = require "spec.support"

local K <const> = 10
local KINDS <const> = { "hnsw", "vamana" }

local function recall(index, queries, truth, list)
  local options = index.kind == "hnsw" and { ef = list } or { itopk_size = list }
  return assert(pg.recall(assert(index:search(queries, K, options)), truth))
end

local function numbers(first, stop, step)
  local list = {}
  for i = first, stop - 1, step or 1 do
    list[#list + 1] = i
  end
  return list
end

-- Rows first .. stop - 1, one column each step apart: their nearest are known.
local function line(first, stop)
  local list = {}
  for i = first, stop - 1 do
    list[#list + 1] = { i, 1 }
  end
  return pg.matrix(list)
end

local function same_answers(a, b, queries)
  local x, y = assert(a:search(queries, K)), assert(b:search(queries, K))
  return x.neighbors:pack() == y.neighbors:pack() and x.distances:pack() == y.distances:pack()
end

describe("hnsw.build", function()
  it("reaches recall@10 of 0.99 at ef 100 on sift, and 0.98 on packages", function()
    for name, floor in pairs { sift = 0.99, packages = 0.98 } do
      local set = support.small(name)
      local index = support.build("hnsw", set.rows, { metric = set.metric })
      local found = recall(index, set.queries, set.truth, 100)
      assert.is_true(found >= floor, ("%s: recall %.4f"):format(name, found))
    end
  end)

  it("remembers what it was asked for", function()
    local index = support.build("hnsw", support.small("sift").rows,
      { m = 8, ef_construction = 40, seed = 3, alpha = 1 })
    local params = index:info().params
    assert.same({ 8, 40, 3, 1 }, { params.m, params.ef_construction, params.seed, params.alpha })
    assert.is_true(params.level_max >= 1)
    assert.error_matches(function() pg.hnsw.build(line(0, 5), { m = 1 }) end,
      "option 'm': 1 given, allowed: whole 2..10000")
    assert.error_matches(function() pg.hnsw.build(line(0, 5), { ef_constructoin = 1 }) end,
      "ef_construction")
  end)

  it("saves what stock hnswlib's format holds, and opens it", function()
    local set = support.small "packages"
    local index = support.build("hnsw", set.rows, { metric = set.metric })
    local path = support.path ".hnsw"
    assert(index:save(path, { format = "hnswlib" }))
    local again = assert(pg.open(path, { format = "hnswlib", metric = set.metric }))
    assert.is_true(same_answers(index, again, set.queries))
  end)
end)

describe("vamana.build", function()
  it("reaches recall@10 of 0.97 at its defaults", function()
    for _, name in ipairs { "sift", "packages" } do
      local set = support.small(name)
      local index = support.build("vamana", set.rows, { metric = set.metric })
      local found = assert(pg.recall(assert(index:search(set.queries, K)), set.truth))
      assert.is_true(found >= 0.97, ("%s: recall %.4f"):format(name, found))
    end
  end)
end)

describe("on the sets of others", function()
  for _, name in ipairs { "bigann10k", "sift-ngt5k" } do
    it(("%s, hnsw at ef 100 reaches 0.99 and vamana 0.97"):format(name), function()
      local folder = support.shared(name) .. "/"
      local rows = assert(pg.load(folder .. "base.bvecs"))
      local queries = assert(pg.load(folder .. "query.bvecs"))
      local truth = { neighbors = assert(pg.load(folder .. "gt.ivecs")),
        distances = assert(pg.load(folder .. "gt_dist2.fvecs")), metric = "sqeuclidean" }
      local hnsw, vamana = support.build("hnsw", rows), support.build("vamana", rows)
      assert.is_true(recall(hnsw, queries, truth, 100) >= 0.99)
      assert.is_true(assert(pg.recall(assert(vamana:search(queries, K)), truth)) >= 0.97)
    end)
  end
end)

for _, kind in ipairs(KINDS) do
  describe(kind, function()
    after_each(support.clean)

    it("is the same graph on any number of threads", function()
      local set = support.small "packages"
      local rows, more = set.rows:slice(0, 1500), set.rows:slice(1500, 2000)
      local first
      for _, threads in ipairs { 1, 2, 3, 8 } do
        local index = support.build(kind, rows, { metric = set.metric, threads = threads })
        assert(index:extend(more, { threads = threads }))
        assert(index:remove(numbers(0, 2000, 5), { threads = threads }))
        local path = support.path ".perigee"
        assert(index:save(path, { dataset = false }))
        local bytes = support.read(path)
        first = first or bytes
        assert.is_true(bytes == first, threads .. " threads")
      end
    end)

    it("finds every row of any number of them", function()
      for _, n in ipairs { 1, 2, 3, 4, 5, 7, 16, 31, 33, 64, 65, 129, 257, 600 } do
        local rows = line(0, n)
        local index = support.build(kind, rows, { ids = numbers(1000, 1000 + n) })
        local hits = assert(index:search(rows, 3))
        for q = 0, n - 1 do
          assert.equal(1000 + q, hits.neighbors:row(q)[1])
        end
        assert.equal(n * math.max(0, 3 - n), hits.info.missing)
      end
    end)

    it("takes equal rows, all of them or most", function()
      local list = {}
      for i = 1, 500 do
        list[i] = i % 50 == 0 and { i, 2, 3 } or { 1, 2, 3 }
      end
      local index = support.build(kind, pg.matrix(list))
      local hits = assert(index:search(pg.matrix { { 1, 2, 3 }, { 100, 2, 3 } }, 450))
      assert.equal(0, hits.info.missing)
      assert.equal(99, hits.neighbors:row(1)[1])
      for rank = 1, 450 do
        assert.equal(rank <= 490 and 0 or nil, hits.distances:row(0)[rank])
      end
      for _, n in ipairs { 2, 100 } do
        local equal = support.build(kind, pg.matrix(n, 4))
        assert.equal(0, assert(equal:search(pg.matrix(1, 4), n)).info.missing)
      end
    end)

    it("takes every dtype and metric", function()
      local set = support.small "sift"
      local rows = set.rows:slice(0, 600)
      for _, dtype in ipairs { "f32", "f16", "u8" } do
        for _, metric in ipairs { "sqeuclidean", "euclidean", "inner_product", "cosine" } do
          local some = rows:as(dtype)
          local index = support.build(kind, some, { metric = metric })
          local truth = assert(pg.ground_truth(some, set.queries, K, { metric = metric }))
          local found = recall(index, set.queries, truth, 100)
          assert.is_true(found >= 0.97, ("%s %s: %.4f"):format(dtype, metric, found))
        end
      end
    end)

    it("grows row by row from one, and finds them all", function()
      local rows = line(0, 60)
      local index = support.build(kind, rows:slice(0, 1))
      for r = 1, 59 do
        assert(index:extend(rows:slice(r, r + 1)))
      end
      local hits = assert(index:search(rows, 2))
      for q = 0, 59 do
        assert.equal(q, hits.neighbors:row(q)[1])
      end
    end)

    it("extended is within 0.01 of one built of all", function()
      local set = support.small "packages"
      local half = #set.rows // 2
      local whole = support.build(kind, set.rows, { metric = set.metric })
      local grown = support.build(kind, set.rows:slice(0, half), { metric = set.metric })
      assert(grown:extend(set.rows:slice(half, #set.rows)))
      local a = recall(whole, set.queries, set.truth, 32)
    local b = recall(grown, set.queries, set.truth, 32)
      assert.is_true(b >= a - 0.01, ("%.4f, whole %.4f"):format(b, a))
    end)

    it("is within 0.01 of a fresh one after rows left and came back", function()
      local set = support.small "sift"
      local n = #set.rows
      for _, step in ipairs { 10, 2 } do
        local gone = numbers(0, n, step)
        local left = {}
        for r = 0, n - 1 do
          if r % step ~= 0 then left[#left + 1] = r end
        end
        local index = support.build(kind, set.rows, { metric = set.metric })
        assert.equal(#gone, assert(index:remove(gone)))
        local rest = assert(set.rows:gather(left))
        local fresh = support.build(kind, rest, { metric = set.metric, ids = left })
        local truth = assert(pg.ground_truth(rest, set.queries, K,
          { metric = set.metric, ids = left }))
        local a, b = recall(fresh, set.queries, truth, 32), recall(index, set.queries, truth, 32)
        assert.is_true(b >= a - 0.01, ("1 of %d left: %.4f, fresh %.4f"):format(step, b, a))
        assert(index:extend(assert(set.rows:gather(gone))))
        local whole = support.build(kind, set.rows, { metric = set.metric })
        local back = recall(index, set.queries, set.truth, 32)
        local fine = recall(whole, set.queries, set.truth, 32)
        assert.is_true(back >= fine - 0.01, ("back: %.4f, fresh %.4f"):format(back, fine))
      end
    end)

    it("walks around holes: a search looks at as few rows as in a fresh index", function()
      local set = support.small "sift"
      local index = support.build(kind, set.rows, { metric = set.metric })
      local before = assert(index:search(set.queries, K)).info
      assert(index:remove(numbers(0, #set.rows, 2)))
      local after = assert(index:search(set.queries, K)).info
      assert.equal("graph", after.path)
      assert.is_true(after.visited <= before.visited * 1.1,
        ("%.0f rows, %.0f before"):format(after.visited, before.visited))
    end)

    it("loses its entry, all rows of a family, and then all rows", function()
      local rows = line(0, 300)
      local index = support.build(kind, rows)
      for _ = 1, 10 do
        local entry = index:info().params.entry
        assert.equal(1, assert(index:remove { entry }))
        assert.not_equal(entry, index:info().params.entry)
      end
      local info = assert(index:search(rows, 1)).info
      assert.equal(0, info.missing)
      assert(index:remove(numbers(0, 300)))
      assert.equal(300, assert(index:search(rows, 1)).info.missing)
      assert(index:extend(line(300, 420)))
      local hits = assert(index:search(line(300, 420), 1))
      for q = 0, 119 do
        assert.equal(300 + q, hits.neighbors:row(q)[1])
      end
    end)

    it("keeps equal rows reachable when their first one leaves", function()
      local list = {}
      for i = 0, 99 do
        list[i + 1] = { i % 10, 0 }
      end
      local index = support.build(kind, pg.matrix(list))
      assert(index:remove(numbers(0, 15)))
      assert(index:extend(pg.matrix { { 3, 0 }, { 55, 0 } }))
      local hits = assert(index:search(pg.matrix { { 3, 0 }, { 55, 0 } }, 87))
      assert.equal(0, hits.info.missing)
      assert.equal(101, hits.neighbors:row(1)[1])
    end)

    it("survives saving and opening, holes included", function()
      local set = support.small "packages"
      local index = support.build(kind, set.rows:slice(0, 1000), { metric = set.metric })
      assert(index:remove(numbers(0, 1000, 3)))
      local path = support.path ".perigee"
      assert(index:save(path))
      local again = assert(pg.open(path))
      assert.is_true(same_answers(index, again, set.queries))
      assert(again:extend(set.rows:slice(1000, 1200)))
      assert(index:extend(set.rows:slice(1000, 1200)))
      assert.is_true(same_answers(index, again, set.queries))
    end)

    it("stops when it is told to, and leaves nothing", function()
      local set = support.small "packages"
      collectgarbage()
      local before = pg.stats().bytes
      local none, _, code = pg[kind].build(set.rows, { metric = set.metric,
        progress = function() return false end })
      assert.is_nil(none)
      assert.equal("cancelled", code)
      collectgarbage()
      assert.is_true(pg.stats().bytes <= before)
    end)
  end)
end

describe("a CAGRA index", function()
  local set = support.small "packages"
  local options = { metric = set.metric, graph_degree = 32, intermediate_graph_degree = 64 }

  it("extended is within 0.01 of one built of all", function()
    local half = #set.rows // 2
    local whole, grown = support.build("cagra", set.rows, options),
      support.build("cagra", set.rows:slice(0, half), options)
    assert(grown:extend(set.rows:slice(half, #set.rows)))
    local a = recall(whole, set.queries, set.truth, 32)
    local b = recall(grown, set.queries, set.truth, 32)
    assert.is_true(b >= a - 0.01, ("%.4f, whole %.4f"):format(b, a))
  end)

  it("walks around holes, and finds all rows that are left", function()
    local index = support.build("cagra", set.rows, options)
    local gone = numbers(0, #set.rows, 2)
    assert.equal(#gone, assert(index:remove(gone)))
    local truth = assert(pg.ground_truth(set.rows, set.queries, K,
      { metric = set.metric, filter = ~pg.filter.ids(gone) }))
    local found = recall(index, set.queries, truth, 64)
    assert.is_true(found >= 0.97, ("recall %.4f"):format(found))
    local hits = assert(index:search(set.queries, K))
    assert.same({ "graph", 0 }, { hits.info.path, hits.info.missing })
    for q = 0, #set.queries - 1 do
      for id in hits:each(q) do
        assert.equal(1, id % 2)
      end
    end
  end)
end)

describe("an HNSW index made of a CAGRA graph", function()
  it("extends and mends as one that was built", function()
    local set = support.small "packages"
    local half = #set.rows // 2
    for _, hierarchy in ipairs { "none", "cpu" } do
      local cagra = support.build("cagra", set.rows:slice(0, half),
        { metric = set.metric, graph_degree = 32, intermediate_graph_degree = 64 })
      local index = assert(cagra:to_hnsw { hierarchy = hierarchy })
      assert(index:extend(set.rows:slice(half, #set.rows)))
      local found = recall(index, set.queries, set.truth, 100)
      assert.is_true(found >= 0.97, ("%s: recall %.4f"):format(hierarchy, found))
      assert(index:remove(numbers(0, half, 2)))
      assert.equal(0, assert(index:search(set.queries, K)).info.missing)
    end
  end)
end)
