-- What this machine offers: places, instruction sets, memory, and what is missing and why.

local core = require "perigee.core"

local M = {}

local UNITS <const> = { "B", "KiB", "MiB", "GiB", "TiB" }

---@param bytes number
---@return string
function M.bytes(bytes)
  local unit = 1
  while bytes >= 1024 and unit < #UNITS do
    bytes, unit = bytes / 1024, unit + 1
  end
  return (unit == 1 and "%d %s" or "%.1f %s"):format(bytes, UNITS[unit])
end

local function device_line(device)
  local words = { ("%-8s %s"):format(device.place, device.name or "-") }
  if device.bytes_total and device.bytes_total > 0 then
    local total, free = M.bytes(device.bytes_total), M.bytes(device.bytes_free)
    words[#words + 1] = ("%s, %s free"):format(total, free)
  end
  if device.detail and device.detail ~= "" then
    words[#words + 1] = device.detail
  end
  return "  " .. table.concat(words, "; ")
end

---@param memory perigee.Stats
local function numa_line(memory)
  if memory.numa_nodes > 1 then
    return ("%d NUMA nodes: threads are kept on a node each, large matrices spread over all")
      :format(memory.numa_nodes)
  end
  return "1 NUMA node: threads are not pinned"
end

local function report_text(report)
  local lines = {
    ("Perigee %s, %s"):format(report.version, report.lua),
    ("%d threads, %s held (at most so far %s), limit %s"):format(report.memory.threads,
      M.bytes(report.memory.bytes), M.bytes(report.memory.bytes_peak),
      report.memory.bytes_limit > 0 and M.bytes(report.memory.bytes_limit) or "none"),
    numa_line(report.memory),
    "places",
  }
  for _, device in ipairs(report.devices) do
    lines[#lines + 1] = device_line(device)
  end
  if #report.libraries > 0 then
    lines[#lines + 1] = "libraries"
    for _, library in ipairs(report.libraries) do
      lines[#lines + 1] = ("  %-8s %s"):format(library.name, library.file)
    end
  end
  if #report.missing > 0 then
    lines[#lines + 1] = "missing"
    for _, part in ipairs(report.missing) do
      lines[#lines + 1] = ("  %-8s %s"):format(part.what, part.why)
    end
  end
  return table.concat(lines, "\n")
end

---@return perigee.Report?, string?, string?
local function doctor()
  local all, message, code = core.devices()
  if not all then
    return nil, message, code
  end
  ---@class perigee.Report
  local report = {
    version = core.version, lua = _VERSION, memory = core.stats(), devices = {}, libraries = {},
    missing = {},
  }
  for _, device in ipairs(all) do
    if device.reason then
      table.insert(report.missing, { what = device.place, why = device.reason })
    else
      table.insert(report.devices, device)
    end
  end
  for _, library in ipairs(core.libraries()) do
    if library.reason then
      table.insert(report.missing, { what = library.name, why = library.reason })
    else
      table.insert(report.libraries, library)
    end
  end
  return setmetatable(report, { __tostring = report_text, __name = "perigee.Report" })
end

return setmetatable(M, {
  __call = function()
    return doctor()
  end,
})
