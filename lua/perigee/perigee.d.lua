---@meta perigee
-- luacheck: ignore 211 212 241
-- What the language server knows of Perigee. `scripts/api_coverage.lua` holds it to the module.

---A dtype: "f32" "f16" "i8" "u8" for vectors, "i64" "i32" "u32" for ids.
---@alias perigee.Dtype "f32"|"f16"|"i8"|"u8"|"i32"|"u32"|"i64"
---@alias perigee.Metric "sqeuclidean"|"euclidean"|"inner_product"|"cosine"|"l1"|"hamming"
---The code that follows nil and a message.
---@alias perigee.Code
---| "invalid" | "io" | "corrupt" | "memory" | "device" | "unsupported" | "interrupted"
---| "timeout" | "cancelled" | "busy" | "fork"
---False cancels the call.
---@alias perigee.Progress true|fun(stage: string, done: integer, total: integer): boolean?
---@alias perigee.Ids integer[]|perigee.Matrix
---@alias perigee.Queries perigee.Matrix|number[]|number[][]|string

---@class perigee
---@field version string
---@field flat perigee.Flat
---@field ivf_flat perigee.IvfFlat
---@field cagra perigee.Cagra
---@field hnsw perigee.Hnsw
---@field vamana perigee.Vamana
---@field pq perigee.Pq
---@field opq perigee.Opq
---@field sq perigee.Sq
---@field binary perigee.Binary
---@field rabitq perigee.Rabitq
---@field filter perigee.Filters
local pg = {}

---@param options { threads: integer?, memory_bytes: integer? }
---@return true?, string?, perigee.Code?
function pg.configure(options) end

---@alias perigee.WalkCodes "auto"|"none"|"sq8"|"rabitq1"|"rabitq2"|"rabitq4"

---@class perigee.Stats
---@field bytes integer  held now
---@field bytes_peak integer
---@field bytes_limit integer  0: none
---@field blocks integer
---@field acquired integer  allocations ever made
---@field numa_nodes integer  memory nodes; with more than one, threads are kept on a node each
---@field threads integer

---@return perigee.Stats
---@nodiscard
function pg.stats() end

---@class perigee.Device
---@field place string
---@field reason string?  why it cannot be used; the other fields are nil then
---@field name string?
---@field detail string?
---@field bytes_total integer?
---@field bytes_free integer?
---@field units integer?
---@field shares_host boolean?
---@field bytes_held { rows: integer, scratch: integer, staging: integer, other: integer }?

---@return perigee.Device[]
---@nodiscard
function pg.devices() end

---@param place string
---@param bytes integer  0: no limit
---@return true?, string?, perigee.Code?
function pg.limit(place, bytes) end

---@param place string
---@return true?, string?, perigee.Code?
function pg.trim(place) end

---@return perigee.Report
---@nodiscard
function pg.doctor() end

---@param value any
---@return string
---@nodiscard
function pg.show(value) end

---@param value any
---@return string
---@nodiscard
function pg.help(value) end

---@class perigee.Load
---@field rows integer[]?
---@field format string?
---@field map boolean?
---@field progress perigee.Progress?

---@param path string
---@param options perigee.Load?
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function pg.load(path, options) end

---@param rows integer
---@param cols integer
---@param dtype perigee.Dtype?
---@param place string?
---@return perigee.Matrix?, string?, perigee.Code?
---@overload fun(rows: number[][], dtype: perigee.Dtype?): perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function pg.matrix(rows, cols, dtype, place) end

---@param value perigee.Matrix|number[]|number[][]
---@param dtype perigee.Dtype?
---@return string
---@nodiscard
function pg.pack(value, dtype) end

---@param packed string
---@param dtype perigee.Dtype?
---@param cols integer?
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function pg.unpack(packed, dtype, cols) end

---@param tensor lightuserdata|integer
---@param options { versioned: boolean?, stream: lightuserdata|integer|nil }?
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function pg.from_dlpack(tensor, options) end

---@class perigee.Open
---@field place string?
---@field map boolean?
---@field format string?
---@field metric perigee.Metric?
---@field dtype string?
---@field rows perigee.Matrix?
---@field progress perigee.Progress?

---@param path string
---@param options perigee.Open?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function pg.open(path, options) end

---@param found perigee.Hits|perigee.Matrix|table
---@param truth perigee.Hits|perigee.Matrix|table
---@param k integer?
---@return number?, string?, perigee.Code?
---@nodiscard
function pg.recall(found, truth, k) end

---@class perigee.GroundTruth
---@field metric perigee.Metric?
---@field place string?
---@field ids perigee.Ids?
---@field filter perigee.Filter|perigee.Filter[]?
---@field threads integer?

