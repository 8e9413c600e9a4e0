-- words: lines of key=value words, in which the programs of this folder talk.

local M = {}

---@param list string[]
---@return table<string, number|string>
function M.read(list)
  local words = {}
  for _, word in ipairs(list) do
    local key, value = word:match "^([%w_]+)=(.*)$"
    words[key or error(word .. " is not key=value", 0)] = math.tointeger(value) or tonumber(value)
      or value
  end
  return words
end

---@param line string  words between tabs
function M.read_line(line)
  local list = {}
  for word in line:gmatch "[^\t]+" do
    list[#list + 1] = word
  end
  return M.read(list)
end

-- Keys in order, so that equal words are equal text.
---@param words table<string, any>
---@param between string?  a tab when left out
function M.write(words, between)
  local list = {}
  for key, value in pairs(words) do
    list[#list + 1] = key .. "=" .. tostring(value)
  end
  table.sort(list)
  return table.concat(list, between or "\t")
end

---@param ... table  later ones win
function M.join(...)
  local all = {}
  for _, words in ipairs { ... } do
    for key, value in pairs(words) do
      all[key] = value
    end
  end
  return all
end

---@param text any
---@return string  as one word of a shell's command
function M.quote(text)
  return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

return M
