-- The help: what every public function takes and gives. The parameters of an index come from the
-- table in the engine that also checks them, so help cannot say something else than what is done.

local core = require "perigee.core"

local M = {}

---@class perigee.help.Entry
---@field name string  "pg.load", "Matrix:slice"
---@field call string  how it is called, and what it gives
---@field text string
---@field options { [1]: string, [2]: string }[]?  of the binding itself
---@field params { [1]: string, [2]: string }?  kind and verb of an engine table

local PROGRESS <const> = {
  "progress", "true: a bar on stderr; or function(stage, done, total), false cancels",
}
local THREADS <const> = { "threads", "threads at most; 0 is as many as the context has" }
local PLACE <const> = { "place", [["cpu", "cuda:0", "auto"; "cpu" when left out]] }
local IDS <const> = { "ids", "a list or matrix of ids, one a row; row numbers when left out" }
local BUILD <const> = { PLACE, IDS, THREADS, PROGRESS }

local TRAIN <const> = { THREADS, PROGRESS }

---@type perigee.help.Entry[]
M.entries = {
  -- the module
  { name = "pg.version", call = "pg.version", text = "The version, a string." },
  { name = "pg.configure", call = "pg.configure { threads =, memory_bytes = } -> true",
    text = "Sets the context that all states of the process share, before first use of it.",
    options = { { "threads", "size of the pool, the caller counted; 0 is one a CPU" },
      { "memory_bytes", "host memory that may be held; 0 is no limit" } } },
  { name = "pg.stats", call = "pg.stats() -> table", text = "Bytes and blocks held, threads." },
  { name = "pg.devices", call = "pg.devices() -> list",
    text = "Each place that can be used, with its name and memory; else the reason why not." },
  { name = "pg.limit", call = "pg.limit(place, bytes) -> true",
    text = "At most so many bytes of a device's memory from now on; 0 is all it has." },
  { name = "pg.trim", call = "pg.trim(place) -> true",
    text = "Gives back the memory of a device that idle searches keep for the next one." },
  { name = "pg.doctor", call = "pg.doctor() -> report",
    text = "What this machine offers, and what is missing and why; prints as a page." },
  { name = "pg.show", call = "pg.show(value) -> string",
    text = "A value as the prompt writes it." },
  { name = "pg.help", call = "pg.help(value) -> string",
    text = "The help on a function, a method, a kind, a value, or a name such as \"pg.load\"." },
  -- data
  { name = "pg.load", call = "pg.load(path[, options]) -> Matrix",
    text = "Reads a matrix file: npy, fvecs, bvecs, ivecs, fbin, f16bin, u8bin, i8bin, ibin.",
    options = { { "rows", "{ first, stop }: rows from first up to, without, stop" },
      { "format", "by the name's ending when left out" },
      { "map", "true: map the file instead of reading it, where its layout allows" }, PROGRESS } },
  { name = "pg.matrix",
    call = "pg.matrix(rows, cols[, dtype[, place]]), pg.matrix(table[, dtype]) -> Matrix",
    text = "A matrix of zeros, or of a table of rows. dtype: f32 (default) f16 i8 u8 i32 "
      .. "u32 i64. place \"pinned\": host memory that is page-locked, for fast copies to cuda:0." },
  { name = "pg.pack", call = "pg.pack(matrix), pg.pack(table[, dtype]) -> string",
    text = "The numbers as a packed string, row by row." },
  { name = "pg.unpack", call = "pg.unpack(string[, dtype[, cols]]) -> Matrix",
    text = "A matrix of a packed string; one row when cols is left out." },
  { name = "pg.from_dlpack", call = "pg.from_dlpack(tensor[, options]) -> Matrix",
    text = "The rows of another library's tensor, without a copy. tensor: the address of a "
      .. "DLManagedTensor, as a light userdata or an integer; the matrix gives it back.",
    options = { { "versioned", "true: it is a DLManagedTensorVersioned" },
      { "stream", "the stream that fills it, which is waited for" } } },
  -- indexes
  { name = "pg.flat.build", call = "pg.flat.build(rows[, options]) -> Searcher",
    text = "An index that compares every row: exact.", options = BUILD,
    params = { "flat", "build" } },
  { name = "pg.flat.defaults", call = "pg.flat.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: build, "
      .. "search." },
  { name = "pg.ivf_flat.build", call = "pg.ivf_flat.build(rows[, options]) -> Searcher",
    text = "Rows in lists by their nearest centroid; a search compares those of a few lists.",
    options = BUILD, params = { "ivf_flat", "build" } },
  { name = "pg.ivf_flat.defaults", call = "pg.ivf_flat.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: build, "
      .. "search." },
  { name = "pg.ivf_pq.build", call = "pg.ivf_pq.build(rows[, options]) -> Searcher",
    text = "Rows as short codes in lists by their nearest centroid: the least memory. A search "
      .. "compares codes; index:refined(rows) re-ranks.",
    options = BUILD, params = { "ivf_pq", "build" } },
  { name = "pg.ivf_pq.defaults", call = "pg.ivf_pq.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: build, "
      .. "search." },
  { name = "pg.ivf_sq.build", call = "pg.ivf_sq.build(rows[, options]) -> Searcher",
    text = "Lists of scalar-quantized rows, 8 or 4 bits a column; distances are approximate. Every "
      .. "metric. For f16 in the lists, give rows of f16 to ivf_flat.",
    options = BUILD, params = { "ivf_sq", "build" } },
  { name = "pg.ivf_sq.defaults", call = "pg.ivf_sq.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: build, "
      .. "search." },
  { name = "pg.ivf_rabitq.build", call = "pg.ivf_rabitq.build(rows[, options]) -> Searcher",
    text = "Lists of RaBitQ codes, 1 to 8 bits a dimension; distances are estimates without bias, "
      .. "and may be below 0. Every metric. Meant for refined().",
    options = BUILD, params = { "ivf_rabitq", "build" } },
  { name = "pg.ivf_rabitq.defaults", call = "pg.ivf_rabitq.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: build, "
      .. "search." },
  { name = "pg.cagra.build", call = "pg.cagra.build(rows[, options]) -> Searcher",
    text = "A graph of near rows, pruned and made connected.", options = BUILD,
    params = { "cagra", "build" } },
  { name = "pg.cagra.defaults", call = "pg.cagra.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: build, search, "
      .. "to_hnsw." },
  { name = "pg.hnsw.build", call = "pg.hnsw.build(rows[, options]) -> Searcher",
    text = "A graph with levels above it, made by insertion.", options = BUILD,
    params = { "hnsw", "build" } },
  { name = "pg.hnsw.defaults", call = "pg.hnsw.defaults([verb]) -> values, rules",
    text = "Default parameters by name. verb: build, search. An HNSW index is also made by "
      .. "index:to_hnsw or pg.open." },
  { name = "pg.vamana.build", call = "pg.vamana.build(rows[, options]) -> Searcher",
    text = "A graph of one level whose links reach far, made by insertion in two passes.",
    options = BUILD, params = { "vamana", "build" } },
  { name = "pg.vamana.defaults", call = "pg.vamana.defaults([verb]) -> values, rules",
    text = "Default parameters by name. verb: build, search." },
  { name = "pg.open", call = "pg.open(path[, options]) -> Searcher",
    text = "Opens a saved index.",
    options = { PLACE, { "map", "true: map the file instead of reading it" },
      { "format", [["perigee" (default) or "hnswlib"]] },
      { "metric", "of an hnswlib file, which does not say" },
      { "dtype", "of an hnswlib file: f32 (default) or u8" },
      { "rows", "the matrix of an index that was saved with dataset = false" }, PROGRESS } },
  { name = "pg.factory", call = "pg.factory(string) -> Builder",
    text = "Reads an index string of FAISS, such as \"IVF1024,Flat\", \"HNSW32\" or "
      .. "\"IVF1024,PQ16,RFlat\"." },
  -- quantizers
  { name = "pg.pq.train", call = "pg.pq.train(rows[, options]) -> Quantizer",
    text = "Product quantization: each piece of a row is coded by the nearest of 2^pq_bits "
      .. "codewords.",
    options = TRAIN, params = { "pq", "train" } },
  { name = "pg.pq.open", call = "pg.pq.open(path[, options]) -> Quantizer",
    text = "Opens what Quantizer:save wrote.", options = { PROGRESS } },
  { name = "pg.pq.defaults", call = "pg.pq.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: train." },
  { name = "pg.opq.train", call = "pg.opq.train(rows[, options]) -> Quantizer",
    text = "Product quantization behind a learned rotation; needs a LAPACK, see pg.doctor().",
    options = TRAIN, params = { "opq", "train" } },
  { name = "pg.opq.open", call = "pg.opq.open(path[, options]) -> Quantizer",
    text = "Opens what Quantizer:save wrote.", options = { PROGRESS } },
  { name = "pg.opq.defaults", call = "pg.opq.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: train." },
  { name = "pg.sq.train", call = "pg.sq.train(rows[, options]) -> Quantizer",
    text = "Scalar quantization: each column on its own, to 8 or 4 bits or to f16.",
    options = TRAIN, params = { "sq", "train" } },
  { name = "pg.sq.open", call = "pg.sq.open(path[, options]) -> Quantizer",
    text = "Opens what Quantizer:save wrote.", options = { PROGRESS } },
  { name = "pg.sq.defaults", call = "pg.sq.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: train." },
  { name = "pg.binary.train", call = "pg.binary.train(rows[, options]) -> Quantizer",
    text = "One bit a column: above zero, the mean or the median. Decodes to each side's mean.",
    options = TRAIN, params = { "binary", "train" } },
  { name = "pg.binary.open", call = "pg.binary.open(path[, options]) -> Quantizer",
    text = "Opens what Quantizer:save wrote.", options = { PROGRESS } },
  { name = "pg.binary.defaults", call = "pg.binary.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: train." },
  { name = "pg.rabitq.train", call = "pg.rabitq.train(rows[, options]) -> Quantizer",
    text = "RaBitQ: 1 to 8 bits a dimension behind a random rotation, and two numbers a row.",
    options = TRAIN, params = { "rabitq", "train" } },
  { name = "pg.rabitq.open", call = "pg.rabitq.open(path[, options]) -> Quantizer",
    text = "Opens what Quantizer:save wrote.", options = { PROGRESS } },
  { name = "pg.rabitq.defaults", call = "pg.rabitq.defaults([verb]) -> values, rules",
    text = "Default parameters by name, and how the automatic ones are found. verb: train." },
  -- filters
  { name = "pg.filter.ids", call = "pg.filter.ids(list[, n]) -> Filter",
    text = "Rows whose id is in a list or a matrix; n rows in all, if it is known already. "
      .. "Filters join by & | - and ~ (not)." },
  { name = "pg.filter.range", call = "pg.filter.range(first, stop[, n]) -> Filter",
    text = "Rows from first up to, without, stop." },
  { name = "pg.filter.bits", call = "pg.filter.bits(string[, n]) -> Filter",
    text = "Packed bits, the lowest of the first byte is row 0; a set bit lets its row pass." },
  -- clustering
  { name = "pg.kmeans", call = "pg.kmeans(rows[, options]) -> Clusters",
    text = "Centroids by k-means and the nearest of them of every row, at the place of the rows or "
      .. "another; or only the latter, for centroids given.",
    options = { { "place", "where it runs; where the rows are when left out" },
      { "residence", "with place: auto (the rows go there when they fit), device, or host: they "
        .. "pass in chunks, an iteration at a time; labels and distances stay on the host too" },
      { "centroids", "a matrix: nothing is trained; metric is the only parameter then" },
      { "labels", "false: train only; labels, distances and sizes are nil" }, THREADS, PROGRESS },
    params = { "kmeans", "train" } },
  -- rows against rows
  { name = "pg.pairwise", call = "pg.pairwise(a, b[, options]) -> Matrix",
    text = "The distance of every row of a to every row of b: f32 [a.rows, b.rows].",
    options = { { "place", "where it runs; where the rows are when left out" },
      { "residence", "auto (the result is there when it fits), device, or host: made in tiles, "
        .. "which come to the host, as large as it can hold" },
      { "metric", "sqeuclidean (default) euclidean inner_product cosine l1 hamming" },
      THREADS, PROGRESS } },
  { name = "pg.knn_graph", call = "pg.knn_graph(rows, k[, options]) -> neighbors, distances",
    text = "The k nearest other rows of every row: i64 and f32 [rows, k]; -1 where there are no "
      .. "more.",
    options = { { "place", "where it is made and stays; where the rows are when left out" },
      { "residence", "auto (rows and lists are there when they fit), device, or host: rows pass "
        .. "in chunks and lists come to the host; with build_algo exact" },
      THREADS, PROGRESS }, params = { "knn_graph", "build" } },
  -- measuring
  { name = "pg.recall", call = "pg.recall(found, truth[, k]) -> number",
    text = "The share of the true neighbours that were found: by value when both sides carry "
      .. "distances (hits, or { neighbors =, distances =, metric = }), else by id (matrices)." },
  { name = "pg.ground_truth", call = "pg.ground_truth(rows, queries, k[, options]) -> Hits",
    text = "The exact answer. Options: those of pg.flat.build, and filter." },
  -- Matrix
  { name = "Matrix:slice", call = "m:slice(first[, stop]) -> Matrix",
    text = "Rows from first up to, without, stop; not copied." },
  { name = "Matrix:gather", call = "m:gather(ids) -> Matrix",
    text = "The rows named by a list or a matrix of whole numbers, copied in that order." },
  { name = "Matrix:row", call = "m:row(r) -> list",
    text = "The numbers of row r, which counts from 0." },
  { name = "Matrix:each", call = "for r, row in m:each() do … end",
    text = "Row after row, from 0." },
  { name = "Matrix:normalize", call = "m:normalize() -> Matrix", text = "f32 rows of length 1." },
  { name = "Matrix:as", call = "m:as(dtype) -> Matrix",
    text = "Rounded to the nearest value of another dtype; whole numbers stop at its limits." },
  { name = "Matrix:to", call = "m:to(place[, options]) -> Matrix",
    text = "The same rows at another place; \"pinned\": in page-locked memory of the host.",
    options = { { "stream", "the stream that fills the matrix, which is waited for" } } },
  { name = "Matrix:to_dlpack", call = "m:to_dlpack([{ versioned = }]) -> light userdata",
    text = "The address of a DLManagedTensor over the same memory, for another library. Whoever "
      .. "takes it calls its deleter." },
  { name = "Matrix:save", call = "m:save(path[, { format = }]) -> true",
    text = "Writes a matrix file; the name's ending says which, and the dtype must suit it." },
  { name = "Matrix:pack", call = "m:pack() -> string", text = "The numbers as a packed string." },
  { name = "Matrix:equals", call = "m:equals(other) -> boolean",
    text = "Same shape, dtype and bytes." },
  { name = "Matrix:info", call = "m:info() -> table",
    text = "rows, cols, dtype, place, bytes, pinned." },
  { name = "Matrix:close", call = "m:close()", text = "Gives up the handle; it closes once only." },
  -- Searcher
  { name = "Searcher:search", call = "s:search(queries, k[, options]) -> Hits",
    text = "The k nearest rows of each query. Queries: a matrix, a table of numbers, a table of "
      .. "rows, a packed f32 string.",
    options = { { "filter", "a filter, or a list of one for each query" },
      { "accept", "function(ids) -> list of booleans: which answers may stand" },
      { "out", "hits of an earlier search to fill again, or { neighbors =, distances = }" },
      { "place", "where the answer is left: the host (default) or the searcher's place" },
      { "stream", "a cudaStream_t: the search comes after what is in it, and what follows there "
        .. "after the search" }, THREADS, PROGRESS },
    params = { "*", "search" } },
  { name = "Searcher:range_search",
    call = "s:range_search(queries, radius[, options]) -> offsets, ids, distances",
    text = "All rows at radius or nearer, of flat and ivf_flat: rows offsets[i] up to, without, "
      .. "offsets[i + 1] of ids and distances are those of query i, nearest first.",
    options = { { "filter", "a filter, or a list of one for each query" },
      { "max_results", "keeps the nearest so many of each query; 0, the default, all" }, THREADS,
      PROGRESS },
    params = { "ivf_flat", "search" } },
  { name = "Searcher:score", call = "s:score(queries, ids) -> Matrix",
    text = "Exact values of given rows: as many ids for each query." },
  { name = "Searcher:dataset", call = "s:dataset() -> Matrix", text = "The rows that it holds." },
  { name = "Searcher:filtered", call = "s:filtered(filter) -> Searcher",
    text = "A searcher whose every search also obeys the filter." },
  { name = "Searcher:extend", call = "index:extend(rows[, options]) -> index",
    text = "Adds rows behind those there are. Searches under way finish on what they began with.",
    options = { { "ids", "one for each row; required where the index has ids of its own" },
      { "threads", "at most this many" }, PROGRESS } },
  { name = "Searcher:remove", call = "index:remove(ids[, options]) -> integer",
    text = "Removes rows and says how many there were. Other rows keep their numbers and ids.",
    options = { { "threads", "at most this many" }, PROGRESS } },
  { name = "Searcher:refined", call = "s:refined(rows[, { ratio = }]) -> Searcher",
    text = "A searcher that asks this one for more and ranks them again on rows.",
    params = { "refined", "search" } },
  { name = "Searcher:to_hnsw", call = "index:to_hnsw([options]) -> Searcher",
    text = "An HNSW index over the graph of a CAGRA index; rows are shared.",
    options = { PROGRESS },
    params = { "cagra", "to_hnsw" } },
  { name = "Searcher:to", call = "index:to(place) -> Searcher", text = "A copy at another place." },
  { name = "Searcher:save", call = "index:save(path[, options]) -> true",
    text = "Writes beside, syncs, renames: an interrupted save leaves the old file.",
    options = { { "dataset", "false: without the rows" },
      { "format", [["perigee" (default) or "hnswlib"]] },
      { "dtype", "of an hnswlib file: f32 (default) or u8" }, PROGRESS } },
  { name = "Searcher:info", call = "s:info() -> table",
    text = "kind, rows, dim, dtype, metric, place, bytes, params as they were resolved, inner." },
  { name = "Searcher:explain", call = "s:explain() -> string",
    text = "The tree of searchers, and where each part runs." },
  { name = "Searcher:close", call = "s:close()",
    text = "Gives up the handle; it closes once only." },
  -- Quantizer
  { name = "Quantizer:encode", call = "q:encode(rows[, options]) -> Matrix",
    text = "The codes of rows: a matrix of u8, row_bytes columns.", options = TRAIN },
  { name = "Quantizer:decode", call = "q:decode(codes[, options]) -> Matrix",
    text = "The rows that codes stand for, f32.", options = TRAIN },
  { name = "Quantizer:distortion", call = "q:distortion(rows[, options]) -> number",
    text = "The mean squared distance between a row and what its code stands for.",
    options = TRAIN },
  { name = "Quantizer:save", call = "q:save(path[, options]) -> true",
    text = "Writes beside, syncs, renames: an interrupted save leaves the old file.",
    options = { PROGRESS } },
  { name = "Quantizer:info", call = "q:info() -> table",
    text = "kind, dim, row_bytes, bytes, params as they were resolved, and what the kind adds." },
  { name = "Quantizer:close", call = "q:close()",
    text = "Gives up the handle; it closes once only." },
  -- Hits
  { name = "Hits:each", call = "for id, distance in hits:each([row]) do … end",
    text = "The neighbours of one query, nearest first; row counts from 0." },
  { name = "Hits:to", call = "hits:to(place) -> Hits",
    text = "The same answer at another place." },
  { name = "Hits:unpack", call = "hits:unpack() -> distances, neighbors",
    text = "Two matrices [queries, k]; also the fields of these names. hits.info says how "
      .. "it went." },
  { name = "Hits:close", call = "hits:close()",
    text = "Gives up the handle; it closes once only." },
  -- Clusters
  { name = "Clusters:assign", call = "c:assign(rows[, options]) -> labels, distances",
    text = "The nearest centroid of other rows: u32 and f32 [rows, 1]. Options: place, residence, "
      .. "threads and progress of pg.kmeans." },
  { name = "Clusters:info", call = "c:info() -> table",
    text = "n_clusters, dim, metric, place, inertia, iterations, trained_rows, smallest, largest, "
      .. "repaired." },
  { name = "Clusters:close", call = "c:close()", text = "Gives up its matrices." },
  -- Builder
  { name = "Builder:build", call = "b:build(rows[, options]) -> Searcher",
    text = "Builds it. Options: those of the kind's build that the string does not say, and ratio "
      .. "where it refines." },
  -- Filter
  { name = "Filter:count", call = "f:count([n]) -> integer",
    text = "How many of n rows pass; n as given when it was made, if left out." },
  { name = "Filter:selectivity", call = "f:selectivity([n]) -> number",
    text = "The share that passes." },
  { name = "Filter:test", call = "f:test(id) -> boolean", text = "Whether one id passes." },
  { name = "Filter:info", call = "f:info() -> table", text = "n and count, when n is known." },
  { name = "Filter:close", call = "f:close()", text = "Gives up the handle; it closes once only." },
}