---@param base perigee.Matrix
---@param queries perigee.Queries
---@param k integer
---@param options perigee.GroundTruth?
---@return perigee.Hits?, string?, perigee.Code?
---@nodiscard
function pg.ground_truth(base, queries, k, options) end

---@class perigee.Flat
local flat = {}

---@class perigee.FlatBuild
---@field metric perigee.Metric?
---@field place string?
---@field ids perigee.Ids?
---@field threads integer?
---@field progress perigee.Progress?

---@param rows perigee.Matrix|number[][]
---@param options perigee.FlatBuild?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function flat.build(rows, options) end

---@param verb "build"|"search"|nil
---@return table<string, any> values, table<string, string> rules
function flat.defaults(verb) end

---@class perigee.IvfBuild
---@field metric perigee.Metric?
---@field n_lists integer?
---@field kmeans_n_iters integer?
---@field kmeans_trainset_fraction number?
---@field add_data_on_build boolean?
---@field seed integer?
---@field place string?
---@field ids perigee.Ids?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.IvfFlatBuild: perigee.IvfBuild
---@field adaptive_centers boolean?

---@class perigee.IvfFlat
local ivf_flat = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.IvfFlatBuild?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function ivf_flat.build(rows, options) end

---@param verb "build"|"search"|nil
---@return table<string, any> values, table<string, string> rules
function ivf_flat.defaults(verb) end

---@class perigee.CagraBuild
---@field metric perigee.Metric?
---@field graph_degree integer?
---@field intermediate_graph_degree integer?
---@field build_algo "auto"|"exact"|"nn_descent"|"ivf_flat"|nil
---@field nn_descent_niter integer?
---@field termination_threshold number?
---@field guarantee_connectivity boolean?
---@field seed integer?
---@field codes perigee.WalkCodes?  what walks measure by in place of the rows
---@field place string?
---@field ids perigee.Ids?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Cagra
local cagra = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.CagraBuild?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function cagra.build(rows, options) end

---@param verb "build"|"search"|"to_hnsw"|nil
---@return table<string, any> values, table<string, string> rules
function cagra.defaults(verb) end

---@class perigee.HnswBuild
---@field metric perigee.Metric?
---@field m integer?
---@field ef_construction integer?
---@field alpha number?
---@field seed integer?
---@field codes perigee.WalkCodes?  what walks measure by in place of the rows
---@field place string?
---@field ids perigee.Ids?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Hnsw
local hnsw = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.HnswBuild?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function hnsw.build(rows, options) end

---@param verb "build"|"search"|nil
---@return table<string, any> values, table<string, string> rules
function hnsw.defaults(verb) end

---@class perigee.VamanaBuild
---@field metric perigee.Metric?
---@field graph_degree integer?
---@field visited_size integer?
---@field alpha number?
---@field seed integer?
---@field codes perigee.WalkCodes?  what walks measure by in place of the rows
---@field place string?
---@field ids perigee.Ids?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Vamana
local vamana = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.VamanaBuild?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function vamana.build(rows, options) end

---@param verb "build"|"search"|nil
---@return table<string, any> values, table<string, string> rules
function vamana.defaults(verb) end

---@class perigee.PqTrain
---@field pq_dim integer?
---@field pq_bits integer?
---@field kmeans_n_iters integer?
---@field max_train_points_per_pq_code integer?
---@field force_random_rotation boolean?
---@field seed integer?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Pq
local pq = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.PqTrain?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function pq.train(rows, options) end

---@param path string
---@param options { progress: perigee.Progress? }?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function pq.open(path, options) end

---@param verb "train"|nil
---@return table<string, any> values, table<string, string> rules
function pq.defaults(verb) end

---@class perigee.OpqTrain
---@field pq_dim integer?
---@field pq_bits integer?
---@field kmeans_n_iters integer?
---@field max_train_points_per_pq_code integer?
---@field force_random_rotation boolean?
---@field seed integer?
---@field opq_n_iters integer?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Opq
local opq = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.OpqTrain?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function opq.train(rows, options) end

---@param path string
---@param options { progress: perigee.Progress? }?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function opq.open(path, options) end

---@param verb "train"|nil
---@return table<string, any> values, table<string, string> rules
function opq.defaults(verb) end

---@class perigee.SqTrain
---@field bits 4|8|16|nil
---@field quantile number?
---@field max_train_rows integer?
---@field seed integer?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Sq
local sq = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.SqTrain?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function sq.train(rows, options) end

---@param path string
---@param options { progress: perigee.Progress? }?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function sq.open(path, options) end

---@param verb "train"|nil
---@return table<string, any> values, table<string, string> rules
function sq.defaults(verb) end

---@class perigee.BinaryTrain
---@field threshold "zero"|"mean"|"median"|nil
---@field max_train_rows integer?
---@field seed integer?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Binary
local binary = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.BinaryTrain?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function binary.train(rows, options) end

