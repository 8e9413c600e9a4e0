-- Where things lie: matrices on devices and in page-locked memory, tensors of others, answers that
-- stay at a place, limits of memory.

local pg = require "perigee"
local support = require "spec.support"

-- A place of its own memory: the default one of this run, or a pretended device.
local place = support.place:find "^cuda" and support.place or "fake:0"
local pinned = place == "cuda:0" and "pinned" or "pinned:" .. place

local function held()
  for _, device in ipairs(pg.devices()) do
    if device.place == place then
      local bytes = 0
      for _, count in pairs(device.bytes_held) do
        bytes = bytes + count
      end
      return bytes, device
    end
  end
end

-- What others left is collected, and what idle searches keep given back.
local function rest()
  collectgarbage()
  collectgarbage()
  assert(pg.trim(place))
end

describe("pg.limit", function()
  after_each(function() assert(pg.limit(place, 0)) end)

  it("is kept to, and what was refused leaves nothing behind", function()
    rest()
    local before = held()
    assert(pg.limit(place, before + 100000))
    local m <close> = assert(pg.matrix(100, 100, "u8"):to(place))
    local none, message, code = pg.matrix(1000, 100, "u8"):to(place)
    assert.is_nil(none)
    assert.equal("memory", code)
    assert.matches("100000 bytes needed, 90000 bytes free", message)
    assert.equal(before + 10000, (held()))
    assert.equal(10000, m:info().bytes)
  end)

  it("makes batches smaller, not answers other", function()
    local rows = support.clustered(2000, 16, 5, 1)
    local queries = rows:slice(0, 500)
    local wanted = assert(assert(pg.flat.build(rows)):search(queries, 10))
    local index <close> = assert(pg.flat.build(rows, { place = place }))
    rest()
    assert(pg.limit(place, held() + 60000)) -- queries and answers are 92000 bytes
    local hits = assert(index:search(queries, 10))
    assert.is_true(hits.neighbors:equals(wanted.neighbors))
    assert.is_true(hits.distances:equals(wanted.distances))
  end)

  it("is for memory that is the device's own", function()
    local none, _, code = pg.limit("cpu", 1000)
    assert.is_nil(none)
    assert.equal("unsupported", code)
    assert.error_matches(function() pg.limit("moon", 1) end, "moon")
    assert.error_matches(function() pg.limit(place, -1) end, "bytes: %-1 given")
    none, _, code = pg.limit(place:gsub("%d+$", "77"), 1)
    assert.is_nil(none)
    assert.equal("device", code)
  end)
end)

describe("pinned memory", function()
  it("is the host's, filled and read as any other", function()
    local m = assert(pg.matrix(3, 2, "f32", pinned))
    assert.equal("cpu", m.place)
    assert.is_true(m:info().pinned)
    assert.same({ 0, 0 }, m:row(2))
    local rows = pg.matrix { { 1, 2 }, { 3, 4 } }
    assert.is_false(rows:info().pinned)
    local kept = assert(rows:to(pinned))
    assert.is_true(kept:info().pinned)
    assert.is_true(kept:equals(rows))
    assert.is_true(kept:slice(1):info().pinned)
    local there = assert(kept:to(place))
    assert.equal(place, there.place)
    assert.is_true(assert(there:to(pinned)):equals(rows))
  end)

  it("names the device that it is for", function()
    assert.error_matches(function() pg.matrix(1, 1, "f32", "pinned:moon") end, "moon")
    assert.is_false(pg.matrix(1, 1, "f32", "pinned:cpu"):info().pinned)
  end)
end)

