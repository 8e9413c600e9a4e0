-- Real data beside the checkout, used when it is there: recall of CAGRA's defaults by value, the
-- same answer at batch 1 and as a whole, filters from half the rows down to one in a thousand.

local pg = require "perigee"
local support = require "spec.support"

local k <const> = 10

local SETS <const> = {
  { name = "sift-ngt5k", ending = "bvecs", metric = "sqeuclidean" },
  { name = "bigann10k", ending = "bvecs", metric = "sqeuclidean" },
  { name = "sift-debian-photos", ending = "bvecs", metric = "sqeuclidean" },
  { name = "debian-packages-96", ending = "fvecs", metric = "inner_product" },
}

local opened = {}

-- Rows, queries, truth and a CAGRA index with defaults; built once a set.
local function open(set)
  if not opened[set.name] then
    local function file(name)
      return assert(pg.load(support.shared(set.name .. "/" .. name)))
    end
    local all = { rows = file("base." .. set.ending), queries = file("query." .. set.ending) }
    local product = set.metric == "inner_product"
    all.truth = { neighbors = file(product and "gt_ip.ivecs" or "gt.ivecs"),
      distances = file(product and "gt_ip_sim.fvecs" or "gt_dist2.fvecs"), metric = set.metric }
    all.index = support.build("cagra", all.rows, { metric = set.metric })
    opened[set.name] = all
  end
  return opened[set.name]
end

-- Ids spread evenly over about a share of n rows.
local function spread(n, share)
  math.randomseed(99)
  local list = {}
  for id = 0, n - 1 do
    if math.random() < share then
      list[#list + 1] = id
    end
  end
  return pg.filter.ids(list), #list
end

for _, set in ipairs(SETS) do
  describe(set.name .. " #slow", function()
    it("is answered by CAGRA's defaults with recall@10 of 0.97 by value", function()
      local all = open(set)
      local recall = assert(pg.recall(assert(all.index:search(all.queries, k)), all.truth))
      assert.is_true(recall >= 0.97, ("recall %.4f"):format(recall))
    end)

    it("is answered exactly by flat", function()
      local all = open(set)
      local flat = support.build("flat", all.rows, { metric = set.metric })
      assert.equal(1, pg.recall(assert(flat:search(all.queries, k)), all.truth))
    end)

    it("is answered the same at batch 1 and as a whole", function()
      local all = open(set)
      local whole = assert(all.index:search(all.queries, k))
      local single
      for q = 0, #all.queries - 1 do
        single = assert(all.index:search(all.queries:slice(q, q + 1), k, { out = single }))
        assert.is_true(single.neighbors:equals(whole.neighbors:slice(q, q + 1)),
          ("query %d"):format(q))
      end
    end)

    it("is answered with k rows, the right ones, within filters", function()
      local all = open(set)
      for _, share in ipairs { 0.5, 0.1, 0.01, 0.001 } do
        local f, count = spread(all.rows.rows, share)
        local hits = assert(all.index:search(all.queries, k, { filter = f }))
        assert.equal(#all.queries * math.max(0, k - count), hits.info.missing)
        for q = 0, #all.queries - 1 do
          for id in hits:each(q) do
            assert.is_true(f:test(id))
          end
        end
        local truth = assert(pg.ground_truth(all.rows, all.queries, k,
          { metric = set.metric, filter = f }))
        local recall = assert(pg.recall(hits, truth))
        assert.is_true(recall >= 0.95, ("%g of the rows: recall %.4f"):format(share, recall))
      end
      local plain = assert(all.index:search(all.queries, k))
      local everything = assert(all.index:search(all.queries, k,
        { filter = pg.filter.range(0, all.rows.rows) }))
      assert.is_true(plain.neighbors:equals(everything.neighbors))
    end)

    it("keeps its recall through HNSW", function()
      local all = open(set)
      for _, hierarchy in ipairs { "none", "cpu" } do
        local hnsw = assert(all.index:to_hnsw { hierarchy = hierarchy })
        local recall = assert(pg.recall(assert(hnsw:search(all.queries, k)), all.truth))
        assert.is_true(recall >= 0.97, ("%s: recall %.4f"):format(hierarchy, recall))
      end
    end)
  end)
end

describe("debian-packages-96 #slow", function()
  it("is answered within its own conditions as the truth says", function()
    local all = open(SETS[4])
    local sections, kinds = {}, {}
    local file = assert(io.open(support.shared "debian-packages-96/packages.tsv"))
    file:read "l"
    for line in file:lines() do
      local id, section = line:match "^(%d+)\t[^\t]*\t[^\t]*\t[^\t]*\t([^\t]*)"
      sections[section] = sections[section] or {}
      table.insert(sections[section], tonumber(id))
    end
    file:close()
    for section, ids in pairs(sections) do
      if #ids >= 20 and #ids <= 2000 then
        kinds[#kinds + 1] = section
      end
    end
    table.sort(kinds)
    assert.is_true(#kinds > 5)
    for _, section in ipairs(kinds) do
      local f = pg.filter.ids(sections[section])
      local queries = all.queries:slice(0, 100)
      local hits = assert(all.index:search(queries, k, { filter = f }))
      assert.equal(0, hits.info.missing, section)
      local truth = assert(pg.ground_truth(all.rows, queries, k,
        { metric = "inner_product", filter = f }))
      local recall = assert(pg.recall(hits, truth))
      assert.is_true(recall >= 0.95, ("%s: recall %.4f"):format(section, recall))
    end
  end)
end)
