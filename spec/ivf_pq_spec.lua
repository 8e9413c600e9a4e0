-- Inverted lists of product-quantized codes: recall floors, the same answer in any batch, growing,
-- files, bad input.

local pg = require "perigee"
local support = require "spec.support"

local k <const> = 10
local METRICS <const> = { "sqeuclidean", "euclidean", "inner_product", "cosine" }

local function same(a, b)
  assert.equal(a.neighbors:pack(), b.neighbors:pack())
  assert.equal(a.distances:pack(), b.distances:pack())
end

local function search(index, queries, options)
  return assert(index:search(queries, k, options))
end

-- Recall@10 of an index over the whole of a set: by the distances of the rows that were found,
-- since those of codes are others.
local function recall_of(index, set, options)
  local neighbors = search(index, set.queries, options).neighbors
  local flat = support.build("flat", set.rows, { metric = set.metric })
  local found = { neighbors = neighbors, metric = set.metric,
    distances = assert(flat:score(set.queries, neighbors)) }
  return (assert(pg.recall(found, set.truth)))
end

describe("ivf_pq on real rows", function()
  -- Options; the recall of codes alone on sift and on packages; and of both re-ranked.
  local FLOORS <const> = {
    { { pq_bits = 8 }, sift = 0.925, packages = 0.915, refined = 0.985 },
    { { pq_bits = 8, residual = false }, sift = 0.94, packages = 0.88, refined = 0.98 },
    { { pq_bits = 8, opq = true }, sift = 0.935, packages = 0.915, refined = 0.985 },
    { { pq_bits = 4 }, sift = 0.785, packages = 0.75, refined = 0.975 },
    { { pq_bits = 6, force_random_rotation = true }, sift = 0.895, packages = 0.89,
      refined = 0.98 },
    { { pq_bits = 4, codebook_kind = "per_cluster" }, sift = 0.81, packages = 0.80,
      refined = 0.975 },
  }
  for _, name in ipairs { "sift", "packages" } do
    for _, floor in ipairs(FLOORS) do
      local words = {}
      for key, value in pairs(floor[1]) do
        words[#words + 1] = key .. " " .. tostring(value)
      end
      table.sort(words)
      it(("finds enough of %s with %s"):format(name, table.concat(words, ", ")), function()
        local set = support.small(name)
        local options = { metric = set.metric, n_lists = 50, pq_dim = set.rows.cols // 2 }
        for key, value in pairs(floor[1]) do
          options[key] = value
        end
        local index = support.build("ivf_pq", set.rows, options)
        local plain = recall_of(index, set, { n_probes = 20 })
        local refined = recall_of(index:refined(set.rows, { ratio = 4 }), set, { n_probes = 20 })
        assert.is_true(plain >= floor[name], ("%.4f"):format(plain))
        assert.is_true(refined >= floor.refined, ("%.4f"):format(refined))
      end)
    end
  end
end)

describe("ivf_pq", function()
  local rows, queries = support.clustered(700, 13, 12, 71), support.clustered(40, 13, 12, 72)

  it("says what it is and how rows were padded", function()
    local index = support.build("ivf_pq", rows, { n_lists = 9, pq_dim = 4, pq_bits = 5 })
    local info = index:info()
    assert.equal("ivf_pq", info.kind)
    assert.equal(700, info.rows)
    assert.equal(16, info.rotated_dim)
    assert.equal(3, info.padding)
    assert.equal(3, info.code_bytes)
    assert.is_true(info.rotation)
    assert.equal(4, info.params.pq_dim)
    assert.equal(8, support.build("ivf_pq", rows, { n_lists = 9 }):info().params.pq_dim)
  end)

  it("answers in every metric and dtype, nearer to the truth with more probes", function()
    for _, metric in ipairs(METRICS) do
      for _, dtype in ipairs { "f32", "f16", "i8", "u8" } do
        local typed, asked = rows:as(dtype), queries
        if dtype == "i8" or dtype == "u8" then
          typed = support.clustered(700, 13, 12, 73, 60):as(dtype)
          asked = typed:gather { 0, 5, 699, 350 }
        end
        if metric ~= "cosine" or dtype ~= "u8" then -- a row of zeros has no direction
          local index = support.build("ivf_pq", typed,
            { metric = metric, n_lists = 17, pq_dim = 13 })
          local truth = assert(pg.ground_truth(typed, asked, k, { metric = metric }))
          local few = assert(pg.recall(search(index, asked, { n_probes = 1 }), truth))
          local all = assert(pg.recall(search(index, asked, { n_probes = 17 }), truth))
          assert.is_true(all >= few and all > 0.8, ("%s %s %.3f"):format(metric, dtype, all))
        end
      end
    end
  end)

  it("answers with values near the true ones", function()
    for _, metric in ipairs(METRICS) do
      local index = support.build("ivf_pq", rows, { metric = metric, n_lists = 9, pq_dim = 13 })
      local hits = search(index, rows:slice(0, 5), { n_probes = 9 })
      for q = 1, 5 do
        local id, value = hits.neighbors:row(q - 1)[1], hits.distances:row(q - 1)[1]
        assert.near(support.measures[metric](rows:row(q - 1), rows:row(id)), value, 0.5)
      end
    end
  end)

  it("takes a dtype of tables, which a CPU has no use for", function()
    local index = support.build("ivf_pq", rows, { n_lists = 9 })
    for _, dtype in ipairs { "f16", "u8" } do
      same(search(index, queries), search(index, queries, { lut_dtype = dtype }))
    end
    assert.error_matches(function() search(index, queries, { lut_dtype = "f64" }) end, "lut_dtype")
  end)

  it("keeps filtered rows out, and finds all that pass", function()
    for _, bits in ipairs { 4, 8 } do
      local index = support.build("ivf_pq", rows, { n_lists = 9, pq_bits = bits })
      local some = { 3, 77, 400, 401, 402, 650 }
      local hits = search(index, queries, { filter = pg.filter.ids(some), n_probes = 2 })
      for q = 0, #queries - 1 do
        local found = table.move(hits.neighbors:row(q), 1, #some, 1, {})
        table.sort(found)
        assert.same(some, found)
      end
    end
  end)

  it("names what can't be: too many lists, pieces, bits", function()
    support.build("ivf_pq", rows, { n_lists = 9 }) -- a place that does none of it is skipped
    assert.error_matches(function() support.build("ivf_pq", rows) end,
      "n_lists: 1024 given for 700 rows, allowed: 1%.%.700; set it to about 27")
    assert.error_matches(function() support.build("ivf_pq", rows, { n_lists = 9, pq_dim = 14 }) end,
      "pq_dim")
    assert.error_matches(function() support.build("ivf_pq", rows, { pq_bits = 3 }) end, "pq_bits")
  end)
end)

describe("ivf_pq of awkward rows", function()
  local OPTIONS <const> = {
    { pq_bits = 4 }, { pq_bits = 8 }, { pq_bits = 4, codebook_kind = "per_cluster" },
    { pq_bits = 5, residual = false, opq = true },
  }

  local function check(rows, n_lists)
    for _, given in ipairs(OPTIONS) do
      local options = { n_lists = n_lists }
      for key, value in pairs(given) do
        options[key] = value
      end
      local index = support.build("ivf_pq", rows, options)
      local hits = search(index, rows:slice(0, 1), { n_probes = n_lists })
      assert.equal(math.max(0, k - #rows), hits.info.missing)
    end
  end

  it("takes few rows, equal rows, constant columns and more duplicates than a list has", function()
    for n = 1, 9 do
      local list = {}
      for i = 1, n do
        list[i] = { i, i * i, 3 }
      end
      check(pg.matrix(list), math.min(n, 4))
    end
    local equal, constant, many = {}, {}, {}
    for i = 1, 300 do
      equal[i] = { 1, 2, 3, 4, 5 }
      constant[i] = { 7, i, 7, i % 3, 7 }
      many[i] = { i % 2, i % 2, 0, 0, 1 }
    end
    check(pg.matrix(equal), 10)
    check(pg.matrix(constant), 12)
    check(pg.matrix(many), 20)
    check(support.clustered(50, 1, 3, 5), 5)
  end)
end)

describe("ivf_pq in batches", function()
  local rows, queries = support.clustered(3000, 24, 30, 74), support.clustered(1025, 24, 30, 75)

  it("gives the same answer for any batch and number of threads", function()
    for _, options in ipairs { { pq_bits = 4 }, { pq_bits = 8, metric = "inner_product" },
      { pq_bits = 4, codebook_kind = "per_cluster", metric = "cosine" } } do
      options.n_lists = 30
      local index = support.build("ivf_pq", rows, options)
      local whole = search(index, queries, { n_probes = 5, threads = 1 })
      local ids, values = whole.neighbors:pack(), whole.distances:pack()
      for threads = 2, 8, 3 do
        same(whole, search(index, queries, { n_probes = 5, threads = threads }))
      end
      for _, batch in ipairs { 1, 3, 17, 256 } do
        local all, near = {}, {}
        for first = 0, queries.rows - 1, batch do
          local hits = search(index, queries:slice(first, math.min(first + batch, queries.rows)),
            { n_probes = 5 })
          all[#all + 1], near[#near + 1] = hits.neighbors:pack(), hits.distances:pack()
        end
        assert.equal(ids, table.concat(all))
        assert.equal(values, table.concat(near))
      end
    end
  end)

  it("is built the same by any number of threads", function()
    for _, kind in ipairs { "per_subspace", "per_cluster" } do
      local options = { n_lists = 15, codebook_kind = kind, pq_bits = 5, threads = 1 }
      local one = support.build("ivf_pq", rows, options)
      options.threads = 4
      same(search(one, queries), search(support.build("ivf_pq", rows, options), queries))
    end
  end)
end)

describe("an ivf_pq index that grows", function()
  local rows, queries = support.clustered(900, 13, 12, 81), support.clustered(30, 13, 12, 82)

  it("answers as one that was built whole, with and without ids", function()
    for _, metric in ipairs(METRICS) do
      local options = { metric = metric, n_lists = 11, pq_bits = 4, pq_dim = 13 }
      local whole = support.build("ivf_pq", rows, options)
      options.add_data_on_build = false
      local grown = support.build("ivf_pq", rows, options)
      for first = 0, 899, 113 do
        assert(grown:extend(rows:slice(first, math.min(first + 113, 900))))
      end
      same(search(whole, queries), search(grown, queries))
      local ids = {}
      for i = 1, 50 do
        ids[i] = 5000 + i
      end
      assert(grown:extend(rows:slice(0, 50), { ids = ids }))
      assert.equal(950, grown:info().rows)
      local hits = search(grown, rows:slice(7, 8), { n_probes = 11 })
      if metric ~= "inner_product" then
        assert.matches("5008", table.concat(hits.neighbors:row(0), " "))
      end
    end
  end)

  it("loses what is removed", function()
    local index = support.build("ivf_pq", rows, { n_lists = 11, pq_bits = 4 })
    local gone = {}
    for i = 0, 899, 2 do
      gone[#gone + 1] = i
    end
    assert.equal(450, assert(index:remove(gone)))
    local hits = search(index, queries, { n_probes = 11 })
    assert.equal(0, hits.info.missing)
    for q = 0, #queries - 1 do
      for _, id in ipairs(hits.neighbors:row(q)) do
        assert.equal(1, id % 2)
      end
    end
  end)

  after_each(support.clean)

  it("comes back from a file as it was", function()
    for _, options in ipairs { { pq_bits = 4 }, { pq_bits = 7, pq_dim = 5 },
      { pq_bits = 4, codebook_kind = "per_cluster", metric = "cosine" } } do
      options.n_lists = 11
      local index = support.build("ivf_pq", rows:slice(0, 500), options)
      assert(index:extend(rows:slice(500, 900)))
      index:remove { 3, 4, 5 }
      local path = support.path ".perigee"
      assert(index:save(path))
      for _, map in ipairs { false, true } do
        local opened = assert(pg.open(path, { place = support.place, map = map }))
        same(search(index, queries), search(opened, queries))
        assert(opened:extend(rows:slice(0, 20)))
        assert.equal(917, opened:info().lists.entries)
      end
    end
  end)

  it("moves to another place and back", function()
    local index = assert(pg.ivf_pq.build(rows, { n_lists = 11, pq_bits = 4, metric = "cosine" }))
    assert(index:extend(rows:slice(3, 9)))
    local there = assert(index:to "fake:0")
    local expected = search(index, queries)
    same(expected, search(there, queries))
    same(expected, search(assert(there:to "cpu"), queries))
    assert(there:extend(rows:slice(9, 40)))
    assert.equal(3, assert(there:remove { 0, 1, 2 }))
    assert.equal(10, #search(there, queries).neighbors:row(0))
  end)
end)
