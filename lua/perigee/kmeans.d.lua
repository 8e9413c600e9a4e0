---@meta perigee
-- luacheck: ignore 211 212 241
-- What the language server knows of pg.kmeans.

---@class perigee
local pg = {}

---@class perigee.Kmeans
---@field metric perigee.Metric?
---@field n_clusters integer?
---@field n_iters integer?
---@field init "kmeans++"|"random"?
---@field balanced boolean?
---@field hierarchical boolean?
---@field train_fraction number?
---@field max_rows_per_cluster integer?
---@field batch_rows integer?
---@field seed integer?
---@field centroids perigee.Matrix?  nothing is trained
---@field labels boolean?  false: train only
---@field place string?  where it runs
---@field residence "auto"|"device"|"host"|nil  of rows from the host, labels and distances
---@field threads integer?
---@field progress perigee.Progress?

---@param rows perigee.Matrix|number[][]
---@param options perigee.Kmeans?
---@return perigee.Clusters?, string?, perigee.Code?
---@nodiscard
function pg.kmeans(rows, options) end

---@class perigee.Assigning
---@field place string?
---@field residence "auto"|"device"|"host"|nil
---@field threads integer?
---@field progress perigee.Progress?

---@class perigee.Clusters
---@field centroids perigee.Matrix  [n_clusters, dim] f32 where it ran
---@field labels perigee.Matrix?  [rows, 1] u32
---@field distances perigee.Matrix?  [rows, 1] f32, to the centroid of the label
---@field sizes perigee.Matrix?  [n_clusters, 1] u32
---@field inertia number  sum of squared L2 distances; of 1 - cosine
---@field smallest integer
---@field largest integer
---@field trained_rows integer
---@field iterations integer
---@field repaired integer
---@field metric perigee.Metric
local Clusters = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.Assigning?
---@return perigee.Matrix? labels, perigee.Matrix|string? distances, perigee.Code?
---@nodiscard
function Clusters:assign(rows, options) end

---@return perigee.ClustersInfo
---@nodiscard
function Clusters:info() end

function Clusters:close() end
