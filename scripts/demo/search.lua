--- Ask the index that packages.lua saved, in your own words.
--
--   build/bin/perigee scripts/demo/search.lua [--section NAME] [--index FILE] [-k N] WORDS...
--
-- Opens packages.perigee in the current folder unless --index names another file.

local USAGE = "usage: search.lua [--section NAME] [--index FILE] [-k N] WORDS..."

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$" or "."

local function give_up(message)
   io.stderr:write("search.lua: ", message, "\n")
   os.exit(1, true)
end

local function parse(arguments)
   local options = { index = "packages.perigee", k = "10" }
   local takes = { ["--section"] = "section", ["--index"] = "index", ["-k"] = "k" }
   local sentence, i = {}, 1
   while i <= #arguments do
      local a = arguments[i]
      if takes[a] then
         i = i + 1
         options[takes[a]] = arguments[i] or give_up(a .. " needs a value\n" .. USAGE)
      elseif a:sub(1, 1) == "-" then
         give_up("unknown option " .. a .. "\n" .. USAGE)
      else
         sentence[#sentence + 1] = a
      end
      i = i + 1
   end
   options.sentence = table.concat(sentence, " ")
   options.k = math.tointeger(tonumber(options.k)) or 0
   if options.k < 1 or options.k > 100 then give_up "-k takes a whole number from 1 to 100" end
   if options.sentence == "" then give_up("what are you looking for?\n" .. USAGE) end
   return options
end

local options = parse(arg)
local pg = require "perigee"
local words = dofile(here .. "/words.lua").open(pg, here .. "/data")
local catalogue = dofile(here .. "/catalogue.lua").open(here .. "/data")

local query, known, unknown = words:query(options.sentence)
if not query then give_up(known) end

local filter
if options.section then
   local ids = catalogue:ids_of_section(options.section)
   if #ids == 0 then
      give_up(("no section %q; there are: %s"):format(options.section,
         table.concat(catalogue:sections(), " ")))
   end
   filter = pg.filter.ids(ids)
end

local opened, message = pg.open(options.index)
if not opened then
   give_up(("%s\nRun %s/packages.lua here first; it writes packages.perigee."):format(message,
      here))
end
local index <close> = opened
local hits <close> = assert(index:search(query, options.k, { filter = filter }))
print(("searched for: %s%s"):format(table.concat(known, " "),
   #unknown > 0 and "   (unknown: " .. table.concat(unknown, " ") .. ")" or ""))
catalogue:show(hits, 0)
