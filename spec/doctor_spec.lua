-- perigee.doctor: what this machine offers, and what is missing and why.

local pg = require "perigee"
local doctor = require "perigee.doctor"
local support = require "spec.support"

describe("pg.doctor", function()
  local report = pg.doctor()

  it("lists places that can be used, and only those", function()
    local places = {}
    for _, device in ipairs(report.devices) do
      places[device.place] = device
      assert.is_true(#device.name > 0)
      assert.equal("string", type(device.detail))
      assert.equal(device.place, assert(pg.matrix(2, 2):to(device.place)).place)
    end
    for _, place in ipairs { "cpu", "ref", "fake:0", "fake:1" } do
      assert.truthy(places[place])
    end
    assert.is_true(places.cpu.shares_host)
    assert.is_true(places.cpu.bytes_total >= places.cpu.bytes_free)
  end)

  it("says why what is missing is missing", function()
    for _, part in ipairs(report.missing) do
      assert.is_true(#part.what > 0 and #part.why > 0)
      local none, message, code = pg.matrix(2, 2):to(part.what)
      assert.is_nil(none)
      assert.equal("device", code)
      assert.is_string(message)
    end
    local cuda = false
    for _, device in ipairs(pg.devices()) do
      cuda = cuda or device.place:find "^cuda" ~= nil
    end
    assert.is_true(cuda, "cuda is neither there nor missing")
  end)

  it("says in one line why there is no GPU", function()
    for _, part in ipairs(report.missing) do
      if part.what:find "^cuda" then
        assert.matches("CUDA", part.why)
        assert.is_nil(part.why:find "\n")
        assert.is_true(#part.why < 300)
        assert.matches("\n  " .. part.what .. " +" .. part.why:gsub("%p", "%%%0"), tostring(report))
      end
    end
  end)

  it("prints as a page", function()
    local text = tostring(report)
    assert.matches("Perigee " .. pg.version:gsub("%.", "%%."), text)
    assert.matches("\n  cpu ", text)
    assert.matches("threads", text)
    assert.matches("\n%d+ NUMA node", text)
    assert.is_true(report.memory.numa_nodes >= 1)
    assert.equal(text, pg.show(report))
    assert.equal(_VERSION, report.lua)
  end)

  it("counts memory that is held", function()
    support.blocks() -- collects what others left
    local before = pg.stats().bytes
    local m <close> = pg.matrix(1000, 100)
    assert.is_true(pg.doctor().memory.bytes >= before + m:info().bytes)
  end)

  it("writes sizes as people read them", function()
    assert.equal("0 B", doctor.bytes(0))
    assert.equal("1023 B", doctor.bytes(1023))
    assert.equal("1.5 KiB", doctor.bytes(1536))
    assert.equal("2.0 GiB", doctor.bytes(2 << 30))
  end)
end)

describe("require", function()
  it("starts no thread and opens no device", function()
    local out = support.child [[
      local pg = require "perigee"
      local threads = 0
      for _ in io.popen "ls /proc/$PPID/task":lines() do threads = threads + 1 end
      print(threads, pg.version)
    ]]
    assert.matches("^1\t", out)
  end)
end)
