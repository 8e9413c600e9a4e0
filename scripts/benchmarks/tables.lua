-- tables: the medians of what was measured, their ratios, and how they are printed.

local M = {}

-- ---- medians ------------------------------------------------------------------------------------

local MEDIANS <const> = { "qps", "seconds", "gflops", "recall" }

local function median(rows, key)
  local values = {}
  for i, row in ipairs(rows) do
    values[i] = row[key]
  end
  table.sort(values)
  local middle = (#values + 1) // 2
  return #values % 2 == 1 and values[middle] or (values[middle] + values[middle + 1]) / 2
end

local function key_of(row)
  return table.concat({ row.what, row.part or "", row.engine or "", row.data, row.dtype or "",
    row.threads, row.k or 0, row.target or 0 }, "|")
end

---@param runs table[]  every measurement, in order
---@return table[]  one for each thing measured, in the order of the first rounds
function M.medians(runs)
  local list, rounds = {}, {}
  for _, row in ipairs(runs) do
    local key = key_of(row)
    if not rounds[key] then
      rounds[key] = {}
      list[#list + 1] = rounds[key]
    end
    table.insert(rounds[key], row)
  end
  for i, rows in ipairs(list) do
    local row = {}
    for name, value in pairs(rows[#rows]) do
      row[name] = value
    end
    row.round, row.runs = nil, #rows
    for _, name in ipairs(MEDIANS) do
      row[name] = row[name] and median(rows, name)
    end
    list[i] = row
  end
  return list
end

-- ---- ratios -------------------------------------------------------------------------------------

local function find(list, wanted)
  for _, row in ipairs(list) do
    local same = true
    for key, value in pairs(wanted) do
      same = same and row[key] == value
    end
    if same then
      return row
    end
  end
end

local function times_faster(row, other)
  return row.qps and row.qps / other.qps or other.seconds / row.seconds
end

-- To the peer, or the faster one of its two versions; how many times less time, for a build.
---@param list table[]  medians
---@param peers table<string, string>  the peer of a part, by its title
function M.add_ratios(list, peers)
  for _, row in ipairs(list) do
    if row.what ~= "fma" then
      local peer = row.versus or peers[row.part]
      for _, engine in ipairs { peer, peer .. " wheel" } do
        local other = find(list, { part = row.part, data = row.data, threads = row.threads,
          k = row.k, target = row.target, engine = engine,
          dtype = row.what ~= "flat" and row.dtype or nil })
        if other then
          row.ratio = math.min(row.ratio or math.huge, times_faster(row, other))
        end
      end
    end
    if row.what == "flat" and row.dtype == "f32" then
      local roof = find(list, { what = "fma", data = row.data, threads = row.threads })
      row.gflops = 2 * row.n * row.dim * row.qps / 1e9
      row.share = roof and row.gflops / roof.gflops
    end
  end
end

-- ---- printing -----------------------------------------------------------------------------------

-- Heads that begin with ">" have their columns to the right.
local function print_table(title, heads, rows)
  local widths = {}
  table.insert(rows, 1, heads)
  for _, row in ipairs(rows) do
    for c, cell in ipairs(row) do
      widths[c] = math.max(widths[c] or 0, #cell:gsub("^>", ""))
    end
  end
  print("\n" .. title)
  for _, row in ipairs(rows) do
    local cells = {}
    for c, cell in ipairs(row) do
      local right = heads[c]:sub(1, 1) == ">"
      cells[c] = (right and "%%%ds" or "%%-%ds"):format(widths[c]):format((cell:gsub("^>", "")))
    end
    print((table.concat(cells, "  "):gsub("%s+$", "")))
  end
end

local function text(form, value)
  return value and form:format(value) or "-"
end

-- A recall that stayed below the target is marked: its speed is of another thing.
local function recall_text(row)
  return text("%.4f", row.recall) .. (row.recall and row.target
    and row.recall < row.target - 1e-9 and "!" or "")
end

local CELLS <const> = {
  { "data", function(row) return row.data end },
  { "dtype", function(row) return row.dtype end },
  { ">k", function(row) return text("%d", row.k) end },
  { ">target", function(row) return text("%.3f", row.target) end },
  { ">threads", function(row) return text("%d", row.threads) end },
  { "engine", function(row) return row.engine end },
  { "parameters", function(row) return row.parameters ~= "" and row.parameters or "-" end },
  { ">recall", recall_text },
  { ">queries/s", function(row) return text("%.0f", row.qps) end },
  { ">seconds", function(row) return text("%.2f", row.seconds) end },
  { ">ratio", function(row) return text("%.2f", row.ratio) end },
  { ">GFLOP/s", function(row) return text("%.1f", row.gflops) end },
  { ">share", function(row) return text("%.0f %%", row.share and 100 * row.share) end },
  { ">bytes/row", function(row) return text("%.1f", row.bytes and row.bytes / row.n) end },
  { ">runs", function(row) return text("%d", row.runs) end },
}

-- Columns that say nothing in a table are left out of it.
local function print_part(title, list)
  local heads, rows = {}, {}
  for i = 1, #list do
    rows[i] = {}
  end
  for _, column in ipairs(CELLS) do
    local head, cell = table.unpack(column)
    local cells, told = {}, false
    for i, row in ipairs(list) do
      cells[i] = cell(row)
      told = told or cells[i] ~= "-"
    end
    if told then
      heads[#heads + 1] = head
      for i = 1, #list do
        table.insert(rows[i], cells[i])
      end
    end
  end
  print_table(title, heads, rows)
end

local SORTED_BY <const> = { "data", "dtype", "k", "target", "threads", "place" }

local function before(a, b)
  for _, key in ipairs(SORTED_BY) do
    if a[key] ~= b[key] then
      return (a[key] or 0) < (b[key] or 0)
    end
  end
  return false
end

-- Once each, in order: the sets, or the builds of what is searched.
local function print_legend(title, list, line_of)
  local seen, title_printed = {}, false
  for _, row in ipairs(list) do
    local line = line_of(row)
    if line and not seen[line] then
      seen[line] = true
      if not title_printed then
        print("\n" .. title)
        title_printed = true
      end
      print("  " .. line)
    end
  end
end

---@param list table[]  medians with ratios
function M.print(list)
  print_legend("Data:", list, function(row)
    return row.n and ("%s: %d x %d"):format(row.data, row.n, row.dim)
  end)
  print_legend("Indexes that are searched:", list, function(row)
    return row.built and ("%s: %s"):format(row.engine, row.built)
  end)
  local titles, parts = {}, {}
  for i, row in ipairs(list) do
    if row.what ~= "fma" then
      if not parts[row.part] then
        parts[row.part] = {}
        titles[#titles + 1] = row.part
      end
      row.place = i
      table.insert(parts[row.part], row)
    end
  end
  for _, title in ipairs(titles) do
    table.sort(parts[title], before)
    print_part(title, parts[title])
  end
end

return M
