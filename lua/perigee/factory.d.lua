---@meta perigee
-- luacheck: ignore 211 212 241
-- What the language server knows of pg.factory.

---@class perigee
local pg = {}

---@class perigee.Builder
---@field text string  as it was given
---@field kind string
---@field options table<string, any>  of the build
---@field refine boolean
local Builder = {}

---@param rows perigee.Matrix
---@param options table<string, any>?
---@return perigee.Searcher?, string?, perigee.Code?
---@nodiscard
function Builder:build(rows, options) end

---@param text string
---@return perigee.Builder
---@nodiscard
function pg.factory(text) end
