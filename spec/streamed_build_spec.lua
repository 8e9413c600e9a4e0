-- k-means, kNN graphs and pairs of rows that a device has no room for: they pass it in chunks, and
-- the result is that of rows that fit, and the CPU's, to the bit.

local pg = require "perigee"
local support = require "spec.support"
local quota = require "spec.support.quota"

local place, within, room = quota.place, quota.within, quota.room
local METRICS <const> = { "sqeuclidean", "euclidean", "inner_product", "cosine" }

local rows = support.clustered(3001, 24, 7, 1)

local function same(found, wanted, names)
  for _, name in ipairs(names) do
    local a, b = found[name], wanted[name]
    if type(a) == "userdata" then
      a, b = a:to "cpu", b:to "cpu"
      assert.is_true(a:equals(b), name)
    else
      assert.equal(b, a, name)
    end
  end
end

-- Stops what it follows when told to.
local function follower(stop)
  return function(_, done, all)
    assert(all == 0 or done <= all)
    return not stop
  end
end

-- It may be over before it is asked.
local function stopped(result, _, code)
  assert.is_true(result ~= nil or code == "cancelled")
end

local function with(options, more)
  local all = {}
  for _, part in ipairs { options, more } do
    for key, value in pairs(part) do
      all[key] = value
    end
  end
  return all
end

describe("pg.kmeans, residence", function()
  after_each(support.clean)

  local FIELDS <const> = { "centroids", "labels", "distances", "sizes", "inertia", "iterations",
    "trained_rows", "repaired", "smallest", "largest" }
  local WAYS <const> = {
    { n_clusters = 9 },
    { n_clusters = 40, balanced = true, init = "random" },
    { n_clusters = 30, hierarchical = true },
    { n_clusters = 12, batch_rows = 500, n_iters = 4 },
    { n_clusters = 5, train_fraction = 0.3 },
  }

  it("trains as the CPU does, in chunks of any size", function()
    for i, way in ipairs(WAYS) do
      local options = with(way, { metric = METRICS[i % 4 + 1] })
      local base = rows:slice(0, 1501):as(({ "f32", "f16", "i8" })[i % 3 + 1])
      local wanted = assert(pg.kmeans(base, options))
      local function check()
        local found = assert(pg.kmeans(base, with(options, { place = place,
          residence = "host" })))
        same(found, wanted, FIELDS)
        assert.equal(place, found.centroids.place)
        assert.equal("cpu", found.labels.place)
      end
      within(room(60000 + 17000 * i), check)
      check() -- samples and batches go there
    end
  end)

  it("takes the rows over when they fit, else a mapped file passes", function()
    local path = support.path ".fvecs"
    assert(rows:save(path))
    local base = assert(pg.load(path, { map = true }))
    local options = { n_clusters = 20, n_iters = 5 }
    local wanted = assert(pg.kmeans(base, options))
    local there = assert(pg.kmeans(base, with(options, { place = place })))
    same(there, wanted, FIELDS)
    assert.equal(place, there.labels.place)
    within(room(150000), function() -- the rows are 288096 bytes
      local host = place:find "^cuda" and "host" or "auto"
      local found = assert(pg.kmeans(base, with(options, { place = place, residence = host })))
      same(found, wanted, FIELDS)
      assert.equal("cpu", found.labels.place)
      local labels, distances = found:assign(base:slice(0, 2000),
        { place = place, residence = "host" })
      assert(labels, distances)
      assert.is_true(labels:equals(wanted.labels:slice(0, 2000)))
      assert.is_true(distances:equals(wanted.distances:slice(0, 2000)))
    end)
  end)

  it("sends page-locked rows as they are", function()
    local options = { n_clusters = 9, n_iters = 4 }
    local locked = assert(rows:to("pinned:" .. place))
    local wanted = assert(pg.kmeans(rows, options))
    within(room(100000), function()
      local found = assert(pg.kmeans(locked, with(options, { place = place,
        residence = "host" })))
      same(found, wanted, FIELDS)
    end)
  end)

  it("sends batches of a mapped file there, and no other rows", function()
    local path = support.path ".fvecs"
    assert(rows:save(path))
    local base = assert(pg.load(path, { map = true }))
    local options = { n_clusters = 10, batch_rows = 300, n_iters = 5, labels = false }
    local wanted = assert(pg.kmeans(rows, options))
    local found = assert(pg.kmeans(base, with(options, { place = place })))
    same(found, wanted, { "centroids", "inertia", "repaired" })
    assert.equal(place, found.centroids.place)
  end)

  it("falls back to chunks where the work beside the rows finds no room", function()
    if place:find "^cuda" then return end -- what work wants there is not small beside these rows
    local wanted = assert(pg.kmeans(rows, { n_clusters = 100, n_iters = 2 }))
    within(288096 + 60000, function()
      local found = assert(pg.kmeans(rows, { n_clusters = 100, n_iters = 2, place = place }))
      same(found, wanted, FIELDS)
    end)
  end)

  it("tells its progress, stops when told to, and says what it lacks", function()
    local options = { n_clusters = 9, place = place, residence = "host" }
    local follow = follower()
    assert(pg.kmeans(rows, with(options, { progress = follow })))
    stopped(pg.kmeans(rows, with(options, { progress = follower(true) })))
    within(2000, function()
      local none, message, code = pg.kmeans(rows, options)
      assert.is_nil(none)
      assert.equal("memory", code)
      assert.matches("bytes needed", message)
    end)
    within(100000, function()
      local none, _, code = pg.kmeans(rows, with(options, { residence = "device" }))
      assert.is_nil(none)
      assert.equal("memory", code)
    end)
    assert.error_matches(function() pg.kmeans(rows, { residence = "moon" }) end, "residence")
  end)
end)