describe("pg.from_dlpack", function()
  local rows = pg.matrix({ { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, 9 } }, "f32")

  it("takes what to_dlpack gives, with no copy and past the end of the matrix", function()
    for _, at in ipairs { "cpu", place } do
      for _, versioned in ipairs { false, true } do
        local options = { versioned = versioned }
        local m = assert(rows:slice(1):to(at))
        local tensor = m:to_dlpack(options)
        assert.equal("userdata", type(tensor))
        m:close()
        collectgarbage()
        local back <close> = assert(pg.from_dlpack(tensor, options))
        assert.equal(at, back.place)
        assert.same({ 7, 8, 9 }, back:row(1))
        assert.equal(2, back.rows)
      end
    end
  end)

  it("waits for a stream when it is told one", function()
    local tensor = rows:to(place):to_dlpack()
    local m <close> = assert(pg.from_dlpack(tensor, { stream = 0 }))
    assert.is_true(m:to("cpu", { stream = 0 }):equals(rows))
  end)

  it("leaves what it refuses to its owner", function()
    local tensor = rows:to_dlpack()
    local none, _, code = pg.from_dlpack(tensor, { stream = 0 }) -- the host has no streams
    assert.is_nil(none)
    assert.equal("unsupported", code)
    local m = assert(pg.from_dlpack(tensor))
    assert.error_matches(function() pg.from_dlpack(tensor) end, "a matrix holds already")
    assert.is_true(m:equals(rows))
    m:close()
  end)

  it("refuses what is no address", function()
    for _, value in ipairs { "x", 0, 1.5, {}, io.stdout } do
      assert.error_matches(function() pg.from_dlpack(value) end, "DLManagedTensor")
    end
    assert.error_matches(function() pg.from_dlpack(1, { version = 1 }) end, "versioned")
    assert.error_matches(function() rows:to(place, { stream = "s" }) end, "address of a stream")
  end)
end)

describe("Searcher:search", function()
  local rows = support.clustered(500, 8, 5, 2)
  local queries = rows:slice(0, 20)
  local wanted = assert(assert(pg.flat.build(rows, { metric = "euclidean" })):search(queries, 5))
  local index = assert(pg.flat.build(rows, { metric = "euclidean", place = place }))

  local function same(hits)
    return hits.neighbors:equals(wanted.neighbors) and hits.distances:equals(wanted.distances)
  end

  it("takes queries on either side and leaves the answer on either side", function()
    local there = assert(queries:to(place))
    for _, q in ipairs { queries, there } do
      for _, at in ipairs { "cpu", place } do
        for _, stream in ipairs { false, 0 } do
          local hits = assert(index:search(q, 5, { place = at, stream = stream or nil }))
          assert.equal(at, hits.neighbors.place)
          assert.equal(at, hits.distances.place)
          assert(queries:to(place, { stream = 0 }))
          assert.is_true(same(hits))
        end
      end
    end
  end)

  it("fills the matrices that it is given", function()
    for _, at in ipairs { "cpu", place } do
      local neighbors = pg.matrix(20, 5, "i64", at)
      local out = { neighbors = neighbors, distances = pg.matrix(20, 5, "f32", at) }
      local hits = assert(index:search(queries, 5, { out = out }))
      assert.equal(neighbors, hits.neighbors)
      assert.is_true(same { neighbors = neighbors, distances = out.distances })
      assert(index:search(queries:slice(10, 20), 5, { out = {
        neighbors = neighbors:slice(0, 10), distances = out.distances:slice(0, 10),
      } }))
      assert.same(wanted.neighbors:row(10), neighbors:row(0))
      assert.same(wanted.neighbors:row(12), neighbors:row(12))
    end
  end)

  it("refills hits where they are", function()
    local hits = assert(index:search(queries, 5, { place = place }))
    local distances = hits.distances
    assert(index:search(rows:slice(20, 40), 5, { out = hits }))
    assert(index:search(queries, 5, { out = hits }))
    assert.equal(distances, hits.distances)
    assert.equal(place, distances.place)
    assert.is_true(same(hits))
  end)

  it("finishes behind a stream though what it works on is closed", function()
    local function enqueue(count)
      local there = assert(queries:to(place))
      local filter = pg.filter.range(0, 500)
      local own = assert(pg.flat.build(rows, { metric = "euclidean", place = place }))
      local list = {}
      for i = 1, count do
        list[i] = assert(own:search(there, 5, { place = place, stream = 0,
          filter = i % 2 == 0 and filter or nil }))
      end
      local gone = table.remove(list)
      gone.neighbors:close()
      gone.distances:close()
      there:close()
      own:close()
      return list
    end
    for _ = 1, 3 do
      local list = enqueue(13)
      collectgarbage()
      collectgarbage()
      assert(queries:to(place, { stream = 0 }))
      for i, hits in ipairs(list) do
        assert.is_true(same(hits), i)
      end
    end
  end)

  it("refuses what is closed, and more neighbors than there may be", function()
    local there = assert(queries:to(place))
    local out = { neighbors = pg.matrix(20, 5, "i64", place),
      distances = pg.matrix(20, 5, "f32", place) }
    out.distances:close()
    assert.error_matches(function() index:search(queries, 5, { out = out }) end, "closed")
    there:close()
    assert.error_matches(function() index:search(there, 5) end, "closed")
    assert.error_matches(function() index:search(queries, 16385) end, "k: 16385 given")
    assert.error_matches(function() index:search(queries, 0) end, "k: 0 given")
    local hits, message, code = index:search(queries, 16384)
    if hits then -- padded
      assert.equal(20 * (16384 - 500), hits.info.missing)
    else
      assert.equal("unsupported", code)
      assert.matches("k: 16384 given, 1..4096 are taken", message)
    end
    assert.error_matches(function() index:search(pg.matrix(3, 9), 5) end, "9")
  end)

  it("says what does not fit", function()
    local i64, f32 = pg.matrix(20, 5, "i64"), pg.matrix(20, 5, "f32")
    local function out(value)
      return function() index:search(queries, 5, { out = value }) end
    end
    assert.error_matches(out { neighbors = f32, distances = f32 }, "'neighbors' of f32")
    assert.error_matches(out { neighbors = i64 }, "field 'distances' is a nil")
    assert.error_matches(out { neighbors = i64, distances = pg.matrix(20, 4) }, "20 x 4 given")
    assert.error_matches(out { neighbors = i64, distances = f32:to(place) }, "at one place")
    assert.error_matches(function() index:search(queries, 5, { place = "ref" == place and "cpu"
      or "fake:1" }) end, "hits: on fake:1 given")
    local hits = assert(index:search(queries, 5, { place = place }))
    assert.error_matches(function() hits:each(0) end, "hits on " .. place .. " given")
    assert.is_true(same(hits:to "cpu"))
    assert.equal(wanted.neighbors:row(3)[1], hits:to("cpu"):each(3)())
    assert.matches("rank", pg.show(assert(index:search(queries:slice(0, 1), 5, { place = place }))))
    assert.error_matches(function() index:range_search(queries:to(place), 1) end, "on the host")
    local one = assert(queries:slice(0, 1):to(place))
    assert.error_matches(function() index:score(one, { 1 }) end, "on the host")
  end)

  it("leaves a stream alone where there are none", function()
    local host <close> = assert(pg.flat.build(rows))
    local none, _, code = host:search(queries, 5, { stream = 0 })
    assert.is_nil(none)
    assert.equal("unsupported", code)
  end)
end)

