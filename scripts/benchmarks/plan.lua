-- plan: what is compared with what. Only data: measure.lua does it, tables.lua prints it.
--
-- A part is a table of the report. Its subjects are indexes, each with a program that has it, the
-- words of its build, and the knob that trades speed for recall. Subjects with a knob are measured
-- where they first reach the target recall, found in the same way for all; `grid` is a second knob,
-- of which the value is taken that is fastest there. Ratios are to the part's peer, or to the
-- subject that `versus` names.

local M = {}

---@class bench.Subject
---@field engine string  how the tables name it
---@field program "ours"|"hnswlib"|"faiss"|"wheels"
---@field dtype string
---@field build table<string, any>  the words of do=build
---@field knob string?  searched from `low` to `high`
---@field low integer?
---@field high integer?
---@field grid { name: string, values: number[] }?
---@field versus string?  the engine it is compared with; the part's peer when left out
---@field ladder table[]?  words that make builds better, the cheapest first

---@class bench.Part
---@field word string  what --only names
---@field title string
---@field peer string
---@field ks integer[]
---@field targets (number|"codes")[]?  recalls; "codes": what the codes of all subjects can reach
---@field builds boolean?  what is measured is how long they take to build, by their ladders, until
---their recall is the peer's where that reaches `target`, at the same knob
---@field target number?
---@field subjects bench.Subject[]

local EF_MAX <const> = 4096

-- The same number of lists for all: about the root of the rows.
local function lists_of(rows)
  return 1 << math.floor(math.log(math.sqrt(rows), 2) + 0.5)
end

