-- Filters: what passes, how they join, and that a filtered search returns what matches and no more.

local pg = require "perigee"
local support = require "spec.support"

local place = support.place

describe("pg.filter", function()
  it("tests and counts ids, ranges and bits", function()
    local ids = pg.filter.ids { 7, 2, 7, 100 }
    assert.same({ 2, 3 }, { ids:count(100), ids:count(101) })
    assert.same({ true, false, true }, { ids:test(7), ids:test(3), ids:test(100) })
    local range = pg.filter.range(3, 6)
    assert.same({ 3, 1, 0 }, { range:count(10), range:count(4), range:count(3) })
    assert.same({ false, true, true, false },
      { range:test(2), range:test(3), range:test(5), range:test(6) })
    local bits = pg.filter.bits "\5\128"
    assert.same({ 3, 2, 1 }, { bits:count(16), bits:count(15), bits:count(1) })
    assert.same({ true, false, true, true, false },
      { bits:test(0), bits:test(1), bits:test(2), bits:test(15), bits:test(16) })
    assert.equal(1, pg.filter.bits("\5\128", 2):count(16))
  end)

  it("takes ids as a matrix", function()
    for _, dtype in ipairs { "i64", "i32", "u32" } do
      assert.equal(2, pg.filter.ids(pg.matrix({ { 4 }, { 5 } }, dtype)):count(10))
    end
    assert.equal(0, pg.filter.ids({}):count(10))
  end)

  it("joins by & | - and ~", function()
    local a, b = pg.filter.range(0, 6), pg.filter.ids { 4, 5, 6, 7 }
    local function rows(f)
      local list = {}
      for id = 0, 9 do
        if f:test(id) then
          list[#list + 1] = id
        end
      end
      assert.equal(#list, f:count(10))
      return list
    end
    assert.same({ 4, 5 }, rows(a & b))
    assert.same({ 0, 1, 2, 3, 4, 5, 6, 7 }, rows(a | b))
    assert.same({ 0, 1, 2, 3 }, rows(a - b))
    assert.same({ 6, 7, 8, 9 }, rows(~a))
    assert.same({ 6, 7 }, rows(b & ~a))
    assert.same({ 8, 9 }, rows(~(a | b)))
    assert.same({ 0, 1, 2, 3, 6, 7 }, rows((a | b) - (a & b)))
  end)

  it("agrees with a list of booleans over many rows and random joins", function()
    math.randomseed(5)
    local n <const> = 1000
    local function random()
      local kind, set = math.random(3), {}
      if kind == 1 then
        local list = {}
        for _ = 1, math.random(0, 300) do
          list[#list + 1] = math.random(0, n - 1)
          set[list[#list]] = true
        end
        return pg.filter.ids(list), set
      elseif kind == 2 then
        local first = math.random(0, n)
        local stop = math.random(first, n)
        for id = first, stop - 1 do
          set[id] = true
        end
        return pg.filter.range(first, stop), set
      end
      local bytes = {}
      for i = 1, n // 8 do
        bytes[i] = string.char(math.random(0, 255))
        for bit = 0, 7 do
          set[(i - 1) * 8 + bit] = bytes[i]:byte() >> bit & 1 == 1 or nil
        end
      end
      return pg.filter.bits(table.concat(bytes)), set
    end
    for _ = 1, 60 do
      local f, set = random()
      for _ = 1, math.random(4) do
        local g, other = random()
        local op, joined = math.random(4), {}
        f = op == 1 and f & g or op == 2 and f | g or op == 3 and f - g or ~f & g
        for id = 0, n - 1 do
          local a, b = set[id], other[id]
          joined[id] = op == 1 and a and b or op == 2 and (a or b) or op == 3 and a and not b
            or op == 4 and not a and b or nil
        end
        set = joined
      end
      local count = 0
      for id = 0, n - 1 do
        assert.equal(set[id] and true or false, f:test(id))
        count = count + (set[id] and 1 or 0)
      end
      assert.equal(count, f:count(n))
      assert.near(count / n, f:selectivity(n), 1e-12)
    end
  end)

  it("knows n when it was given", function()
    local f = pg.filter.ids({ 1, 2, 50 }, 10)
    assert.same({ 2, 0.2, false }, { f:count(), f:selectivity(), f:test(50) })
    assert.equal(8, (~f):count())
    assert.same({ n = 10, count = 2 }, f:info())
    assert.equal("Filter 2 of 10 rows", tostring(f))
    assert.equal("Filter", tostring(pg.filter.range(0, 3)))
    assert.error_matches(function() pg.filter.range(0, 3):count() end, "n: none given")
    assert.error_matches(function() return f & pg.filter.range(0, 3, 11) end, "over 10 and 11 rows")
  end)

  it("names misuse", function()
    local f = pg.filter.range(0, 3)
    assert.error_matches(function() return f & 7 end,
      "'&' joins two filters; one operand is a number")
    assert.error_matches(function() return "x" | f end,
      "'|' joins two filters; one operand is a string")
    assert.error_matches(function() return f - {} end, "one operand is a table")
    assert.error_matches(function() pg.filter.range(5, 4) end, "#2 to 'range' %(stop: 4 given")
    assert.error_matches(function() pg.filter.ids { 1, -4 } end, "%-4")
    assert.error_matches(function() pg.filter.ids { 1, 2.5 } end, "element 2")
    assert.error_matches(function() pg.filter.bits("\1", 9) end, "n: 9 given, allowed: 0%.%.8")
    f:close()
    f:close()
    assert.equal("Filter (closed)", tostring(f))
    assert.error_matches(function() f:count(3) end, "closed")
    assert.error_matches(function() return ~f end, "closed")
  end)
end)

-- A filter of about a share of n rows, spread evenly, and what passes it.
local function spread(n, share, seed)
  math.randomseed(seed)
  local list, set = {}, {}
  for id = 0, n - 1 do
    if math.random() < share then
      list[#list + 1], set[id] = id, true
    end
  end
  return pg.filter.ids(list), set, #list
end

describe("a filtered search", function()
  local set = support.small "packages"
  local n, k = set.rows.rows, 10
  local SHARES <const> = { 0.5, 0.1, 0.01, 0.001 }

  local function build(kind)
    local n_lists = kind == "ivf_flat" and 50 or nil
    return support.build(kind, set.rows, { metric = set.metric, n_lists = n_lists })
  end

  for _, kind in ipairs { "flat", "ivf_flat", "cagra" } do
    it(kind .. " returns k rows whenever k match, all within the filter, the right ones", function()
      local index = build(kind)
      for _, share in ipairs(SHARES) do
        local f, passes, count = spread(n, share, 41)
        local hits = assert(index:search(set.queries, k, { filter = f }))
        for q = 0, #set.queries - 1 do
          local given = 0
          for id in hits:each(q) do
            assert.is_true(passes[id])
            given = given + 1
          end
          assert.equal(math.min(k, count), given)
        end
        local truth = assert(pg.ground_truth(set.rows, set.queries, k,
          { metric = set.metric, filter = f }))
        local recall = assert(pg.recall(hits, truth))
        assert.is_true(recall >= 0.95, ("%s at %g: recall %.3f"):format(kind, share, recall))
        assert.near(count / n, hits.info.selectivity, 1e-6)
      end
    end)

    it(kind .. " is not changed by a filter that lets all pass", function()
      local index = build(kind)
      local plain = assert(index:search(set.queries, k))
      for _, f in ipairs { pg.filter.range(0, n), ~pg.filter.ids {}, pg.filter.bits(
        ("\255"):rep((n + 7) // 8)) } do
        local hits = assert(index:search(set.queries, k, { filter = f }))
        assert.is_true(hits.neighbors:equals(plain.neighbors))
        assert.is_true(hits.distances:equals(plain.distances))
      end
    end)

    it(kind .. " takes one filter for each query", function()
      local index = build(kind)
      local filters, list = {}, {}
      for q = 0, #set.queries - 1 do
        local first = (q * 37) % (n - 400)
        filters[q + 1] = pg.filter.range(first, first + 1 + q * 4)
        list[q] = { first, first + 1 + q * 4 }
      end
      local hits = assert(index:search(set.queries, k, { filter = filters }))
      for q = 0, #set.queries - 1 do
        local alone = assert(index:search(set.queries:slice(q, q + 1), k,
          { filter = filters[q + 1] }))
        assert.is_true(alone.neighbors:equals(hits.neighbors:slice(q, q + 1)))
        local given = 0
        for id in hits:each(q) do
          assert.is_true(id >= list[q][1] and id < list[q][2])
          given = given + 1
        end
        assert.equal(math.min(k, list[q][2] - list[q][1]), given)
      end
    end)

    it(kind .. " answers nothing when nothing passes", function()
      local index = build(kind)
      local hits = assert(index:search(set.queries, k, { filter = pg.filter.ids {} }))
      assert.equal(#set.queries * k, hits.info.missing)
      assert.equal(-1, hits.neighbors:row(0)[1])
    end)
  end

  it("says when filters are too many or none", function()
    local index = support.build("flat", set.rows)
    local f, g = pg.filter.range(0, 9), pg.filter.range(0, 5)
    local three = set.queries:slice(0, 3)
    assert.error_matches(function() index:search(three, 5, { filter = { f, g } }) end,
      "option 'filter': 2 given, allowed: 1 or 3")
    assert.error_matches(function() index:search(three, 5, { filter = {} }) end, "0 given")
    assert.error_matches(function() index:search(three, 5, { filter = 7 }) end, "a number given")
    assert.error_matches(function() index:search(three, 5, { filter = { f, g, 1 } }) end,
      "element 3 of the list is a number")
    f:close()
    assert.error_matches(function() index:search(three, 5, { filter = f }) end, "closed")
  end)

  it("is what a filtered searcher does always", function()
    local index = support.build("flat", set.rows, { metric = set.metric })
    local f, g = pg.filter.range(100, 2000), pg.filter.range(1500, 4000)
    local inner = assert(index:filtered(f))
    assert.equal("filtered", inner.kind)
    assert.equal(place, inner.place)
    local wanted = assert(index:search(set.queries, k, { filter = f & g }))
    local hits = assert(inner:search(set.queries, k, { filter = g }))
    assert.is_true(hits.neighbors:equals(wanted.neighbors))
    assert.is_true(assert(inner:filtered(g)):search(set.queries, k).neighbors
      :equals(wanted.neighbors))
    assert.matches("filtered.*\n└─ flat", inner:explain())
  end)
end)
