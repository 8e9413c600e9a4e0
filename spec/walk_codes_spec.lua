-- Codes that walks measure by in place of the rows: what they find, in files, at awkward data.

local pg = require "perigee"
local support = require "spec.support"

local k <const> = 10
local packages = support.small "packages"

local function sift_floats()
  local sift = support.small "sift"
  return { rows = sift.rows:as "f32", queries = sift.queries:as "f32", truth = sift.truth,
    metric = sift.metric }
end

local built = {}

-- An index of these options, made once.
local function build(set, options)
  local name = ("%p %s %s"):format(set.rows, set.metric, options and options.codes)
  if built[name] then
    return built[name]
  end
  local all = { metric = set.metric, graph_degree = 32, intermediate_graph_degree = 64 }
  for key, value in pairs(options or {}) do
    all[key] = value
  end
  built[name] = support.build("cagra", set.rows, all)
  return built[name]
end

local function recall(set, index, options)
  return assert(pg.recall(assert(index:search(set.queries, k, options)), set.truth))
end

describe("a walk by sq8 codes", function()
  it("finds as much as one by the rows, and its distances are the rows'", function()
    for _, set in ipairs { packages, sift_floats() } do
      local plain, coded = build(set, { codes = "none" }), build(set, { codes = "sq8" })
      assert.equal("none", plain:info().params.codes)
      assert.equal("sq8", coded:info().params.codes)
      for _, size in ipairs { 16, 64 } do
        local by_rows = recall(set, plain, { itopk_size = size })
        local by_codes = recall(set, coded, { itopk_size = size })
        assert.is_true(by_codes >= by_rows - 0.01, ("%.4f, by the rows %.4f"):format(by_codes,
          by_rows))
      end
      local hits = assert(coded:search(set.queries, k))
      assert.is_true(assert(coded:score(set.queries, hits.neighbors)):equals(hits.distances))
    end
  end)

  it("reaches recall@10 of 0.97 as hnsw, under every metric and for f16", function()
    for _, metric in ipairs { "sqeuclidean", "euclidean", "inner_product", "cosine" } do
      for _, dtype in ipairs { "f32", "f16" } do
        local set = { rows = packages.rows:as(dtype), queries = packages.queries, metric = metric }
        set.truth = assert(pg.ground_truth(set.rows, set.queries, k, { metric = metric }))
        local index = assert(build(set, { codes = "sq8" }):to_hnsw())
        assert.equal("sq8", index:info().params.codes)
        assert.is_true(recall(set, index) >= 0.97)
      end
    end
  end)

  it("answers the same at any batch and on any number of threads", function()
    local index = assert(build(packages, { codes = "sq8" }):to_hnsw())
    local many = packages.rows:slice(0, 1025)
    local whole = assert(index:search(many, k, { threads = 1, ef = 20 }))
    for threads = 2, 8 do
      local hits = assert(index:search(many, k, { threads = threads, ef = 20 }))
      assert.is_true(hits.neighbors:equals(whole.neighbors))
      assert.is_true(hits.distances:equals(whole.distances))
    end
    for _, batch in ipairs { 1, 2, 3, 5, 64, 65, 1024 } do
      local hits = assert(index:search(many:slice(0, batch), k, { ef = 20 }))
      assert.is_true(hits.neighbors:equals(whole.neighbors:slice(0, batch)))
    end
  end)

  it("returns k rows within a filter, the nearest of them", function()
    local index = build(packages, { codes = "sq8" })
    local filter = pg.filter.range(0, #packages.rows // 2)
    local truth = assert(support.build("flat", packages.rows, { metric = packages.metric }):search(
      packages.queries, k, { filter = filter }))
    local hits = assert(index:search(packages.queries, k, { filter = filter }))
    assert.equal(0, hits.info.missing)
    assert.is_true(assert(pg.recall(hits, truth)) >= 0.95)
    for q = 0, #packages.queries - 1 do
      for id in hits:each(q) do
        assert.is_true(filter:test(id))
      end
    end
  end)

  it("ranks at least k rows again, and no more than it is told", function()
    local index = build(packages, { codes = "sq8" })
    local few = assert(index:search(packages.queries, k, { rerank = 1 }))
    local all = assert(index:search(packages.queries, k))
    assert.equal(0, few.info.missing)
    assert.near(all.info.visited - 56, few.info.visited, 0.01) -- itopk_size 64 + 2, k 10
    assert.is_true(assert(pg.recall(few, packages.truth)) >= 0.9)
  end)
end)

local PACKED <const> = { "rabitq1", "rabitq2", "rabitq4" }

describe("a walk by packed codes", function()
  it("finds as much as one by the rows with a somewhat longer list, of floats and of bytes",
    function()
      local longer <const> = { rabitq1 = 2, rabitq2 = 1.5, rabitq4 = 1.125 }
      for _, set in ipairs { packages, sift_floats(), support.small "sift" } do
        local plain = build(set, { codes = "none" })
        for _, codes in ipairs(PACKED) do
          local coded = build(set, { codes = codes })
          assert.equal(codes, coded:info().params.codes)
          for _, size in ipairs { 16, 64 } do
            local by_rows = recall(set, plain, { itopk_size = size })
            local by_codes = recall(set, coded, { itopk_size = size * longer[codes] // 1 })
            assert.is_true(by_codes >= by_rows - 0.01,
              ("%s of %s, %d: %.4f, by the rows %.4f"):format(codes, set.rows.dtype, size, by_codes,
                by_rows))
          end
          local hits = assert(coded:search(set.queries, k))
          assert.is_true(assert(coded:score(set.queries, hits.neighbors)):equals(hits.distances))
        end
      end
    end)

  it("reaches recall@10 of 0.97 as hnsw and vamana, under every metric and dtype", function()
    local sift = support.small "sift"
    for m, metric in ipairs { "sqeuclidean", "euclidean", "inner_product", "cosine" } do
      for d, dtype in ipairs { "f32", "f16", "i8", "u8" } do
        local codes = PACKED[(m + d) % 3 + 1]
        local rows, queries = packages.rows, packages.queries
        if d > 2 then
          rows, queries = sift.rows:as(dtype), sift.queries:as(dtype)
        elseif d == 2 then
          rows = rows:as "f16"
        end
        local set = { rows = rows, queries = queries, metric = metric }
        set.truth = assert(pg.ground_truth(rows, queries, k, { metric = metric }))
        local index = (m + d) % 2 == 0 and support.build("hnsw", rows, { metric = metric,
          codes = codes }) or support.build("vamana", rows, { metric = metric, codes = codes })
        local found = recall(set, index)
        assert.is_true(found >= 0.97, ("%s %s %s: %.4f"):format(codes, metric, dtype, found))
      end
    end
  end)

  it("answers the same at any batch and on any number of threads", function()
    local many = packages.rows:slice(0, 1025)
    for _, codes in ipairs(PACKED) do
      local index = assert(build(packages, { codes = codes }):to_hnsw())
      local whole = assert(index:search(many, k, { threads = 1, ef = 20 }))
      for _, threads in ipairs { 2, 3, 8 } do
        local hits = assert(index:search(many, k, { threads = threads, ef = 20 }))
        assert.is_true(hits.neighbors:equals(whole.neighbors))
        assert.is_true(hits.distances:equals(whole.distances))
      end
      for _, batch in ipairs { 1, 2, 5, 64, 1024 } do
        local hits = assert(index:search(many:slice(0, batch), k, { ef = 20 }))
        assert.is_true(hits.neighbors:equals(whole.neighbors:slice(0, batch)))
      end
    end
  end)

  it("returns k rows within a filter, the nearest of them", function()
    local filter = pg.filter.range(0, #packages.rows // 2)
    local truth = assert(support.build("flat", packages.rows, { metric = packages.metric }):search(
      packages.queries, k, { filter = filter }))
    for _, codes in ipairs(PACKED) do
      local hits = assert(build(packages, { codes = codes }):search(packages.queries, k,
        { filter = filter }))
      assert.equal(0, hits.info.missing)
      assert.is_true(assert(pg.recall(hits, truth)) >= 0.95)
    end
  end)

  it("is the same after rows came and went, and from a file", function()
    local n <const> = #packages.rows
    for _, kind in ipairs { "cagra", "hnsw", "vamana" } do
      for _, codes in ipairs { "rabitq1", "rabitq4" } do
        local index = support.build(kind, packages.rows:slice(0, n - 300),
          { metric = packages.metric, codes = codes })
        assert(index:extend(packages.rows:slice(n - 300, n)))
        local found = recall(packages, index)
        assert.is_true(found >= 0.96, ("%s %s: %.4f"):format(kind, codes, found))
        local gone = {}
        for i = 1, 200 do
          gone[i] = 7 * i
        end
        assert(index:remove(gone))
        local path = support.path ".perigee"
        assert(index:save(path))
        local hits = assert(index:search(packages.queries, k))
        local again = assert(pg.open(path))
        assert.equal(index:info().bytes, again:info().bytes)
        assert.is_true(assert(again:search(packages.queries, k)).neighbors:equals(hits.neighbors))
        local there = assert(index:to "fake:0")
        assert.is_true(assert(there:search(packages.queries, k)).neighbors:equals(hits.neighbors))
      end
    end
    support.clean()
  end)

  it("takes the memory that the formula says", function()
    local rows = packages.rows
    for codes, bytes in pairs { rabitq1 = 20 * (1 + 32), rabitq2 = 32, rabitq4 = 56 } do
      local plain, coded = build(packages, { codes = "none" }), build(packages, { codes = codes })
      local more = (coded:info().bytes - plain:info().bytes) / #rows
      assert.near(1, more / bytes, 0.02)
    end
  end)
end)

describe("codes of an index", function()
  after_each(support.clean)

  it("are saved and opened, shared by to_hnsw, and moved", function()
    local index = build(packages, { codes = "sq8" })
    local hnsw = assert(index:to_hnsw())
    for _, each in ipairs { index, hnsw } do
      local path = support.path ".perigee"
      assert(each:save(path))
      local again = assert(pg.open(path))
      assert.equal("sq8", again:info().params.codes)
      assert.equal(each:info().bytes, again:info().bytes)
      assert.is_true(assert(again:search(packages.queries, k)).neighbors:equals(
        assert(each:search(packages.queries, k)).neighbors))
      local there = assert(each:to "fake:0")
      assert.is_true(assert(there:search(packages.queries, k)).neighbors:equals(
        assert(each:search(packages.queries, k)).neighbors))
    end
  end)

  it("of the graph are those of the HNSW index made from it, unless asked otherwise", function()
    local coded, plain = build(packages, { codes = "sq8" }), build(packages, { codes = "none" })
    assert.equal("sq8", coded:to_hnsw():info().params.codes)
    assert.equal("none", coded:to_hnsw({ codes = "none" }):info().params.codes)
    assert.equal("none", plain:to_hnsw():info().params.codes)
    assert.equal("sq8", plain:to_hnsw({ codes = "sq8" }):info().params.codes)
  end)

  it("are chosen for many long rows, not for few, for bytes, or where they are too coarse",
    function()
      assert.equal("none", build(support.small "sift"):info().params.codes)
      assert.equal("none", build({ rows = packages.rows:slice(0, 500),
        metric = "inner_product" }):info().params.codes)
      local options = { graph_degree = 16, intermediate_graph_degree = 24 }
      local near = support.clustered(8192, 32, 8, 5)
      assert.equal("sq8", support.build("cagra", near, options):info().params.codes)
      local far = support.clustered(8192, 32, 8, 5, 10000)
      assert.equal("none", support.build("cagra", far, options):info().params.codes)
    end)

  it("are refused for rows that are bytes", function()
    local sift = support.small "sift"
    local ok, message = pcall(pg.cagra.build, sift.rows, { codes = "sq8" })
    assert.is_false(ok)
    assert.matches("option 'codes': 'sq8' given, allowed for rows of u8: none auto", message)
    assert.error_matches(function() pg.cagra.build(packages.rows, { codes = "sq9" }) end,
      "option 'codes': 'sq9' given, allowed: auto|none|sq8|rabitq1|rabitq2|rabitq4")
  end)

  it("bear awkward rows: one, odd columns, a constant column, all equal, one far away", function()
    local function check(list)
      local rows = assert(pg.matrix(list))
      local wanted = math.min(3, #rows)
      for _, metric in ipairs { "sqeuclidean", "inner_product", "cosine" } do
        local truth = assert(pg.ground_truth(rows, rows, wanted, { metric = metric }))
        for _, codes in ipairs { "sq8", "rabitq1", "rabitq4" } do
          local index = support.build("cagra", rows, { metric = metric, codes = codes,
            graph_degree = 8, intermediate_graph_degree = 12 })
          local hits = assert(index:search(rows, wanted))
          assert.equal(0, hits.info.missing)
          local found = assert(pg.recall(hits, truth))
          assert.is_true(found >= 0.99, ("%s %s, %d x %d: %.3f"):format(codes, metric, #rows,
            rows.cols, found))
        end
      end
    end
    check { { 1, 2, 3 } }
    math.randomseed(9)
    for _, dim in ipairs { 1, 7, 31, 33 } do
      local random, constant, equal, far = {}, {}, {}, {}
      for r = 1, 60 do
        random[r], constant[r], equal[r], far[r] = {}, {}, {}, {}
        for d = 1, dim do
          random[r][d] = math.random()
          constant[r][d] = d % 2 == 0 and 5 or math.random()
          equal[r][d] = 3
          far[r][d] = r == 7 and 1e6 or math.random()
        end
      end
      check(random)
      check(constant)
      check(equal)
      check(far)
    end
  end)
end)
