-- perigee.recall and perigee.ground_truth: by id, by value, by the first k.

local pg = require "perigee"
local support = require "spec.support"

local function ids(list)
  return pg.matrix(list, "i64")
end

describe("pg.recall", function()
  it("counts ids that are in the truth's first k", function()
    local truth = ids { { 1, 2, 3, 4 }, { 5, 6, 7, 8 } }
    assert.equal(1, pg.recall(ids { { 2, 1 }, { 6, 5 } }, truth))
    assert.equal(0.5, pg.recall(ids { { 1, 3 }, { 5, 8 } }, truth))
    assert.equal(0, pg.recall(ids { { 9, -1 }, { -1, -1 } }, truth))
    assert.equal(0.75, pg.recall(ids { { 1, 2, 9, 9 }, { 5, 6, 9, 9 } }, truth, 2) * 0.75)
    assert.equal(0.5, pg.recall(ids { { 1, 2, 9, 9 }, { 5, 6, 9, 9 } }, truth))
  end)

  it("takes ids of any whole dtype", function()
    for _, dtype in ipairs { "i64", "i32", "u32" } do
      assert.equal(0.5, pg.recall(pg.matrix({ { 1, 9 } }, dtype), pg.matrix({ { 1, 2 } }, "i32")))
    end
  end)

  it("counts by value when both sides carry distances, so that ties are right", function()
    local truth = { neighbors = ids { { 1, 2, 3 } }, distances = pg.matrix { { 0, 5, 5 } },
      metric = "sqeuclidean" }
    local found = { neighbors = ids { { 1, 77 } }, distances = pg.matrix { { 0, 5 } } }
    assert.equal(1, pg.recall(found, truth))
    assert.equal(0.5, pg.recall(found.neighbors, truth.neighbors))
    found.distances = pg.matrix { { 0, 5.01 } }
    assert.equal(0.5, pg.recall(found, truth))
  end)

  it("knows that larger products are nearer", function()
    local truth = { neighbors = ids { { 1, 2 } }, distances = pg.matrix { { 9, 5 } },
      metric = "inner_product" }
    local found = { neighbors = ids { { 8, 9 } }, distances = pg.matrix { { 7, 4 } } }
    assert.equal(0.5, pg.recall(found, truth))
  end)

  it("does not count missing results, whatever their value", function()
    local truth = { neighbors = ids { { 1, 2 } }, distances = pg.matrix { { 0, 1 } },
      metric = "sqeuclidean" }
    local found = { neighbors = ids { { 1, -1 } }, distances = pg.matrix { { 0, math.huge } } }
    assert.equal(0.5, pg.recall(found, truth))
  end)

  it("names misuse", function()
    local one = ids { { 1, 2 } }
    local _, message = pcall(function() pg.recall(7, one) end)
    assert.matches("^spec/recall_spec.lua:%d+: bad argument 'found' to 'recall' %(number", message)
    assert.error_matches(function() pg.recall(one, {}) end, "bad argument 'truth'")
    assert.error_matches(function() pg.recall(one, one, 3) end, "k: 3 given, 2 were found")
    assert.error_matches(function() pg.recall(one, ids { { 1 } }) end, "1")
    assert.error_matches(function() pg.recall(one, ids { { 1, 2 }, { 1, 2 } }) end, "2")
    assert.error_matches(function()
      pg.recall({ neighbors = one, distances = pg.matrix(1, 2) },
        { neighbors = one, distances = pg.matrix(1, 2) })
    end, "metric")
  end)
end)

describe("pg.ground_truth", function()
  it("is the truth of the files", function()
    local set = support.small "sift"
    local truth = assert(pg.ground_truth(set.rows, set.queries, 100, { metric = set.metric }))
    assert.equal(1, pg.recall(truth, set.truth))
    assert.equal(1, pg.recall(set.truth, truth))
    assert.equal("exact", truth.info.path)
  end)

  it("takes the options of the flat index and a filter", function()
    local set = support.small "packages"
    local f = pg.filter.range(10, 500)
    local truth = assert(pg.ground_truth(set.rows, set.queries, 5,
      { metric = "cosine", filter = f, threads = 1, place = support.place }))
    assert.equal("cosine", truth.metric)
    for id in truth:each(3) do
      assert.is_true(f:test(id))
    end
    assert.error_matches(function() pg.ground_truth(set.rows, set.queries, 5, { far = 1 }) end,
      "unknown option 'far'")
  end)
end)
