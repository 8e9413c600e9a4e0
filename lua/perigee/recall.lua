-- Recall: the share of the true neighbours that were found.
--
-- By id when only ids are at hand. By value when both sides carry distances: a found row is right
-- when its distance is no worse than the k-th true one, so that ties and equal rows count as
-- right. Real data hold thousands of equal rows, and which of them is named is a matter of taste.

local core = require "perigee.core"

---@param side any
---@param name string
---@return perigee.Matrix ids, perigee.Matrix? values, string? metric
local function parts(side, name)
  local word = core.members(side)
  if word == "Hits" then
    return side.neighbors, side.distances, side.metric
  elseif word == "Matrix" then
    return side
  elseif type(side) == "table" and core.members(side.neighbors) == "Matrix" then
    return side.neighbors, side.distances, side.metric
  end
  error(("bad argument '%s' to 'recall' (%s given, allowed: hits, a matrix of ids, or "
    .. "{ neighbors =, distances =, metric = })"):format(name, word or type(side)), 3)
end

---@param found perigee.Hits|perigee.Matrix|table  ids, with distances if by value
---@param truth perigee.Hits|perigee.Matrix|table  at least k columns
---@param k integer?  the first k found; all when left out
---@return number?, string?, string?
return function(found, truth, k)
  local found_ids, found_values, found_metric = parts(found, "found")
  local truth_ids, truth_values, truth_metric = parts(truth, "truth")
  local metric = found_metric or truth_metric
  if found_values and truth_values and not metric then
    error("recall by value needs a metric on one side: { neighbors =, distances =, metric = }", 2)
  end
  if found_metric and truth_metric and found_metric ~= truth_metric then
    error(("recall of %s against a truth of %s"):format(found_metric, truth_metric), 2)
  end
  if k and not (math.type(k) == "integer" and k >= 1 and k <= found_ids.cols) then
    error(("k: %s given, %d were found"):format(k, found_ids.cols), 2)
  end
  -- Caught only to name the caller's line instead of this one.
  local ok, value, message, code = pcall(core.recall, found_ids, found_values, truth_ids,
    truth_values, metric or "sqeuclidean", k)
  if not ok then
    error(value, 2)
  elseif not value then
    return nil, message, code
  end
  return value
end
