-- Bad input: an error that names argument, value and range, never a crash. Misuse raises; the
-- outside world and the data of a client return nil, message and code.

local pg = require "perigee"
local support = require "spec.support"

local place = support.place

-- The call gives nil, a message that matches each pattern, and the code.
local function fails(code, patterns, ...)
  local value, message, got = ...
  assert.is_nil(value)
  assert.equal(code, got)
  for _, pattern in ipairs(patterns) do
    assert.matches(pattern, message)
  end
end

local function raises(pattern, fn, ...)
  local ok, message = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches(pattern, message)
end

local rows = pg.matrix { { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, 9 }, { 1, 0, 1 } }

describe("arguments", function()
  local index = support.build("flat", rows)

  it("of the wrong dtype are named", function()
    for _, dtype in ipairs { "i32", "i64", "u32" } do
      raises(dtype, pg.flat.build, pg.matrix({ { 1, 2, 3 } }, dtype))
    end
    raises("i64", function() index:search(pg.matrix({ { 1, 2, 3 } }, "i64"), 1) end)
    assert.equal(1, assert(support.build("flat", rows:as "u8"):search({ 4, 5, 6 }, 1))
      .neighbors:row(0)[1])
  end)

  it("of a query that u8 rows cannot be compared with are named", function()
    local small = support.build("flat", rows:as "u8")
    for _, value in ipairs { 0.5, -1, 256 } do
      local ok, none, message = pcall(small.search, small, { 1, value, 3 }, 1)
      message = ok and none == nil and message or not ok and none
      assert.is_string(message)
      assert.matches("1", message)
    end
  end)

  it("of the wrong dimension are named with both", function()
    raises("#1 to 'search' %(queries: 2 dimensions given, the searcher has 3%)",
      function() index:search({ 1, 2 }, 1) end)
    raises("4 dimensions given", function() index:search(pg.matrix(2, 4), 1) end)
    raises("16 bytes given, allowed: a multiple of 12",
      function() index:search(("x"):rep(16), 1) end)
    raises("2", function() index:refined(pg.matrix(4, 2)) end)
    raises("0 dimensions given", function() index:search({}, 1) end)
  end)

  it("of a wrong k are named with the range", function()
    for _, k in ipairs { 0, -1, 16385, math.mininteger } do
      raises(("#2 to 'search' %%(k: %d given, allowed: 1..16384%%)"):format(k):gsub("%-", "%%-"),
        function() index:search({ 1, 2, 3 }, k) end)
    end
    raises("k: 1.5 given", function() index:search({ 1, 2, 3 }, 1.5) end)
    raises("k: string given", function() index:search({ 1, 2, 3 }, "3") end)
    raises("k: nil given", function() index:search { 1, 2, 3 } end)
  end)

  it("of k over the rows is padded", function()
    local hits = assert(index:search({ 1, 2, 3 }, 9))
    assert.same({ 0, 3, 1, 2, -1, -1, -1, -1, -1 }, hits.neighbors:row(0))
    assert.equal(5, hits.info.missing)
  end)

  it("of another type are named", function()
    raises("perigee.Matrix expected, got nil", function() pg.flat.build(nil) end)
    raises("#1 to 'build' %(perigee.Matrix expected, got string%)",
      function() pg.flat.build "rows" end)
    raises("perigee.Searcher expected, got table", function() index.search({}, { 1, 2, 3 }, 1) end)
    raises("perigee.Filter expected, got perigee.Matrix", function() index:filtered(rows) end)
    raises("perigee.Matrix expected, got perigee.Searcher", function() index:search(index, 1) end)
    raises("table expected, got string", function() index:search({ 1, 2, 3 }, 1, "fast") end)
    raises("ids", function() pg.flat.build(rows, { ids = true }) end)
  end)

  it("of a place that is not there say so", function()
    raises("moon", pg.flat.build, rows, { place = "moon" })
    raises("place", pg.flat.build, rows, { place = 7 })
    fails("device", { "fake:9" }, pg.flat.build(rows, { place = "fake:9" }))
    fails("device", { "fake:9" }, rows:to "fake:9")
  end)

  it("that queries lie on a device are told how to come back", function()
    local there = assert(rows:to "fake:1")
    raises("queries: on fake:1 given, allowed: on the host", function() index:search(there, 1) end)
  end)
end)

describe("ids", function()
  it("must be as many as rows, unique and not negative", function()
    raises("3 given, allowed: one for each of the 4 rows", pg.flat.build, rows,
      { ids = { 1, 2, 3 } })
    raises("element 2", pg.flat.build, rows, { ids = { 1, "2", 3, 4 } })
    for _, ids in ipairs { { 1, 2, 2, 3 }, { 1, -2, 3, 4 } } do
      local ok, none, message = pcall(pg.flat.build, rows, { ids = ids })
      assert.is_true(not ok or none == nil)
      assert.matches("%-?2", ok and message or none)
    end
  end)
end)

