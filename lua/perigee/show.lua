-- How values are written at the prompt: a matrix by its shape and first rows, hits as a table, a
-- searcher with its tree, a table of plain data with its fields.

local core = require "perigee.core"

local M = {}

local ROWS <const> = 5
local COLUMNS <const> = 8
local QUERIES <const> = 8
local NEIGHBORS <const> = 5
local FIELDS <const> = 40
local DEPTH <const> = 4

local function number_text(value)
  if math.type(value) == "integer" then
    return ("%d"):format(value)
  end
  return ("%.5g"):format(value)
end

-- Rows of texts, each column as wide as its widest text, to the right.
local function align(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for c, text in ipairs(row) do
      widths[c] = math.max(widths[c] or 0, utf8.len(text) or #text)
    end
  end
  local lines = {}
  for r, row in ipairs(rows) do
    local cells = {}
    for c, text in ipairs(row) do
      cells[c] = (" "):rep(widths[c] - (utf8.len(text) or #text)) .. text
    end
    lines[r] = "  " .. table.concat(cells, "  ")
  end
  return table.concat(lines, "\n")
end

---@param m perigee.Matrix
local function matrix(m)
  local rows = {}
  for r = 0, math.min(#m, ROWS) - 1 do
    local row = { ("%d:"):format(r) }
    local values, message = m:row(r)
    if not values then
      return ("%s\n  %s"):format(m, message)
    end
    for c = 1, math.min(#values, COLUMNS) do
      row[#row + 1] = number_text(values[c])
    end
    if #values > COLUMNS then
      row[#row + 1] = "…"
    end
    rows[#rows + 1] = row
  end
  local text = tostring(m)
  if #rows > 0 then
    text = text .. "\n" .. align(rows)
  end
  if #m > ROWS then
    text = ("%s\n  … %d more rows"):format(text, #m - ROWS)
  end
  return text
end

---@param hits perigee.Hits
local function one_query(hits)
  local rows = { { "rank", "id", "distance" } }
  for id, distance in hits:each(0) do
    rows[#rows + 1] = { tostring(#rows), tostring(id), number_text(distance) }
  end
  return align(rows)
end

local function many_queries(hits)
  local rows = { { "query" } }
  for rank = 1, math.min(hits.k, NEIGHBORS) do
    table.insert(rows[1], ("#%d"):format(rank))
  end
  for query = 0, math.min(#hits, QUERIES) - 1 do
    local row = { tostring(query) }
    for id, distance in hits:each(query) do
      if #row > NEIGHBORS then
        break
      end
      row[#row + 1] = ("%d (%s)"):format(id, number_text(distance))
    end
    rows[#rows + 1] = row
  end
  local text = align(rows)
  if #hits > QUERIES then
    text = ("%s\n  … %d more queries"):format(text, #hits - QUERIES)
  end
  return text
end

local function hits_text(hits)
  if #hits == 0 then
    return tostring(hits)
  end
  local here = hits.neighbors.place == "cpu" and hits or assert(hits:to "cpu")
  return ("%s\n%s"):format(hits, #hits == 1 and one_query(here) or many_queries(here))
end

local function searcher(s)
  return ("%s\n%s"):format(s, (("\n" .. s:explain()):gsub("\n", "\n  "):sub(2)))
end

local WRITERS <const> = {
  Matrix = matrix, Hits = hits_text, Searcher = searcher, Filter = tostring,
}

-- ---- plain tables -------------------------------------------------------------------------------

local function is_name(key)
  return type(key) == "string" and key:find "^[%a_][%w_]*$" ~= nil
end

-- Numbers first, then names, each in order.
local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then
      return a < b
    end
    return type(a) == "number" or type(b) ~= "number" and tostring(a) < tostring(b)
  end)
  return keys
end

local write_value

local function write_table(t, depth, open)
  if open[t] or depth > DEPTH then
    return "{…}"
  end
  open[t] = true
  local parts, length, lines = {}, 0, false
  for i, key in ipairs(sorted_keys(t)) do
    if i > FIELDS then
      parts[#parts + 1] = "…"
      break
    end
    local text = write_value(t[key], depth + 1, open)
    if key ~= i then
      local name = is_name(key) and key or "[" .. write_value(key, depth + 1, open) .. "]"
      text = name .. " = " .. text
    end
    lines = lines or text:find("\n", 1, true) ~= nil
    length = length + #text + 2
    parts[#parts + 1] = text
  end
  open[t] = nil
  if #parts == 0 then
    return "{}"
  elseif length + 2 * depth < 90 and not lines then
    return "{ " .. table.concat(parts, ", ") .. " }"
  end
  local indent = ("  "):rep(depth)
  return ("{\n%s  %s,\n%s}"):format(indent, table.concat(parts, ",\n" .. indent .. "  "), indent)
end

function write_value(value, depth, open)
  local kind = type(value)
  if kind == "string" then
    return depth == 0 and value or ("%q"):format(value):gsub("\\\n", "\\n")
  elseif kind == "number" then
    return number_text(value)
  elseif kind == "table" then
    local meta = getmetatable(value)
    if type(meta) == "table" and meta.__tostring then
      return tostring(value)
    end
    return write_table(value, depth, open)
  elseif kind == "function" then
    return require "perigee.help".brief(value) or tostring(value)
  end
  return tostring(value)
end

---@param value any
---@return string
function M.value(value)
  local writer = WRITERS[core.members(value)]
  if writer and not tostring(value):find "%(closed%)$" then
    return writer(value)
  end
  return (write_value(value, 0, {}))
end

return M
