-- Quantizers: codes and what they stand for, distortion, files, awkward data.

local pg = require "perigee"
local support = require "spec.support"

local place = support.place
local sift, packages = support.small "sift".rows, support.small "packages".rows

-- Each kind with short codes, quick to train.
local KINDS <const> = {
  { "pq", { pq_dim = 16, pq_bits = 4 } }, { "pq", { pq_dim = 9, pq_bits = 5 } },
  { "opq", { pq_dim = 8, pq_bits = 4, opq_n_iters = 4 } },
  { "sq", { bits = 8 } }, { "sq", { bits = 4 } }, { "sq", { bits = 16 } },
  { "binary", { threshold = "zero" } }, { "binary", {} }, { "binary", { threshold = "median" } },
  { "rabitq", { bits = 1 } }, { "rabitq", { bits = 3 } }, { "rabitq", { bits = 8 } },
}

local function title(case)
  return case[1] .. " " .. pg.show(case[2])
end

-- Rows at the default place; what the place does not do skips the test by name.
local function train(case, rows, more)
  local options = {}
  for _, from in ipairs { case[2], more or {} } do
    for key, value in pairs(from) do
      options[key] = value
    end
  end
  local q, message, code = pg[case[1]].train(assert(rows:to(place)), options)
  if not q and code == "unsupported" then
    pending(("%s on %s: %s"):format(case[1], place, message))
  end
  return assert(q, message)
end

-- The mean squared distance between rows of two matrices, in Lua.
local function error_between(a, b)
  local sum = 0
  for r, x in a:as("f32"):each() do
    local y = b:row(r)
    for j = 1, #x do
      sum = sum + (x[j] - y[j]) ^ 2
    end
  end
  return sum / #a
end

