-- The memory of an index is what its kind's formula says, within 2 percent.

local core = require "perigee.core"
local support = require "spec.support"

-- What a formula may name: the sizes and the parameters as they were resolved.
local function evaluate(formula, index, bytes)
  local info = index:info()
  local names = { n = info.rows, dim = info.dim, bytes = bytes, math = math }
  for name, value in pairs(info.params) do
    names[name] = value
  end
  return assert(load("return " .. formula, formula, "t", names))()
end

local BYTES <const> = { f32 = 4, f16 = 2, i8 = 1, u8 = 1 }

-- How an index of each kind comes to be.
local MAKERS <const> = {
  flat = function(rows, options) return support.build("flat", rows, options) end,
  ivf_flat = function(rows, options)
    options.n_lists = 64
    return support.build("ivf_flat", rows, options)
  end,
  ivf_pq = function(rows, options)
    options.n_lists, options.pq_dim = 20, 50 -- does not divide
    return support.build("ivf_pq", rows, options)
  end,
  ivf_sq = function(rows, options)
    options.n_lists = 64
    return support.build("ivf_sq", rows, options)
  end,
  ivf_rabitq = function(rows, options)
    options.n_lists = 64
    return support.build("ivf_rabitq", rows, options)
  end,
  cagra = function(rows, options)
    options.graph_degree, options.intermediate_graph_degree = 32, 48
    return support.build("cagra", rows, options)
  end,
  vamana = function(rows, options)
    options.graph_degree = 32
    return support.build("vamana", rows, options)
  end,
  hnsw = function(rows, options)
    if rows.dtype == "f16" then -- built, or made of a graph
      return support.build("hnsw", rows, options)
    end
    options.graph_degree, options.intermediate_graph_degree = 32, 48
    return assert(support.build("cagra", rows, options):to_hnsw())
  end,
}

describe("the memory of", function()
  for kind, make in pairs(MAKERS) do
    it(kind .. " is what its formula says", function()
      local formula = (core.params(kind, "build") or core.params(kind, "search")).memory
      local rows = support.small("packages").rows
      for _, dtype in ipairs { "f32", "f16" } do
        local index = make(rows:as(dtype), { metric = "inner_product" })
        local expected = evaluate(formula, index, BYTES[dtype])
        assert.near(1, index:info().bytes / expected, 0.02)
      end
    end)
  end
end)
