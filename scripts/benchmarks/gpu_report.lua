-- The table of scripts/bench --gpu: what was measured on the device, its share of the limit that
-- binds it, and how many times faster than PyTorch in the same run; of a filtered search, how many
-- times as long it takes as without the filter.
--
--   lua5.4 gpu_report.lua DEVICE.tsv TORCH.tsv

package.path = "scripts/benchmarks/?.lua;" .. package.path
local words = require "words"

---@param path string
---@return table[]
local function read(path)
  local list = {}
  for line in io.lines(path) do
    if line:find "^what=" then
      list[#list + 1] = words.read_line(line)
    elseif line ~= "" then
      print(line)
    end
  end
  return list
end

local device <const>, torch <const> = read(arg[1]), read(arg[2])

---@return table?
local function peer(what, case)
  for _, row in ipairs(torch) do
    if row.what == what and row.case == case then
      return row
    end
  end
end

local BYTES <const> = { f32 = 4, f16 = 2, i8 = 1, u8 = 1 }

-- Two numbers: operations over the rate of matrix products, bytes over that of memory.
local function share(row)
  local gemm, copy = peer("roof", "f16-gemm-8192"), peer("roof", "copy")
  if row.what == "streamed" then
    return row.gbps / row.link, "the link"
  elseif not (gemm and copy) then
    return
  end
  local seconds = row.ms / 1e3
  if row.what == "select" then
    return row.rows * row.columns * 4 / seconds / (peer("roof", "read").tbps * 1e12), "reads"
  elseif row.what == "kmeans" then
    return 2 * row.rows * row.clusters * row.dim * row.iterations / seconds / (gemm.tflops * 1e12),
      "f16 products"
  end
  local queries = row.what == "graph" and row.rows or row.queries
  local products = 2 * queries * row.rows * row.dim / seconds / (gemm.tflops * 1e12)
  local copies = row.rows * row.dim * BYTES[row.dtype] / seconds / (copy.tbps * 1e12)
  if copies > products then -- a small batch: the rows must be read
    return copies, "copies"
  end
  return products, "f16 products"
end

-- The fastest of the peer's ways that answers the same question.
local WAYS <const> = {
  ["f32"] = { "bf16-16x128", "tf32-16x128", "f32-16x128" }, ["f32-harder"] = { "bf16-32x128" },
  ["f16"] = { "f16-16x128" }, ["f16-768"] = { "f16-16x768" }, ["f32-one"] = { "f32-one" },
}

local function beside(row)
  if row.plain_ms and row.plain_ms > 0 then
    return ("%.2f x the time without a filter"):format(row.ms / row.plain_ms)
  end
  return ""
end

local function fastest(row)
  local best
  for _, way in ipairs(WAYS[row.case] or { row.case }) do
    local found = peer("torch", way)
    if found and (not best or found.ms < best.ms) then
      best = found
    end
  end
  return best
end

for _, row in ipairs(torch) do
  if row.what == "roof" then
    print(("%-18s %s"):format(row.case, row.tflops and row.tflops .. " TFLOP/s"
      or row.tbps .. " TB/s"))
  end
end
print(("\n%-20s %-9s %9s %12s %7s  %-20s %s"):format("", "set", "ms", "queries/s", "recall",
  "share of the limit", "PyTorch: ms, recall, times faster"))
for _, row in ipairs(device) do
  local part, of = share(row)
  local other = fastest(row)
  local queries = row.what == "graph" and row.rows or row.queries
  print(("%-20s %-9s %9.3f %12s %7s  %-20s %s"):format(row.case, row.set or "", row.ms,
    queries and ("%.0f"):format(queries / row.ms * 1e3) or "",
    row.recall and row.recall >= 0 and ("%.4f"):format(row.recall) or "",
    part and ("%.0f %% of %s"):format(100 * part, of) or "",
    other and ("%.3f, %s, %.1f (%s)"):format(other.ms, other.recall or "-", other.ms / row.ms,
      other.case) or beside(row)))
end
