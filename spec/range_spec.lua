-- Search by distance: every row within a radius, against brute force.

local pg = require "perigee"
local support = require "spec.support"

local METRICS <const> = { "sqeuclidean", "euclidean", "inner_product", "cosine" }

local function numbers(matrix)
  local list = {}
  for r, row in matrix:each() do
    list[r + 1] = row[1]
  end
  return list
end

-- The rows of one query: a list of { id, value }.
local function of_query(offsets, ids, distances, query)
  local starts, list = numbers(offsets), {}
  local all_ids, all_values = numbers(ids), numbers(distances)
  for i = starts[query + 1] + 1, starts[query + 2] do
    list[#list + 1] = { all_ids[i], all_values[i] }
  end
  return list
end

-- What brute force in Lua finds: rows within the radius, nearest first.
local function within(rows, query, radius, metric, passes)
  local found, list = support.nearest(rows, query, #rows, metric, passes), {}
  for _, hit in ipairs(found) do
    if (metric == "inner_product" and hit[2] >= radius)
      or (metric ~= "inner_product" and hit[2] <= radius) then
      list[#list + 1] = hit
    end
  end
  return list
end

-- A radius between two values of brute force, so that rounding decides nothing.
local function radius_of(rows, query, rank, metric)
  local near = support.nearest(rows, query, rank + 1, metric)
  return (near[rank][2] + near[rank + 1][2]) / 2
end

local function same(expected, found)
  assert.equal(#expected, #found)
  for i, hit in ipairs(expected) do
    assert.equal(hit[1], found[i][1])
    assert.near(hit[2], found[i][2], 1e-4 * (1 + math.abs(hit[2])))
  end
end

describe("index:range_search", function()
  local rows, queries = support.clustered(300, 9, 12, 91), support.clustered(9, 9, 12, 92)

  for _, kind in ipairs { "flat", "ivf_flat" } do
    local function build(options)
      local all = { n_lists = kind == "ivf_flat" and 10 or nil }
      for key, value in pairs(options or {}) do
        all[key] = value
      end
      local index = support.build(kind, rows, all)
      support.skip_unless_done("range_search", index:range_search(queries:slice(0, 1), 0))
      return index
    end

    it("of " .. kind .. " finds what brute force finds, nearest first", function()
      for _, metric in ipairs(METRICS) do
        local index = build { metric = metric }
        for _, rank in ipairs { 1, 20, 200 } do
          local radius = radius_of(rows, queries:row(0), rank, metric)
          local offsets, ids, distances = index:range_search(queries, radius)
          assert.same({ 10, "i64", "i64", "f32" },
            { offsets.rows, offsets.dtype, ids.dtype, distances.dtype })
          for q, query in queries:each() do
            same(within(rows, query, radius, metric), of_query(offsets, ids, distances, q))
          end
          assert.equal(rank, #of_query(offsets, ids, distances, 0))
        end
      end
    end)

    it("of " .. kind .. " obeys filters, ids, removal and max_results", function()
      local own = {}
      for i = 1, 300 do
        own[i] = 7000 + i
      end
      local index = build { ids = own }
      assert.equal(2, assert(index:remove { 7003, 7011 }))
      local function passes(r)
        return r ~= 2 and r ~= 10
      end
      local radius = radius_of(rows, queries:row(3), 50, "sqeuclidean")
      local query = queries:slice(3, 4)
      local function search(options)
        local offsets, ids, distances = index:range_search(query, radius, options)
        local list = of_query(offsets, ids, distances, 0)
        for _, hit in ipairs(list) do
          hit[1] = hit[1] - 7001
        end
        return list
      end
      local whole = within(rows, query:row(0), radius, "sqeuclidean", passes)
      same(whole, search())
      same(table.move(whole, 1, 5, 1, {}), search { max_results = 5 })
      local even = {}
      for r = 0, 298, 2 do
        even[#even + 1] = 7001 + r
      end
      same(within(rows, query:row(0), radius, "sqeuclidean", function(r)
        return passes(r) and r % 2 == 0
      end), search { filter = pg.filter.ids(even) })
      local filtered = index:filtered(pg.filter.ids { 7001 + whole[1][1] })
      assert.equal(1, (select(2, filtered:range_search(query, radius))).rows)
    end)

    it("of " .. kind .. " takes one filter a query, and answers the same with any threads",
      function()
        local index, filters = build(), {}
        for q = 0, 8 do
          filters[q + 1] = pg.filter.range(30 * q, 30 * q + 60)
        end
        local offsets, ids, distances = index:range_search(queries, 60, { filter = filters })
        for q, query in queries:each() do
          same(within(rows, query, 60, "sqeuclidean", function(r)
            return r >= 30 * q and r < 30 * q + 60
          end), of_query(offsets, ids, distances, q))
        end
        for threads = 1, 8, 3 do
          local a, b, c = index:range_search(queries, 60, { filter = filters, threads = threads })
          assert.is_true(a:equals(offsets) and b:equals(ids) and c:equals(distances))
        end
      end)

    it("of " .. kind .. " is empty, whole, or refused, as the radius says", function()
      local index = build { metric = "euclidean" }
      local offsets, ids, distances = index:range_search(queries, -1)
      assert.same({ 0, 0 }, { ids.rows, distances.rows })
      assert.equal(0, numbers(offsets)[10])
      assert.equal(9 * 300, (select(2, index:range_search(queries, math.huge))).rows)
      assert.equal(1, (select(2, index:range_search(rows:slice(5, 6), 0))).rows)
      assert.equal(0, (select(2, index:range_search(pg.matrix(0, 9), 1))).rows)
      assert.error_matches(function() index:range_search(queries, 0 / 0) end, "radius")
      assert.error_matches(function() index:range_search(queries, "far") end, "number")
      assert.error_matches(function() index:range_search(queries, 1, { max_results = -1 }) end,
        "max_results")
      assert.error_matches(function() index:range_search(pg.matrix(1, 8), 1) end, "8 dimensions")
    end)
  end

  it("of ivf_flat looks at the lists that it probes", function()
    local index = support.build("ivf_flat", rows, { n_lists = 12 })
    local before = 0
    for _, n_probes in ipairs { 1, 4, 12 } do
      local _, ids = index:range_search(queries, 200, { n_probes = n_probes })
      assert.is_true(ids.rows > before)
      before = ids.rows
    end
    local _, ids = support.build("flat", rows):range_search(queries, 200)
    assert.equal(ids.rows, before)
  end)

  it("is refused by kinds that walk", function()
    local index = support.build("cagra", rows, { graph_degree = 8, intermediate_graph_degree = 16 })
    for _, searcher in ipairs { index, index:filtered(pg.filter.range(0, 9)),
      support.build("flat", rows):refined(rows) } do
      local nothing, message, code = searcher:range_search(queries, 1)
      assert.is_nil(nothing)
      assert.equal("unsupported", code)
      assert.matches("distance", message)
    end
  end)
end)
