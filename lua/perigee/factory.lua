-- pg.factory: the index strings of FAISS, for the kinds that there are: "IVF1024,PQ16" and the
-- like. A string is read into a kind and options of its build; what it stands for is printed by the
-- builder, so that it is learned and can be written out.
--
-- Parts stand between commas: what is done to rows first, lists, codes, and how answers are
-- refined. A part that there is no kind for is refused by its name, with those that are known.

local core = require "perigee.core"

local M = {}

-- ---- parts --------------------------------------------------------------------------------------

-- Each way a part is written: its pattern, how it is listed, and what it does to what is read.
-- `read` holds: kind, options, lists (IVF), codes (what is in the lists), refine.

local function only_once(read, key, value)
  if read[key] ~= nil then
    return ("there is another part like it: '%s'"):format(read[key .. "_part"])
  end
  read[key], read[key .. "_part"] = value, read.part
end

local function option(read, name, digits)
  if digits and digits ~= "" then
    read.options[name] = math.tointeger(digits)
  end
end

-- PQ16 is 16 codes of 8 bits a row, PQ16x4 of 4. "fs" asks for the scan by tables in registers,
-- which codes of 4 bits have here anyhow; "np" forgoes a training that there is not.
local function read_pq(read, dims, bits, ending)
  if ending ~= "" and ending ~= "fs" and ending ~= "np" then
    return ("'%s' is not known at the end of it, allowed: fs, np"):format(ending)
  elseif ending == "fs" and bits ~= "4" then
    return "fs is for codes of 4 bits: PQ16x4fs"
  end
  option(read, "pq_dim", dims)
  read.options.pq_bits = bits == "" and 8 or math.tointeger(bits)
  return only_once(read, "codes", "pq")
end

local PARTS <const> = {
  { "^OPQ(%d+)$", "OPQ16", function(read, dims)
    read.opq_dim = math.tointeger(dims)
    return only_once(read, "opq", true)
  end },
  { "^IVF(%d+)$", "IVF1024", function(read, lists)
    option(read, "n_lists", lists)
    return only_once(read, "lists", true)
  end },
  { "^HNSW(%d*)$", "HNSW32", function(read, links)
    read.options.m = links == "" and 32 or math.tointeger(links)
    return only_once(read, "graph", "hnsw")
  end },
  { "^Flat$", "Flat", function(read)
    return only_once(read, "codes", "flat")
  end },
  { "^PQ(%d+)x?(%d*)(%a*)$", "PQ16, PQ16x4fs", read_pq },
  { "^SQ([48])$", "SQ8, SQ4", function(read, bits)
    option(read, "bits", bits)
    return only_once(read, "codes", "sq")
  end },
  { "^RaBitQ(%d?)$", "RaBitQ, RaBitQ4", function(read, bits)
    read.options.bits_per_dim = bits == "" and 1 or math.tointeger(bits)
    return only_once(read, "codes", "rabitq")
  end },
  { "^RFlat$", "RFlat", function(read)
    return only_once(read, "refine", true)
  end },
  { "^Refine%(Flat%)$", "Refine(Flat)", function(read)
    return only_once(read, "refine", true)
  end },
}

-- What users of FAISS may look for.
local REFUSED <const> = {
  { "^PCA", "there is no projection to fewer columns: the rows are indexed as they are" },
  { "^OPQ%d+_", "the rotation keeps the number of columns: write OPQ16" },
  { "^IDMap", "every kind takes ids: build(rows, { ids = … })" },
  { "^L2norm$", "build with metric = 'cosine' instead" },
  { "^IVF%d+%(.*%)$", "centroids are always compared exactly: write IVF1024" },
  { "^IVF%d+_", "centroids are always compared exactly: write IVF1024" },
  { "^SQfp16$", "rows can be f16: build IVF1024,Flat of rows:as 'f16'" },
  { "^HNSW%d*_", "walks measure by codes by themselves where it pays: write HNSW32" },
  { "^Refine", "rows are refined with as they were given: write RFlat" },
}

