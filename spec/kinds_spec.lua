-- What holds for every kind of index: the same answer at any batch size and on any number of
-- threads, and no allocation in a search of a shape that has run before.

local pg = require "perigee"
local support = require "spec.support"

local KINDS <const> = {
  flat = {}, ivf_flat = { n_lists = 32 }, ivf_pq = { n_lists = 32 }, ivf_sq = { n_lists = 32 },
  ivf_rabitq = { n_lists = 32 }, cagra = {}, hnsw = {}, vamana = {},
}

for kind, options in pairs(KINDS) do
  describe(kind, function()
    local set = support.small "packages"
    local queries = set.queries:slice(0, 65)
    local index

    local function answer(first, stop, threads)
      local hits <close> = assert(index:search(queries:slice(first, stop), 10,
        { threads = threads }))
      return hits.neighbors:pack()
    end

    it("answers the same at any batch size and on 1 to 8 threads", function()
      index = support.build(kind, set.rows, options)
      local whole = answer(0, 65, 1)
      for threads = 2, 8 do
        assert.equal(whole, answer(0, 65, threads))
      end
      for _, size in ipairs { 1, 2, 5, 13, 64 } do
        local parts = {}
        for first = 0, 64, size do
          parts[#parts + 1] = answer(first, math.min(first + size, 65), 1 + size % 3)
        end
        assert.equal(whole, table.concat(parts))
      end
    end)

    it("allocates nothing in a warm search", function()
      index = support.build(kind, set.rows, options)
      local out = assert(index:search(queries, 10))
      for _ = 1, 3 do
        assert(index:search(queries, 10, { out = out }))
      end
      local before = pg.stats().acquired
      for _ = 1, 5 do
        assert(index:search(queries, 10, { out = out }))
      end
      assert.equal(before, pg.stats().acquired)
    end)
  end)
end