---@param path string
---@param options { progress: perigee.Progress? }?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function binary.open(path, options) end

---@param verb "train"|nil
---@return table<string, any> values, table<string, string> rules
function binary.defaults(verb) end

---@class perigee.RabitqTrain
---@field bits integer?
---@field centered boolean?
---@field max_train_rows integer?
---@field seed integer?
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Rabitq
local rabitq = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.RabitqTrain?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function rabitq.train(rows, options) end

---@param path string
---@param options { progress: perigee.Progress? }?
---@return perigee.Quantizer?, string?, perigee.Code?
---@nodiscard
function rabitq.open(path, options) end

---@param verb "train"|nil
---@return table<string, any> values, table<string, string> rules
function rabitq.defaults(verb) end

---@class perigee.Filters
local filter = {}

---@param ids perigee.Ids
---@param n integer?
---@return perigee.Filter?, string?, perigee.Code?
---@nodiscard
function filter.ids(ids, n) end

---@param first integer
---@param stop integer
---@param n integer?
---@return perigee.Filter?, string?, perigee.Code?
---@nodiscard
function filter.range(first, stop, n) end

---@param bits string
---@param n integer?
---@return perigee.Filter?, string?, perigee.Code?
---@nodiscard
function filter.bits(bits, n) end

---Rows somewhere. A value: what changes rows returns a new one.
---@class perigee.Matrix
---@field rows integer
---@field cols integer
---@field dtype perigee.Dtype
---@field place string
---@operator len: integer
local Matrix = {}

---@param first integer
---@param stop integer?
---@return perigee.Matrix
---@nodiscard
function Matrix:slice(first, stop) end

---@param ids perigee.Ids
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function Matrix:gather(ids) end

---@param r integer  from 0
---@return number[]
---@nodiscard
function Matrix:row(r) end

---@return fun(m: perigee.Matrix, r: integer): integer?, number[]?
---@return perigee.Matrix
---@return integer
function Matrix:each() end

---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function Matrix:normalize() end

---@param dtype perigee.Dtype
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function Matrix:as(dtype) end

---@param place string
---@param options { stream: lightuserdata|integer|nil }?
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function Matrix:to(place, options) end

---@param options { versioned: boolean? }?
---@return lightuserdata?, string?, perigee.Code?
---@nodiscard
function Matrix:to_dlpack(options) end

---@param path string
---@param options { format: string? }?
---@return true?, string?, perigee.Code?
function Matrix:save(path, options) end

---@return string
---@nodiscard
function Matrix:pack() end

---@param other perigee.Matrix
---@return boolean
---@nodiscard
function Matrix:equals(other) end

---@class perigee.MatrixInfo
---@field rows integer
---@field cols integer
---@field dtype perigee.Dtype
---@field place string
---@field bytes integer
---@field pinned boolean

---@return perigee.MatrixInfo
---@nodiscard
function Matrix:info() end

function Matrix:close() end

---What answers queries: an index, or a searcher around one.
---@class perigee.Searcher
---@field kind string
---@field rows integer
---@field dim integer
---@field metric perigee.Metric
---@field dtype perigee.Dtype
---@field place string
---@operator len: integer
local Searcher = {}

---@class perigee.Search
---@field filter perigee.Filter|perigee.Filter[]|nil
---@field accept nil|fun(ids: integer[]): boolean[]
---@field out perigee.Hits|{ neighbors: perigee.Matrix, distances: perigee.Matrix }|nil
---@field place string?  where the answer is left
---@field stream lightuserdata|integer|nil
---@field threads integer?
---@field progress perigee.Progress?
---@field n_probes integer?  ivf_flat ivf_pq ivf_sq ivf_rabitq
---@field lut_dtype "f32"|"f16"|"u8"|nil  ivf_pq
---@field itopk_size integer?  cagra vamana
---@field search_width integer?  cagra vamana
---@field max_iterations integer?  cagra
---@field min_iterations integer?  cagra
---@field num_random_samplings integer?  cagra
---@field rand_xor_mask integer?  cagra
---@field ef integer?  hnsw
---@field rerank integer?  cagra hnsw vamana
---@field ratio number?  refined

---@param queries perigee.Queries
---@param k integer
---@param options perigee.Search?
---@return perigee.Hits?, string?, perigee.Code?
---@nodiscard
function Searcher:search(queries, k, options) end

---@class perigee.RangeSearch
---@field filter perigee.Filter|perigee.Filter[]|nil
---@field max_results integer?  of each query, the nearest; 0: all
---@field threads integer?
---@field progress perigee.Progress?
---@field n_probes integer?  ivf_flat

