---@meta perigee
-- luacheck: ignore 211 212 241
-- What the language server knows of the lists of codes: pg.ivf_pq, pg.ivf_sq, pg.ivf_rabitq.

---@class perigee
---@field ivf_pq perigee.IvfPq
---@field ivf_sq perigee.IvfSq
---@field ivf_rabitq perigee.IvfRabitq

---@class perigee.IvfPqBuild: perigee.IvfBuild
---@field pq_bits integer?
---@field pq_dim integer?
---@field codebook_kind "per_subspace"|"per_cluster"|nil
---@field residual boolean?
---@field force_random_rotation boolean?
---@field opq boolean?
---@field max_train_points_per_pq_code integer?
---@class perigee.IvfPq
local ivf_pq = {}
---@param rows perigee.Matrix|number[][]
---@param options perigee.IvfPqBuild?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function ivf_pq.build(rows, options) end
---@param verb "build"|"search"|nil
---@return table<string, any> values, table<string, string> rules
function ivf_pq.defaults(verb) end

---@class perigee.IvfSqBuild: perigee.IvfBuild
---@field bits integer?
---@field residual boolean?
---@field quantile number?

---@class perigee.IvfSq
local ivf_sq = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.IvfSqBuild?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function ivf_sq.build(rows, options) end

---@param verb "build"|"search"|nil
---@return table<string, any> values, table<string, string> rules
function ivf_sq.defaults(verb) end

---@class perigee.IvfRabitqBuild: perigee.IvfBuild
---@field bits_per_dim integer?

---@class perigee.IvfRabitq
local ivf_rabitq = {}

---@param rows perigee.Matrix|number[][]
---@param options perigee.IvfRabitqBuild?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function ivf_rabitq.build(rows, options) end

---@param verb "build"|"search"|nil
---@return table<string, any> values, table<string, string> rules
function ivf_rabitq.defaults(verb) end
