-- pg.kmeans: how good, how even, the same on any number of threads; bad input; what prints.

local pg = require "perigee"
local core = require "perigee.core"
local support = require "spec.support"

local function clusters_of(rows, options)
  local clusters, message = pg.kmeans(rows, options)
  assert(clusters, message)
  return clusters
end

-- The sizes by the labels, and the inertia by the distances.
local function recount(clusters)
  local sizes, inertia = {}, 0
  for c = 0, #clusters.centroids - 1 do
    sizes[c] = 0
  end
  for _, row in clusters.labels:each() do
    sizes[row[1]] = sizes[row[1]] + 1
  end
  for _, row in clusters.distances:each() do
    inertia = inertia + row[1]
  end
  return sizes, inertia
end

describe("pg.kmeans", function()
  it("finds clusters that lie apart", function()
    local rows = support.clustered(600, 5, 6, 3, 100)
    for seed = 1, 3 do
      local c <close> = clusters_of(rows, { n_clusters = 6, seed = seed })
      assert.is_true(c.inertia < 600 * 5 * 2, c.inertia)
      assert.is_true(c.smallest > 40)
    end
  end)

  it("says what the labels and distances say", function()
    local rows = support.small("packages").rows
    local c <close> = clusters_of(rows, { n_clusters = 50, n_iters = 5 })
    local sizes, inertia = recount(c)
    local smallest, largest = math.huge, 0
    for id, size in pairs(sizes) do
      assert.equal(size, c.sizes:row(id)[1])
      smallest, largest = math.min(smallest, size), math.max(largest, size)
    end
    assert.equal(smallest, c.smallest)
    assert.equal(largest, c.largest)
    assert.near(inertia, c.inertia, 1e-6 * inertia)
    assert.is_true(c.iterations >= 1 and c.iterations <= 5)
    assert.equal(50, #c.centroids)
    assert.equal(rows.cols, c.centroids.cols)
    assert.equal("f32", c.centroids.dtype)
    assert.equal("u32", c.labels.dtype)
    -- the nearest centroid is what an exact search finds
    local flat <close> = assert(pg.flat.build(c.centroids))
    local hits <close> = assert(flat:search(rows:slice(0, 100), 1))
    for r = 0, 99 do
      assert.equal(hits.neighbors:row(r)[1], c.labels:row(r)[1])
      assert.equal(hits.distances:row(r)[1], c.distances:row(r)[1])
    end
  end)

  it("gives the same bits on any number of threads", function()
    local rows = support.small("sift").rows
    for _, way in ipairs { {}, { balanced = true }, { hierarchical = true, init = "random" },
      { batch_rows = 300 } } do
      way.n_clusters, way.n_iters, way.threads = 60, 4, 1
      local one <close> = clusters_of(rows, way)
      for _, threads in ipairs { 2, 5, 8 } do
        way.threads = threads
        local more <close> = clusters_of(rows, way)
        assert.is_true(one.centroids:equals(more.centroids))
        assert.is_true(one.labels:equals(more.labels))
        assert.is_true(one.distances:equals(more.distances))
        assert.equal(one.inertia, more.inertia)
      end
      way.seed = 1
      local other <close> = clusters_of(rows, way)
      assert.is_false(one.centroids:equals(other.centroids))
    end
  end)

  it("balances real data: no list starves", function()
    for _, name in ipairs { "packages", "sift" } do
      local rows = support.small(name).rows
      local plain <close> = clusters_of(rows, { n_clusters = 100, init = "random" })
      local even <close> = clusters_of(rows, { n_clusters = 100, balanced = true })
      local average = #rows / 100
      assert.is_true(even.smallest > average / 4, name .. ": " .. even.smallest)
      assert.is_true(even.largest < 6 * average, name .. ": " .. even.largest)
      assert.is_true(even.largest / even.smallest < plain.largest / plain.smallest)
      assert.is_true(even.inertia < 1.05 * plain.inertia)
    end
  end)

  it("finds many clusters through few", function()
    local rows = support.small("sift").rows
    local options = { n_clusters = 500, balanced = true, n_iters = 10 }
    local flat <close> = clusters_of(rows, options)
    options.hierarchical = true
    local c <close> = clusters_of(rows, options)
    assert.equal(500, #c.centroids)
    assert.is_true(c.inertia < 1.1 * flat.inertia, c.inertia / flat.inertia)
    assert.is_true(c.smallest >= 2, c.smallest)
    assert.is_true(c.largest < 8 * #rows / 500, c.largest)
  end)

  it("finds thousands of clusters in seconds", function()
    local rows = assert(pg.load(support.shared "sift-debian-photos/base.bvecs"))
    local c <close> = clusters_of(rows, { n_clusters = 4096, hierarchical = true })
    local average = #rows / 4096
    assert.is_true(c.smallest > average / 5, c.smallest)
    assert.is_true(c.largest < 8 * average, c.largest)
  end)

  it("reads no more rows than a batch has", function()
    local rows = support.small("packages").rows
    local all <close> = clusters_of(rows, { n_clusters = 20 })
    local c <close> = clusters_of(rows, { n_clusters = 20, batch_rows = 400, n_iters = 40 })
    assert.equal(400, c.trained_rows)
    assert.is_true(c.inertia < 1.06 * all.inertia, c.inertia / all.inertia)
    local trained <close> = clusters_of(rows, { n_clusters = 20, batch_rows = 400, labels = false })
    assert.is_nil(trained.labels)
    assert.is_nil(trained.sizes)
  end)

  it("trains on a share of the rows", function()
    local rows = support.small("packages").rows
    local c <close> = clusters_of(rows, { n_clusters = 20, train_fraction = 0.25 })
    assert.equal(1000, c.trained_rows)
    local capped <close> = clusters_of(rows, { n_clusters = 20, max_rows_per_cluster = 30 })
    assert.equal(600, capped.trained_rows)
    local few <close> = clusters_of(rows, { n_clusters = 900, train_fraction = 0.01, n_iters = 2 })
    assert.equal(900, few.trained_rows)
  end)

  it("takes every metric", function()
    local rows = support.small("packages").rows
    local l2 <close> = clusters_of(rows, { n_clusters = 9, n_iters = 3 })
    local l2_root <close> = clusters_of(rows, { n_clusters = 9, n_iters = 3, metric = "euclidean" })
    assert.is_true(l2.centroids:equals(l2_root.centroids))
    assert.near(l2.distances:row(7)[1] ^ 0.5, l2_root.distances:row(7)[1], 1e-6)
    local inner <close> = clusters_of(rows, { n_clusters = 9, n_iters = 3,
      metric = "inner_product" })
    assert.is_true(l2.centroids:equals(inner.centroids))
    local cosine <close> = clusters_of(rows, { n_clusters = 9, metric = "cosine" })
    for _, centroid in cosine.centroids:each() do
      local squares = 0
      for _, x in ipairs(centroid) do
        squares = squares + x * x
      end
      assert.near(1, squares, 1e-5)
    end
  end)

  it("assigns other rows to centroids that are there", function()
    local small = support.small "sift"
    local c <close> = clusters_of(small.rows, { n_clusters = 30, n_iters = 3 })
    local labels, distances = c:assign(small.rows)
    assert.is_true(labels:equals(c.labels))
    assert.is_true(distances:equals(c.distances))
    local given <close> = clusters_of(small.queries, { centroids = c.centroids })
    assert.is_true(given.labels:equals((c:assign(small.queries))))
    assert.equal(0, given.trained_rows)
    assert.has_error(function()
      pg.kmeans(small.rows, { centroids = c.centroids, n_clusters = 3 })
    end)
    assert.has_error(function()
      pg.kmeans(small.rows, { centroids = assert(pg.matrix(3, 5)) })
    end)
    assert.has_error(function()
      return c:assign(small.rows, { n_clusters = 3 })
    end)
  end)

  it("prints, describes and closes", function()
    local rows = support.small("packages").rows
    local c = clusters_of(rows, { n_clusters = 8, n_iters = 2 })
    assert.matches("^perigee.Clusters 8 x 96 sqeuclidean cpu\n", tostring(c))
    assert.equal(tostring(c), pg.show(c))
    assert.equal(8, c:info().n_clusters)
    assert.matches("c:assign%(", pg.help(c))
    assert.matches("hierarchical", pg.help(pg.kmeans))
    for _, row in ipairs(core.params("kmeans", "train")) do
      assert.truthy(pg.help "pg.kmeans":find(row.meaning, 1, true), row.name)
    end
    c:close()
    c:close()
    assert.matches("closed", tostring(c))
    assert.has_error(function()
      return c:assign(rows)
    end)
  end)
end)

describe("bad input of pg.kmeans", function()
  local function raised(rows, options)
    local ok, message = pcall(pg.kmeans, rows, options)
    assert.is_false(ok)
    return message
  end

  it("is named, with what is allowed", function()
    local rows = support.small("packages").rows
    assert.matches("n_clusters: 4001 given for 4000 rows, set it to 4000 or less",
      raised(rows, { n_clusters = 4001 }))
    assert.matches("did you mean 'n_clusters'", raised(rows, { n_cluster = 4 }))
    assert.matches("option 'init'.*kmeans%+%+|random", raised(rows, { init = "best" }))
    assert.matches("train_fraction: 0 given", raised(rows, { train_fraction = 0 }))
    assert.matches("batch_rows: 9 given.*n_clusters = 10", raised(rows, { n_clusters = 10,
      batch_rows = 9 }))
    assert.matches("batch_rows.*hierarchical", raised(rows, { batch_rows = 900,
      hierarchical = true }))
    assert.matches("rows: i64 given", raised(assert(pg.matrix(3, 3, "i64"))))
    assert.matches("rows: 0 given", raised(assert(pg.matrix(0, 3))))
    assert.matches("^spec/kmeans_spec.lua:", select(2, pcall(function()
      local made = pg.kmeans(rows, { n_clusters = 4001 })
      return made
    end)))
    local none, message, code = pg.kmeans { { 1, 2 }, { 0 / 0, 1 } }
    assert.is_nil(none)
    assert.matches("row 1, column 0 is NaN", message)
    assert.equal("invalid", code)
    none, message = pg.kmeans({ { 1, 2 }, { 0, 0 } }, { metric = "cosine" })
    assert.is_nil(none)
    assert.matches("row 1 has no direction", message)
  end)

  it("neither hangs nor gives NaN: equal rows, constant columns, few different rows", function()
    local lists = { {}, {}, {} }
    for i = 1, 300 do
      lists[1][i] = { 3, 3, 3 }
      lists[2][i] = { i * 37 % 101, 7, i * 11 % 13 }
      lists[3][i] = { i % 4, i % 2, 1 }
    end
    for _, list in ipairs(lists) do
      local rows = assert(pg.matrix(list))
      for _, way in ipairs { {}, { balanced = true }, { hierarchical = true },
        { batch_rows = 100 }, { init = "random", metric = "cosine" } } do
        way.n_clusters = 40
        local c <close> = clusters_of(rows, way)
        assert.is_true(c.inertia == c.inertia and c.inertia < math.huge)
        assert.is_true(c.largest >= 300 / 40)
        for _, centroid in c.centroids:each() do
          for _, x in ipairs(centroid) do
            assert.is_true(x == x and math.abs(x) < 1000)
          end
        end
      end
    end
  end)

  it("ends when progress says so", function()
    local rows = support.small("packages").rows
    local stages = {}
    local none, _, code = pg.kmeans(rows, { n_clusters = 1000, n_iters = 1000, seed = 3,
      progress = function(stage)
        stages[stage] = true
        return stage ~= "k-means"
      end })
    assert.is_nil(none)
    assert.equal("cancelled", code)
    assert.is_true(stages["k-means++"] and stages["k-means"])
    assert.has_error(function()
      local made = pg.kmeans(rows, { progress = function()
        error "from progress"
      end })
      return made
    end, "from progress")
  end)
end)