-- The types that are made in Lua, by their modules.
local MADE_HERE <const> = { Clusters = "perigee.kmeans", Builder = "perigee.factory" }

local TYPES <const> = {
  Clusters = "What k-means found. Fields: centroids, labels, distances, sizes, inertia, metric, "
    .. "smallest, largest, trained_rows, iterations, repaired.",
  Builder = "What an index string stands for. Fields: text, kind, options, refine.",
  Matrix = "Rows somewhere. Fields: rows, cols, dtype, place. #m is the number of rows.",
  Searcher = "What answers queries. Fields: kind, rows, dim, metric, dtype, place.",
  Quantizer = "Rows to short codes and back. Fields: kind, dim, row_bytes.",
  Hits = "An answer. Fields: neighbors, distances, info, queries, k, metric.",
  Filter = "Which rows may be returned. Filters join by & | - and ~ (not).",
}

-- ---- parameters ---------------------------------------------------------------------------------

local function number_text(value)
  return value == math.floor(value) and ("%.0f"):format(value) or ("%.6g"):format(value)
end

local function range_of(row)
  if row.choices then
    return (row.choices:gsub("|", ", "))
  elseif row.type == "boolean" then
    return "true, false"
  end
  return number_text(row.min) .. ".." .. number_text(row.max)
