-- Perigee: nearest-neighbour search. `local pg = require "perigee"`.
--
-- The core is C; what is here only puts its parts together. Functions of the core are given out
-- as they are, not wrapped, so that an error names the caller's line. The parts in Lua are loaded
-- on first use. No globals, no hidden current device.

local core = require "perigee.core"

---@class perigee
local pg = {
  version = core.version,
  configure = core.configure,
  stats = core.stats,
  devices = core.devices,
  limit = core.limit,
  trim = core.trim,
  load = core.load,
  matrix = core.matrix,
  pack = core.pack,
  unpack = core.unpack,
  from_dlpack = core.from_dlpack,
  open = core.open,
  filter = core.filter,
  flat = core.flat,
  ivf_flat = core.ivf_flat,
  ivf_pq = core.ivf_pq,
  ivf_sq = core.ivf_sq,
  ivf_rabitq = core.ivf_rabitq,
  cagra = core.cagra,
  hnsw = core.hnsw,
  vamana = core.vamana,
  kmeans = core.kmeans,
  pairwise = core.pairwise,
  knn_graph = core.knn_graph,
  pq = core.pq,
  opq = core.opq,
  sq = core.sq,
  binary = core.binary,
  rabitq = core.rabitq,
}

---A builder of what an index string of FAISS stands for.
function pg.factory(text)
  return require "perigee.factory".read(text)
end

---Recall of what was found against the truth.
function pg.recall(...)
  return require "perigee.recall"(...)
end

---The exact answer, by a flat index.
function pg.ground_truth(...)
  return require "perigee.ground_truth"(...)
end

---What this machine offers, and what is missing and why.
function pg.doctor()
  return require "perigee.doctor"()
end

---How a value is written at the prompt.
function pg.show(value)
  return require "perigee.show".value(value)
end

---The help on a function, a method, a kind, a value or a name.
function pg.help(value)
  return require "perigee.help".text(value)
end

-- What the core asks of the Lua side.
core.hooks.progress = function()
  return require "perigee.progress".bar()
end
core.hooks.clusters = function(fields)
  return require "perigee.kmeans".object(fields)
end
core.hooks.accept = function(searcher, queries, k, options)
  return require "perigee.accept".search(searcher, queries, k, options)
end

return pg
