-- CAGRA to HNSW: every hierarchy searches as well as the graph it came from, in our files and
-- hnswlib's.

local pg = require "perigee"
local support = require "spec.support"

local k <const> = 10
local set = support.small "packages"

local function graph(options)
  return support.build("cagra", set.rows, options or { metric = set.metric })
end

describe("to_hnsw", function()
  for _, hierarchy in ipairs { "none", "cpu" } do
    it(("with hierarchy %s reaches recall@10 of 0.97"):format(hierarchy), function()
      local index = assert(graph():to_hnsw { hierarchy = hierarchy })
      assert.equal("hnsw", index.kind)
      local recall = assert(pg.recall(assert(index:search(set.queries, k)), set.truth))
      assert.is_true(recall >= 0.97, ("recall %.4f"):format(recall))
    end)
  end

  it("finds more with a larger ef", function()
    local sift = support.small "sift"
    local index = assert(support.build("cagra", sift.rows, { metric = sift.metric, graph_degree = 8,
      intermediate_graph_degree = 16 }):to_hnsw())
    local function recall(ef)
      return assert(pg.recall(assert(index:search(sift.queries, k, { ef = ef })), sift.truth))
    end
    assert.is_true(recall(256) > recall(10))
    assert.is_true(recall(256) >= 0.97)
  end)

  it("answers the same at any batch, and within a filter", function()
    local index = assert(graph():to_hnsw())
    local whole = assert(index:search(set.queries, k))
    for q = 0, 30 do
      local one = assert(index:search(set.queries:slice(q, q + 1), k))
      assert.is_true(one.neighbors:equals(whole.neighbors:slice(q, q + 1)))
    end
    local f = pg.filter.range(100, 300)
    local hits = assert(index:search(set.queries, k, { filter = f }))
    assert.equal(0, hits.info.missing)
    for q = 0, #set.queries - 1 do
      for id in hits:each(q) do
        assert.is_true(f:test(id))
      end
    end
  end)

  it("shares the rows of the graph", function()
    local index = graph()
    local before = pg.stats().bytes
    local hnsw <close> = assert(index:to_hnsw())
    local grown = pg.stats().bytes - before
    assert.is_true(grown < set.rows:info().bytes, ("%d bytes more"):format(grown))
    assert.is_true(assert(hnsw:dataset()):equals(set.rows))
  end)

  it("is refused for another kind, and with options that it lacks", function()
    local flat = support.build("flat", set.rows)
    local ok, none, _, code = pcall(flat.to_hnsw, flat)
    assert.is_true(not ok or none == nil and code == "unsupported")
    local index = graph()
    assert.error_matches(function() index:to_hnsw { hierarchy = "tall" } end,
      "option 'hierarchy': 'tall' given, allowed: none|cpu")
    assert.error_matches(function() index:to_hnsw { hierachy = "cpu" } end,
      "unknown option 'hierachy': did you mean 'hierarchy'?")
  end)
end)

describe("a file of hnswlib", function()
  after_each(support.clean)

  it("made by us opens with the same answers", function()
    for _, metric in ipairs { "sqeuclidean", "inner_product", "cosine" } do
      for _, hierarchy in ipairs { "none", "cpu" } do
        local index = assert(graph { metric = metric }:to_hnsw { hierarchy = hierarchy })
        local path = support.path ".hnsw"
        assert.is_true(index:save(path, { format = "hnswlib" }))
        local back = assert(pg.open(path, { format = "hnswlib", metric = metric }))
        assert.same({ "hnsw", set.rows.rows, 96, metric },
          { back.kind, back.rows, back.dim, back.metric })
        local truth = assert(pg.ground_truth(set.rows, set.queries, k, { metric = metric }))
        local ours = assert(pg.recall(assert(index:search(set.queries, k, { ef = 100 })), truth))
        local theirs = assert(pg.recall(assert(back:search(set.queries, k, { ef = 100 })), truth))
        assert.near(ours, theirs, 0.01)
        assert.is_true(theirs >= 0.95, ("recall %.4f"):format(theirs))
      end
    end
  end)

  it("made by us of u8 rows opens", function()
    local sift = support.small "sift"
    local index = assert(support.build("cagra", sift.rows):to_hnsw())
    local path = support.path ".hnsw"
    local ok, message, code = index:save(path, { format = "hnswlib", dtype = "u8" })
    assert.is_true(ok, message and (message .. " " .. code))
    local back = assert(pg.open(path, { format = "hnswlib", metric = "sqeuclidean", dtype = "u8" }))
    local recall = assert(pg.recall(assert(back:search(sift.queries, k)), sift.truth))
    assert.is_true(recall >= 0.97, ("recall %.4f"):format(recall))
  end)

  it("made by hnswlib opens and finds its own rows", function()
    local rows = assert(pg.load(support.data "formats/l2.fvecs"))
    for name, metric in pairs { l2 = "sqeuclidean", ip = "inner_product" } do
      local index = assert(pg.open(support.data("formats/" .. name .. ".hnsw"),
        { format = "hnswlib", metric = metric }))
      assert.same({ 200, 16 }, { index.rows, index.dim })
      local found = 0
      for q = 0, #rows - 1 do
        local truth = support.nearest(rows, rows:row(q), 5, metric,
          name == "ip" and function(r) return r ~= 17 end or nil)
        local hits = assert(index:search(rows:row(q), 5))
        local rank = 0
        for id, distance in hits:each() do
          rank = rank + 1
          local row = (id - 1000) // 3 -- labels are 1000 + 3 * row
          assert.equal(1000 + 3 * row, id)
          assert.is_false(name == "ip" and row == 17)
          assert.near(support.measures[metric](rows:row(q), rows:row(row)), distance, 1e-5)
          local worst = truth[5][2]
          local right = metric == "inner_product" and distance >= worst - 1e-6
            or metric ~= "inner_product" and distance <= worst + 1e-6
          found = found + (right and 1 or 0)
        end
        assert.equal(5, rank)
      end
      assert.is_true(found / (5 * #rows) >= 0.98, ("recall %.4f"):format(found / (5 * #rows)))
    end
  end)

  it("does not say its metric, so it must be told", function()
    assert.error_matches(function()
      pg.open(support.data "formats/l2.hnsw", { format = "hnswlib" })
    end, "metric")
    assert.error_matches(function()
      pg.open(support.data "formats/l2.hnsw", { format = "hnswlib", metric = "far" })
    end, "far")
  end)

  it("that is cut off is refused", function()
    local bytes = support.read(support.data "formats/l2.hnsw")
    math.randomseed(3)
    for _ = 1, 60 do
      local path = support.write(support.path ".hnsw", bytes:sub(1, math.random(0, #bytes - 1)))
      local none, message, code = pg.open(path, { format = "hnswlib", metric = "sqeuclidean" })
      assert.is_nil(none)
      assert.is_true(code == "corrupt" or code == "io")
      assert.is_string(message)
    end
  end)

  it("whose bytes are changed is refused or searched without harm", function()
    local bytes = support.read(support.data "formats/l2.hnsw")
    math.randomseed(4)
    for _ = 1, 150 do
      local at = math.random(#bytes)
      local changed = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + 1)
      local path = support.write(support.path ".hnsw", changed)
      local index, message = pg.open(path, { format = "hnswlib", metric = "sqeuclidean" })
      if index then
        local hits, why = index:search(pg.matrix(3, 16), 5)
        assert.is_true(hits ~= nil or why ~= nil)
      else
        assert.is_string(message)
      end
    end
  end)
end)