-- A process of its own, with so much said in its environment.
describe("a device that is not there", function()
  local SOURCE <const> = [[
    local pg = require "perigee"
    local rows = pg.matrix { { 1, 2 }, { 3, 4 } }
    local none, message, code = pg.flat.build(rows, { place = "cuda:0" })
    assert(none == nil and code == "device", code)
    assert(not message:find "\n" and message:find "no CUDA", message)
    for _, call in ipairs {
      function() return rows:to "cuda:0" end,
      function() return pg.matrix(2, 2, "f32", "pinned:cuda:0") end,
      function() return pg.matrix(2, 2, "f32", "cuda:3") end,
      function() return pg.limit("cuda:0", 10) end,
      function() return pg.trim "cuda:0" end,
      function() return pg.open("none.perigee", { place = "cuda:0" }) end,
    } do
      local ok, result, text, word = pcall(call)
      local said = ok and text or result
      assert(not ok or (result == nil and (word == "device" or word == "io")), said)
      assert(#said > 10 and not said:find "\n", said)
    end
    assert(tostring(pg.doctor()):find "cuda")
    local index = assert(pg.flat.build(rows))
    assert(assert(index:search(rows, 1)).neighbors:row(1)[1] == 1)
    print(message)
  ]]

  it("is told in one line, and the CPU goes on", function()
    local out, status = support.child(SOURCE, "export CUDA_VISIBLE_DEVICES= ; ")
    assert.equal(0, status, out)
    assert.matches("no CUDA [dp]", out)
  end)
end)
