-- What Perigee reaches, seen from Lua: queries a second of whole batches of packed queries.
--
--   lua5.4 ours.lua part=flat|graph degree=N ids=PATH KEY=VALUE...   and the keys of peer.hpp
--
-- part=flat measures the exact index. part=graph builds CAGRA with that graph_degree (and twice as
-- many intermediate links), turns it into HNSW with upper levels, and measures both; with build=0
-- the indexes are opened from `file`.cagra and `file`.hnsw, where build=1 left them.

local clock = require "clock"
local pg = require "perigee"

local K <const> = 10
local SIZE_MAX <const> = 4096
local SIZE_OF_BUILD <const> = 100 -- where the recall of a build is told

local function read_words(argv)
  local words = {}
  for _, word in ipairs(argv) do
    local key, value = word:match "^(%w+)=(.*)$"
    words[key or error(word .. " is not key=value", 0)] = value
  end
  return words
end

local words = read_words(arg)
local threads_all = math.tointeger(tonumber(words.threads))
local seconds_min = tonumber(words.seconds)
local target = tonumber(words.target)
local metric = words.metric == "ip" and "inner_product" or "sqeuclidean"

local function load_rows(path)
  local rows = assert(pg.load(path))
  return rows.dtype == words.dtype and rows or rows:as(words.dtype)
end

local base, queries = load_rows(words.base), load_rows(words.queries)
local truth = {
  neighbors = assert(pg.load(words.ids)),
  distances = assert(pg.load(words.truth)),
  metric = metric,
}

local function tell(what, engine, parameters, threads, recall, unit, value)
  print(("what=%s\tengine=%s\tdata=%s\tn=%d\tdim=%d\tdtype=%s\tparameters=%s\tthreads=%d\t"
    .. "recall=%.4f\t%s=%.6g"):format(what, engine, words.data, base.rows, base.cols, base.dtype,
    parameters, threads, recall, unit, value))
  io.stdout:flush()
end

-- An index with the name of the parameter that trades speed for recall; flat has none.
local function searcher(index, size_name)
  local options, hits = {}, nil
  return function(size, threads)
    options.threads = threads
    options.out = hits
    if size_name then
      options[size_name] = size
    end
    hits = assert(index:search(queries, K, options))
    return hits
  end
end

local function recall_of(hits)
  return assert(pg.recall(hits, truth))
end

-- Queries a second of whole batches, after one that warms up.
local function rate(search, size, threads)
  search(size, threads)
  local batches, began = 0, clock()
  local passed
  repeat
    search(size, threads)
    batches = batches + 1
    passed = clock() - began
  until passed >= seconds_min
  return batches * queries.rows / passed
end

-- The smallest size that reaches the target, or the most that is tried.
local function smallest_size(search)
  local function reaches(size)
    return recall_of(search(size, threads_all)) >= target
  end
  local high = K
  while high < SIZE_MAX and not reaches(high) do
    high = 2 * high
  end
  local low = high == K and high or high // 2 + 1
  while low < high do
    local middle = (low + high) // 2
    if reaches(middle) then
      high = middle
    else
      low = middle + 1
    end
  end
  return high
end

local function measure(what, engine, index, size_name, parameters)
  local search = searcher(index, size_name)
  local size = size_name and smallest_size(search)
  if size_name then
    parameters = ("%s %s=%d"):format(parameters, size_name, size)
  end
  for threads = 1, threads_all, math.max(1, threads_all - 1) do
    local queries_s = rate(search, size, threads)
    tell(what, engine, parameters, threads, recall_of(search(size, threads)), "qps", queries_s)
  end
end

local function tell_build(engine, parameters, index, size_name, seconds)
  local hits = searcher(index, size_name)(SIZE_OF_BUILD, threads_all)
  tell("build", engine, parameters, threads_all, recall_of(hits), "seconds", seconds)
end

local function build(degree, parameters)
  local began = clock()
  local cagra = assert(pg.cagra.build(base, { metric = metric, graph_degree = degree,
    intermediate_graph_degree = 2 * degree, threads = threads_all }))
  local built = clock()
  local hnsw = assert(cagra:to_hnsw { hierarchy = "cpu" })
  local turned = clock()
  tell_build("perigee cagra", parameters, cagra, "itopk_size", built - began)
  tell_build("perigee hnsw", parameters, hnsw, "ef", turned - began)
  assert(cagra:save(words.file .. ".cagra"))
  assert(hnsw:save(words.file .. ".hnsw"))
  return cagra, hnsw
end

if words.part == "flat" then
  measure("flat", "perigee flat", assert(pg.flat.build(base, { metric = metric })), nil, "")
else
  local degree = math.tointeger(tonumber(words.degree))
  local parameters = "graph_degree=" .. degree
  local cagra, hnsw
  if words.build == "1" then
    cagra, hnsw = build(degree, parameters)
  else
    cagra, hnsw = assert(pg.open(words.file .. ".cagra")), assert(pg.open(words.file .. ".hnsw"))
  end
  measure("graph", "perigee hnsw", hnsw, "ef", parameters)
  measure("graph", "perigee cagra", cagra, "itopk_size", parameters)
end
