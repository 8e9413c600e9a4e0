-- The flat index: exact, against brute force in Lua and against the truth files.

local pg = require "perigee"
local support = require "spec.support"

local place = support.place

local METRICS <const> = { "sqeuclidean", "euclidean", "inner_product", "cosine" }

describe("pg.flat", function()
  for _, metric in ipairs(METRICS) do
    it("finds what brute force finds, " .. metric, function()
      local rows = support.clustered(150, 7, 5, 11)
      local queries = support.clustered(9, 7, 5, 12)
      local index = support.build("flat", rows, { metric = metric })
      local hits = assert(index:search(queries, 8))
      assert.equal("exact", hits.info.path)
      assert.equal(0, hits.info.redone)
      for q, query in queries:each() do
        local truth, rank = support.nearest(rows, query, 8, metric), 0
        for id, distance in hits:each(q) do
          rank = rank + 1
          assert.equal(truth[rank][1], id)
          assert.near(truth[rank][2], distance, 1e-4)
        end
        assert.equal(8, rank)
      end
    end)
  end

  for _, name in ipairs { "packages", "sift" } do
    it("finds the truth of " .. name .. " by value, whatever the dtype", function()
      local set = support.small(name)
      local index = support.build("flat", set.rows, { metric = set.metric })
      assert.equal(1, pg.recall(assert(index:search(set.queries, 10)), set.truth))
      if set.rows.dtype == "u8" then
        local wide = support.build("flat", set.rows:as "f32", { metric = set.metric })
        assert.equal(1, pg.recall(assert(wide:search(set.queries:as "f32", 10)), set.truth))
      end
    end)
  end

  it("reports distances that grow, and products that fall", function()
    local set = support.small "packages"
    for _, metric in ipairs(METRICS) do
      local hits = assert(support.build("flat", set.rows, { metric = metric })
        :search(set.queries:slice(0, 20), 20))
      for q = 0, 19 do
        local last
        for _, distance in hits:each(q) do
          local worse = last and (metric == "inner_product" and distance > last
            or metric ~= "inner_product" and distance < last)
          assert.is_falsy(worse)
          last = distance
        end
      end
    end
  end)

  it("gives the lower id first among equal rows", function()
    local index = support.build("flat", pg.matrix { { 1, 1 }, { 2, 2 }, { 1, 1 }, { 1, 1 } })
    assert.same({ 0, 2, 3, 1 }, assert(index:search({ 1, 1 }, 4)).neighbors:row(0))
  end)

  it("answers the same at any batch and number of threads", function()
    local set = support.small "packages"
    local index = support.build("flat", set.rows, { metric = "cosine" })
    local whole = assert(index:search(set.queries, 10))
    local one = assert(index:search(set.queries, 10, { threads = 1 }))
    assert.is_true(whole.neighbors:equals(one.neighbors))
    assert.is_true(whole.distances:equals(one.distances))
    for q = 0, 20 do
      local single = assert(index:search(set.queries:slice(q, q + 1), 10))
      assert.is_true(single.neighbors:equals(whole.neighbors:slice(q, q + 1)))
      assert.is_true(single.distances:equals(whole.distances:slice(q, q + 1)))
    end
  end)

  it("pads what is missing with -1 at the worst value", function()
    local rows = pg.matrix { { 1, 2 }, { 3, 4 } }
    local hits = assert(support.build("flat", rows):search({ 0, 0 }, 4))
    assert.same({ 0, 1, -1, -1 }, hits.neighbors:row(0))
    assert.same({ 5, 25, math.huge, math.huge }, hits.distances:row(0))
    assert.equal(2, hits.info.missing)
    hits = assert(support.build("flat", rows, { metric = "inner_product" }):search({ 1, 0 }, 3))
    assert.same({ 1, 0, -1 }, hits.neighbors:row(0))
    assert.same({ 3, 1, -math.huge }, hits.distances:row(0))
  end)

  it("answers an empty batch with empty hits", function()
    local set = support.small "packages"
    local hits = assert(support.build("flat", set.rows):search(set.queries:slice(0, 0), 5))
    assert.same({ 0, 5 }, { #hits, hits.k })
  end)

  it("takes a query as a matrix, a table, rows of tables or a packed string", function()
    local set = support.small "packages"
    local index = support.build("flat", set.rows)
    local query = set.queries:slice(3, 4)
    local wanted = assert(index:search(query, 5)).neighbors
    assert.is_true(assert(index:search(query:row(0), 5)).neighbors:equals(wanted))
    assert.is_true(assert(index:search({ query:row(0) }, 5)).neighbors:equals(wanted))
    assert.is_true(assert(index:search(query:pack(), 5)).neighbors:equals(wanted))
    local two = assert(index:search(set.queries:slice(3, 5):pack(), 5))
    assert.equal(2, #two)
  end)

  it("answers ids where ids were given", function()
    local rows = pg.matrix { { 0 }, { 1 }, { 2 }, { 3 } }
    local ids = { 70, 1 << 40, 5, 0 }
    for _, form in ipairs { ids, pg.matrix({ ids }, "i64"), pg.matrix({ { 70 }, { 1 << 40 }, { 5 },
      { 0 } }, "i64") } do
      local index = support.build("flat", rows, { ids = form })
      assert.same({ 70, 1 << 40, 5, 0 }, assert(index:search({ 0 }, 4)).neighbors:row(0))
      local f = pg.filter.ids { 5, 70, 999 }
      assert.same({ 70, 5, -1 }, assert(index:search({ 0 }, 3, { filter = f })).neighbors:row(0))
    end
  end)

  it("scores given rows exactly", function()
    local rows = support.clustered(40, 5, 3, 21)
    local queries = support.clustered(2, 5, 3, 22)
    for _, metric in ipairs(METRICS) do
      local index = support.build("flat", rows, { metric = metric })
      local ids = pg.matrix({ { 3, 39, -1 }, { 0, 3, 7 } }, "i64")
      local scores = assert(index:score(queries, ids))
      for q = 0, 1 do
        for c, id in ipairs(ids:row(q)) do
          local got = scores:row(q)[c]
          if id == -1 then
            assert.equal(metric == "inner_product" and -math.huge or math.huge, got)
          else
            assert.near(support.measures[metric](queries:row(q), rows:row(id)), got, 1e-4)
          end
        end
      end
      assert.is_true(assert(index:score(queries, { 3, 39, -1, 0, 3, 7 })):equals(scores))
    end
  end)

  it("refills hits in place, without an allocation", function()
    local set = support.small "packages"
    local index = support.build("flat", set.rows)
    local hits = assert(index:search(set.queries:slice(0, 10), 5))
    local neighbors = hits.neighbors
    assert(index:search(set.queries:slice(10, 20), 5, { out = hits }))
    local before = pg.stats().acquired
    local again = assert(index:search(set.queries:slice(20, 30), 5, { out = hits }))
    -- Two for the slice: its handle, and the view's.
    assert.is_true(pg.stats().acquired - before <= 2)
    assert.equal(hits, again)
    assert.equal(neighbors, hits.neighbors)
    assert.is_true(neighbors:equals(assert(index:search(set.queries:slice(20, 30), 5)).neighbors))
    assert(index:search(set.queries:slice(0, 3), 7, { out = hits }))
    assert.same({ 3, 7 }, { #hits, hits.k })
  end)

  it("allocates nothing in a warm search", function()
    local set = support.small "packages"
    local index, queries = support.build("flat", set.rows), set.queries
    local hits = assert(index:search(queries, 5))
    for _ = 1, 3 do
      assert(index:search(queries, 5, { out = hits }))
    end
    local before = pg.stats().acquired
    assert(index:search(queries, 5, { out = hits }))
    assert.equal(before, pg.stats().acquired)
  end)

  it("gives its rows, and tells of itself", function()
    local rows = support.clustered(30, 4, 2, 31)
    local index = support.build("flat", rows, { metric = "cosine" })
    assert.same({ "flat", 30, 4, "cosine", "f32", place, 30 },
      { index.kind, index.rows, index.dim, index.metric, index.dtype, index.place, #index })
    assert.is_true(assert(index:dataset()):equals(rows))
    local info = index:info()
    assert.same({ "flat", 30, 4, place }, { info.kind, info.rows, info.dim, info.place })
    assert.equal("cosine", info.params.metric)
    assert.matches("^flat", index:explain())
    assert.matches("^Searcher flat, 30 x 4 cosine on ", tostring(index))
  end)

  it("moves to a place and answers the same there", function()
    local set = support.small "packages"
    local here = assert(pg.flat.build(set.rows, { metric = "inner_product" }))
    local there = assert(here:to(place))
    assert.equal(place, there.place)
    local a, b = assert(here:search(set.queries, 10)), assert(there:search(set.queries, 10))
    assert.is_true(a.neighbors:equals(b.neighbors))
    assert.is_true(a.distances:equals(b.distances))
    assert.equal(place, b.info.place)
  end)
end)

describe("refined", function()
  it("ranks the candidates of another searcher again", function()
    local set = support.small "packages"
    local rough = support.build("flat", set.rows:as "f16", { metric = set.metric })
    local fine = assert(rough:refined(set.rows:to(place), { ratio = 3 }))
    assert.equal(1, pg.recall(assert(fine:search(set.queries, 10)), set.truth))
    assert.matches("refined.*\n└─ flat", fine:explain())
    assert.equal("refined", fine.kind)
    assert.equal("flat", fine:info().inner.kind)
    assert(fine:search(set.queries, 10, { ratio = 1 }))
  end)
end)
