-- Lifetime: handles outlive what they came from, close once, survive the collector at any moment,
-- and nothing native is left once all is garbage.

local pg = require "perigee"
local support = require "spec.support"

local function some(rows)
  local m = assert(pg.matrix(rows or 64, 4))
  return assert(pg.unpack(("\0\0\128\63"):rep(#m * 4), "f32", 4))
end

-- Runs fn with a collector that never rests.
local function under_pressure(fn)
  local pause, step = collectgarbage("setpause", 0), collectgarbage("setstepmul", 10000)
  local ok, message = pcall(fn)
  collectgarbage("setpause", pause)
  collectgarbage("setstepmul", step)
  assert(ok, message)
end

describe("a handle", function()
  after_each(support.clean)

  it("may be collected while what came from it lives", function()
    local m = support.clustered(300, 6, 4, 1)
    local slice = m:slice(100, 200)
    local index = assert(pg.cagra.build(m, { graph_degree = 8, intermediate_graph_degree = 16 }))
    local hnsw = assert(index:to_hnsw())
    local filtered = assert(index:filtered(pg.filter.range(0, 150)))
    local hits = assert(filtered:search(slice, 3))
    local wanted = hits.neighbors:pack()
    local neighbors = hits.neighbors
    m, index, hits = nil, nil, nil
    collectgarbage()
    collectgarbage()
    assert.equal(100, #slice)
    assert.equal(wanted, neighbors:pack())
    assert.equal(wanted, assert(filtered:search(slice, 3)).neighbors:pack())
    assert.equal(300, #assert(hnsw:dataset()))
    assert.is_nil(m or index or hits)
  end)

  it("may be closed while what came from it lives", function()
    local m = support.clustered(200, 6, 4, 2)
    local query = m:row(5)
    local index = assert(pg.flat.build(m))
    local hits = assert(index:search(query, 3))
    local neighbors, f = hits.neighbors, pg.filter.range(0, 100)
    local inner = assert(index:filtered(f))
    m:close()
    f:close()
    hits:close()
    assert.equal(5, neighbors:row(0)[1])
    assert.equal(5, assert(index:search(query, 3)).neighbors:row(0)[1])
    index:close()
    assert.equal(5, assert(inner:search(query, 3)).neighbors:row(0)[1])
  end)

  it("is closed at the end of its block by <close>, also by an error", function()
    local kept = {}
    pcall(function()
      local m <close> = some()
      local index <close> = assert(pg.flat.build(m))
      local hits <close> = assert(index:search({ 1, 1, 1, 1 }, 2))
      local f <close> = pg.filter.range(0, 1)
      kept = { m, index, hits, f }
      error "out"
    end)
    for _, handle in ipairs(kept) do
      assert.matches("closed", tostring(handle))
    end
    assert.equal(4, #kept)
  end)

  it("gives its memory back when it is closed", function()
    local before = support.blocks()
    local m = some()
    local index = assert(pg.flat.build(m))
    local hits = assert(index:search(m, 3))
    assert.is_true(pg.stats().blocks > before)
    hits:close()
    index:close()
    m:close()
    collectgarbage()
    assert.is_true(pg.stats().blocks <= before + 8) -- a lane and its arena stay with the context
  end)

  it("leaves nothing behind when a constructor fails", function()
    local bad = pg.matrix { { 1, 2 }, { 3, 0 / 0 } }
    local function fail_all()
      assert.is_nil((pg.flat.build(bad)))
      assert.is_nil((pg.cagra.build(bad)))
      assert.is_nil((pg.load "no/such.npy"))
      assert.is_nil((pg.open "no/such.perigee"))
      assert.is_nil((bad:normalize()))
      assert.is_false(pcall(pg.flat.build, bad, { metric = "far" }))
      assert.is_false(pcall(pg.flat.build, bad, { ids = { 1 } }))
      assert.is_false(pcall(pg.matrix, { { 1, 2 }, { 3 } }))
      assert.is_false(pcall(bad.gather, bad, { 0, 9 }))
    end
    fail_all()
    local before = support.blocks()
    for _ = 1, 50 do
      fail_all()
    end
    assert.equal(before, support.blocks())
  end)
end)

describe("the collector", function()
  it("may run at any moment", function()
    under_pressure(function()
      local m = support.clustered(120, 4, 3, 3)
      for round = 1, 20 do
        local index = assert(pg.cagra.build(m:slice(0, 60 + round), { graph_degree = 4,
          intermediate_graph_degree = 8 }))
        local f = pg.filter.ids { 1, 2, 3, round } | ~pg.filter.range(5, 50)
        local hits = assert(index:search(m:row(round), 5, { filter = f, itopk_size = 32 }))
        for id in hits:each() do
          assert.is_true(f:test(id))
        end
        assert.is_true(#index:explain() > 0)
        assert.equal(60 + round, index:info().rows)
        local two = m:gather({ 1, 2 }):as "f16"
        assert.is_true(two:to("fake:0"):equals(m:gather({ 1, 2 }):as "f16"))
      end
    end)
  end)

  it("learns of native bytes, so that garbage does not pile up", function()
    support.blocks()
    local limit, peak = 64 << 20, 0
    for _ = 1, 400 do
      local m = pg.matrix(1024, 256) -- 1 MiB; nobody closes it
      peak = math.max(peak, pg.stats().bytes)
      assert.equal(1024, #m)
    end
    assert.is_true(peak < limit, ("%d MiB held at most"):format(peak >> 20))
  end)

  it("stays stopped when the script stopped it", function()
    collectgarbage "stop"
    local before = pg.stats().blocks
    for _ = 1, 20 do
      pg.matrix(1024, 64)
    end
    local grown = pg.stats().blocks - before
    collectgarbage "restart"
    assert.is_true(grown >= 20)
  end)
end)

describe("a coroutine", function()
  it("may make, use and drop handles, and die", function()
    local m = support.clustered(100, 4, 3, 4)
    local index
    local function work()
      index = assert(pg.flat.build(m))
      for r, row in m:each() do
        local hits = assert(index:search(row, 1))
        coroutine.yield(r, hits.neighbors:row(0)[1])
      end
    end
    local co = coroutine.create(work)
    for r = 0, 9 do
      local ok, row, id = coroutine.resume(co)
      assert.is_true(ok)
      assert.same({ r, r }, { row, id })
    end
    co = nil
    collectgarbage()
    assert.is_nil(co)
    assert.equal(7, assert(index:search(m:row(7), 1)).neighbors:row(0)[1])
  end)

  it("that requires the module first may die", function()
    local out, status = support.child [[
      local pg
      coroutine.wrap(function() pg = require "perigee" end)()
      collectgarbage()
      local index = assert(pg.flat.build(pg.matrix { { 1, 2 }, { 3, 4 } }))
      print(assert(index:search({ 3, 4 }, 1)).neighbors:row(0)[1])
    ]]
    assert.same({ "1\n", 0 }, { out, status })
  end)
end)

describe("a progress function", function()
  -- with one thread: long enough to be told of on any machine
  local large = support.clustered(5000, 16, 20, 5)

  it("may close every handle that the call uses", function()
    local rows = assert(pg.unpack(large:pack(), "f32", 16))
    local called = 0
    local index = assert(pg.cagra.build(rows, { build_algo = "nn_descent", threads = 1,
      progress = function()
        called = called + 1
        rows:close()
        collectgarbage()
      end }))
    assert.is_true(called > 0)
    local wanted = assert(index:search(large:slice(0, 50), 5)).neighbors:pack()
    local f = pg.filter.range(0, 5000)
    local queries = assert(pg.unpack(large:slice(0, 50):pack(), "f32", 16))
    local out = assert(index:search(queries, 5))
    local hits = index:search(queries, 5, { filter = { f }, out = out, progress = function()
      f:close()
      queries:close()
      index:close()
      out:close()
      collectgarbage()
    end })
    assert.truthy(hits)
    assert.is_string(wanted)
  end)

  it("that errs ends the call, and its error is raised", function()
    local reason = setmetatable({}, { __tostring = function() return "reason" end })
    local ok, got = pcall(pg.cagra.build, large, { build_algo = "nn_descent", threads = 1,
      progress = function() error(reason) end })
    assert.is_false(ok)
    assert.equal(reason, got)
    assert(pg.flat.build(large))
  end)

  it("that gives false cancels the call", function()
    local calls = 0
    local index, message, code = pg.cagra.build(large, { build_algo = "nn_descent", threads = 1,
      progress = function()
        calls = calls + 1
        return false
      end })
    assert.is_nil(index)
    assert.same({ "cancelled", "cancelled", 1 }, { message, code, calls })
  end)

  it("cannot yield out of the call, and says so", function()
    local co = coroutine.create(function()
      return pg.cagra.build(large, { build_algo = "nn_descent", threads = 1,
        progress = coroutine.yield })
    end)
    local ok, message = coroutine.resume(co)
    assert.is_false(ok)
    assert.matches("yield", message)
  end)
end)

describe("Ctrl-C", function()
  -- The script tells when it is about to build, is interrupted, and goes on.
  local script = [[
    local pg = require "perigee"
    local list = {}
    math.randomseed(1)
    for r = 1, 20000 do
      list[r] = {}
      for c = 1, 48 do list[r][c] = math.random() end
    end
    local rows = assert(pg.matrix(list))
    local pid = io.open("/proc/self/stat"):read("n")
    os.execute(("(sleep 0.3; kill -INT %%d) >/dev/null 2>&1 &"):format(pid))
    local ok, message = pcall(function()
      %s
    end)
    local index = assert(pg.flat.build(rows))
    print(ok, (tostring(message):gsub("^.*: ", "")), #assert(index:search(rows:slice(0, 2), 3)))
  ]]
  local BUILD <const> = [[return pg.cagra.build(rows, { build_algo = "nn_descent",
    nn_descent_niter = 1000, termination_threshold = 0 })]]

  it("stops a build, and all stays usable", function()
    local out, status = support.child(script:format(BUILD))
    assert.same({ "false\tinterrupted!\t2\n", 0 }, { out, status })
  end)

  it("stops a build in a coroutine", function()
    local out, status = support.child(script:format(
      "return assert(coroutine.wrap(function() " .. BUILD .. " end)())"))
    assert.equal(0, status)
    assert.matches("^false\tinterrupted!?\t2\n$", out)
  end)
end)