for _, case in ipairs(KINDS) do
  describe(title(case), function()
    after_each(support.clean)

    it("codes rows and says what the codes stand for", function()
      local q = train(case, packages)
      local some = packages:slice(0, 300)
      local codes = assert(q:encode(some))
      assert.same({ 300, q.row_bytes, "u8" }, { codes.rows, codes.cols, codes.dtype })
      local decoded = assert(q:decode(codes))
      assert.same({ 300, 96, "f32" }, { decoded.rows, decoded.cols, decoded.dtype })
      local wanted, found = error_between(some, decoded), assert(q:distortion(some))
      assert.near(wanted, found, 1e-9 * wanted + 1e-15)
      assert.is_true(found < 0.7) -- rows of length 1
    end)

    it("gives the same bits for any number of threads and any batch", function()
      local one, three = train(case, sift, { threads = 1 }), train(case, sift, { threads = 3 })
      local codes = assert(one:encode(sift, { threads = 1 }))
      assert.is_true(codes:equals(assert(three:encode(sift, { threads = 3 }))))
      for _, span in ipairs { { 0, 1 }, { 5, 134 }, { 3999, 4000 } } do
        local part = assert(one:encode(sift:slice(span[1], span[2])))
        assert.is_true(part:equals(codes:slice(span[1], span[2])))
      end
      assert.equal(one:distortion(sift), three:distortion(sift, { threads = 2 }))
    end)

    it("takes rows of every dtype", function()
      local q = train(case, sift)
      local codes = assert(q:encode(sift))
      for _, dtype in ipairs { "f32", "f16" } do
        assert.is_true(codes:equals(assert(q:encode(sift:as(dtype)))))
      end
      assert.equal(4000, assert(train(case, sift:as "i8"):encode(sift:as "i8")).rows)
    end)

    it("comes back from a file with the same codes", function()
      local q, path = train(case, sift), support.path ".perigee"
      assert.is_true(q:save(path))
      local back = assert(pg[case[1]].open(path))
      assert.same(q:info(), back:info())
      local codes = assert(q:encode(sift))
      assert.is_true(codes:equals(assert(back:encode(sift))))
      assert.is_true(assert(q:decode(codes)):equals(assert(back:decode(codes))))
    end)

    it("refuses files that are cut or changed", function()
      local path = support.path ".perigee"
      assert(train(case, sift):save(path))
      local bytes = support.read(path)
      for i = 0, 24 do
        local at = i * #bytes // 25
        support.write(path, bytes:sub(1, at))
        local cut, message, code = pg[case[1]].open(path)
        assert.is_nil(cut)
        assert.is_string(message)
        assert.equal(at == 0 and "io" or "corrupt", code)
        local flipped = string.char(bytes:byte(at + 1) ~ 0x10)
        support.write(path, bytes:sub(1, at) .. flipped .. bytes:sub(at + 2))
        assert.is_nil((pg[case[1]].open(path)))
      end
    end)

    it("takes awkward rows", function()
      local tables = {
        { { 1.5 } }, -- one row of one column
        { { 1, 2, 3 }, { 1, 2, 3 }, { 1, 2, 3 } }, -- all equal
        { { 0, 5, -1, 0, 7 }, { 0, 5, 1, 0, 7 }, { 0, 5, 0, 0, 9 } }, -- constant columns
        { { 0, 0 }, { 0, 0 } }, -- zeros
        { { 1e30, -1e30, 1 }, { -1e30, 1e30, 1 } },
      }
      for _, rows in ipairs(tables) do
        local m = assert(pg.matrix(rows))
        local options = { table.unpack(case) }
        options[2] = {}
        for key, value in pairs(case[2]) do
          options[2][key] = value
        end
        options[2].pq_dim = options[2].pq_dim and 0
        local q = train(options, m)
        local codes = assert(q:encode(m))
        assert.equal(#m, codes.rows)
        local decoded = assert(q:decode(codes))
        assert.is_true(codes:equals(assert(q:encode(m, { threads = 1 }))))
        if math.abs(rows[1][1]) < 100 and case[1] ~= "rabitq" and case[1] ~= "binary" then
          assert.near(0, error_between(m, decoded), 1e-2)
        end
      end
    end)

    it("gives all of its memory back", function()
      local before
      for _ = 1, 3 do -- the first one fills the pool of lanes
        local q = train(case, sift)
        assert(q:distortion(sift:slice(0, 100)))
        q:close()
        assert.is_true(not before or support.blocks() <= before)
        before = support.blocks()
      end
    end)
  end)
end

describe("product quantization", function()
  -- The distortion that faiss 1.7.3 (ProductQuantizer, train and compute_codes on the same rows,
  -- defaults: 25 iterations) reaches on the files of spec/data, by pq_dim and pq_bits.
  local peer = {
    { sift, 16, 4, 33008.94 }, { sift, 16, 8, 9741.794 }, { sift, 32, 4, 17841.70 },
    { sift, 8, 6, 35780.01 }, { sift, 64, 8, 617.1702 },
    { packages, 16, 4, 0.3579526 }, { packages, 16, 8, 0.1114515 }, { packages, 32, 4, 0.1826886 },
    { packages, 8, 6, 0.3322649 },
  }
  for _, row in ipairs(peer) do
    local rows, dim, bits, wanted = table.unpack(row)
    it(("of %d columns, %d x %d bits, is within 1 %% of the peer"):format(rows.cols, dim, bits),
      function()
        local found = assert(train({ "pq", { pq_dim = dim, pq_bits = bits } }, rows)
          :distortion(rows))
        assert.is_true(found < 1.01 * wanted, ("%g, the peer has %g"):format(found, wanted))
      end)
  end

  it("is better behind a learned rotation", function()
    for _, rows in ipairs { sift, packages } do
      local options = { pq_dim = 8, pq_bits = 4 }
      local plain = assert(train({ "pq", options }, rows):distortion(rows))
      local learned = assert(train({ "opq", options }, rows):distortion(rows))
      assert.is_true(learned < 0.95 * plain, ("%g, without %g"):format(learned, plain))
    end
  end)

  it("pads where pq_dim does not divide dim, and says so", function()
    local info = train({ "pq", { pq_dim = 9, pq_bits = 4 } }, packages):info()
    assert.same({ 9, 11, 99, 3, true, 5 }, { info.params.pq_dim, info.pq_len, info.rotated_dim,
      info.padding, info.rotation, info.row_bytes })
    local even = train({ "pq", { pq_dim = 12, pq_bits = 4 } }, packages):info()
    assert.same({ 96, 0, false }, { even.rotated_dim, even.padding, even.rotation })
    assert.is_true(train({ "pq", { force_random_rotation = true, pq_bits = 4 } }, packages)
      :info().rotation)
  end)

  it("takes the pq_dim of the rule", function()
    local function rule(dim)
      local rows = support.clustered(20, dim, 4, 1)
      return train({ "pq", { pq_bits = 4 } }, rows):info().params.pq_dim
    end
    assert.same({ 1, 2, 4, 16, 32, 64, 96, 64, 96 },
      { rule(1), rule(3), rule(7), rule(31), rule(33), rule(65), rule(96), rule(128), rule(200) })
  end)

  it("packs codes of 4 bits, even pieces low", function()
    local rows = assert(pg.matrix { { 0, 0, 0 }, { 9, 0, 0 }, { 0, 9, 0 }, { 0, 0, 9 } })
    local q = train({ "pq", { pq_dim = 3, pq_bits = 4 } }, rows)
    local codes = assert(q:encode(rows))
    assert.equal(2, q.row_bytes)
    local zero = codes:row(0)
    for r, changed in ipairs { 1, 1, 2 } do -- row 1 and 2 change byte 1, row 3 byte 2
      local row = codes:row(r)
      assert.not_equal(zero[changed], row[changed])
      assert.equal(zero[3 - changed], row[3 - changed])
    end
    assert.equal(zero[1] & 0xF0, codes:row(1)[1] & 0xF0)
    assert.equal(zero[1] & 0x0F, codes:row(2)[1] & 0x0F)
    assert.equal(0, zero[2] & 0xF0)
  end)
end)

describe("scalar quantization", function()
  it("is exact to half a step", function()
    local q = train({ "sq", { bits = 8 } }, sift)
    assert.is_true(assert(q:distortion(sift)) <= 128 * 0.26)
    assert.equal(0, assert(train({ "sq", { bits = 16 } }, sift):distortion(sift)))
  end)

  it("clamps what lies outside of its levels", function()
    local q = train({ "sq", {} }, assert(pg.matrix { { 0, 10 }, { 1, 20 } }))
    local decoded = assert(q:decode(assert(q:encode { { -5, 100 }, { 0.5, 15 } })))
    assert.same({ 0, 20 }, decoded:row(0))
    assert.near(0.5, decoded:row(1)[1], 0.003)
    assert.near(15, decoded:row(1)[2], 0.03)
  end)
end)

describe("binary quantization", function()
  it("has the bit of each column that is above its threshold", function()
    local rows = assert(pg.matrix { { 1, -1, 4 }, { 3, -3, 4 }, { 8, 1, 4 } })
    local q = train({ "binary", { threshold = "median" } }, rows)
    local codes = assert(q:encode(rows))
    assert.same({ { 0 }, { 0 }, { 3 } }, { codes:row(0), codes:row(1), codes:row(2) })
    assert.same({ 2, -2, 4 }, assert(q:decode(codes)):row(0))
    assert.same({ 8, 1, 4 }, assert(q:decode(codes)):row(2))
    local zero = train({ "binary", { threshold = "zero" } }, rows)
    assert.same({ 1 + 4 }, assert(zero:encode(rows)):row(0))
  end)
end)

describe("RaBitQ", function()
  it("has a quarter of the error for each bit more", function()
    local last
    for bits = 1, 8 do
      local found = assert(train({ "rabitq", { bits = bits } }, packages):distortion(packages))
      if last then
        assert.is_true(found < 0.36 * last, ("%d bits: %g after %g"):format(bits, found, last))
      end
      last = found
    end
  end)

  it("has 8 bytes a row beside its codes, of whole blocks of 32 dimensions", function()
    local info = train({ "rabitq", { bits = 3 } }, assert(pg.matrix { { 1, 2, 3 } })):info()
    assert.same({ 32, 12 + 8 }, { info.padded_dim, info.row_bytes })
  end)
end)

describe("a quantizer", function()
  local q = assert(pg.sq.train(packages))
  after_each(support.clean)

  it("describes itself", function()
    local info = q:info()
    assert.same({ "sq", 96, 96, 768 }, { info.kind, info.dim, info.row_bytes, info.bytes })
    assert.same({ bits = 8, quantile = 1, max_train_rows = 65536, seed = 137 }, info.params)
    assert.same({ "sq", 96, 96 }, { q.kind, q.dim, q.row_bytes })
    assert.equal("Quantizer sq, rows of 96 in 96 bytes", tostring(q))
    assert.equal(8, (pg.sq.defaults()).bits)
    assert.truthy(pg.help(pg.pq.train):find("pq_dim", 1, true))
    assert.truthy(pg.help(q):find("q:encode", 1, true))
  end)

  it("refuses what it can't take", function()
    assert.error_matches(function() return pg.pq.train(packages, { pq_bits = 9 }) end,
      "option 'pq_bits': 9 given, allowed: whole 4..8")
    assert.error_matches(function() return pg.pq.train(packages, { pq_dims = 9 }) end,
      "did you mean 'pq_dim'")
    assert.error_matches(function() return pg.pq.train(packages, { pq_dim = 97 }) end,
      "option 'pq_dim': 97 given, allowed: up to dim = 96")
    assert.error_matches(function() return pg.sq.train(packages, { bits = 5 }) end,
      "option 'bits': 5 given, allowed: 4, 8, 16")
    assert.error_matches(function() return q:encode(sift) end,
      "rows: dim 128 given, the quantizer has 96")
    assert.error_matches(function() return q:decode(sift) end,
      "codes: 4000 x 128 u8 given, allowed: u8 of 96 columns")
    assert.error_matches(function() return pg.sq.train(assert(pg.matrix(0, 4))) end,
      "rows: 0 given")
    assert.error_matches(function() return pg.sq.train(assert(pg.matrix(3, 4, "i64"))) end,
      "dtype i64 given")
    assert.equal(0, assert(q:encode(packages:slice(0, 0))).rows)
  end)

  it("names NaN and Inf by row and column", function()
    local nan, inf = 0 / 0, math.huge
    local sample, message, code = pg.pq.train { { 1, 2 }, { 3, nan } }
    assert.same({ nil, "rows: row 1, column 1 is NaN", "invalid" }, { sample, message, code })
    local small = assert(pg.sq.train { { 1, 2 }, { 3, 4 } })
    local _, text, kind = small:encode { { 1, 2 }, { inf, 4 } }
    assert.same({ "rows: row 1, column 0 is Inf", "invalid" }, { text, kind })
  end)

  it("is closed once", function()
    local other <close> = assert(pg.sq.train(packages))
    other:close()
    other:close()
    assert.error_matches(function() return other:encode(packages) end, "this quantizer is closed")
    assert.equal("Quantizer (closed)", tostring(other))
  end)

  it("is opened as its kind only, and not as an index", function()
    local path = support.path ".perigee"
    assert(q:save(path))
    local none, message, code = pg.pq.open(path)
    assert.is_nil(none)
    assert.truthy(message:find("quantizer of kind 'sq', not 'pq'", 1, true))
    assert.equal("unsupported", code)
    none, message = pg.open(path)
    assert.is_nil(none)
    assert.truthy(message:find("holds a quantizer", 1, true))
    assert(assert(pg.flat.build(packages)):save(path))
    none, message = pg.sq.open(path)
    assert.is_nil(none)
    assert.truthy(message:find("holds an index of kind 'flat'", 1, true))
    assert.equal("io", select(3, pg.sq.open(support.path ".none")))
  end)

  it("can be cancelled while it trains", function()
    local stages = {}
    local none, _, code = pg.pq.train(packages, { progress = function(stage)
      stages[#stages + 1] = stage
      return false
    end })
    assert.same({ nil, "cancelled" }, { none, code })
    assert.is_true(#stages > 0)
  end)
end)

describe("pg.doctor", function()
  it("says which LAPACK there is, or what is missing", function()
    local report = pg.doctor()
    local found = report.libraries[1]
    for _, part in ipairs(report.missing) do
      found = part.what == "lapack" and part or found
    end
    assert.equal("lapack", found.name or found.what)
    assert.truthy(tostring(report):find("lapack", 1, true))
  end)
end)
