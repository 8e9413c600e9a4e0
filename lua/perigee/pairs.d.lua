---@meta perigee
-- luacheck: ignore 211 212 241
-- What the language server knows of pg.pairwise and pg.knn_graph.

---@class perigee
local pg = {}

---@class perigee.Pairwise
---@field metric perigee.Metric?
---@field place string?  where it runs
---@field residence "auto"|"device"|"host"|nil  of the result, and of rows that come from the host
---@field threads integer?
---@field progress perigee.Progress?

---@param a perigee.Matrix|number[][]
---@param b perigee.Matrix|number[][]
---@param options perigee.Pairwise?
---@return perigee.Matrix?, string?, perigee.Code?
---@nodiscard
function pg.pairwise(a, b, options) end

---@class perigee.KnnGraph
---@field metric perigee.Metric?
---@field build_algo "auto"|"exact"|"nn_descent"|"ivf_flat"|nil
---@field nn_descent_niter integer?
---@field termination_threshold number?
---@field seed integer?
---@field place string?
---@field residence "auto"|"device"|"host"|nil  of the lists, and of rows that come from the host
---@field threads integer?
---@field progress perigee.Progress?

---@param rows perigee.Matrix|number[][]
---@param k integer
---@param options perigee.KnnGraph?
---@return perigee.Matrix? neighbors
---@return perigee.Matrix|string distances
---@return perigee.Code?
---@nodiscard
function pg.knn_graph(rows, k, options) end
