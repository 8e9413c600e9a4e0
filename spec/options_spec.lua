-- Options: one trailing table; names, types and ranges are checked by the table that help prints.

local pg = require "perigee"
local progress = require "perigee.progress"
local support = require "spec.support"

local rows = support.clustered(200, 6, 5, 7)

describe("an option", function()
  local index = assert(pg.cagra.build(rows))

  local function refused(pattern, options)
    assert.error_matches(function() index:search(rows:row(0), 3, options) end, pattern)
  end

  it("of the wrong type is named with what is allowed", function()
    refused("option 'itopk_size': a string given, allowed: a whole number", { itopk_size = "64" })
    refused("option 'itopk_size': 2.5 given, allowed: whole 1%.%.", { itopk_size = 2.5 })
    refused("option 'itopk_size': a table given", { itopk_size = {} })
    refused("option 'threads': a string given, allowed: 0%.%.1024", { threads = "2" })
    refused("option 'progress': a number given", { progress = 1 })
    refused("option 'out': a number given", { out = 1 })
    refused("option 'out': field 'neighbors' is a nil", { out = {} })
    refused("option 'accept': a boolean given", { accept = true })
    assert.error_matches(function() pg.cagra.build(rows, { metric = 3 }) end, "metric")
    assert.error_matches(function() pg.cagra.build(rows, { guarantee_connectivity = 1 }) end,
      "guarantee_connectivity")
    assert.error_matches(function() pg.load("x.npy", { map = 1 }) end, "option 'map'")
    assert.error_matches(function() pg.load("x.npy", { format = true }) end, "option 'format'")
  end)

  it("out of its range is named with value and range", function()
    refused("option 'itopk_size': 0 given, allowed: whole 1%.%.16384", { itopk_size = 0 })
    refused("option 'threads': %-1 given, allowed: 0%.%.1024", { threads = -1 })
    assert.error_matches(function() pg.cagra.build(rows, { graph_degree = 0 }) end,
      "option 'graph_degree': 0 given, allowed: whole 1%.%.")
    assert.error_matches(function() pg.cagra.build(rows, { termination_threshold = 0 / 0 }) end,
      "termination_threshold")
    assert.error_matches(function() pg.cagra.build(rows, { build_algo = "magic" }) end,
      "option 'build_algo': 'magic' given, allowed: auto|exact|nn_descent|ivf_flat")
    assert.error_matches(function()
      pg.cagra.build(rows, { graph_degree = 64, intermediate_graph_degree = 32 })
    end, "intermediate_graph_degree")
  end)

  it("has a name", function()
    refused("options: a key that is a number", { "fast" })
    refused("options: a key that is a boolean", { [true] = 1 })
  end)

  it("is not changed by metamethods of the table, and the table is not changed", function()
    local hostile = setmetatable({ itopk_size = 32 }, {
      __index = function() error "asked" end, __pairs = function() error "walked" end,
      __len = function() error "counted" end,
    })
    assert(index:search(rows:row(0), 3, hostile))
    assert.equal(32, rawget(hostile, "itopk_size"))
    assert.is_nil(next(hostile, "itopk_size"))
  end)

  it("may be a whole number written as a float", function()
    assert(index:search(rows:row(0), 3, { itopk_size = 32.0 }))
  end)

  it("of the defaults may be given back", function()
    for _, kind in ipairs { "flat", "cagra" } do
      local defaults = pg[kind].defaults()
      local other = support.build(kind, rows, defaults)
      local a, b = assert(other:search(rows, 5)), assert(support.build(kind, rows):search(rows, 5))
      assert.is_true(a.neighbors:equals(b.neighbors))
    end
    local search, rules = pg.cagra.defaults "search"
    assert.equal(64, search.itopk_size)
    assert.is_string(rules.max_iterations)
    assert(index:search(rows:row(0), 3, search))
    assert.equal("cpu", pg.cagra.defaults("to_hnsw").hierarchy)
    assert.is_number(pg.hnsw.defaults("search").ef)
    assert.error_matches(function() pg.cagra.defaults "destroy" end, "verb: 'destroy' given")
  end)

  it("shows in info as it was resolved", function()
    local info = support.build("cagra", rows, { graph_degree = 16, intermediate_graph_degree = 32,
      seed = 5 }):info()
    assert.equal(16, info.params.graph_degree)
    assert.equal(5, info.params.seed)
    assert.not_equal("auto", info.params.build_algo)
    for degree, wanted in pairs { [5] = 10, [32] = 64, [64] = 96, [1024] = 1024 } do
      local params = support.build("cagra", rows, { graph_degree = degree }):info().params
      assert.equal(wanted, params.intermediate_graph_degree)
    end
  end)
end)

