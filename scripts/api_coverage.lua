-- Nothing public without its place: prints what is missing and exits 1.
--
--   lua5.4 scripts/api_coverage.lua          with LUA_PATH and LUA_CPATH set for the tree
--
--   - every PERI_API function of the public headers is called by lua/binding, or excepted
--   - every field of the module and every method has an entry in the help, and a definition for
--     the language server; and the help speaks of nothing that is not there

local EXCEPTED <const> = {}

local problems = 0

local function complain(...)
  problems = problems + 1
  print(string.format(...))
end

local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local function read_command(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  pipe:close()
  return text
end

local function check_binding()
  local header = read_file "engine/include/perigee.h"
    .. read_file "engine/include/perigee_clusters.h"
    .. read_file "engine/include/perigee_dlpack.h"
  local binding = read_command "cat lua/binding/*.c"
  local called = {}
  for name in binding:gmatch "%f[%w_](peri_[%w_]+)%s*%(" do
    called[name] = true
  end
  local public = {}
  for name in header:gmatch "PERI_API[^;(]-%f[%w_](peri_[%w_]+)%(" do
    public[name] = true
    if not called[name] and not EXCEPTED[name] then
      complain("%s is public, but lua/binding does not call it", name)
    end
  end
  for name in pairs(EXCEPTED) do
    if not public[name] or called[name] then
      complain("%s is excepted without need", name)
    end
  end
end

-- Public names: "pg.load", "pg.cagra.build", "Matrix:slice".
local function public_names()
  local pg, core = require "perigee", require "perigee.core"
  local names = {}
  local function walk(value, prefix)
    for key, field in pairs(value) do
      local name = prefix .. "." .. key
      if type(field) == "table" then
        walk(field, name)
      else
        names[name] = true
      end
    end
  end
  walk(pg, "pg")
  for _, word in ipairs { "Matrix", "Searcher", "Hits", "Filter", "Quantizer" } do
    for key in pairs(core[word]) do
      names[word .. ":" .. key] = true
    end
  end
  for word, module in pairs { Clusters = "perigee.kmeans", Builder = "perigee.factory" } do
    for key in pairs(require(module).methods) do
      names[word .. ":" .. key] = true
    end
  end
  return names
end

local function check_documents()
  local names = public_names()
  local documented = {}
  for _, entry in ipairs(require "perigee.help".entries) do
    if documented[entry.name] then
      complain("%s has two entries in the help", entry.name)
    end
    documented[entry.name] = true
    if not names[entry.name] then
      complain("%s has an entry in the help, but is not there", entry.name)
    end
  end
  local definitions = read_command "cat lua/perigee/*.d.lua"
  for name in pairs(names) do
    local bare = name:match "([%w_]+[.:][%w_]+)$"
    local field = name:match "^pg%.([%w_]+)$"
    if not documented[name] then
      complain("%s has no entry in lua/perigee/help.lua", name)
    end
    local defined = definitions:find("function " .. bare .. "(", 1, true)
      or field and definitions:find("---@field " .. field .. " ", 1, true)
    if not defined then
      complain("%s is in no lua/perigee/*.d.lua", name)
    end
  end
end

check_binding()
check_documents()
if problems > 0 then
  print(("api_coverage: %d problems"):format(problems))
end
os.exit(problems == 0)
