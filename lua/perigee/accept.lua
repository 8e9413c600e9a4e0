-- `accept = function(ids) … end`: a Lua function that says which answers may stand.
--
-- The searcher is asked for more than k; the function is called with batches of ids it has not
-- seen, and gives a list of booleans in the same order. While a query has fewer than k accepted,
-- it is asked again for four times as many; past the limit on k, for rows other than those
-- already refused or taken. So k rows come back whenever k are accepted, at the cost of asking
-- about many rows when few are.

local core = require "perigee.core"

local M = {}

local BATCH <const> = 1024
local K_MAX <const> = 16384
local GROWTH <const> = 4

---@class perigee.Verdicts
---@field accept fun(ids: integer[]): boolean[]
---@field known table<integer, boolean>

-- Asks about the ids that have no verdict yet, in batches.
local function judge(verdicts, ids)
  for first = 1, #ids, BATCH do
    local batch = table.move(ids, first, math.min(first + BATCH - 1, #ids), 1, {})
    local answer = verdicts.accept(batch)
    if type(answer) ~= "table" then
      error(("accept: a %s returned, allowed: a list of %d booleans, one for each id")
        :format(type(answer), #batch), 0)
    end
    for i, id in ipairs(batch) do
      verdicts.known[id] = answer[i] and true or false
    end
  end
end

-- What one query has so far.
local function new_state(row)
  return { row = row, seen = {}, ids = {}, distances = {}, asked = 0, done = false }
end

-- Takes over the hits of one query that it had not seen; returns how many there were.
local function take(state, hits, row, fresh)
  local count = 0
  for id, distance in hits:each(row) do
    if not state.seen[id] then
      state.seen[id] = distance
      state.asked = state.asked + 1
      count = count + 1
      fresh[#fresh + 1] = id
    end
  end
  return count
end

-- Sorts accepted ids, nearest first, equal distances by id.
local function rank(state, verdicts, descending)
  local list = {}
  for id, distance in pairs(state.seen) do
    if verdicts.known[id] then
      list[#list + 1] = { id, distance }
    end
  end
  table.sort(list, function(a, b)
    if a[2] ~= b[2] then
      return (a[2] < b[2]) ~= descending
    end
    return a[1] < b[1]
  end)
  state.list = list
  return #list
end

-- The filter under which the rest is looked for: what was there, less what was seen.
local function rest_filter(state, filter)
  local seen = {}
  for id in pairs(state.seen) do
    seen[#seen + 1] = id
  end
  local others = ~core.filter.ids(seen)
  return filter and filter & others or others
end

-- The user's filter of one query: none, one for all, or its own.
local function filter_of(filters, row)
  if type(filters) == "table" then
    return filters[#filters == 1 and 1 or row + 1]
  end
  return filters
end

-- One round for the queries that lack rows. `beyond`: look past what was seen, by filters.
local function ask(round, open, ask_k, beyond)
  local rows, filters = {}, {}
  for i, state in ipairs(open) do
    rows[i] = state.row
    local own = filter_of(round.options.filter, state.row)
    filters[i] = beyond and rest_filter(state, own) or own
  end
  local options = {}
  for key, value in pairs(round.options) do
    options[key] = value
  end
  options.accept, options.out = nil, nil
  options.filter = #filters == #open and #open > 0 and filters or nil
  return round.searcher:search(round.queries:gather(rows), ask_k, options)
end

-- Takes an answer over and asks about what is new; returns the queries that still lack rows.
local function judge_round(round, open, hits, verdicts)
  local fresh, waiting, news = {}, {}, {}
  for i, state in ipairs(open) do
    news[i] = take(state, hits, i - 1, fresh)
  end
  local unknown, listed = {}, {}
  for _, id in ipairs(fresh) do
    if verdicts.known[id] == nil and not listed[id] then
      listed[id] = true
      unknown[#unknown + 1] = id
    end
  end
  judge(verdicts, unknown)
  for i, state in ipairs(open) do
    -- A short answer means that nothing else passes the filters.
    local left = round.beyond and news[i] >= round.ask_k
      or not round.beyond and state.asked >= round.ask_k
    if rank(state, verdicts, round.descending) < round.k and left then
      waiting[#waiting + 1] = state
    end
  end
  return waiting
end

-- Rounds until every query has k, or nothing is left for it. Returns the last answer, for its info.
-- A place that takes a smaller k than others says so; its last k is the ceiling then.
local function gather_accepted(round, states, verdicts)
  local open, visited, last, worked = states, 0, nil, nil
  local ceiling = K_MAX
  round.ask_k = math.min(math.max(2 * round.k, round.k + 16), ceiling)
  while #open > 0 do
    local hits, message, code = ask(round, open, round.ask_k, round.beyond)
    if hits then
      last, worked, visited = hits, round.ask_k, visited + hits.info.visited * #open
      open = judge_round(round, open, hits, verdicts)
      round.beyond = round.ask_k >= ceiling
      round.ask_k = math.min(round.ask_k * GROWTH, ceiling)
    elseif code == "unsupported" and worked and round.ask_k > worked then
      ceiling, round.ask_k, round.beyond = worked, worked, true
    else
      return nil, message, code
    end
  end
  return last, visited
end

-- Two matrices from the accepted lists, padded as a search pads.
local function matrices(states, k, worst)
  local ids, distances = {}, {}
  for i, state in ipairs(states) do
    ids[i], distances[i] = {}, {}
    for j = 1, k do
      local hit = state.list[j]
      ids[i][j] = hit and hit[1] or -1
      distances[i][j] = hit and hit[2] or worst
    end
  end
  return core.matrix(ids, "i64"), core.matrix(distances)
end

-- Any form of queries as a matrix with rows to gather.
local function as_matrix(searcher, queries)
  if type(queries) == "string" then
    return core.unpack(queries, "f32", searcher.dim)
  elseif type(queries) == "table" then
    return core.matrix(queries)
  end
  return queries
end

---@param searcher perigee.Searcher
---@param queries perigee.Matrix|number[]|string
---@param k integer
---@param options table  with `accept`
---@return perigee.Hits?, string?, string?
function M.search(searcher, queries, k, options)
  if options.out then
    error("option 'out' does not go with 'accept': the answer is put together from several", 3)
  elseif math.type(k) ~= "integer" or k < 1 or k > K_MAX then
    error(("k: %s given, allowed: 1..%d"):format(tostring(k), K_MAX), 3)
  end
  queries = as_matrix(searcher, queries)
  if #queries == 0 then
    return searcher:search(queries, k)
  end
  local states = {}
  for row = 0, #queries - 1 do
    states[row + 1] = new_state(row)
  end
  local descending = searcher.metric == "inner_product"
  local round = { searcher = searcher, queries = queries, options = options, k = k,
    beyond = false }
  round.descending = descending
  local verdicts = { accept = options.accept, known = {} }
  local last, visited, code = gather_accepted(round, states, verdicts)
  if not last then
    return nil, visited, code
  end
  local neighbors, distances = matrices(states, k, descending and -math.huge or math.huge)
  return core.hits(neighbors, distances, last, visited / #states)
end

return M
