-- k-means: what the core made, as an object that prints well and assigns other rows.

local core = require "perigee.core"

local M = {}

---@class perigee.Clusters
local Clusters = {}

local MATRICES <const> = { "centroids", "labels", "distances", "sizes" }

---The nearest centroid of other rows.
function Clusters:assign(rows, options)
  local taken = { centroids = self.centroids, metric = self.metric }
  for key, value in pairs(options or {}) do
    if taken[key] ~= nil then
      error(("option '%s': it is the clusters' own"):format(key), 2)
    end
    taken[key] = value
  end
  -- Caught only to name the caller's line instead of this one.
  local ok, found, message, code = pcall(core.kmeans, rows, taken)
  if not ok then
    error(found, 2)
  elseif not found then
    return nil, message, code
  end
  found.sizes:close()
  return found.labels, found.distances
end

---Plain data on how it went.
function Clusters:info()
  return {
    n_clusters = #self.centroids, dim = self.centroids.cols, metric = self.metric,
    place = self.centroids.place, inertia = self.inertia, iterations = self.iterations,
    trained_rows = self.trained_rows, smallest = self.smallest, largest = self.largest,
    repaired = self.repaired,
  }
end

---Gives up the matrices; those that are held elsewhere close too.
function Clusters:close()
  for _, name in ipairs(MATRICES) do
    if self[name] then
      self[name]:close()
    end
  end
end

local meta = { __index = Clusters, __name = "perigee.Clusters", __close = Clusters.close }

function meta:__tostring()
  if tostring(self.centroids):find "%(closed%)$" then
    return "perigee.Clusters (closed)"
  end
  local trained = self.trained_rows > 0
      and ("trained on %d rows, %d iterations"):format(self.trained_rows, self.iterations)
    or "not trained here"
  return ("perigee.Clusters %d x %d %s %s\n  sizes %d..%d, inertia %.6g; %s"):format(
    #self.centroids, self.centroids.cols, self.metric, self.centroids.place, self.smallest,
    self.largest, self.inertia, trained)
end

M.methods = Clusters

---Whether a value is what pg.kmeans gives.
function M.is(value)
  return getmetatable(value) == meta
end

---Of the fields that the core gives.
function M.object(fields)
  return setmetatable(fields, meta)
end

return M