local function known_parts()
  local list = {}
  for _, part in ipairs(PARTS) do
    list[#list + 1] = part[2]
  end
  return table.concat(list, ", ")
end

local function read_part(read, part)
  for _, known in ipairs(PARTS) do
    local found = table.pack(part:match(known[1]))
    if found[1] then
      read.part = part
      return known[3](read, table.unpack(found, 1, found.n))
    end
  end
  for _, refused in ipairs(REFUSED) do
    if part:find(refused[1]) then
      return refused[2]
    end
  end
  return "no such part; known: " .. known_parts()
end

-- ---- the whole ----------------------------------------------------------------------------------

-- The kind that the parts make together, or nil and why there is none.
local function kind_of(read)
  local codes = read.codes
  if read.graph then
    if read.lists or codes and codes ~= "flat" or read.opq then
      return nil, ("a graph of rows stands alone: write %s"):format(read.graph_part)
    end
    return "hnsw"
  elseif not codes then
    return nil, read.lists and "it does not say what is in the lists: Flat, PQ16, SQ8, RaBitQ"
      or "it names no index: Flat, IVF1024,Flat, HNSW32"
  elseif read.opq and (codes ~= "pq" or not read.lists) then
    return nil, ("%s belongs to lists of PQ codes: OPQ16,IVF1024,PQ16"):format(read.opq_part)
  elseif read.lists then
    return "ivf_" .. codes
  elseif codes ~= "flat" then
    return nil, ("%s alone is no index: put it into lists, as IVF1024,%s"):format(read.codes_part,
      read.codes_part)
  end
  return "flat"
end

local function finish(read)
  local kind, why = kind_of(read)
  if not kind then
    return nil, why
  elseif not core[kind] then
    return nil, ("there is no pg.%s"):format(kind)
  elseif read.opq then
    if read.opq_dim ~= read.options.pq_dim then
      return nil, ("%s and %s differ in their number of codes"):format(read.opq_part,
        read.codes_part)
    end
    read.options.opq = true
  end
  return kind
end

-- ---- the builder --------------------------------------------------------------------------------

---@class perigee.Builder
local Builder = {}

local meta = { __index = Builder, __name = "perigee.Builder" }

local function written(options)
  local names, list = {}, {}
  for name in pairs(options) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    list[i] = ("%s = %s"):format(name, tostring(options[name]))
  end
  return #list == 0 and "rows" or ("rows, { %s }"):format(table.concat(list, ", "))
end

function meta:__tostring()
  return ("perigee.Builder %s\n  pg.%s.build(%s)%s"):format(self.text, self.kind,
    written(self.options), self.refine and ":refined(rows)" or "")
end

-- The options of the build: those of the string and those given, of which none may be both.
local function joined(self, options)
  local all = {}
  for name, value in pairs(options or {}) do
    if self.options[name] ~= nil then
      error(("option '%s': '%s' says it already"):format(name, self.text), 3)
    end
    all[name] = value
  end
  for name, value in pairs(self.options) do
    all[name] = value
  end
  return all
end

---Builds what the string stands for.
function Builder:build(rows, options)
  local all = joined(self, options)
  local ratio = all.ratio
  if self.refine then
    all.ratio = nil
  end
  -- Caught only to name the caller's line instead of this one.
  local ok, index, message, code = pcall(core[self.kind].build, rows, all)
  if not ok then
    error(index, 2)
  elseif not index or not self.refine then
    return index, message, code
  end
  local refined
  ok, refined, message, code = pcall(index.refined, index, rows, { ratio = ratio })
  if not ok then
    error(refined, 2)
  end
  return refined, message, code
end

M.methods = Builder

---Whether a value is what pg.factory gives.
function M.is(value)
  return getmetatable(value) == meta
end

---@param text string
---@return perigee.Builder
function M.read(text)
  if type(text) ~= "string" then
    error(("bad argument #1 to 'factory' (string expected, got %s)"):format(type(text)), 2)
  end
  local read = { options = {} }
  for part in (text .. ","):gmatch "([^,]*)," do
    local bare = part:match "^%s*(.-)%s*$"
    local why = read_part(read, bare)
    if why then
      error(("'%s' of '%s': %s"):format(bare, text, why), 2)
    end
  end
  local kind, why = finish(read)
  if not kind then
    error(("'%s': %s"):format(text, why), 2)
  end
  return setmetatable({ text = text, kind = kind, options = read.options,
    refine = read.refine or false }, meta)
end

return M
