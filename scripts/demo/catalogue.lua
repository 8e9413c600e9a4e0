--- What the rows of the demo's vectors are: the table of packages, and how an answer is shown.
--
--   local catalogue = dofile "scripts/demo/catalogue.lua" .open "scripts/demo/data"
--   catalogue:ids_of_section "games"      --> { 0, 1, 17, ... }, row numbers
--   catalogue:show(hits, 0)               -- the answer to query row 0, as a table
--
-- Columns are plain sequences; row r, counted from 0 as everywhere in perigee, is at r + 1.

local WIDTH = 100 -- of a printed line, in characters

local Catalogue = {}
Catalogue.__index = Catalogue

local function quoted(path)
   return "'" .. path:gsub("'", "'\\''") .. "'"
end

--- Opens packages.tsv.gz in `folder`; gzip is in every Debian; perigee itself does not need it.
local function open(folder)
   local path = folder .. "/packages.tsv.gz"
   local pipe = assert(io.popen("gzip -dc < " .. quoted(path), "r"))
   local self = setmetatable({ package = {}, section = {}, synopsis = {}, rows = 0 }, Catalogue)
   pipe:read "l" -- the header
   for row in pipe:lines() do
      local package, section, synopsis = row:match "^([^\t]*)\t([^\t]*)\t[^\t]*\t[^\t]*\t(.*)$"
      assert(package, "packages.tsv.gz: not a row: " .. row)
      local n = self.rows + 1
      self.package[n], self.section[n], self.synopsis[n] = package, section, synopsis
      self.rows = n
   end
   assert(pipe:close(), "cannot unpack " .. path)
   return self
end

function Catalogue:ids_of_section(section)
   local ids = {}
   for n, s in ipairs(self.section) do
      if s == section then ids[#ids + 1] = n - 1 end
   end
   return ids
end

--- All sections, in alphabetical order.
function Catalogue:sections()
   local seen, list = {}, {}
   for _, s in ipairs(self.section) do
      if not seen[s] then
         seen[s] = true
         list[#list + 1] = s
      end
   end
   table.sort(list)
   return list
end

-- At most `width` characters of a UTF-8 text, filled up with spaces when `fill`.
local function cut(text, width, fill)
   local length = utf8.len(text) or #text
   if length > width then
      return text:sub(1, (utf8.offset(text, width) or width) - 1) .. "…"
   end
   return fill and text .. (" "):rep(width - length) or text
end

-- One line of the table; `first` and `similarity` may be words, as in its head.
local function line(first, package, section, similarity, synopsis)
   return ("%4s  %s  %s  %10s  %s"):format(first, cut(package, 26, true), cut(section, 10, true),
      similarity, cut(synopsis, WIDTH - 58))
end

--- Prints the hits of one query row, nearest first. The index has the metric "cosine", whose
-- distance is 1 - cosine.
function Catalogue:show(hits, query_row)
   print(line("rank", "package", "section", "similarity", "synopsis"))
   local rank = 0
   for id, distance in hits:each(query_row) do
      if id < 0 then break end -- fewer rows matched than were asked for
      rank = rank + 1
      local n, similarity = id + 1, ("%.3f"):format(1 - distance)
      print(line(rank, self.package[n], self.section[n], similarity, self.synopsis[n]))
   end
   if rank == 0 then print "      nothing matches" end
end

return { open = open }