describe("pg.knn_graph, residence", function()
  after_each(support.clean)

  it("lists as the CPU does, both sides in chunks of any size", function()
    for i, metric in ipairs(METRICS) do
      local base = rows:as(({ "f32", "f16", "i8" })[i % 3 + 1]):slice(0, 600 + 7 * i)
      local options = { metric = metric, build_algo = "exact" }
      local ids, distances = pg.knn_graph(base, 5 + i, options)
      within(room(40000 + 17000 * i), function()
        local found, values = assert(pg.knn_graph(base, 5 + i, with(options,
          { place = place, residence = "host" })))
        assert.equal("cpu", found.place)
        assert.is_true(found:equals(ids))
        assert.is_true(values:equals(distances))
      end)
    end
  end)

  it("brings lists to the host that the device has no room for", function()
    if place:find "^cuda" then return end
    local base = rows:slice(0, 900)
    local ids, distances = pg.knn_graph(base, 60, { build_algo = "exact" })
    local there = base:to(place)
    within(300000, function() -- the lists are 648000 bytes
      local found, values = assert(pg.knn_graph(there, 60, { build_algo = "exact" }))
      assert.equal("cpu", found.place)
      assert.is_true(found:equals(ids))
      assert.is_true(values:equals(distances))
    end)
  end)

  it("takes a row, equal rows and more neighbours than there are", function()
    local equal = {}
    for i = 1, 70 do
      equal[i] = { 1, 2, 3 }
    end
    for _, base in ipairs { rows:slice(0, 1), rows:slice(0, 3), pg.matrix(equal) } do
      local ids, distances = pg.knn_graph(base, 4, { build_algo = "exact" })
      local found, values = assert(pg.knn_graph(base, 4, { place = place, residence = "host" }))
      assert.is_true(found:equals(ids))
      assert.is_true(values:equals(distances))
    end
  end)

  it("stops when told to, and says what it lacks and what it can't", function()
    local options = { place = place, residence = "host" }
    local follow = follower()
    assert(pg.knn_graph(rows:slice(0, 500), 3, with(options, { progress = follow })))
    stopped(pg.knn_graph(rows, 3, with(options, { progress = follower(true) })))
    within(2000, function()
      local none, message, code = pg.knn_graph(rows, 3, options)
      assert.is_nil(none)
      assert.equal("memory", code)
      assert.matches("bytes needed", message)
    end)
    assert.error_matches(function()
      pg.knn_graph(rows, 3, with(options, { build_algo = "nn_descent" }))
    end, "exact")
  end)
end)

describe("pg.pairwise, residence", function()
  after_each(support.clean)

  local a, b = rows:slice(0, 333), rows:slice(500, 1201)

  it("gives the CPU's distances, in tiles of any size", function()
    for i, metric in ipairs { "sqeuclidean", "euclidean", "inner_product", "cosine", "l1" } do
      local dtype = ({ "f32", "f16", "i8" })[i % 3 + 1]
      local left, right = a:as(dtype), b:as(dtype)
      local wanted = assert(pg.pairwise(left, right, { metric = metric }))
      within(room(40000 + 27000 * i), function()
        local found = assert(pg.pairwise(left, right, { metric = metric, place = place,
          residence = "host" }))
        assert.equal("cpu", found.place)
        assert.is_true(found:equals(wanted))
      end)
    end
  end)

  it("leaves the result there when it fits, else on the host", function()
    local wanted = assert(pg.pairwise(a, b))
    local found = assert(pg.pairwise(a, b, { place = place }))
    assert.equal(place, found.place)
    assert.is_true(found:to "cpu":equals(wanted))
    local left, right = a:to(place), b:to(place)
    found = assert(pg.pairwise(left, right, { residence = "host" }))
    assert.equal("cpu", found.place)
    assert.is_true(found:equals(wanted))
    if place:find "^cuda" then return end
    within(300000, function() -- the result is 933732 bytes
      found = assert(pg.pairwise(left, right))
      assert.equal("cpu", found.place)
      assert.is_true(found:equals(wanted))
      assert.is_true(assert(pg.pairwise(a, b, { place = place })):equals(wanted))
    end)
  end)

  it("takes one row, stops when told to, and says what it lacks", function()
    local options = { place = place, residence = "host" }
    assert.is_true(assert(pg.pairwise(a:slice(0, 1), b:slice(0, 1), options))
      :equals(assert(pg.pairwise(a:slice(0, 1), b:slice(0, 1)))))
    local follow = follower()
    assert(pg.pairwise(a, b, with(options, { progress = follow })))
    stopped(pg.pairwise(a, b, with(options, { progress = follower(true) })))
    within(500, function()
      local none, message, code = pg.pairwise(a, b, options)
      assert.is_nil(none)
      assert.equal("memory", code)
      assert.matches("bytes needed", message)
    end)
  end)
end)
