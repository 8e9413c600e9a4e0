-- pg.factory: what strings stand for, what is built, and what is refused by its name.

local pg = require "perigee"
local support = require "spec.support"

local function stands_for(text)
  local builder = pg.factory(text)
  local list = {}
  for name, value in pairs(builder.options) do
    list[#list + 1] = name .. "=" .. tostring(value)
  end
  table.sort(list)
  return builder.kind .. " " .. table.concat(list, " ") .. (builder.refine and " refined" or "")
end

local MEANINGS <const> = {
  { "Flat", "flat " },
  { "IVF1024,Flat", "ivf_flat n_lists=1024" },
  { "IVF64,Flat,RFlat", "ivf_flat n_lists=64 refined" },
  { " IVF64 , Flat ", "ivf_flat n_lists=64" },
  { "HNSW", "hnsw m=32" },
  { "HNSW16", "hnsw m=16" },
  { "HNSW32,Flat", "hnsw m=32" },
  { "Flat,Refine(Flat)", "flat  refined" },
  { "IVF1024,PQ16", "ivf_pq n_lists=1024 pq_bits=8 pq_dim=16" },
  { "IVF1024,PQ16np", "ivf_pq n_lists=1024 pq_bits=8 pq_dim=16" },
  { "IVF1024,PQ16x4fs", "ivf_pq n_lists=1024 pq_bits=4 pq_dim=16" },
  { "IVF1024,PQ16x6", "ivf_pq n_lists=1024 pq_bits=6 pq_dim=16" },
  { "IVF1024,SQ8", "ivf_sq bits=8 n_lists=1024" },
  { "IVF1024,SQ4", "ivf_sq bits=4 n_lists=1024" },
  { "IVF1024,RaBitQ", "ivf_rabitq bits_per_dim=1 n_lists=1024" },
  { "IVF1024,RaBitQ4,RFlat", "ivf_rabitq bits_per_dim=4 n_lists=1024 refined" },
  { "OPQ16,IVF1024,PQ16", "ivf_pq n_lists=1024 opq=true pq_bits=8 pq_dim=16" },
}

-- text, what the error says
local REFUSED <const> = {
  { "", "no such part; known: OPQ16, IVF1024" },
  { "Flat,", "'' of 'Flat,'" },
  { "LSH", "'LSH' of 'LSH': no such part; known: .*IVF1024.*PQ16, PQ16x4fs.*Refine%(Flat%)" },
  { "PCA64,IVF1024,Flat", "'PCA64' of .*no projection" },
  { "IDMap2,Flat", "'IDMap2' of .*ids" },
  { "L2norm,Flat", "cosine" },
  { "IVF1024_HNSW32,Flat", "'IVF1024_HNSW32'.*centroids" },
  { "IVF1024(HNSW32),Flat", "centroids" },
  { "IVF1024", "what is in the lists" },
  { "IVF16,IVF32,Flat", "'IVF32' of .*another part like it: 'IVF16'" },
  { "IVF16,Flat,Flat", "another part like it: 'Flat'" },
  { "IVF16,SQ8,PQ16", "another part like it: 'SQ8'" },
  { "PQ16", "PQ16 alone is no index: put it into lists, as IVF1024,PQ16" },
  { "SQ8", "IVF1024,SQ8" },
  { "HNSW32,PQ16", "stands alone: write HNSW32" },
  { "HNSW32_SQ8", "HNSW32" },
  { "IVF16,HNSW32", "stands alone" },
  { "RFlat", "names no index" },
  { "OPQ16,Flat", "OPQ16 belongs to lists of PQ codes" },
  { "OPQ16_64,IVF16,PQ16", "number of columns" },
  { "IVF16,SQfp16", "'SQfp16' of .*f16" },
  { "OPQ8,IVF16,PQ16", "OPQ8 and PQ16 differ" },
  { "IVF16,PQ16fs", "fs is for codes of 4 bits" },
  { "IVF16,PQ16x4zz", "'zz' is not known" },
  { "IVF16,Flat,Refine(SQ8)", "RFlat" },
}

describe("pg.factory", function()
  it("reads what FAISS writes, for the kinds that there are", function()
    for _, pair in ipairs(MEANINGS) do
      local text, meaning = table.unpack(pair)
      local kind = meaning:match "^[%w_]+"
      if pg[kind] then
        assert.equal(meaning, stands_for(text))
      else
        assert.error_matches(function()
          pg.factory(text)
        end, "there is no pg." .. kind)
      end
    end
  end)

  it("refuses what it does not know, by its name and with what is known", function()
    for _, pair in ipairs(REFUSED) do
      local ok, message = pcall(function()
        local _ = pg.factory(pair[1])
      end)
      assert.is_false(ok, pair[1])
      assert.matches(pair[2], message)
      assert.matches("spec/factory_spec.lua:%d+:", message)
    end
    assert.error_matches(function()
      pg.factory(16)
    end, "string expected, got number")
  end)

  it("prints what it stands for", function()
    assert.equal("perigee.Builder IVF64,Flat,RFlat\n  pg.ivf_flat.build(rows, { n_lists = 64 })"
      .. ":refined(rows)", tostring(pg.factory "IVF64,Flat,RFlat"))
    assert.equal("perigee.Builder Flat\n  pg.flat.build(rows)", tostring(pg.factory "Flat"))
    assert.matches("Builder:build", pg.help(pg.factory "Flat"):gsub("b:build", "Builder:build"))
  end)

  it("builds it", function()
    local set = support.small "packages"
    for _, text in ipairs { "Flat", "IVF32,Flat", "HNSW16", "IVF32,Flat,RFlat", "IVF32,PQ48,RFlat",
      "IVF32,SQ8", "IVF32,RaBitQ4,RFlat", "OPQ48,IVF32,PQ48x4fs,RFlat" } do
      local builder = pg.factory(text)
      local index, message, code = builder:build(set.rows,
        { metric = set.metric, place = support.place })
      if not index and builder.options.opq and code == "unsupported" then
        pending("no LAPACK: " .. message)
      end
      support.skip_unless_done(text, index, message, code)
      assert(index, message)
      assert.equal(builder.refine and "refined" or builder.kind, index.kind)
      local hits <close> = assert(index:search(set.queries, 10))
      assert.is_true(pg.recall(hits, set.truth) >= 0.9, text)
      index:close()
    end
  end)

  it("takes the other options, and refuses what the string says", function()
    local rows = support.small "sift".rows
    local builder = pg.factory "IVF32,Flat,RFlat"
    local index <close> = assert(builder:build(rows, { metric = "euclidean", seed = 5, ratio = 3 }))
    assert.equal("euclidean", index.metric)
    assert.equal(3, index:info().params.ratio)
    assert.equal(32, index:info().inner.params.n_lists)
    for _, options in ipairs { { n_lists = 5 }, { ratios = 5 } } do
      local ok, message = pcall(function()
        local _ = builder:build(rows, options)
      end)
      assert.is_false(ok)
      assert.matches("factory_spec.*option '" .. next(options), message)
    end
    local none, message, code = pg.factory "Flat":build(assert(pg.matrix { { 0, 0 } }),
      { metric = "cosine" })
    assert.is_nil(none)
    assert.equal("invalid", code)
    assert.matches("row 0", message)
  end)
end)
