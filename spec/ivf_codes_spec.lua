-- Inverted lists of codes, ivf_sq and ivf_rabitq: recall, batches, growing, files, bad input.

local pg = require "perigee"
local support = require "spec.support"

local k <const> = 10

-- A kind's finest codes: their order is nearly that of the rows.
local FINE <const> = { ivf_sq = { bits = 8 }, ivf_rabitq = { bits_per_dim = 8 } }
local VARIANTS <const> = {
  { "ivf_sq", { bits = 8 } }, { "ivf_sq", { bits = 8, residual = false } },
  { "ivf_sq", { bits = 4 } }, { "ivf_rabitq", { bits_per_dim = 1 } }, { "ivf_rabitq", {} },
  { "ivf_rabitq", { bits_per_dim = 7 } },
}

local function build(kind, rows, ...)
  local all = { kmeans_n_iters = 4 }
  collectgarbage() -- on fake:0 every block alive costs time
  for _, options in ipairs { ... } do
    for key, value in pairs(options) do
      all[key] = value
    end
  end
  return support.build(kind, rows, all)
end

local function search(index, queries, options)
  return assert(index:search(queries, k, options))
end

-- By ids alone: values of codes are not those of the rows.
local function recall(hits, truth)
  return assert(pg.recall(hits, { neighbors = truth.neighbors, metric = truth.metric }))
end

local function same(a, b)
  assert.equal(a.neighbors:pack(), b.neighbors:pack())
  assert.equal(a.distances:pack(), b.distances:pack())
end

