-- Files in hnswlib's format: what we write, stock hnswlib searches as well as we do; what it
-- writes, we open. The library itself judges, through spec/hnswlib/check.cpp.

local pg = require "perigee"
local support = require "spec.support"

local BUILD <const> = os.getenv "PERIGEE_BUILD_DIR" or "build"
local CHECK <const> = BUILD .. "/spec/hnswlib/check"
local DATA <const> = "spec/data/"
local K <const> = 10
local EF <const> = 100
local WITHIN <const> = 0.01 -- of our recall and hnswlib's on one file

-- hnswlib's head is fixed: the top level is an int32 after six 64-bit numbers.
local TOP_LEVEL_OFFSET <const> = 48

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function file_exists(path)
  local file = io.open(path, "rb")
  return file and file:close()
end

-- The same directions with lengths from 1 to 7: cosine must not see them.
local function stretched(rows)
  local list = {}
  for r, row in rows:each() do
    for c = 1, #row do
      row[c] = row[c] * (1 + r % 7)
    end
    list[r + 1] = row
  end
  return pg.matrix(list)
end

-- Runs check and gives back what it printed, by its first word.
local function ask_hnswlib(path, case, ef)
  local words = { quote(CHECK), quote(path), case.space, case.set.dim, case.set.queries,
    case.set.truth, K, ef, "2>&1" }
  local pipe = assert(io.popen(table.concat(words, " ")))
  local text = pipe:read "a"
  local ok, _, status = pipe:close()
  assert(ok, ("check ended with %s: %s"):format(status, text))
  local told = { ids = {} }
  for line in text:gmatch "[^\n]+" do
    local query, ids = line:match "^ids (%d+):(.*)$"
    if query then
      local list = {}
      for id in ids:gmatch "%d+" do
        list[#list + 1] = math.tointeger(id)
      end
      told.ids[math.tointeger(query)] = list
    else
      local word, value = line:match "^(%S+) (%S+)$"
      told[word] = tonumber(value)
    end
  end
  return told
end

local function need_check()
  if not file_exists(CHECK) then
    pending "needs libhnswlib-dev and a C++ compiler"
  end
end

local function top_level_of(path)
  local file <close> = assert(io.open(path, "rb"))
  file:seek("set", TOP_LEVEL_OFFSET)
  return (string.unpack("<i4", file:read(4)))
end

local function contains(list, wanted)
  for _, value in ipairs(list) do
    if value == wanted then
      return true
    end
  end
  return false
end

-- ---- the cases ----------------------------------------------------------------------------------

local packages = {
  dim = 96,
  queries = DATA .. "packages_queries.fvecs",
  truth = DATA .. "packages_truth_similarity.fvecs",
}
local sift = {
  dim = 128,
  queries = DATA .. "sift_queries.bvecs",
  truth = DATA .. "sift_truth_dist2.fvecs",
}

local cases = {
  { name = "packages, cosine, rows of any length", set = packages, metric = "cosine", space = "ip",
    dtype = "f32",
    rows = function() return stretched(assert(pg.load(DATA .. "packages.fvecs"))) end },
  { name = "packages, inner product", set = packages, metric = "inner_product", space = "ip",
    dtype = "f32", rows = function() return assert(pg.load(DATA .. "packages.fvecs")) end },
  { name = "sift, f32", set = sift, metric = "sqeuclidean", space = "l2", dtype = "f32",
    rows = function() return assert(pg.load(DATA .. "sift.bvecs")):as "f32" end },
  { name = "sift, u8", set = sift, metric = "sqeuclidean", space = "l2u8", dtype = "u8",
    rows = function() return assert(pg.load(DATA .. "sift.bvecs")) end },
  { name = "sift, u8 rows in a file of f32", set = sift, metric = "sqeuclidean", space = "l2",
    dtype = "f32", rows = function() return assert(pg.load(DATA .. "sift.bvecs")) end },
}

-- What all examples of a case share, made at first use: the build takes the most time of all.
local function prepare(case)
  if case.cagra then
    return
  end
  local rows, ids = case.rows(), {}
  for r = 1, rows.rows do
    ids[r] = 500 + 3 * (r - 1)
  end
  case.loaded = assert(pg.load(case.set.queries))
  case.exact = assert(pg.ground_truth(rows, case.loaded, K, { metric = case.metric, ids = ids }))
  case.cagra = assert(pg.cagra.build(rows, { metric = case.metric, ids = ids, graph_degree = 32,
    intermediate_graph_degree = 64 }))
end

teardown(support.clean)

-- Half of the rows inserted by a build, half by an extension.
local function build_and_extend(case)
  local rows, ids = case.rows(), { {}, {} }
  local half = rows.rows // 2
  for r = 1, rows.rows do
    table.insert(ids[r <= half and 1 or 2], 500 + 3 * (r - 1))
  end
  local index = assert(pg.hnsw.build(rows:slice(0, half), { metric = case.metric, ids = ids[1] }))
  return assert(index:extend(rows:slice(half), { ids = ids[2] }))
end

-- A file that a case was written to, and the index it was written from.
local function write_file(case, hierarchy)
  prepare(case)
  local written = { case = case, path = support.path() }
  if hierarchy == "built" then
    written.index = build_and_extend(case)
  else
    -- by the rows: what hnswlib walks by too
    written.index = assert(case.cagra:to_hnsw { hierarchy = hierarchy, codes = "none" })
  end
  assert(written.index:save(written.path, { format = "hnswlib", dtype = case.dtype }))
  return written
end

-- ---- what holds for each ------------------------------------------------------------------------

local function compare_recalls(written, ef, floor)
  local case = written.case
  local told = ask_hnswlib(written.path, case, ef)
  local ours = assert(written.index:search(case.loaded, K, { ef = ef }))
  local recall = assert(pg.recall(ours, case.exact))
  assert.equal(4000, told.rows)
  assert.equal(0, told.deleted)
  assert.is_true(recall >= floor, ("our recall at ef %d is %.4f"):format(ef, recall))
  assert.is_true(math.abs(told.recall - recall) <= WITHIN,
    ("recall at ef %d: ours %.4f, hnswlib's %.4f"):format(ef, recall, told.recall))
end

-- The labels that hnswlib answered are ids of rows that are true neighbours.
local function check_labels(written, query, labels)
  local case = written.case
  local one, ids = case.loaded:slice(query, query + 1), pg.matrix({ labels }, "i64")
  local values = assert(written.index:score(one, ids)):row(0)
  local worst = case.exact.distances:row(query)[K]
  assert.equal(K, #labels)
  for i, value in ipairs(values) do
    local behind = case.metric == "inner_product" and worst - value or value - worst
    assert.equal(500 % 3, labels[i] % 3)
    assert.is_true(behind <= 1e-4 * math.abs(worst),
      ("query %d: label %d is at %g, the last true one at %g"):format(query, labels[i], value,
        worst))
  end
end

local function compare_reopened(written)
  local case = written.case
  local again <close> = assert(pg.open(written.path, { format = "hnswlib", metric = case.metric,
    dtype = case.dtype }))
  local before = assert(written.index:search(case.loaded, K, { ef = EF }))
  local after = assert(again:search(case.loaded, K, { ef = EF }))
  assert.equal(4000, again.rows)
  if case.metric ~= "cosine" then
    assert.same(pg.pack(before.neighbors), pg.pack(after.neighbors))
    assert.same(pg.pack(before.distances), pg.pack(after.distances))
    return
  end
  -- The file holds rows of length 1, so the last bits of a distance may differ, and with them the
  -- order of near equals.
  for query, values in before.distances:each() do
    local found = after.distances:row(query)
    for i = 1, K do
      assert.near(values[i], found[i], 1e-6)
    end
  end
end

local function describe_case(case, hierarchy)
  local written

  describe(("%s, hierarchy %s"):format(case.name, hierarchy), function()
    setup(function()
      written = write_file(case, hierarchy)
    end)

    it("is searched by stock hnswlib as well as by us", function()
      need_check()
      compare_recalls(written, K, 0.9)
      compare_recalls(written, EF, 0.98)
    end)

    it("shows hnswlib the ids as labels", function()
      need_check()
      for query, labels in pairs(ask_hnswlib(written.path, case, 4 * EF).ids) do
        check_labels(written, query, labels)
      end
    end)

    it("names its levels in the head", function()
      local top_level = top_level_of(written.path)
      assert.is_true((hierarchy == "none") == (top_level == 0))
    end)

    it("reopens in ours with the same answers", function()
      compare_reopened(written)
    end)
  end)
end

describe("Searcher.save with format hnswlib", function()
  for _, case in ipairs(cases) do
    for _, hierarchy in ipairs { "none", "cpu", "built" } do
      describe_case(case, hierarchy)
    end
  end
end)

describe("a file of an index that rows left", function()
  it("is searched by stock hnswlib, which never answers them", function()
    need_check()
    local case = cases[3]
    prepare(case)
    local index = build_and_extend(case)
    local gone, left = {}, {}
    for id = 500, 500 + 3 * 3999, 12 do
      gone[#gone + 1] = id
      left[id] = true
    end
    assert.equal(1000, assert(index:remove(gone)))
    local path = support.path()
    assert(index:save(path, { format = "hnswlib", dtype = case.dtype }))
    local told = ask_hnswlib(path, case, EF)
    assert.equal(1000, told.deleted)
    for query, labels in pairs(told.ids) do
      local ours = assert(index:search(case.loaded:slice(query, query + 1), K, { ef = EF }))
      local same = 0
      for _, label in ipairs(labels) do
        assert.is_nil(left[label])
        same = same + (contains(ours.neighbors:row(0), label) and 1 or 0)
      end
      assert.is_true(same >= K - 2)
    end
  end)
end)

-- ---- files that hnswlib wrote -------------------------------------------------------------------

describe("pg.open of a file that stock hnswlib wrote", function()
  local DELETED_ROW <const> = 17
  local rows, ids

  setup(function()
    rows = assert(pg.load(DATA .. "formats/l2.fvecs"))
    ids = {}
    for r = 0, rows.rows - 1 do
      ids[r + 1] = 1000 + 3 * r
    end
  end)

  local function open(name, metric)
    return assert(pg.open(DATA .. "formats/" .. name, { format = "hnswlib", metric = metric }))
  end

  it("gives its labels back as ids", function()
    local index <close> = open("l2.hnsw", "sqeuclidean")
    local hits = assert(index:search(rows, 1, { ef = 200 }))
    assert.equal(200, index.rows)
    assert.equal(16, index.dim)
    for query, found in hits.neighbors:each() do
      assert.is_true(contains(ids, found[1]))
      assert.equal(0, hits.distances:row(query)[1])
    end
  end)

  it("finds what an exact search finds", function()
    local index <close> = open("l2.hnsw", "sqeuclidean")
    local exact = assert(pg.ground_truth(rows, rows, K, { metric = "sqeuclidean", ids = ids }))
    local recall = assert(pg.recall(assert(index:search(rows, K, { ef = 200 })), exact))
    assert.is_true(recall >= 0.99, ("recall is %.4f"):format(recall))
  end)

  it("finds by inner product what is not deleted", function()
    local index <close> = open("ip.hnsw", "inner_product")
    local alive = ~pg.filter.ids { ids[DELETED_ROW + 1] }
    local exact = assert(pg.ground_truth(rows, rows, K, { metric = "inner_product", ids = ids,
      filter = alive }))
    local recall = assert(pg.recall(assert(index:search(rows, K, { ef = 200 })), exact))
    assert.is_true(recall >= 0.99, ("recall is %.4f"):format(recall))
  end)

  it("never returns the deleted element", function()
    local index <close> = open("ip.hnsw", "inner_product")
    for _, k in ipairs { K, rows.rows } do
      local hits = assert(index:search(rows, k, { ef = 200 }))
      for _, found in hits.neighbors:each() do
        assert.is_false(contains(found, ids[DELETED_ROW + 1]))
      end
    end
  end)
end)
