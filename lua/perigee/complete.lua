--- complete: what Tab offers at the prompt.
--
-- The text before the cursor is read from its end: an open quote means a file name, a chain of
-- names (`index.info`, `pg.cagra.b`, `hits:ea`) means fields and methods of the value it leads to,
-- and a lone word means a global or a keyword. Looking must not run the user's code, so fields are
-- read without metamethods: through tables and tables of `__index` only. The one exception is the
-- module's own objects, whose fields (`m.rows`) come from a function that only reads.

local M = {}

-- Taste: more names than this are no help on a screen.
local listed_max = 200

local keywords = {
  "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
}

--- The metatable of a value, also where `__metatable` hides it.
local function metatable_of(value)
  return debug.getmetatable(value)
end

--- Whether a value is one of the module's own objects.
local function is_ours(value)
  local meta = metatable_of(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(value) == "userdata" and type(name) == "string" and name:find("^perigee%.") ~= nil
end

--- The value of a field, found without running code of the user's.
local function field_of(value, key)
  for _ = 1, 100 do -- a chain of __index may be a circle
    if type(value) == "table" then
      local found = rawget(value, key)
      if found ~= nil then
        return found
      end
    elseif is_ours(value) then
      local ok, found = pcall(function() return value[key] end)
      return ok and found or nil
    end
    local meta = metatable_of(value)
    value = type(meta) == "table" and rawget(meta, "__index") or nil
    if type(value) ~= "table" then
      return nil
    end
  end
end

--- Calls `visit(name, value)` for the methods and fields of one of the module's objects.
local function each_member(value, visit)
  local ok, core = pcall(require, "perigee.core")
  if not ok then
    return
  end
  local _, methods, fields = core.members(value)
  for name, method in pairs(methods or {}) do
    visit(name, method)
  end
  for _, name in ipairs(fields or {}) do
    visit(name, field_of(value, name))
  end
end

--- Calls `visit(name, value)` for every field that `value` has or inherits.
local function each_field(value, visit)
  for _ = 1, 100 do
    if type(value) == "table" then
      for key, field in next, value do
        if type(key) == "string" then
          visit(key, field)
        end
      end
    end
    local meta = metatable_of(value)
    local index = type(meta) == "table" and rawget(meta, "__index") or nil
    if type(index) == "function" and is_ours(value) then
      each_member(value, visit)
    end
    if type(index) ~= "table" then
      return
    end
    value = index
  end
end

local function is_callable(value)
  local meta = type(value) == "table" and metatable_of(value)
  return type(value) == "function" or (type(meta) == "table" and rawget(meta, "__call") ~= nil)
end

--- Names that begin with `prefix`, sorted, each once. Names with a leading underscore are offered
--- only when asked for.
local function matching(prefix, names)
  local found = {}
  for name in pairs(names) do
    local wanted = name:sub(1, #prefix) == prefix and name:find("^[%a_][%w_]*$")
    if wanted and (prefix ~= "" or name:sub(1, 1) ~= "_") then
      found[#found + 1] = name
    end
  end
  table.sort(found)
  return found
end

--- Fields or methods of the value that `chain` leads to.
local function complete_field(chain, separator, prefix, globals)
  local value = globals
  for name in chain:gmatch("[%a_][%w_]*") do
    value = field_of(value, name)
    if value == nil then
      return {}
    end
  end
  local names = {}
  each_field(value, function(name, field)
    if separator == "." or is_callable(field) then
      names[name] = true
    end
  end)
  return matching(prefix, names)
end

local function complete_global(prefix, globals)
  local names = {}
  each_field(globals, function(name) names[name] = true end)
  for _, word in ipairs(keywords) do
    names[word] = true
  end
  return matching(prefix, names)
end

--- The quote that is open at the end of `text` and what stands after it; nil when none is.
local function open_quote(text)
  local quote, start
  local at = 1
  while at <= #text do
    local char = text:sub(at, at)
    if quote and char == "\\" then
      at = at + 1
    elseif char == quote then
      quote = nil
    elseif not quote and (char == '"' or char == "'") then
      quote, start = char, at + 1
    elseif not quote and text:sub(at, at + 1) == "--" then
      return nil
    end
    at = at + 1
  end
  if quote then
    return quote, text:sub(start)
  end
end

--- Files whose path begins with `path`: their names, and how much of the path is the last name.
local function complete_file(path, entries)
  local folder, prefix = path:match("^(.*/)([^/]*)$")
  if not folder then
    folder, prefix = "./", path
  end
  local found = {}
  for _, name in ipairs(entries(folder) or {}) do
    local hidden = name:sub(1, 1) == "." and prefix:sub(1, 1) ~= "."
    if name:sub(1, #prefix) == prefix and not hidden and name ~= "./" and name ~= "../" then
      found[#found + 1] = name
    end
  end
  table.sort(found)
  return found, prefix
end

--- The longest beginning that all have in common.
local function common_beginning(names)
  local first, last = names[1], names[#names] -- sorted, so these two differ the most
  local size = 0
  while size < #first and first:byte(size + 1) == last:byte(size + 1) do
    size = size + 1
  end
  while size > 0 and size < #first and (first:byte(size + 1) & 0xC0) == 0x80 do
    size = size - 1 -- not within a character of UTF-8
  end
  return first:sub(1, size)
end

--- Names in columns, read downwards, within `width`.
---@param names string[]
---@param width integer
---@return string
function M.columns(names, width)
  local shown, widest = {}, 1
  for i = 1, math.min(#names, listed_max) do
    shown[i] = names[i]
    widest = math.max(widest, utf8.len(names[i]) or #names[i])
  end
  local across = math.max(1, (width + 1) // (widest + 2))
  local down = (#shown + across - 1) // across
  local lines = {}
  for row = 1, down do
    local cells = {}
    for column = 0, across - 1 do
      local name = shown[column * down + row]
      if name then
        cells[#cells + 1] = name .. (" "):rep(widest - (utf8.len(name) or #name))
      end
    end
    lines[row] = table.concat(cells, "  "):gsub("%s+$", "")
  end
  if #names > #shown then
    lines[#lines + 1] = ("... and %d more"):format(#names - #shown)
  end
  return table.concat(lines, "\n")
end

--- What can stand at the end of `text`.
---@param text string the line up to the cursor
---@param globals table
---@param entries fun(folder: string): string[]? names in a folder, folders ending in "/"
---@return string[] candidates sorted
---@return string prefix the part of each candidate that is typed already
---@return string? quote set when the candidates are files: what ends the name
function M.candidates(text, globals, entries)
  local quote, path = open_quote(text)
  if quote then
    local files, prefix = complete_file(path, entries)
    return files, prefix, quote
  end
  local chain, separator, prefix = text:match("([%a_][%w_%.]*)%s*([%.:])%s*([%a_]?[%w_]*)$")
  local before = chain and text:sub(1, #text - #text:match("[%a_][%w_%.]*%s*[%.:]%s*[%w_]*$"))
  if chain and not before:find("[%.:%)%]%w]%s*$") and not chain:find("%.$") then
    return complete_field(chain, separator, prefix, globals), prefix
  end
  local word = text:match("[%a_][%w_]*$") or ""
  if text:sub(1, #text - #word):find("[%.:%w]$") then
    return {}, word -- after a call, an index or a number: what it leads to is not known
  end
  return complete_global(word, globals), word
end

--- What Tab does: text to put at the cursor, and a list to show; each may be nil.
---@param text string the line up to the cursor
---@param globals table
---@param host { entries: fun(folder: string), columns: fun(): integer }
---@return string? insert
---@return string? list
function M.complete(text, globals, host)
  if not text:find("%S") then
    return "  " -- nothing to go by: indent
  end
  local found, prefix, quote = M.candidates(text, globals, host.entries)
  if #found == 0 then
    return nil
  end
  local insert = common_beginning(found):sub(#prefix + 1)
  if #found == 1 then
    return insert .. (quote and found[1]:sub(-1) ~= "/" and quote or "")
  elseif insert ~= "" then
    return insert
  end
  return nil, M.columns(found, host.columns())
end

return M