for kind, fine in pairs(FINE) do
  describe(kind, function()
    local rows, queries = support.clustered(900, 21, 12, 90), support.clustered(40, 21, 12, 91)

    it("comes near to the exact values, in every metric and dtype", function()
      for _, metric in ipairs { "sqeuclidean", "euclidean", "inner_product", "cosine" } do
        for _, dtype in ipairs { "f32", "f16", "i8", "u8" } do
          local typed, asked, floor = rows:as(dtype), queries, 0.93
          if dtype == "i8" or dtype == "u8" then
            typed = support.clustered(900, 21, 12, 92, 60):as(dtype)
            asked, floor = typed:gather { 0, 5, 899, 350 }, 0.7 -- of whole numbers many are ties
          end
          if metric ~= "cosine" or dtype ~= "u8" then -- a row of zeros has no direction
            local index = build(kind, typed, fine, { metric = metric, n_lists = 17 })
            local truth = assert(pg.ground_truth(typed, asked, k, { metric = metric }))
            local hits = search(index, asked, { n_probes = 17 })
            assert.is_true(recall(hits, truth) >= floor)
            for q = 0, #asked - 1 do
              local found, wanted = hits.distances:row(q), truth.distances:row(q)
              for i = 1, k do
                assert.near(wanted[i], found[i], 0.1 * (1 + math.abs(wanted[i])))
              end
            end
          end
        end
      end
    end)

    it("keeps its precision where all rows are far from the origin", function()
      local list = {}
      for r, row in rows:each() do
        list[r + 1] = {}
        for d, x in ipairs(row) do
          list[r + 1][d] = x + 5000
        end
      end
      local far = pg.matrix(list)
      local index = build(kind, far, fine, { n_lists = 17 })
      local truth = assert(pg.ground_truth(far, far, k))
      assert.is_true(recall(search(index, far, { n_probes = 17 }), truth) >= 0.85)
    end)

    it("gives ids of its own, says what it is, and counts its lists", function()
      local ids = {}
      for i = 1, 900 do
        ids[i] = 10000 + 3 * i
      end
      local index = build(kind, rows, fine, { n_lists = 9, ids = ids })
      assert.equal(10003, search(index, rows:slice(0, 1)).neighbors:row(0)[1])
      local info = index:info()
      assert.equal(kind, info.kind)
      assert.equal(900, info.lists.entries)
      assert.matches("list scan", index:explain())
    end)

    it("refuses what it can't do", function()
      assert.error_matches(function() build(kind, rows) end,
        "n_lists: 1024 given for 900 rows, allowed: 1%.%.900")
      for option, values in pairs { bits = { 0, 3, 5, 9, 16 }, bits_per_dim = { 0, 9 } } do
        for _, value in ipairs(values) do
          assert.error_matches(function() build(kind, rows, { n_lists = 4, [option] = value }) end,
            option)
        end
      end
      local none, message, code = build(kind, rows, { n_lists = 4 }):range_search(queries, 1)
      assert.is_nil(none)
      assert.equal("unsupported", code)
      assert.matches(kind, message)
    end)

    it("obeys filters", function()
      local index = build(kind, rows, fine, { n_lists = 20 })
      local hits = search(index, queries, { n_probes = 20, filter = pg.filter.range(100, 130) })
      local truth = assert(pg.ground_truth(rows, queries, k,
        { filter = pg.filter.range(100, 130) }))
      assert.is_true(recall(hits, truth) >= 0.93)
      for q = 0, #queries - 1 do
        for id in hits:each(q) do
          assert.is_true(id >= 100 and id < 130)
        end
      end
      hits = search(index, queries, { n_probes = 1, filter = pg.filter.range(0, 4) })
      assert.equal((k - 4) * #queries, hits.info.missing)
    end)

    it("grows as one that is built of all rows by the same centroids", function()
      for _, metric in ipairs { "sqeuclidean", "cosine" } do
        local options = { metric = metric, n_lists = 30, add_data_on_build = false }
        local built = build(kind, rows, { metric = metric, n_lists = 30 })
        local whole, grown = build(kind, rows, options), build(kind, rows, options)
        assert.equal(0, whole.rows)
        assert.equal(k * #queries, search(whole, queries).info.missing)
        assert(whole:extend(rows))
        for first = 0, 899, 90 do
          assert(grown:extend(rows:slice(first, first + 90)))
        end
        for _, n_probes in ipairs { 1, 6, 30 } do
          local expected = search(built, queries, { n_probes = n_probes })
          same(expected, search(whole, queries, { n_probes = n_probes }))
          same(expected, search(grown, queries, { n_probes = n_probes }))
        end
      end
    end)

    it("takes ids with rows that come, and forgets rows that leave", function()
      local index = build(kind, rows:slice(0, 600), fine, { n_lists = 16 })
      local ids, gone = {}, {}
      for i = 1, 300 do
        ids[i] = 5000 + i
      end
      assert(index:extend(rows:slice(600, 900), { ids = ids }))
      assert.equal(5001, search(index, rows:slice(600, 601), { n_probes = 16 }).neighbors:row(0)[1])
      for id = 0, 599, 2 do
        gone[#gone + 1] = id
      end
      assert.equal(1, assert(index:remove { 4 }))
      assert.equal(299, assert(index:remove(gone)))
      assert.equal(600, index:info().lists.entries)
      local hits = search(index, rows, { n_probes = 16 })
      for q = 0, #rows - 1 do
        for id in hits:each(q) do
          assert.is_true(id >= 5000 or id % 2 == 1)
        end
      end
    end)

    it("is saved, opened, mapped and moved as it is", function()
      local index = build(kind, rows:slice(0, 700), { n_lists = 12, metric = "cosine" })
      assert(index:extend(rows:slice(700, 900)))
      assert.equal(2, assert(index:remove { 7, 250 }))
      local expected = search(index, rows, { n_probes = 3 })
      local path = support.path ".perigee"
      assert(index:save(path))
      for _, map in ipairs { false, true } do
        local again = assert(pg.open(path, { place = support.place, map = map }))
        same(expected, search(again, rows, { n_probes = 3 }))
        assert(again:extend(rows:slice(7, 8)))
        assert.equal(901, again.rows)
      end
      local there = assert(index:to "fake:0")
      same(expected, search(there, rows, { n_probes = 3 }))
      assert(there:extend(rows:slice(0, 9)))
      assert.equal(1, assert(there:remove { 0 }))
      assert.equal(909, there.rows)
      support.clean()
    end)

    it("trusts no file", function()
      local index = build(kind, rows:slice(0, 60), { n_lists = 3 })
      local path = support.path ".perigee"
      assert(index:save(path))
      local bytes = support.read(path)
      for at = 9, #bytes - 1, #bytes // 60 do
        local broken = bytes:sub(1, at) .. string.char(bytes:byte(at + 1) ~ 0x55)
          .. bytes:sub(at + 2)
        local opened = pg.open(support.write(path, broken), { place = support.place })
        if opened then
          search(opened, rows)
        end
      end
      support.clean()
    end)
  end)
end

describe("lists of codes of awkward rows", function()
  for _, variant in ipairs(VARIANTS) do
    local kind, options = variant[1], variant[2]
    local name = ("%s of %d bits%s"):format(kind, options.bits or options.bits_per_dim or 3,
      options.residual == false and ", whole" or "")

    it("are searched: " .. name, function()
      for _, n in ipairs { 1, 33, 500 } do -- all equal, and more than any list should hold
        local list = {}
        for i = 1, n do
          list[i] = { 3, -1, 2, 0.5, 7 }
        end
        for _, metric in ipairs { "sqeuclidean", "inner_product", "cosine" } do
          local index = build(kind, pg.matrix(list), options,
            { n_lists = math.min(n, 8), metric = metric })
          local hits = search(index, { 3, -1, 2, 0.5, 7 }, { n_probes = 1 })
          assert.equal(math.max(0, k - n), hits.info.missing)
          for _, distance in hits:each(0) do
            assert.near(metric == "inner_product" and 63.25 or 0, distance, 1e-3)
          end
        end
      end
      local list = {}
      for i = 1, 90 do -- constant columns, one of them large
        list[i] = { 1, i % 9, 1e6, 0 }
      end
      local index = build(kind, pg.matrix(list), options, { n_lists = 12 })
      assert.equal(0, search(index, pg.matrix(list), { n_probes = 1 }).info.missing)
      for _, dim in ipairs { 1, 3, 33, 64, 130 } do
        local rows = support.clustered(50, dim, 5, dim)
        index = build(kind, rows, options, { n_lists = 6 })
        assert.equal(0, search(index, rows).info.missing)
        index = build(kind, rows:slice(0, 1), options, { n_lists = 1 })
        assert.equal(50 * (k - 1), search(index, rows).info.missing)
      end
    end)
  end

  it("are searched where values are at the ends of what f32 holds", function()
    for _, scale in ipairs { 1e-30, 1e18 } do
      local list = {}
      for r = 1, 60 do
        list[r] = { scale * r, -scale * (r % 7), scale }
      end
      for kind in pairs(FINE) do
        local index = build(kind, pg.matrix(list), { n_lists = 5 })
        assert.equal(0, search(index, pg.matrix(list), { n_probes = 1 }).info.missing)
      end
    end
  end)
end)

describe("lists of codes on real rows", function()
  for _, name in ipairs { "packages", "sift" } do
    it("reach their recall on " .. name, function()
      local set = support.small(name)
      local base = { metric = set.metric, n_lists = 100, kmeans_n_iters = 20 }
      local flat = build("ivf_flat", set.rows, base)
      local coded = build("ivf_sq", set.rows, base)
      for _, n_probes in ipairs { 20, 50 } do
        local exact = recall(search(flat, set.queries, { n_probes = n_probes }), set.truth)
        local found = recall(search(coded, set.queries, { n_probes = n_probes }), set.truth)
        assert.is_true(found >= 0.97 * exact,
          ("ivf_sq, %d probes: %.4f of %.4f"):format(n_probes, found, exact))
      end
      local FLOORS <const> = { [1] = { 0.65, 0.95 }, [3] = { 0.88, 0.98 }, [4] = { 0.92, 0.98 } }
      for bits, floors in pairs(FLOORS) do
        local index = build("ivf_rabitq", set.rows, base, { bits_per_dim = bits })
        local refined = assert(index:refined(set.rows, { ratio = 4 }))
        local plain = recall(search(index, set.queries, { n_probes = 60 }), set.truth)
        local better = recall(search(refined, set.queries, { n_probes = 60 }), set.truth)
        assert.is_true(plain >= floors[1] and better >= floors[2],
          ("%d bits: %.4f, refined %.4f"):format(bits, plain, better))
      end
    end)
  end
end)

describe("lists of codes in batches", function()
  it("answer the same at any batch and number of threads", function()
    local rows, queries = support.clustered(3000, 40, 30, 96), support.clustered(1025, 40, 30, 97)
    for _, variant in ipairs(VARIANTS) do
      for _, metric in ipairs { "sqeuclidean", "cosine" } do
        local index = build(variant[1], rows, variant[2], { metric = metric, n_lists = 40 })
        local whole = search(index, queries, { n_probes = 7, threads = 1 })
        for threads = 2, 8, 3 do
          same(whole, search(index, queries, { n_probes = 7, threads = threads }))
        end
        for _, size in ipairs { 1, 5, 13, 100, 1024 } do
          local some = search(index, queries:slice(1, 1 + size),
            { n_probes = 7, threads = size % 3 })
          assert.equal(whole.neighbors:slice(1, 1 + size):pack(), some.neighbors:pack())
          assert.equal(whole.distances:slice(1, 1 + size):pack(), some.distances:pack())
        end
      end
    end
  end)

  it("are built the same by any number of threads", function()
    local rows = support.clustered(1200, 20, 9, 98)
    for kind in pairs(FINE) do
      local one = build(kind, rows, { n_lists = 15, threads = 1 })
      local two = build(kind, rows, { n_lists = 15, threads = 3 })
      same(search(one, rows), search(two, rows))
    end
  end)

  it("allocate nothing once a search of the shape has run", function()
    local rows = support.clustered(2000, 16, 20, 99)
    for kind in pairs(FINE) do
      local index = build(kind, rows, { n_lists = 30 })
      local asked = rows:slice(0, 64)
      local out = search(index, asked)
      search(index, asked, { out = out })
      local before = pg.stats().acquired
      search(index, asked, { out = out })
      assert.equal(before, pg.stats().acquired)
    end
  end)
end)
