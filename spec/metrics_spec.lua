-- Metrics l1 and hamming: what they mean, the kinds that take them and those that say no.

local pg = require "perigee"
local help = require "perigee.help"
local support = require "spec.support"

local place = support.place
local k <const> = 10

local function popcount(x)
  local count = 0
  while x ~= 0 do
    x, count = x & (x - 1), count + 1
  end
  return count
end

local MEASURES <const> = {
  l1 = function(a, b)
    local sum = 0
    for i = 1, #a do
      sum = sum + math.abs(a[i] - b[i])
    end
    return sum
  end,
  hamming = function(a, b)
    local sum = 0
    for i = 1, #a do
      sum = sum + popcount((a[i] // 1 | 0) ~ (b[i] // 1 | 0))
    end
    return sum
  end,
}

---Values of the k nearest rows by brute force in Lua, and their ids.
local function nearest(rows, query, metric)
  local list = {}
  for r, row in rows:each() do
    list[#list + 1] = { r, MEASURES[metric](query, row) }
  end
  table.sort(list, function(a, b)
    if a[2] ~= b[2] then
      return a[2] < b[2]
    end
    return a[1] < b[1]
  end)
  return list
end

---One bit a column of the packages: codes of 12 bytes.
local function package_bits()
  local set = support.small "packages"
  local binary = assert(pg.binary.train(set.rows, { threshold = "median" }))
  return assert(binary:encode(set.rows)), assert(binary:encode(set.queries))
end

local function check_flat(rows, queries, metric, tolerance)
  local index = support.build("flat", rows, { metric = metric })
  local hits = assert(index:search(queries, k))
  assert.equal(metric, hits.metric)
  for q, query in queries:each() do
    local truth, rank = nearest(rows, query, metric), 0
    for id, distance in hits:each(q) do
      rank = rank + 1
      assert.near(truth[rank][2], distance, tolerance * truth[rank][2])
      if tolerance == 0 then
        assert.equal(truth[rank][1], id)
      end
    end
    assert.equal(math.min(k, #rows), rank)
  end
end

describe("the metrics", function()
  it("l1 is the sum of absolute differences, of any rows", function()
    check_flat(support.clustered(150, 7, 5, 11), support.clustered(9, 7, 5, 12), "l1", 1e-5)
    local set = support.small "sift"
    for _, dtype in ipairs { "u8", "i8", "f16", "f32" } do
      check_flat(set.rows:slice(0, 200):as(dtype), set.queries:slice(0, 3):as(dtype), "l1", 0)
    end
  end)

  it("hamming is the bits that differ, of rows of u8", function()
    local set = support.small "sift"
    check_flat(set.rows:slice(0, 200), set.queries:slice(0, 4), "hamming", 0)
    local rows, queries = package_bits()
    check_flat(rows:slice(0, 300), queries:slice(0, 8), "hamming", 0)
    check_flat(rows:slice(0, 1), queries:slice(0, 2), "hamming", 0)
  end)

  it("are those of ground truth, recall, range and filtered search", function()
    local rows, queries = package_bits()
    for _, metric in ipairs { "l1", "hamming" } do
      local index = support.build("flat", rows, { metric = metric })
      local truth = assert(pg.ground_truth(rows, queries, k, { metric = metric }))
      assert.equal(metric, truth.metric)
      local hits = assert(index:search(queries, k))
      assert.equal(1, pg.recall(hits, truth))
      assert.is_true(hits.neighbors:equals(truth.neighbors))
      local kept = assert(index:search(queries, k, { filter = pg.filter.range(10, 500) }))
      local offsets, ids, values = index:range_search(queries:slice(0, 1), hits.distances:row(0)[3])
      support.skip_unless_done("range_search", offsets, ids, values)
      assert.is_true(offsets:row(1)[1] >= 3)
      assert.is_true(ids.rows == values.rows)
      for _, distances in kept.distances:each() do
        for rank = 2, k do
          assert.is_true(distances[rank] >= distances[rank - 1])
        end
      end
    end
  end)
end)

local KINDS <const> = {
  cagra = {}, hnsw = {}, vamana = {}, ["cagra by nn_descent"] = { build_algo = "nn_descent" },
  ["cagra by exact"] = { build_algo = "exact" },
}

describe("graphs", function()
  local function recall(name, rows, queries, metric)
    local kind = name:match "^%w+"
    local options = { metric = metric }
    for key, value in pairs(KINDS[name]) do
      options[key] = value
    end
    local index = support.build(kind, rows, options)
    local truth = assert(pg.ground_truth(rows, queries, k, { metric = metric }))
    return assert(pg.recall(assert(index:search(queries, k)), truth))
  end

  for name in pairs(KINDS) do
    it(("of %s reach recall@10 of 0.97 under l1"):format(name), function()
      for _, data in ipairs { "packages", "sift" } do
        local set = support.small(data)
        local found = recall(name, set.rows, set.queries, "l1")
        assert.is_true(found >= 0.97, ("%s: recall %.4f"):format(data, found))
      end
    end)

    it(("of %s reach recall@10 of 0.95 under hamming"):format(name), function()
      local rows, queries = package_bits()
      local found = recall(name, rows, queries, "hamming")
      assert.is_true(found >= 0.95, ("recall %.4f"):format(found))
    end)
  end

  it("by clusters reach recall@10 of 0.97 under l1", function()
    KINDS["cagra by clusters"] = { build_algo = "ivf_flat" }
    local set = support.small "sift"
    local found = recall("cagra by clusters", set.rows, set.queries, "l1")
    assert.is_true(found >= 0.97, ("recall %.4f"):format(found))
  end)

  it("under hamming are saved, opened, extended, and lose rows", function()
    local rows, queries = package_bits()
    for _, kind in ipairs { "cagra", "hnsw", "vamana" } do
      local index = support.build(kind, rows:slice(0, 1500), { metric = "hamming" })
      assert(index:extend(rows:slice(1500, 2000)))
      assert(index:remove { 3, 1700 })
      local path = support.path ".pg"
      assert(index:save(path))
      local opened = assert(pg.open(path, { place = place }))
      local before, after = assert(index:search(queries, k)), assert(opened:search(queries, k))
      assert.is_true(before.neighbors:equals(after.neighbors))
      assert.is_true(before.distances:equals(after.distances))
    end
    support.clean()
  end)
end)

describe("a kind says what it takes", function()
  it("in help", function()
    for _, kind in ipairs { "flat", "cagra", "hnsw", "vamana" } do
      assert.matches("cosine, l1, hamming", help.text(pg[kind].build))
    end
    assert.is_nil(help.text(pg.ivf_flat.build):find("hamming", 1, true))
    assert.is_nil(help.text(pg.kmeans):find("l1", 1, true))
  end)

  it("in its errors", function()
    local rows = support.clustered(50, 8, 3, 5)
    local function refused(pattern, call)
      local ok, value, message = pcall(call)
      local text = ok and message or value
      assert.is_truthy(not ok or value == nil)
      assert.matches(pattern, text)
    end
    refused("'hamming' given for rows of f32, allowed: rows of u8",
      function() return pg.flat.build(rows, { metric = "hamming" }) end)
    refused("option 'metric': 'l1' given, allowed: sqeuclidean|euclidean|inner_product|cosine",
      function() return pg.ivf_flat.build(rows, { metric = "l1", n_lists = 2 }) end)
    refused("option 'codes': 'sq8' given, allowed under l1: none auto",
      function() return pg.cagra.build(rows, { metric = "l1", codes = "sq8" }) end)
    local bytes = rows:as "u8"
    refused("'ivf_flat' given, allowed under hamming: auto exact nn_descent",
      function() return pg.cagra.build(bytes, { metric = "hamming", build_algo = "ivf_flat" }) end)
    local index = support.build("hnsw", bytes, { metric = "hamming" })
    refused("queries: dtype f32 given, allowed under hamming: u8",
      function() return index:search(rows, 3) end)
    refused("rows: f32 given, allowed under hamming: u8",
      function() return index:refined(rows) end)
    refused("hnswlib searches no hamming",
      function() return index:save(support.path ".bin", { format = "hnswlib" }) end)
    support.clean()
  end)
end)
