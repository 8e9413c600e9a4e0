-- ours: Perigee, asked by measure.lua in the way that peer.hpp says, and seen from Lua: batches of
-- all queries, answered into the same hits.
--
--   do=build   kind=KIND [to_hnsw=HIERARCHY] [refine=1] OPTION=VALUE...   options of pg.KIND.build
--   do=search  OPTION=VALUE...                                            options of index:search
--   do=truth   k=N threads=N ids=PATH values=PATH    writes the exact answers; nothing is answered
--
-- refine=1 puts the rows behind the index, as they were given: index:refined(rows).

local clock = require "clock"
local pg = require "perigee"
local words = require "words"

local task <const> = words.read(arg)
local metric <const> = task.metric == "ip" and "inner_product" or "sqeuclidean"

local function load_rows(path)
  local rows = assert(pg.load(path))
  return rows.dtype == task.dtype and rows or assert(rows:as(task.dtype))
end

local base <const>, queries <const> = load_rows(task.base), load_rows(task.queries)
local truth = task.truth ~= "" and {
  neighbors = assert(pg.load(task.ids)),
  distances = assert(pg.load(task.truth)),
  metric = metric,
}

-- What is left of a question for the engine.
local OWN <const> = { "do", "name", "kind", "k", "seconds", "to_hnsw", "refine" }

local function options_of(asked, more)
  local options = words.join(asked, more)
  for _, key in ipairs(OWN) do
    options[key] = nil
  end
  return options
end

local indexes = {}

local function build(asked)
  local kind = pg[asked.kind]
  if not (kind and kind.build) then
    error(("there is no pg.%s.build"):format(asked.kind), 0)
  end
  indexes[asked.name] = nil
  collectgarbage()
  local began = clock()
  local index = assert(kind.build(base, options_of(asked, { metric = metric })))
  if asked.to_hnsw then
    index = assert(index:to_hnsw { hierarchy = asked.to_hnsw })
  end
  local seconds = clock() - began
  local bytes = index:info().bytes
  if asked.refine then
    index = assert(index:refined(base))
    bytes = bytes + base:info().bytes
  end
  indexes[asked.name] = index
  return { seconds = ("%.6g"):format(seconds), bytes = bytes }
end

-- Queries a second of whole batches, after one that warms up (but for seconds = 0).
local function rate(batch, seconds)
  if seconds > 0 then
    batch()
  end
  local began, batches = clock(), 0
  repeat
    batch()
    batches = batches + 1
    local passed = clock() - began
  until passed >= seconds
  return batches * queries.rows / (clock() - began)
end

-- By the distances of the rows that were found: those of an index of codes are not theirs.
local rows_as_they_are

local function recall_of(hits)
  rows_as_they_are = rows_as_they_are or assert(pg.flat.build(base, { metric = metric }))
  local distances = assert(rows_as_they_are:score(queries, hits.neighbors))
  return assert(pg.recall({ neighbors = hits.neighbors, distances = distances, metric = metric },
    truth))
end

local function search(asked)
  local index = indexes[asked.name] or error("there is no index " .. asked.name, 0)
  local hits
  local options = options_of(asked, {})
  local queries_s = rate(function()
    hits = assert(index:search(queries, asked.k, options))
    options.out = hits
  end, asked.seconds)
  local known = truth and asked.k <= truth.neighbors.cols
  return { qps = ("%.9g"):format(queries_s),
    recall = known and ("%.6f"):format(recall_of(hits)) or nil }
end

local function write_truth(asked)
  local hits = assert(pg.ground_truth(base, queries, asked.k,
    { metric = metric, threads = asked.threads }))
  assert(hits.neighbors:save(asked.ids))
  assert(hits.distances:save(asked.values))
  return { rows = hits.queries }
end

local answers <const> = { build = build, search = search, truth = write_truth }

for line in io.lines() do
  if line == "do=stop" then
    break
  end
  local asked = words.read_line(line)
  local done, reply = pcall(answers[asked["do"]], asked)
  print(done and words.write(reply) or "error=" .. tostring(reply):gsub("\n", " "))
  io.stdout:flush()
end