---@param queries perigee.Queries
---@param radius number
---@param options perigee.RangeSearch?
---@return perigee.Matrix? offsets, perigee.Matrix|string ids, perigee.Matrix|perigee.Code distances
---@nodiscard
function Searcher:range_search(queries, radius, options) end

---@param queries perigee.Queries
---@param ids perigee.Ids
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function Searcher:score(queries, ids) end

---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function Searcher:dataset() end

---@class perigee.Extend
---@field ids perigee.Ids?  one for each row; required where the index has ids of its own
---@field threads integer?
---@field progress perigee.Progress?

---@param rows perigee.Matrix|number[][]
---@param options perigee.Extend?
---@return perigee.Searcher?, string?, perigee.Code?
function Searcher:extend(rows, options) end

---@param ids perigee.Ids
---@param options { threads: integer?, progress: perigee.Progress? }?
---@return integer?, string?, perigee.Code?
function Searcher:remove(ids, options) end

---@param f perigee.Filter
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function Searcher:filtered(f) end

---@param rows perigee.Matrix
---@param options { ratio: number? }?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function Searcher:refined(rows, options) end

---@class perigee.ToHnsw
---@field hierarchy "none"|"cpu"|nil
---@field ef_construction integer?
---@field seed integer?
---@field codes perigee.WalkCodes?  what walks measure by in place of the rows
---@field progress perigee.Progress?

---@param options perigee.ToHnsw?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function Searcher:to_hnsw(options) end

---@param place string
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function Searcher:to(place) end

---@class perigee.Save
---@field dataset boolean?
---@field format string?
---@field dtype string?
---@field progress perigee.Progress?

---@param path string
---@param options perigee.Save?
---@return true?, string?, perigee.Code?
function Searcher:save(path, options) end

---@return table<string, any>
---@nodiscard
function Searcher:info() end

---@return string
---@nodiscard
function Searcher:explain() end

function Searcher:close() end

---Rows to short codes and back. Immutable once trained.
---@class perigee.Quantizer
---@field kind string
---@field dim integer
---@field row_bytes integer
local Quantizer = {}

---@class perigee.Coding
---@field threads integer?
---@field progress perigee.Progress?

---@param rows perigee.Matrix|number[][]
---@param options perigee.Coding?
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function Quantizer:encode(rows, options) end

---@param codes perigee.Matrix
---@param options perigee.Coding?
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function Quantizer:decode(codes, options) end

---@param rows perigee.Matrix|number[][]
---@param options perigee.Coding?
---@return number?, string?, perigee.Code?
---@nodiscard
function Quantizer:distortion(rows, options) end

---@param path string
---@param options { progress: perigee.Progress? }?
---@return true?, string?, perigee.Code?
function Quantizer:save(path, options) end

---@return table<string, any>
---@nodiscard
function Quantizer:info() end

function Quantizer:close() end

---@class perigee.HitsInfo
---@field path string  "exact", "graph", "graph+exact"
---@field place string
---@field visited number  distances computed, a query, on average
---@field selectivity number  share of rows that pass the filters
---@field redone integer  queries done twice, by an exact search that proved nothing at first
---@field scanned integer  of these, queries that cost a scan of all rows
---@field missing integer  results that are -1

---The answer to a batch, [queries, k], nearest first; -1 is none.
---@class perigee.Hits
---@field neighbors perigee.Matrix  i64
---@field distances perigee.Matrix  f32
---@field info perigee.HitsInfo
---@field queries integer
---@field k integer
---@field metric perigee.Metric
---@operator len: integer
local Hits = {}

---@param row integer?  from 0
---@return fun(): integer?, number?
function Hits:each(row) end

---@param place string
---@return perigee.Hits?, string?, perigee.Code?
---@nodiscard
function Hits:to(place) end

---@return perigee.Matrix distances, perigee.Matrix neighbors
---@nodiscard
function Hits:unpack() end

function Hits:close() end

---Which rows may be returned. A value: operators make new ones.
---@class perigee.Filter
---@operator band(perigee.Filter): perigee.Filter
---@operator bor(perigee.Filter): perigee.Filter
---@operator bnot: perigee.Filter
---@operator sub(perigee.Filter): perigee.Filter
local Filter = {}

---@param n integer?
---@return integer
---@nodiscard
function Filter:count(n) end

---@param n integer?
---@return number
---@nodiscard
function Filter:selectivity(n) end

---@param id integer
---@return boolean
---@nodiscard
function Filter:test(id) end

---@return { n: integer?, count: integer? }
---@nodiscard
function Filter:info() end

function Filter:close() end

---@class perigee.ClustersInfo
---@field n_clusters integer
---@field dim integer
---@field metric perigee.Metric
---@field place string
---@field inertia number
---@field iterations integer
---@field trained_rows integer
---@field smallest integer
---@field largest integer
---@field repaired integer


return pg
