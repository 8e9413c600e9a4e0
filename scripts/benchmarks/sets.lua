-- sets: the data that is measured on, and where it is. The real sets are those of $PERIGEE_DATA or
-- ../shared/data, else the small ones of spec/data; the made-up ones are written when they are
-- missing, and their exact answers found by ours.lua.

local words = require "words"
local Program = require "program"

local M = {}

local TRUTH_COLUMNS <const> = 100
local QUERIES <const> = 1000

local function file_exists(path)
  local file = io.open(path, "rb")
  return file and file:close()
end

---@class bench.Set
---@field name string
---@field metric "ip"|"l2"
---@field base string
---@field queries string
---@field ids string  the nearest rows
---@field truth string  and their values
---@field bytes boolean  whether its values are whole numbers 0..255

local function real_sets(small)
  local data = os.getenv "PERIGEE_DATA" or "../shared/data"
  local packages, sift = data .. "/debian-packages-96/", data .. "/sift-debian-photos/"
  if not small and file_exists(packages .. "base.fvecs") and file_exists(sift .. "base.bvecs") then
    return {
      { name = "sift", base = sift .. "base.bvecs", queries = sift .. "query.bvecs",
        ids = sift .. "gt.ivecs", truth = sift .. "gt_dist2.fvecs", metric = "l2", bytes = true },
      { name = "packages", base = packages .. "base.fvecs", queries = packages .. "query.fvecs",
        ids = packages .. "gt_ip.ivecs", truth = packages .. "gt_ip_sim.fvecs", metric = "ip" },
    }
  end
  local files = "spec/data/"
  return {
    { name = "sift", base = files .. "sift.bvecs", queries = files .. "sift_queries.bvecs",
      ids = files .. "sift_truth.ivecs", truth = files .. "sift_truth_dist2.fvecs", metric = "l2",
      bytes = true },
    { name = "packages", base = files .. "packages.fvecs",
      queries = files .. "packages_queries.fvecs", ids = files .. "packages_truth.ivecs",
      truth = files .. "packages_truth_similarity.fvecs", metric = "ip" },
  }
end

local function made_up(folder, latents, rows)
  local stem = ("%s/synthetic-%d_%d"):format(folder, latents, rows)
  return { name = "synthetic-" .. latents, latents = latents, rows = rows, metric = "l2",
    base = stem .. ".fbin", queries = stem .. "_queries.fbin", ids = stem .. "_ids.npy",
    truth = stem .. "_truth.fbin" }
end

-- Writes what a made-up set lacks. The truth comes last, so that it tells of a whole set.
local function make(set, folder, threads)
  if file_exists(set.truth) then
    return
  end
  local function run(stream, rows, path)
    assert(os.execute(("%s/synthetic set=%d dim=128 stream=%s count=%d threads=%d out=%s"):format(
      folder, set.latents, stream, rows, threads, words.quote(path))))
  end
  run("base", set.rows, set.base)
  run("queries", QUERIES, set.queries)
  local ours = Program.start(folder, M.command("ours", set, "f32", folder, { truth = "" }))
  assert(ours:ask { ["do"] = "truth", k = TRUTH_COLUMNS, threads = threads, ids = set.ids,
    values = set.truth })
  ours:stop()
end

-- Rows and columns of a set's base, from the head and the size of its file.
---@param set bench.Set
function M.shape(set)
  local file <close> = assert(io.open(set.base, "rb"))
  local first, second = ("<I4I4"):unpack(file:read(8))
  if set.base:find "%.fbin$" then
    return { rows = first, dim = second }
  end
  local row_bytes = 4 + first * (set.base:find "%.bvecs$" and 1 or 4)
  return { rows = file:seek "end" // row_bytes, dim = first }
end

-- The command that starts a program on a set. Made signed, bytes lose what is above 127: there is
-- no truth for that.
---@param program "ours"|"hnswlib"|"faiss"|"wheels"
---@param set bench.Set
---@param dtype string
---@param more table<string, string>?
function M.command(program, set, dtype, folder, more)
  local commands = {
    ours = words.quote(os.getenv "LUA" or "lua5.4") .. " scripts/benchmarks/ours.lua",
    hnswlib = folder .. "/hnswlib_peer",
    faiss = folder .. "/faiss_peer",
    wheels = folder .. "/venv/bin/python scripts/benchmarks/wheels_peer.py",
  }
  local line = { commands[program] }
  local all = words.join({ base = set.base, queries = set.queries, ids = set.ids,
    truth = dtype == "i8" and "" or set.truth, metric = set.metric, dtype = dtype }, more or {})
  for key, value in pairs(all) do
    line[#line + 1] = key .. "=" .. words.quote(value)
  end
  return table.concat(line, " ")
end

---@param options { small: boolean, only: string?, rows: integer, threads: integer, folder: string }
---@return bench.Set[]
function M.list(options)
  local list = real_sets(options.small)
  for _, latents in ipairs { 16, 32 } do
    list[#list + 1] = made_up(options.folder, latents, options.rows)
  end
  local kept = {}
  for _, set in ipairs(list) do
    if not options.only or set.name:find(options.only, 1, true) then
      if set.latents then
        make(set, options.folder, options.threads)
      end
      kept[#kept + 1] = set
    end
  end
  return kept
end

return M