describe("data", function()
  local BAD <const> = { ["nan"] = 0 / 0, ["inf"] = math.huge, ["-inf"] = -math.huge }

  for word, value in pairs(BAD) do
    it(("with %s in the rows or a query is refused with row and column"):format(word), function()
      local list = { { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, value } }
      for _, kind in ipairs { "flat", "ivf_flat", "ivf_sq", "ivf_rabitq", "cagra" } do
        for _, dtype in ipairs { "f32", "f16" } do
          local bad = pg.matrix(list, dtype)
          if value == value or dtype == "f32" then
            local index, message, code = pg[kind].build(bad, { place = place })
            assert.is_nil(index)
            if code ~= "unsupported" then
              assert.equal("invalid", code)
              assert.matches("row 2", message)
              assert.matches("column 2", message)
            end
          end
        end
      end
      local index = support.build("flat", rows)
      fails("invalid", { "row 0", "column 1" }, index:search({ 1, value, 3 }, 1))
      fails("invalid", { "row 2", "column 2" }, index:search(list, 1))
    end)
  end

  it("with a zero vector under cosine is refused with its row", function()
    local zero = pg.matrix { { 1, 2, 3 }, { 0, 0, 0 } }
    for _, kind in ipairs { "flat", "ivf_flat", "ivf_sq", "ivf_rabitq", "cagra" } do
      local index, message, code = pg[kind].build(zero, { metric = "cosine", place = place })
      assert.is_nil(index)
      if code ~= "unsupported" then
        assert.equal("invalid", code)
        assert.matches("row 1", message)
      end
    end
    local index = support.build("flat", rows, { metric = "cosine" })
    fails("invalid", { "row 0" }, index:search({ 0, 0, 0 }, 1))
    assert(support.build("flat", zero):search({ 0, 0, 0 }, 1))
  end)

  it("without rows builds an index that finds nothing, or is refused", function()
    for _, kind in ipairs { "flat", "ivf_flat", "ivf_sq", "ivf_rabitq", "cagra" } do
      local ok, index, message = pcall(pg[kind].build, pg.matrix(0, 3), { place = place })
      if ok and index then
        local hits = assert(index:search({ 1, 2, 3 }, 2))
        assert.same({ -1, -1 }, hits.neighbors:row(0))
      else
        assert.is_string(ok and message or index)
      end
    end
  end)
end)

describe("options", function()
  it("that are unknown are refused with the nearest that is known", function()
    raises("unknown option 'graph_degre': did you mean 'graph_degree'?", pg.cagra.build, rows,
      { graph_degre = 3 })
    raises("unknown option 'fliter': did you mean 'filter'?",
      function() support.build("flat", rows):search({ 1, 2, 3 }, 1, { fliter = {} }) end)
    raises("unknown option 'itop_size': did you mean 'itopk_size'?",
      function() support.build("flat", rows):search({ 1, 2, 3 }, 1, { itop_size = 1 }) end)
  end)

  it("that are of another kind are refused too", function()
    raises("graph_degree", pg.flat.build, rows, { graph_degree = 8 })
    raises("ef", function() support.build("flat", rows):search({ 1, 2, 3 }, 1, { ef = 9 }) end)
  end)
end)