describe("pg.configure", function()
  it("sets the context before its first use", function()
    local out, status = support.child [[
      local pg = require "perigee"
      assert(pg.configure { threads = 3, memory_bytes = 32 << 20 })
      local stats = pg.stats()
      print(stats.threads, stats.bytes_limit)
      print(pg.matrix(1 << 20, 64))
      print(pg.configure { threads = 3, memory_bytes = 32 << 20 })
      print(pg.configure { threads = 5 })
    ]]
    assert.equal(0, status)
    local lines = {}
    for line in out:gmatch "[^\n]+" do
      lines[#lines + 1] = line
    end
    assert.equal("3\t33554432", lines[1])
    assert.matches("^nil\t.*\tmemory$", lines[2])
    assert.equal("true", lines[3])
    assert.matches("^nil\t.*3 threads.*\tbusy$", lines[4])
  end)

  it("names what it does not know", function()
    assert.error_matches(function() pg.configure { thread = 1 } end, "did you mean 'threads'")
    assert.error_matches(function() pg.configure { threads = 1025 } end, "allowed: 0%.%.1024")
    assert.error_matches(function() pg.configure() end, "table expected")
  end)
end)

describe("progress", function()
  it("is told stages whose counts grow to their total", function()
    local stages = {}
    local large = support.clustered(4000, 12, 20, 8)
    local function told(stage, done, total)
      assert.is_string(stage)
      assert.is_true(math.type(done) == "integer" and math.type(total) == "integer")
      assert.is_true(done >= 0 and (total == 0 or done <= total))
      assert.is_true(done >= (stages[stage] or 0))
      stages[stage] = done
    end
    assert(pg.cagra.build(large, { build_algo = "nn_descent", threads = 1, progress = told }))
    assert.truthy(next(stages))
  end)

  it("is told about ten times a second, not more", function()
    local large = support.clustered(4000, 12, 20, 8)
    local function now() -- seconds of the wall
      return tonumber(support.read "/proc/uptime":match "^%S+")
    end
    local calls, seen, began = 0, {}, now()
    local function told(stage)
      calls = calls + 1
      seen[stage] = true
    end
    assert(pg.cagra.build(large, { build_algo = "nn_descent", threads = 1, progress = told }))
    local stages = 0
    for _ in pairs(seen) do
      stages = stages + 1
    end
    -- Beginning and end of each stage are told at once.
    assert.is_true(calls <= 3 * stages + 12 * (now() - began) + 2, calls .. " calls")
  end)

  it("is a bar where a person watches, and a line a stage where not", function()
    local path = support.path()
    local file = assert(io.open(path, "w"))
    local bar = progress.bar(file, true)
    bar("graph", 1, 4)
    bar("graph", 4, 4)
    bar()
    file:close()
    local text = support.read(path)
    assert.matches("graph", text)
    assert.matches(" 25 %%", text)
    assert.matches("100 %%", text)
    assert.matches("\r\27%[K$", text)
    file = assert(io.open(path, "w"))
    bar = progress.bar(file, false)
    bar("graph", 1, 4)
    bar("links", 0, 0)
    bar()
    file:close()
    assert.matches("^graph: [%d.]+ s\nlinks: [%d.]+ s\n$", support.read(path))
    support.clean()
  end)

  it("draws a bar as wide at every share", function()
    for share = 0, 1, 0.01 do
      assert.equal(24, utf8.len(progress.cells(share)))
    end
    assert.equal(("█"):rep(24), progress.cells(1))
    assert.equal((" "):rep(24), progress.cells(0))
    assert.equal(("█"):rep(24), progress.cells(7))
  end)

  it("of true goes to stderr and does not change the answer", function()
    local out, status = support.child [[
      local pg = require "perigee"
      local rows = assert(pg.load "spec/data/packages.fvecs")
      local a = assert(pg.cagra.build(rows, { progress = true, threads = 1 }))
      local b = assert(pg.cagra.build(rows))
      local q = rows:slice(0, 50)
      print(a:search(q, 5).neighbors:equals(b:search(q, 5, { progress = true }).neighbors))
    ]]
    assert.equal(0, status)
    assert.matches("true\n$", out)
    assert.matches(" s\n", out)
  end)
end)
