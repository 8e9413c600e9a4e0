-- Matrices: made, loaded, cut, converted, saved. The values of spec/data/formats are told in its
-- README.

local pg = require "perigee"
local support = require "spec.support"

local place = support.place

describe("pg.matrix", function()
  it("gives zeros of the shape and dtype asked for", function()
    for _, dtype in ipairs { "f32", "f16", "i8", "u8", "i32", "u32", "i64" } do
      local m = pg.matrix(3, 5, dtype)
      assert.same({ 3, 5, dtype, "cpu", 3 }, { m.rows, m.cols, m.dtype, m.place, #m })
      assert.same({ 0, 0, 0, 0, 0 }, m:row(2))
    end
  end)

  it("takes a table of rows, in any dtype", function()
    for _, dtype in ipairs { "f32", "f16", "i8", "u8", "i32", "u32", "i64" } do
      local m = pg.matrix({ { 1, 2, 3 }, { 4, 5, 127 } }, dtype)
      assert.equal(dtype, m.dtype)
      assert.same({ 4, 5, 127 }, m:row(1))
    end
  end)

  it("takes a list of numbers as one row", function()
    local m = pg.matrix({ 7, 8, 9007199254740993 }, "i64")
    assert.same({ 1, 3 }, { m.rows, m.cols })
    assert.same({ 7, 8, 9007199254740993 }, m:row(0))
  end)

  it("refuses a value that the dtype cannot hold, naming row and column", function()
    assert.error_matches(function() pg.matrix({ { 1, 2 }, { 3, 256 } }, "u8") end,
      "#1 to 'matrix' %(row 1, column 1: 256 given, u8 allows whole numbers 0%.%.255%)")
    assert.error_matches(function() pg.matrix({ { 1, 2.5 } }, "i32") end, "row 0, column 1: 2.5")
    assert.error_matches(function() pg.matrix { { 1, "2" } } end, "column 1: a string")
  end)

  it("refuses rows of different lengths and tables without numbers", function()
    assert.error_matches(function() pg.matrix { { 1, 2 }, { 3 } } end,
      "row 1: 1 numbers, row 0 has 2")
    assert.error_matches(function() pg.matrix { { 1 }, 2 } end, "row 1: a number, not a table")
    assert.error_matches(function() pg.matrix {} end, "empty table")
    assert.error_matches(function() pg.matrix { {} } end, "empty table")
  end)

  it("names the argument, the value and the range", function()
    assert.error_matches(function() pg.matrix(-1, 2) end,
      "#1 to 'matrix' %(rows: %-1 given, allowed")
    assert.error_matches(function() pg.matrix(1, 0) end, "#2 to 'matrix' %(cols: 0 given, allowed")
    assert.error_matches(function() pg.matrix(1, 2, "f64") end, "#3 to 'matrix' .*f64")
    assert.error_matches(function() pg.matrix(1, 2, "f32", "moon") end, "#4 to 'matrix' .*moon")
    assert.error_matches(function() pg.matrix(1.5, 2) end, "rows: 1.5 given")
    assert.error_matches(function() pg.matrix("x", 2) end, "rows: string given")
  end)

  it("refuses sizes whose product is too large, without allocating", function()
    local ok, message, code = pcall(pg.matrix, math.maxinteger, 32768)
    assert.is_true(not ok or message == nil)
    assert.truthy(ok and code or message)
    local none, _, why = pg.matrix(1 << 40, 1024)
    assert.is_nil(none)
    assert.equal("memory", why)
  end)
end)

describe("Matrix", function()
  local m = pg.matrix { { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, 9 }, { 10, 11, 12 } }

  it("is cut without a copy, and the cut outlives it", function()
    local whole = pg.matrix { { 1, 2 }, { 3, 4 }, { 5, 6 } }
    local cut <close> = whole:slice(1, 3)
    whole:close()
    collectgarbage()
    assert.same({ 3, 4 }, cut:row(0))
    assert.equal(2, #cut)
    assert.equal(0, #cut:slice(1, 1))
    assert.same({ 5, 6 }, cut:slice(1):row(0))
  end)

  it("names what is wrong with a cut", function()
    assert.error_matches(function() m:slice(5) end, "first: 5 given, allowed: 0%.%.4")
    assert.error_matches(function() m:slice(2, 1) end, "stop: 1 given, allowed: 2%.%.4")
    assert.error_matches(function() m:row(4) end, "#1 to 'row' %(row: 4 given, allowed: 0%.%.3%)")
    assert.error_matches(function() m:row(-1) end, "row: %-1 given")
  end)

  it("gathers rows by a list or a matrix of ids", function()
    assert.same({ 10, 11, 12 }, m:gather({ 3, 0, 3 }):row(0))
    assert.same({ 10, 11, 12 }, m:gather({ 3, 0, 3 }):row(2))
    for _, dtype in ipairs { "i64", "i32", "u32" } do
      local ids = pg.matrix({ { 2 }, { 0 }, { 1 } }, dtype)
      local got = m:gather(ids)
      assert.same({ 7, 8, 9 }, got:row(0))
      assert.same({ 1, 2, 3 }, got:row(1))
      assert.same({ 4, 5, 6 }, got:row(2))
    end
    assert.equal(0, #m:gather {})
    assert.error_matches(function() m:gather { 0, 4 } end, "4")
    assert.error_matches(function() m:gather { 0, -1 } end, "%-1")
    assert.error_matches(function() m:gather { 0, "x" } end, "element 2 of the list")
    assert.error_matches(function() m:gather(m) end, "a matrix of f32 given")
  end)

  it("goes through its rows from 0", function()
    local seen = {}
    for r, row in m:each() do
      seen[#seen + 1] = r
      assert.same(m:row(r), row)
    end
    assert.same({ 0, 1, 2, 3 }, seen)
  end)

  it("normalizes to length 1, and names a row that it cannot", function()
    local n = pg.matrix({ { 3, 4 }, { 0, 2 } }):normalize()
    assert.near(0.6, n:row(0)[1], 1e-7)
    assert.near(0.8, n:row(0)[2], 1e-7)
    local none, message, code = pg.matrix({ { 1, 2 }, { 0, 0 } }):normalize()
    assert.is_nil(none)
    assert.equal("invalid", code)
    assert.matches("1", message)
  end)

  it("converts with rounding and limits", function()
    local f = pg.matrix { { -300, -1.5, 0.5, 1.5, 300, 2049 } }
    assert.same({ -128, -2, 0, 2, 127, 127 }, f:as("i8"):row(0))
    assert.same({ 0, 0, 0, 2, 255, 255 }, f:as("u8"):row(0))
    assert.same({ -300, -1.5, 0.5, 1.5, 300, 2048 }, f:as("f16"):row(0))
    assert.error_matches(function() f:as "f99" end, "f99")
    assert.error_matches(function() f:as() end, "#1 to 'as'")
  end)

  it("goes to a place and comes back the same", function()
    for _, dtype in ipairs { "f32", "f16", "i8", "u8", "i64" } do
      local here = pg.matrix({ { 1, 2, 3 }, { 4, 5, 6 } }, dtype)
      local there = assert(here:to(place))
      assert.equal(place, there.place)
      assert.is_true(there:equals(here))
      assert.same({ 4, 5, 6 }, there:row(1))
      assert.equal(here:pack(), there:pack())
      assert.is_true(there:to("cpu"):equals(here))
    end
    assert.error_matches(function() m:to "nowhere" end, "nowhere")
  end)

  it("packs and unpacks", function()
    local packed = string.pack("<ffffff", 1, 2, 3, 4, 5, 6)
    local u = pg.unpack(packed, "f32", 3)
    assert.same({ 2, 3 }, { u.rows, u.cols })
    assert.equal(packed, u:pack())
    assert.equal(packed, pg.pack(u))
    assert.equal(packed, pg.pack { { 1, 2, 3 }, { 4, 5, 6 } })
    assert.equal(string.pack("<i8i8", -1, 1 << 40), pg.pack({ -1, 1 << 40 }, "i64"))
    assert.equal("\1\2\3", pg.unpack("\1\2\3", "u8"):pack())
    assert.error_matches(function() pg.unpack("abc", "f32") end, "3 bytes given, allowed")
    assert.error_matches(function() pg.unpack(packed, "f32", 4) end, "24 bytes given")
    assert.error_matches(function() pg.unpack("", "f32") end, "0 bytes given")
  end)

  it("compares by shape, dtype and bytes", function()
    assert.is_true(m:equals(m:gather { 0, 1, 2, 3 }))
    assert.is_false(m:equals(m:slice(0, 3)))
    assert.is_false(m:equals(m:as "f16"))
    assert.is_false(m:equals(m:gather { 0, 1, 2, 2 }))
  end)

  it("prints itself and tells of itself", function()
    assert.equal("Matrix 4 x 3 f32 on cpu", tostring(m))
    local info = { rows = 4, cols = 3, dtype = "f32", place = "cpu", bytes = 48, pinned = false }
    assert.same(info, m:info())
    assert.error_matches(function() return m[1] end, "use m:row%(r%)")
    assert.is_nil(m.nothing)
    assert.is_false(getmetatable(m))
  end)
end)

describe("pg.load", function()
  after_each(support.clean)

  local VALUES <const> = {
    f8 = function(i) return i * 0.5 - 4 end, f4 = function(i) return i * 0.5 - 4 end,
    f2 = function(i) return i * 0.5 - 4 end, i1 = function(i) return i - 17 end,
    u1 = function(i) return i + 200 end, i4 = function(i) return (i - 17) * 100000 end,
    i8 = function(i) return (i - 17) * (1 << 32) end,
  }
  local DTYPES <const> = { f8 = "f32", f4 = "f32", f2 = "f16", i1 = "i8", u1 = "u8", i4 = "i32",
    i8 = "i64" }
  local FILES <const> = { "f8.npy", "f4.npy", "f2.npy", "f4.fvecs", "f4.fbin", "f2.f16bin",
    "i1.npy", "i1.i8bin", "u1.npy", "u1.bvecs", "u1.u8bin", "i4.npy", "i4.ivecs", "i4.ibin",
    "i8.npy", "f4_version2.npy" }

  for _, name in ipairs(FILES) do
    for _, map in ipairs { false, true } do
      it(("reads %s%s"):format(name, map and ", mapped" or ""), function()
        local kind = name:sub(1, 2)
        local m = assert(pg.load(support.data("formats/" .. name), { map = map }))
        assert.same({ 5, 7, DTYPES[kind] }, { m.rows, m.cols, m.dtype })
        for r, row in m:each() do
          for c = 1, 7 do
            assert.equal(VALUES[kind](7 * r + c - 1), row[c])
          end
        end
        local part = assert(pg.load(support.data("formats/" .. name),
          { rows = { 1, 3 }, map = map }))
        assert.is_true(part:equals(m:slice(1, 3)))
        assert.is_true(assert(pg.load(support.data("formats/" .. name), { rows = { 2 } }))
          :equals(m:slice(2)))
      end)
    end
  end

  it("refuses rows that are not there", function()
    local path = support.data "formats/f4.npy"
    assert.error_matches(function() pg.load(path, { rows = { 2, 6 } }) end, "6")
    assert.error_matches(function() pg.load(path, { rows = { 3, 2 } }) end, "3")
    assert.error_matches(function() pg.load(path, { rows = { -1, 2 } }) end, "element 1 is %-1")
    assert.error_matches(function() pg.load(path, { rows = 3 }) end, "{ first, stop }")
  end)

  it("writes what it reads, in every format that takes the dtype", function()
    local ENDINGS <const> = { f32 = { "npy", "fvecs", "fbin" }, f16 = { "npy", "f16bin" },
      i8 = { "npy", "i8bin" }, u8 = { "npy", "bvecs", "u8bin" }, i32 = { "npy", "ivecs", "ibin" },
      i64 = { "npy" } }
    for dtype, endings in pairs(ENDINGS) do
      local m = pg.matrix({ { 1, 2, 3 }, { 40, 50, 60 } }, dtype)
      for _, ending in ipairs(endings) do
        local path = support.path("." .. ending)
        assert.is_true(m:save(path))
        assert.is_true(assert(pg.load(path)):equals(m))
      end
    end
  end)

  it("refuses to write a dtype that the format does not take", function()
    local ok, message = pcall(pg.matrix(1, 1, "i64").save, pg.matrix(1, 1, "i64"),
      support.path ".fvecs")
    assert.is_true(not ok or message == nil)
  end)
end)