describe("closed handles", function()
  it("raise, whatever is asked of them", function()
    local m, f = pg.matrix(2, 2), pg.filter.range(0, 1)
    local s = assert(pg.flat.build(pg.matrix(2, 2)))
    local h = assert(s:search({ 0, 0 }, 1))
    for _, handle in ipairs { m, f, s, h } do
      handle:close()
      handle:close()
      assert.matches("%(closed%)$", tostring(handle))
      local _, methods = require "perigee.core".members(handle)
      for name, method in pairs(methods) do
        if name ~= "close" then
          raises("closed", method, handle, 0, 0, 0)
        end
      end
    end
    raises("closed", function() return m.rows end)
    raises("closed", function() return s.kind end)
    raises("closed", function() return h.neighbors end)
    raises("closed", function() return #m end)
    raises("closed", pg.flat.build, m)
  end)
end)

describe("files", function()
  after_each(support.clean)

  local function load(bytes, ending, options)
    return pg.load(support.write(support.path("." .. ending), bytes), options)
  end

  it("that are not there, are a folder, or have no known ending say so", function()
    fails("io", { "no/such" }, pg.load "no/such.npy")
    fails("io", { "no/such" }, pg.open "no/such.perigee")
    local none, message = pg.load("spec", { format = "npy" })
    assert.is_nil(none)
    assert.matches("spec", message)
    none, message = pg.open "spec"
    assert.is_nil(none)
    assert.matches("spec", message)
    local ok, first, second = pcall(pg.load, "CHANGELOG.md")
    assert.matches("md", ok and second or first)
  end)

  it("without an end are refused", function()
    for _, format in ipairs { "npy", "fvecs", "bvecs", "ivecs", "fbin", "u8bin" } do
      for _, map in ipairs { false, true } do
        local none, message, code = pg.load("/dev/zero", { format = format, map = map })
        assert.is_nil(none)
        assert.is_string(message)
        assert.truthy(code == "io" or code == "corrupt")
      end
    end
    local none, message = pg.open "/dev/zero"
    assert.is_nil(none)
    assert.matches("/dev/zero", message)
    none = pg.open("/dev/zero", { format = "hnswlib", metric = "sqeuclidean" })
    assert.is_nil(none)
  end)

  it("that are cut off at any length are refused", function()
    for _, name in ipairs { "f4.npy", "f4.fvecs", "f4.fbin", "u1.bvecs", "u1.u8bin", "i4.ivecs" } do
      local bytes = support.read(support.data("formats/" .. name))
      local ending = name:match "%.(.*)$"
      for length = 0, #bytes - 1, 3 do
        for _, map in ipairs { false, true } do
          local ok, m, message, code = pcall(load, bytes:sub(1, length), ending, { map = map })
          assert.is_true(ok)
          -- A whole number of rows is a file of fewer rows: vecs files do not say how many.
          if m then
            assert.is_true(ending:find "vecs$" ~= nil and m.rows < 5)
          else
            assert.is_true(code == "corrupt" or length < 10, code) -- too short to be known by
            assert.is_string(message)
          end
        end
      end
    end
  end)

  it("whose header claims 2^40 rows are refused before anything is allocated", function()
    local function npy(shape)
      local dict = ("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"):format(shape)
      dict = dict .. (" "):rep(-(#dict + 11) % 64) .. "\n"
      return "\x93NUMPY\1\0" .. string.pack("<s2", dict)
    end
    local before = pg.stats().bytes_peak
    fails("corrupt", { "1099511627776" }, load(npy "1099511627776, 4" .. ("x"):rep(64), "npy"))
    fails("corrupt", {}, load(npy "4611686018427387904, 4" .. ("x"):rep(64), "npy"))
    fails("corrupt", {}, load(npy "99999999999999999999999999, 4", "npy"))
    fails("corrupt", {}, load(string.pack("<I4I4", 0xFFFFFFFF, 256) .. ("x"):rep(64), "fbin"))
    fails("corrupt", {}, load(string.pack("<i4", 0x7FFFFFFF) .. ("x"):rep(64), "fvecs"))
    fails("corrupt", {}, load(string.pack("<i4", -1) .. ("x"):rep(64), "fvecs"))
    assert.is_true(pg.stats().bytes_peak - before < 1 << 20)
  end)

  it("of a layout that is not taken are named", function()
    fails("unsupported", { "ortran" }, pg.load(support.data "formats/f4_fortran.npy"))
    fails("unsupported", { "f4" }, pg.load(support.data "formats/f4_big_endian.npy"))
  end)

  it("are refused whatever bytes they hold", function()
    math.randomseed(8)
    for _, ending in ipairs { "npy", "fvecs", "bvecs", "ivecs", "fbin", "u8bin", "f16bin" } do
      for _ = 1, 200 do
        local bytes = {}
        for i = 1, math.random(0, 100) do
          bytes[i] = string.char(math.random(0, 255))
        end
        local prefix = ending == "npy" and math.random(2) == 1 and "\x93NUMPY\1\0" or ""
        local ok, m, message, code = pcall(load, prefix .. table.concat(bytes), ending)
        assert.is_true(ok)
        assert.is_true(m ~= nil or type(message) == "string" and type(code) == "string")
      end
    end
  end)
end)

describe("a save that is interrupted", function()
  after_each(support.clean)

  it("leaves the old file", function()
    local path = support.path ".perigee"
    assert(support.build("flat", rows):save(path))
    local before = support.read(path)
    -- The child may write 8 blocks of 512 bytes and is killed at the next.
    local out, status = support.child(([[
      local pg = require "perigee"
      local index = assert(pg.flat.build(pg.matrix(5000, 16)))
      index:save(%q)
      print "saved"
    ]]):format(path), "ulimit -f 8; ")
    assert.is_true(status ~= 0 or not out:find "saved")
    assert.equal(before, support.read(path))
    assert.equal(4, assert(pg.open(path)).rows)
    os.execute(("rm -f %s.*"):format(path))
  end)

  it("leaves the old file when it is cancelled", function()
    local path = support.path ".perigee"
    assert(support.build("flat", rows):save(path))
    local before = support.read(path)
    local large = assert(pg.flat.build(pg.matrix(20000, 64)))
    fails("cancelled", { "cancelled" },
      large:save(path, { progress = function() return false end }))
    assert.equal(before, support.read(path))
  end)

  it("says where it could not write", function()
    fails("io", { "/no/such/folder" }, support.build("flat", rows):save "/no/such/folder/x.perigee")
    fails("io", { "/no/such/folder" }, rows:save "/no/such/folder/x.npy")
  end)
end)
