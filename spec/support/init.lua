-- What the specs share: where data lies, at which place they run, brute force, temporary files.

local pg = require "perigee"

-- In a module the global of that name is not busted's.
local pending = require "busted.core"().pending

local M = {}

-- The place where indexes are built when a test does not say.
M.place = os.getenv "PERIGEE_TEST_PLACE" or "cpu"

local shared = os.getenv "PERIGEE_DATA" or "../shared/data"

-- ---- data ---------------------------------------------------------------------------------------

local function exists(path)
  local file = io.open(path, "rb")
  if file then
    file:close()
  end
  return file ~= nil
end

---A file of spec/data.
function M.data(name)
  return "spec/data/" .. name
end

local told = {}

-- Tells the suite that a set was read: its closing lines name those.
local function tell_set(name)
  local folder = os.getenv "PERIGEE_TEST_FOLDER"
  if folder and not told[name] then
    told[name] = true
    local file = assert(io.open(folder .. "/sets", "a"))
    file:write(name, "\n")
    file:close()
  end
end

---A file beside the checkout; the test is skipped by its name where it is not there.
function M.shared(name)
  local path = shared .. "/" .. name
  if not exists(path) then
    pending(("%s is not there (PERIGEE_DATA says where)"):format(path))
  end
  tell_set(name:match "^[^/]+")
  return path
end

---Whether a file beside the checkout is there.
function M.has_shared(name)
  return exists(shared .. "/" .. name)
end

local loaded = {}

---Rows, queries and truth of one of the small sets: "packages" or "sift".
function M.small(name)
  if not loaded[name] then
    local sift = name == "sift"
    local rows, values = sift and "bvecs" or "fvecs", sift and "dist2" or "similarity"
    loaded[name] = {
      metric = sift and "sqeuclidean" or "inner_product",
      rows = assert(pg.load(M.data(name .. "." .. rows))),
      queries = assert(pg.load(M.data(name .. "_queries." .. rows))),
      truth = {
        neighbors = assert(pg.load(M.data(name .. "_truth.ivecs"))),
        distances = assert(pg.load(M.data(name .. "_truth_" .. values .. ".fvecs"))),
        metric = sift and "sqeuclidean" or "inner_product",
      },
    }
  end
  return loaded[name]
end

---A matrix of `rows` x `cols` numbers from `clusters` bunches in a box of width 8, or `width`; the
---same for the same seed.
function M.clustered(rows, cols, clusters, seed, width)
  width = width or 8
  math.randomseed(seed)
  local centres, list = {}, {}
  for c = 1, clusters do
    centres[c] = {}
    for d = 1, cols do
      centres[c][d] = (math.random() - 0.5) * width
    end
  end
  for r = 1, rows do
    local centre = centres[math.random(clusters)]
    list[r] = {}
    for d = 1, cols do
      list[r][d] = centre[d] + math.random() - 0.5
    end
  end
  return assert(pg.matrix(list))
end

-- ---- building -----------------------------------------------------------------------------------

---Skips the running test by name when a call says that the default place does not do it.
function M.skip_unless_done(what, result, message, code)
  if result == nil and code == "unsupported" and M.place ~= "cpu" then
    pending(("%s on %s: %s"):format(what, M.place, message))
  end
end

---An index at the default place; a place that does not do this skips the test by name.
function M.build(kind, rows, options)
  local all = { place = M.place }
  for key, value in pairs(options or {}) do
    all[key] = value
  end
  local index, message, code = pg[kind].build(rows, all)
  if not index and code == "unsupported" and all.place ~= "cpu" then
    pending(("%s on %s: %s"):format(kind, all.place, message))
  end
  return assert(index, message)
end

-- ---- the oracle ---------------------------------------------------------------------------------

local MEASURES <const> = {
  sqeuclidean = function(a, b)
    local sum = 0
    for i = 1, #a do
      sum = sum + (a[i] - b[i]) ^ 2
    end
    return sum
  end,
  inner_product = function(a, b)
    local sum = 0
    for i = 1, #a do
      sum = sum + a[i] * b[i]
    end
    return sum
  end,
}

function MEASURES.euclidean(a, b)
  return math.sqrt(MEASURES.sqeuclidean(a, b))
end

function MEASURES.cosine(a, b)
  local dot = MEASURES.inner_product
  return 1 - dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))
end

M.measures = MEASURES

---The k nearest rows of one query by brute force in Lua: a list of { id, value }, nearest first.
function M.nearest(rows, query, k, metric, passes)
  local list, sign = {}, metric == "inner_product" and -1 or 1
  for r, row in rows:each() do
    if not passes or passes(r) then
      list[#list + 1] = { r, MEASURES[metric](query, row) }
    end
  end
  table.sort(list, function(a, b)
    if a[2] ~= b[2] then
      return sign * a[2] < sign * b[2]
    end
    return a[1] < b[1]
  end)
  return table.move(list, 1, math.min(k, #list), 1, {})
end

-- ---- files and memory ---------------------------------------------------------------------------

local temporary, made, folder = {}, 0, nil

-- Where this process keeps its files: a folder of the suite's, which removes it; or, of a spec that
-- is run by hand, one of its own, which goes when Lua closes, whatever became of the tests.
local function own_folder()
  if not folder then
    folder = os.getenv "PERIGEE_TEST_FOLDER"
  end
  if not folder then
    local pipe = assert(io.popen "mktemp -d")
    folder = assert(pipe:read "l", "mktemp -d made no folder")
    pipe:close()
    M.guard = setmetatable({}, { __gc = function() os.execute("rm -rf '" .. folder .. "'") end })
  end
  return folder
end

---A path for a file, in a folder that goes away with the process, or earlier with `M.clean`.
function M.path(ending)
  made = made + 1
  local path = ("%s/%d%s"):format(own_folder(), made, ending or "")
  temporary[#temporary + 1] = path
  return path
end

---Removes the files made at paths of `M.path`: call it after each test of large ones.
function M.clean()
  for _, path in ipairs(temporary) do
    os.remove(path)
  end
  temporary = {}
end

function M.read(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read "a"
  file:close()
  return bytes
end

function M.write(path, bytes)
  local file = assert(io.open(path, "wb"))
  assert(file:write(bytes))
  file:close()
  return path
end

---Blocks of native memory alive once all garbage is gone.
function M.blocks()
  collectgarbage()
  collectgarbage()
  return pg.stats().blocks
end

---Runs Lua source in a process of its own, under an optional shell prefix such as "ulimit -f 1; ".
---Returns what it wrote and its exit status.
function M.child(source, prefix)
  local script = M.write(M.path ".lua", source)
  local out = M.path ".out"
  local command = ("(%sexec lua5.4 %s) >%s 2>&1"):format(prefix or "", script, out)
  local _, _, status = os.execute(command)
  return M.read(out), status
end

return M
