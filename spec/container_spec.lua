-- The index container: what is saved opens with the same answers, mapped or read; what is damaged
-- does not.

local pg = require "perigee"
local support = require "spec.support"

local place = support.place
local set = support.small "packages"
local k <const> = 10

local function build(kind, options)
  if kind == "hnsw" then
    return assert(build("cagra", options):to_hnsw())
  end
  local all = { metric = set.metric, n_lists = kind:match "^ivf" and 30 or nil }
  for key, value in pairs(options or {}) do
    all[key] = value
  end
  return support.build(kind, set.rows, all)
end

describe("a saved index", function()
  after_each(support.clean)

  for _, kind in ipairs { "flat", "ivf_flat", "ivf_pq", "ivf_sq", "ivf_rabitq", "cagra", "hnsw",
    "vamana" } do
    for _, map in ipairs { false, true } do
      local how = map and ", mapped" or ""
      it(("of kind %s opens with the same answers%s"):format(kind, how), function()
        local index = build(kind)
        local path = support.path ".perigee"
        assert.is_true(index:save(path))
        local back = assert(pg.open(path, { map = map, place = map and "cpu" or place }))
        local a, b = assert(index:search(set.queries, k)), assert(back:search(set.queries, k))
        assert.is_true(a.neighbors:equals(b.neighbors))
        assert.is_true(a.distances:equals(b.distances))
        assert.same({ kind, set.rows.rows, 96, set.metric, "f32" },
          { back.kind, back.rows, back.dim, back.metric, back.dtype })
        local params = index:info().params
        assert.same(params, back:info().params)
      end)
    end
  end

  it("keeps its ids", function()
    local ids = {}
    for r = 1, set.rows.rows do
      ids[r] = 5000000000 + r
    end
    for _, kind in ipairs { "flat", "ivf_flat", "ivf_pq", "ivf_sq", "ivf_rabitq", "cagra" } do
      local index, path = build(kind, { ids = ids }), support.path ".perigee"
      assert(index:save(path))
      local back = assert(pg.open(path, { place = place }))
      assert.is_true(assert(back:search(set.queries, k)).neighbors
        :equals(assert(index:search(set.queries, k)).neighbors))
      assert.equal(ids[8], assert(back:search(set.queries:slice(0, 1), 1,
        { filter = pg.filter.ids { ids[8] } })).neighbors:row(0)[1])
    end
  end)

  it("of each dtype opens", function()
    for _, dtype in ipairs { "f32", "f16", "u8", "i8" } do
      local rows = support.small("sift").rows:as(dtype)
      local path = support.path ".perigee"
      assert(support.build("flat", rows):save(path))
      local back = assert(pg.open(path, { place = place }))
      assert.equal(dtype, back.dtype)
      assert.is_true(assert(back:dataset()):equals(rows))
    end
  end)

  it("outlives its file when it is mapped, and its folder's changes", function()
    local path = support.path ".perigee"
    local index = build "cagra"
    assert(index:save(path))
    local back = assert(pg.open(path, { map = true }))
    assert(build("flat"):save(path)) -- replaces by renaming: the old file stays mapped
    os.remove(path)
    assert.is_true(assert(back:search(set.queries, k)).neighbors
      :equals(assert(index:search(set.queries, k)).neighbors))
  end)

  it("without its rows is smaller, and opens with them", function()
    local with, without = support.path ".perigee", support.path ".perigee"
    local index = build "cagra"
    assert(index:save(with))
    assert(index:save(without, { dataset = false }))
    assert.is_true(#support.read(without) < #support.read(with) - set.rows:info().bytes // 2)
    local back, message, why = pg.open(without, { place = place })
    assert.is_nil(back)
    assert.matches("without its rows", message)
    assert.equal("unsupported", why)
    back = assert(pg.open(without, { rows = set.rows, place = place }))
    assert.is_true(assert(back:search(set.queries, k)).neighbors
      :equals(assert(index:search(set.queries, k)).neighbors))
    assert.error_matches(function()
      pg.open(without, { rows = set.rows:slice(0, 100), place = place })
    end, "rows: 100 given, the index was saved with 4000")
    assert.error_matches(function() pg.open(without, { rows = 3 }) end, "option 'rows': a number")
  end)

  it("replaces a file only when it is whole", function()
    local path = support.path ".perigee"
    assert(build("flat"):save(path))
    local small = #support.read(path)
    assert(build("cagra"):save(path))
    assert.is_true(#support.read(path) > small)
    assert.equal("cagra", assert(pg.open(path)).kind)
  end)
end)

local SMALL <const> = {
  cagra = { graph_degree = 4, intermediate_graph_degree = 8 },
  ivf_flat = { n_lists = 5, metric = "cosine" },
  ivf_pq = { n_lists = 2, pq_bits = 4, pq_dim = 3 },
  ivf_sq = { n_lists = 2 },
  ivf_rabitq = { n_lists = 2, bits_per_dim = 2 },
}

for kind, options in pairs(SMALL) do
  describe("a damaged index of kind " .. kind, function()
    after_each(support.clean)

    local rows = support.clustered(60, 5, 4, 17)
    local path = support.path ".perigee"
    assert(assert(pg[kind].build(rows, options)):save(path))
    local bytes = support.read(path)
    support.clean()

    local function open(changed, how)
      return pg.open(support.write(support.path ".perigee", changed), how)
    end

    it("is refused at every length", function()
      for length = 0, #bytes - 1, #bytes > 4000 and 11 or 1 do
        for _, map in ipairs { false, true } do
          local index, message, code = open(bytes:sub(1, length), { map = map })
          assert.is_nil(index)
          assert.is_string(message)
          assert.is_true(code == "corrupt" or code == "io" or code == "unsupported", code)
        end
        support.clean()
      end
    end)

    it("is refused whichever byte is changed", function()
      for at = 1, #bytes, 5 do
        local flipped = string.char(bytes:byte(at) ~ (1 << at % 8))
        local index, message = open(bytes:sub(1, at - 1) .. flipped .. bytes:sub(at + 1))
        assert.is_nil(index, ("byte %d of %d was changed, and it opened"):format(at - 1, #bytes))
        assert.is_string(message)
        support.clean()
      end
    end)

    it("is refused with bytes after its end", function()
      local index, message = open(bytes .. "more")
      assert.is_nil(index)
      assert.is_string(message)
    end)

    it("of another program is refused by name", function()
      local index, message, code = pg.open(support.data "formats/f4.npy")
      assert.is_nil(index)
      assert.matches("f4.npy", message)
      assert.is_true(code == "corrupt" or code == "unsupported")
    end)
  end)
end
