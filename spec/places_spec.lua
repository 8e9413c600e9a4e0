-- The same answer wherever it is computed: flat search, ground truth, distances of all pairs, kNN
-- graphs and k-means at a place give the CPU's bits, on every set that ships and every one that
-- lies beside the checkout.

local pg = require "perigee"
local support = require "spec.support"

local k <const> = 10

-- Where to compare: the place the specs run at, and a pretend device when that is the CPU.
local place = support.place == "cpu" and "fake:0" or support.place

local SETS <const> = {
  { name = "packages", small = true },
  { name = "sift", small = true },
  { name = "sift-ngt5k", ending = "bvecs", metric = "sqeuclidean" },
  { name = "bigann10k", ending = "bvecs", metric = "sqeuclidean" },
  { name = "sift-debian-photos", ending = "bvecs", metric = "sqeuclidean" },
  { name = "debian-packages-96", ending = "fvecs", metric = "inner_product" },
}

local function open(set)
  if set.small then
    return support.small(set.name)
  end
  local function file(name)
    return assert(pg.load(support.shared(set.name .. "/" .. name)))
  end
  return { metric = set.metric, rows = file("base." .. set.ending),
    queries = file("query." .. set.ending) }
end

-- At most so many of the first rows.
local function some(rows, most)
  return rows:slice(0, math.min(most, #rows))
end

local function there(matrix)
  return assert(matrix:to(place))
end

-- Bits, wherever the two are.
local function assert_same(wanted, found, what)
  assert.is_true(assert(wanted:to "cpu"):equals(assert(found:to "cpu")), what)
end

-- Rows as they are, halved, and of a byte where they are not; each with what to call it.
local function forms(rows)
  local list = { { rows.dtype, rows } }
  for _, dtype in ipairs { "f32", "f16" } do
    if rows.dtype ~= dtype then
      list[#list + 1] = { dtype, assert(rows:as(dtype)) }
    end
  end
  return list
end

local function search(rows, queries, metric, where)
  local index <close> = assert(pg.flat.build(rows, { metric = metric, place = where }))
  return assert(index:search(queries, k))
end

-- Clusters whose rows differ in the last digits that halves have, and in the first ones: what a
-- search that looks for candidates first has to do twice, and what it hasn't.
describe("rows in tight clusters far from the origin", function()
  for _, case in ipairs { { width = 4000, redone = true }, { width = 8, redone = false } } do
    it("are searched by flat as on the CPU, of width " .. case.width, function()
      local all = support.clustered(3040, 32, 20, 5, case.width)
      local rows, queries = all:slice(0, 3000), all:slice(3000, 3040)
      for _, metric in ipairs { "sqeuclidean", "inner_product", "cosine" } do
        local wanted = search(rows, queries, metric, "cpu")
        local found = search(rows, queries, metric, place)
        assert_same(wanted.neighbors, found.neighbors, metric)
        assert_same(wanted.distances, found.distances, metric)
        assert.equal(0, wanted.info.redone)
        assert.equal(0, found.info.scanned)
        local twice = found.info.redone
        if metric == "sqeuclidean" and place:find "^cuda" then
          assert.equal(case.redone, twice > 0, ("%d queries done twice"):format(twice))
        end
      end
    end)
  end
end)

for _, set in ipairs(SETS) do
  describe(set.name, function()
    it("is searched by flat as on the CPU", function()
      local all = open(set)
      for _, metric in ipairs { all.metric, "euclidean", "cosine" } do
        for _, form in ipairs(forms(some(all.rows, set.small and 1000 or 100000))) do
          local dtype, rows = form[1], form[2]
          local queries = rows.dtype == all.queries.dtype and all.queries
            or assert(all.queries:as "f32")
          if metric == all.metric or set.small then
            local wanted = search(rows, queries, metric, "cpu")
            local found = search(rows, queries, metric, place)
            assert_same(wanted.neighbors, found.neighbors, metric .. " " .. dtype)
            assert_same(wanted.distances, found.distances, metric .. " " .. dtype)
          end
        end
      end
    end)

    it("has the same ground truth", function()
      local all = open(set)
      local queries = some(all.queries, 50)
      for _, filter in ipairs { false, pg.filter.range(100, 700) } do
        local options = { metric = all.metric, filter = filter or nil }
        local wanted = assert(pg.ground_truth(all.rows, queries, k, options))
        options.place = place
        local found = assert(pg.ground_truth(all.rows, queries, k, options))
        assert_same(wanted.neighbors, found.neighbors)
        assert_same(wanted.distances, found.distances)
      end
    end)

    it("has the same distances of pairs", function()
      local all = open(set)
      local a, b = some(all.queries, 40), some(all.rows, 700)
      for _, metric in ipairs { "sqeuclidean", "euclidean", "inner_product", "cosine" } do
        local wanted = assert(pg.pairwise(a, b, { metric = metric }))
        assert_same(wanted, assert(pg.pairwise(there(a), there(b), { metric = metric })), metric)
      end
    end)

    it("has the same kNN graph", function()
      local all = open(set)
      local rows = some(all.rows, 3000)
      local options = { metric = all.metric, build_algo = "exact" }
      local neighbors, distances = pg.knn_graph(rows, k, options)
      options.place = place
      local other, values = pg.knn_graph(there(rows), k, options)
      assert_same(neighbors, assert(other, values))
      assert_same(distances, values)
    end)

    it("has the same clusters", function()
      local all = open(set)
      local cases = {
        { n_clusters = 150, n_iters = 3, init = "random" },
        { n_clusters = 200, n_iters = 2, init = "random", metric = "cosine" },
        { n_clusters = 30, n_iters = 3, init = "random", balanced = true },
      }
      if set.small then
        table.insert(cases, { n_clusters = 70, n_iters = 1 })
        table.insert(cases, { n_clusters = 3, n_iters = 1 })
        table.insert(cases, { n_clusters = 20, n_iters = 3, init = "random", batch_rows = 300 })
      end
      for _, form in ipairs(set.small and forms(all.rows) or { { "", some(all.rows, 4000) } }) do
        for _, options in ipairs(cases) do
          local wanted <close> = assert(pg.kmeans(form[2], options))
          local found <close> = assert(pg.kmeans(there(form[2]), options))
          local what = ("%s, %d clusters"):format(form[1], options.n_clusters)
          assert.equal(place, found.centroids.place)
          assert_same(wanted.centroids, found.centroids, what)
          assert_same(wanted.labels, found.labels, what)
          assert_same(wanted.distances, found.distances, what)
          assert.equal(wanted.inertia, found.inertia, what)
          assert.equal(wanted.repaired, found.repaired, what)
        end
      end
    end)
  end)
end

describe("rows at a place", function()
  -- A matrix of ones with some elements changed: { row, column, value }...
  local function ones(rows, cols, changes)
    local list = {}
    for r = 1, rows do
      list[r] = {}
      for c = 1, cols do
        list[r][c] = 1
      end
    end
    for _, change in ipairs(changes) do
      list[change[1] + 1][change[2] + 1] = change[3]
    end
    return assert(pg.matrix(list))
  end

  -- What k-means says of them, here and there.
  local function messages(rows, options)
    local _, here, code = pg.kmeans(rows, options)
    local _, other, word = pg.kmeans(there(rows), options)
    assert.equal(code, word)
    return here, other
  end

  it("are checked where they are, and the first bad one is named", function()
    local infinity = 1 / 0
    for _, changes in ipairs {
      { { 70, 3, 0 / 0 }, { 80, 0, infinity } }, { { 99, 6, -infinity } },
      { { 5, 0, 1e30 }, { 6, 2, infinity } },
    } do
      local here, other = messages(ones(100, 7, changes), { n_clusters = 3 })
      assert.is_string(here)
      assert.equal(here, other)
    end
  end)

  it("may be so long that their squares overflow", function()
    for _, step in ipairs { 100, 1 } do -- a few rows of these, or all
      local changes = {}
      for r = 3, 399, step do
        changes[#changes + 1] = { r, 0, 1e25 }
      end
      local rows <close> = ones(400, 4, changes)
      local here <close> = assert(pg.kmeans(rows, { n_clusters = 3 }))
      local other <close> = assert(pg.kmeans(there(rows), { n_clusters = 3 }))
      assert_same(here.labels, other.labels)
      changes[#changes + 1] = { 250, 2, 0 / 0 } -- found among them
      local text, same = messages(ones(400, 4, changes), { n_clusters = 3 })
      assert.is_string(text)
      assert.equal(text, same)
    end
  end)

  it("must have a direction for cosine", function()
    local zeros = {}
    for c = 0, 4 do
      zeros[#zeros + 1] = { 41, c, 0 }
    end
    local rows = ones(60, 5, zeros)
    for _, dtype in ipairs { "f32", "f16", "u8" } do
      local here, other = messages(assert(rows:as(dtype)), { n_clusters = 3, metric = "cosine" })
      assert.is_string(here)
      assert.equal(here, other)
    end
  end)
end)