-- The wheels' subjects are those of the distribution's packages again.
local function with_wheels(subjects)
  for i = 1, #subjects do
    local subject = subjects[i]
    if subject.program ~= "ours" then
      local again = {}
      for key, value in pairs(subject) do
        again[key] = value
      end
      again.program, again.engine = "wheels", subject.engine .. " wheel"
      again.library = subject.program
      subjects[#subjects + 1] = again
    end
  end
end

-- ---- graphs -------------------------------------------------------------------------------------

local function hnswlib_subject(dtype)
  return { engine = "hnswlib", program = "hnswlib", dtype = dtype, knob = "ef", low = 10,
    high = EF_MAX, build = { M = 16, ef_construction = 200 } }
end

local function graph_subject(dtype, engine, knob, build)
  return { engine = engine, program = "ours", dtype = dtype, knob = knob, low = 10, high = EF_MAX,
    build = build }
end

-- Degree 32 is as many links as hnswlib's M = 16 gives a row of its base level; 64 is the default
-- of CAGRA and Vamana. Codes are what the kind chooses, where its name does not say otherwise.
local function graph_subjects(dtype)
  local list = {
    hnswlib_subject(dtype),
    graph_subject(dtype, "perigee hnsw", "ef", { kind = "hnsw", m = 16 }),
    graph_subject(dtype, "perigee hnsw of cagra", "ef",
      { kind = "cagra", graph_degree = 32, to_hnsw = "cpu" }),
    graph_subject(dtype, "perigee cagra", "itopk_size", { kind = "cagra", graph_degree = 32 }),
    graph_subject(dtype, "perigee vamana", "itopk_size", { kind = "vamana", graph_degree = 32 }),
  }
  if dtype == "f32" then
    list[#list + 1] = graph_subject(dtype, "perigee hnsw, no codes", "ef",
      { kind = "hnsw", m = 16, codes = "none" })
    list[#list + 1] = graph_subject(dtype, "perigee cagra 64", "itopk_size",
      { kind = "cagra", graph_degree = 64 })
  end
  list[#list + 1] = graph_subject(dtype, "perigee hnsw, rabitq4", "ef",
    { kind = "hnsw", m = 16, codes = "rabitq4" })
  return list
end

local function graph_part(dtype)
  return { word = "graph", title = "Graph search at the recall; ratio to hnswlib's",
    peer = "hnswlib", ks = { 10 }, targets = { 0.95, 0.99 }, subjects = graph_subjects(dtype) }
end

local function ladder(subject, name, values)
  subject.ladder = {}
  for i, value in ipairs(values) do
    subject.ladder[i] = { [name] = value }
  end
  return subject
end

local function build_part(dtype)
  local hnsw = graph_subject(dtype, "perigee hnsw", "ef", { kind = "hnsw", m = 16 })
  local cagra = graph_subject(dtype, "perigee cagra", "itopk_size",
    { kind = "cagra", graph_degree = 32 })
  local vamana = graph_subject(dtype, "perigee vamana", "itopk_size",
    { kind = "vamana", graph_degree = 32 })
  return { word = "build", peer = "hnswlib", ks = { 10 }, builds = true, target = 0.95,
    title = "Builds: the cheapest whose recall@10 is hnswlib's at the ef where that has 0.95; how "
      .. "many times faster",
    subjects = {
      hnswlib_subject(dtype),
      ladder(hnsw, "ef_construction", { 30, 40, 60, 80, 100, 140, 200 }),
      ladder(cagra, "intermediate_graph_degree", { 40, 48, 64, 96, 128 }),
      ladder(vamana, "visited_size", { 32, 48, 64, 96, 128, 192 }),
    } }
end

-- ---- exact --------------------------------------------------------------------------------------

local function flat_part(set)
  local list = {
    { engine = "faiss", program = "faiss", dtype = "f32", build = { factory = "Flat" } },
    { engine = "perigee flat", program = "ours", dtype = "f32", build = { kind = "flat" } },
  }
  if set.bytes then -- FAISS has no exact index of bytes
    for _, dtype in ipairs { "u8", "i8" } do
      list[#list + 1] = { engine = "perigee flat " .. dtype, program = "ours", dtype = dtype,
        build = { kind = "flat" }, versus = "perigee flat" }
    end
  end
  return { word = "flat", peer = "faiss", ks = { 10, 100, 1000 }, fma = true, subjects = list,
    title = "Exact search: ratio to FAISS, of bytes to our floats; share of the multiply-adds" }
end

-- ---- inverted lists -----------------------------------------------------------------------------

-- One part: the same lists and codes in FAISS and in ours, without and with the rows behind them.
local function list_part(word, title, lists, ours, factory, refined)
  local function subjects(suffix, more)
    local grid = refined and { values = { 1, 2, 4, 8, 16 } }
    return {
      { engine = "faiss", program = "faiss", dtype = "f32", knob = "nprobe", low = 1, high = lists,
        build = { factory = ("IVF%d,%s%s"):format(lists, factory, suffix) },
        grid = grid and { name = "k_factor_rf", values = grid.values } },
      { engine = "perigee " .. ours.kind, program = "ours", dtype = "f32", knob = "n_probes",
        low = 1, high = lists, build = more,
        grid = grid and { name = "ratio", values = grid.values } },
    }
  end
  local build = { n_lists = lists, refine = refined and 1 or nil }
  for key, value in pairs(ours) do
    build[key] = value
  end
  return { word = word, title = title, peer = "faiss", ks = { 10 },
    targets = refined == nil and { 0.95, 0.99 } or refined and { 0.95 } or { "codes" },
    subjects = subjects(refined and ",RFlat" or "", build) }
end

local function list_parts(shape)
  local lists, half, quarter = lists_of(shape.rows), shape.dim // 2, shape.dim // 4
  local parts = {
    list_part("ivf_flat", "ivf_flat at the recall; ratio to FAISS", lists,
      { kind = "ivf_flat" }, "Flat", nil),
  }
  local codes = {
    { "fastscan", "ivf_pq of 4 bits (FastScan)", { kind = "ivf_pq", pq_bits = 4, pq_dim = half },
      ("PQ%dx4fs"):format(half) },
    { "ivf_pq", "ivf_pq of 8 bits", { kind = "ivf_pq", pq_bits = 8, pq_dim = quarter },
      ("PQ%dnp"):format(quarter) }, -- np: without the minutes of a training that this does not use
    { "ivf_sq", "ivf_sq of 8 bits", { kind = "ivf_sq", bits = 8 }, "SQ8" },
    { "ivf_rabitq", "ivf_rabitq of 1 bit", { kind = "ivf_rabitq", bits_per_dim = 1 }, "RaBitQ" },
  }
  for _, code in ipairs(codes) do
    local word, title, ours, factory = table.unpack(code)
    parts[#parts + 1] = list_part(word, title .. " at what the codes of both reach; ratio to FAISS",
      lists, ours, factory, false)
    parts[#parts + 1] = list_part(word, title .. " and the rows to refine with, at the recall; "
      .. "ratio to FAISS", lists, ours, factory, true)
  end
  return parts
end

-- ---- all ----------------------------------------------------------------------------------------

---@param set bench.Set
---@param shape { dim: integer, rows: integer }
---@param options { only: string?, wheels: boolean }
---@return bench.Part[]
function M.parts(set, shape, options)
  local all, kept, exact = {}, {}, false
  for _, dtype in ipairs(set.bytes and { "f32", "u8" } or { "f32" }) do
    all[#all + 1] = graph_part(dtype)
    all[#all + 1] = build_part(dtype)
  end
  all[#all + 1] = flat_part(set)
  local lists = list_parts(shape)
  table.move(lists, 1, #lists, #all + 1, all)
  for _, part in ipairs(all) do
    exact = exact or part.word == options.only
  end
  for _, part in ipairs(all) do
    local wanted = not options.only or part.word == options.only
      or not exact and part.word:find(options.only, 1, true)
    if wanted then
      if options.wheels then
        with_wheels(part.subjects)
      end
      kept[#kept + 1] = part
    end
  end
  return kept
end

return M
