-- Awkward sizes: every number of rows from 1 to 600, and multiples of the degree and their
-- neighbours, where random starts and initial graphs of other engines have gone wrong.

local pg = require "perigee"
local support = require "spec.support"

local k <const> = 10

-- Recall@10 of CAGRA with defaults, on the first n rows and queries among them and beside them.
local function recall_at(all, queries, n, options)
  local rows = all:slice(0, n)
  local index = support.build("cagra", rows, options)
  local truth = assert(pg.ground_truth(rows, queries, k))
  local hits = assert(index:search(queries, k))
  assert.equal(#queries * math.max(0, k - n), hits.info.missing)
  local found, of = assert(pg.recall(hits, truth)), math.min(n, k) / k
  return found / of
end

-- Runs over sizes; gathers those that fall short, so that one run names all.
local function check(sizes, options, dim, clusters)
  local all = support.clustered(3000, dim, clusters, 77)
  local queries = all:gather { 0, 1, 2, 100, 500, 999, 1500, 2000, 2500, 2999 }
  local short = {}
  for _, n in ipairs(sizes) do
    local recall = recall_at(all, queries, n, options)
    if recall < 0.95 then
      short[#short + 1] = ("%d: %.3f"):format(n, recall)
    end
  end
  assert.same({}, short)
end

local function span(first, last)
  local list = {}
  for n = first, last do
    list[#list + 1] = n
  end
  return list
end

local function around_multiples(degree, last)
  local list = {}
  for n = degree, last, degree do
    list[#list + 1] = n - 1
    list[#list + 1] = n
    list[#list + 1] = n + 1
  end
  return list
end

describe("CAGRA of n rows", function()
  it("finds them, for every n in 1..600", function()
    check(span(1, 600), nil, 6, 12)
  end)

  it("finds them with nn_descent, for every n in 1..600", function()
    check(span(1, 600), { build_algo = "nn_descent", graph_degree = 16,
      intermediate_graph_degree = 32 }, 6, 12)
  end)

  it("finds them with ivf_flat, for every n in 1..600", function()
    check(span(1, 600), { build_algo = "ivf_flat", graph_degree = 16,
      intermediate_graph_degree = 32 }, 6, 12)
  end)

  it("finds them for n of a multiple of the degree, give or take one", function()
    check(around_multiples(64, 2048), nil, 8, 20)
  end)

  it("finds them with nn_descent for n of a multiple of the degree, give or take one", function()
    for _, degree in ipairs { 16, 32, 48 } do
      check(around_multiples(degree, 30 * degree), { build_algo = "nn_descent",
        graph_degree = degree, intermediate_graph_degree = 2 * degree }, 8, 20)
    end
  end)
end)

describe("flat of n rows and dim d", function()
  it("is exact at every dimension from 1 to 40 and at odd large ones", function()
    local dims = span(1, 40)
    for _, dim in ipairs { 63, 64, 65, 127, 128, 129, 255, 257, 1023 } do
      dims[#dims + 1] = dim
    end
    for _, dim in ipairs(dims) do
      local rows = support.clustered(30, dim, 4, dim)
      local hits = assert(support.build("flat", rows):search(rows, 3))
      for q, row in rows:each() do
        local truth = support.nearest(rows, row, 3, "sqeuclidean")
        for rank, distance in ipairs(hits.distances:row(q)) do
          assert.near(truth[rank][2], distance, 1e-4 * (1 + truth[rank][2]))
        end
        assert.equal(truth[1][1], hits.neighbors:row(q)[1])
      end
    end
  end)
end)