end

local function default_of(row)
  if row.rule and not row.choices then
    return "automatic"
  end
  return math.type(row.default) == "float" and number_text(row.default) or tostring(row.default)
end

local function add_params(lines, kind, verb)
  for _, row in ipairs(core.params(kind, verb) or {}) do
    local meaning = row.meaning .. (row.rule and (" (automatic: %s)"):format(row.rule) or "")
    lines[#lines + 1] = ("  %-28s %-12s %s"):format(row.name, default_of(row), meaning)
    lines[#lines + 1] = ("  %-28s %-12s %s"):format("", "", range_of(row))
  end
end

local MEMORY_MORE <const> = "\n  (bytes: of an element; and 8 n with ids, 4 n under cosine where "
  .. "rows are kept)"
local SEARCHED <const> = { table.unpack(core.kinds) }
SEARCHED[#SEARCHED + 1] = "refined"

local function entry_text(entry)
  local lines = { entry.call, "  " .. entry.text }
  if entry.options then
    lines[#lines + 1] = "options"
    for _, option in ipairs(entry.options) do
      lines[#lines + 1] = ("  %-28s %s"):format(option[1], option[2])
    end
  end
  local kind, verb = table.unpack(entry.params or {})
  if kind == "*" then
    for _, each in ipairs(SEARCHED) do
      lines[#lines + 1] = ("parameters of %s%26s %s"):format(each, "default", "meaning and range")
      add_params(lines, each, verb)
    end
  elseif kind then
    lines[#lines + 1] = ("%-30s %-12s %s"):format("parameters", "default", "meaning and range")
    add_params(lines, kind, verb)
    local memory = (core.params(kind, verb) or {}).memory
    lines[#lines + 1] = memory and "memory in bytes: " .. memory .. MEMORY_MORE
  end
  return table.concat(lines, "\n")
end

-- ---- finding ------------------------------------------------------------------------------------

-- The function that an entry is about.
local function value_of(name)
  local word, method = name:match "^(%u%w+):([%w_]+)$"
  if word then
    return (core[word] or require(MADE_HERE[word]).methods)[method]
  end
  local value = require "perigee"
  for key in name:gmatch "[^.]+" do
    if key ~= "pg" then
      value = value[key]
    end
  end
  return value
end

local by_value

-- Entries by the functions that they are about. close, for one, is a function of each type.
local function entry_of(value)
  if not by_value then
    by_value = {}
    for _, entry in ipairs(M.entries) do
      local subject = value_of(entry.name)
      if type(subject) == "function" then
        by_value[subject] = entry
      end
    end
  end
  return by_value[value]
end

-- Entries whose name begins so, as a list of calls and first sentences.
local function list_text(title, prefix)
  local lines = { title }
  for _, entry in ipairs(M.entries) do
    if entry.name:sub(1, #prefix) == prefix then
      lines[#lines + 1] = "  " .. entry.call
      lines[#lines + 1] = "      " .. entry.text
    end
  end
  return table.concat(lines, "\n")
end

local function by_name(name)
  local wanted = name:gsub("^perigee%.", "pg.")
  for _, entry in ipairs(M.entries) do
    local bare = entry.name:match "[.:]([%w_]+)$"
    if entry.name == wanted or entry.name == "pg." .. wanted or bare == wanted then
      return entry_text(entry)
    end
  end
  if TYPES[wanted] then
    return list_text(TYPES[wanted], wanted .. ":")
  end
  return ("no help on '%s'"):format(name)
end

-- The name of a table of the module: "pg.cagra", or nil.
local function table_name(value)
  local pg = require "perigee"
  if value == pg then
    return "pg"
  end
  for key, field in pairs(pg) do
    if rawequal(field, value) then
      return "pg." .. key
    end
  end
  for word in pairs(TYPES) do
    if rawequal(core[word], value) then
      return word
    end
  end
end

---One line on a function of the module; nil for any other.
---@param value function
---@return string?
function M.brief(value)
  local entry = entry_of(value)
  return entry and "function " .. entry.call
end

---The help on a value: a function, a handle, a table of the module, or a name.
---@param value any
---@return string
function M.text(value)
  if value == nil then
    return list_text("local pg = require \"perigee\"", "pg.")
  elseif type(value) == "string" then
    return by_name(value)
  elseif type(value) == "function" then
    local entry = entry_of(value)
    return entry and entry_text(entry) or "no help on this function: it is not of Perigee"
  end
  for word, module in pairs(MADE_HERE) do
    if require(module).is(value) then
      return by_name(word)
    end
  end
  if type(value) == "table" then
    local name = table_name(value)
    if name and TYPES[name] then
      return by_name(name)
    end
    return name and list_text(name, name .. ".") or "a table; no help on it"
  end
  local word = core.members(value)
  return word and by_name(word) or ("a %s; no help on it"):format(type(value))
end

return M
