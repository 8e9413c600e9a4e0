--- The demo: search Debian's packages by words.
--
--   build/bin/perigee scripts/demo/packages.lua
--
-- 62,433 package descriptions as vectors: build a CAGRA graph over them, answer a few sentences
-- with and without a filter, say how good and how fast that is, write packages.hnsw, which stock
-- hnswlib reads too, and packages.perigee, which search.lua opens. Both go into the current folder.

local pg = require "perigee"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$" or "."
local data = here .. "/data"
local words = dofile(here .. "/words.lua").open(pg, data)
local catalogue = dofile(here .. "/catalogue.lua").open(data)

local K = 10
local SHOWN = 5         -- answers printed for a sentence
local SECONDS = 2       -- how long each rate is measured
local METRIC = "cosine"

-- A sentence, and a section to ask it again in.
local SENTENCES = {
   { "play chess against the computer" },
   { "fast nearest neighbour search of vectors", "python" },
   { "edit photos", "gnome" },
   { "web server", "httpd" },
   { "learn the stars in the night sky", "science" },
}

-- Seconds on the wall: os.clock adds up those of all threads, and os.time has whole ones only.
local function now()
   local file = io.open("/proc/uptime", "r")
   local seconds = file and file:read "n"
   if file then file:close() end
   return seconds or os.time()
end

local function with_commas(n)
   local digits = ("%d"):format(math.floor(n + 0.5))
   local grouped = digits:reverse():gsub("(%d%d%d)", "%1,"):reverse()
   return (grouped:gsub("^,", ""))
end

local function say(...)
   print((...):format(select(2, ...)))
end

local function answer(index, sentence, section)
   local query = assert(words:query(sentence))
   local filter = section and pg.filter.ids(catalogue:ids_of_section(section)) or nil
   local hits <close> = assert(index:search(query, SHOWN, { filter = filter }))
   say('\n"%s"%s', sentence, section and ", only in section " .. section or "")
   catalogue:show(hits, 0)
end

-- One line: how much of the exact answer the searcher finds, and how many queries it answers a
-- second, all of them given as one batch.
local function measure(what, searcher, queries, truth, options)
   local hits <close> = assert(searcher:search(queries, K, options))
   local recall = assert(pg.recall(hits, truth))
   local rounds, start = 0, now()
   repeat
      assert(searcher:search(queries, K, options)):close()
      rounds = rounds + 1
   until now() - start >= SECONDS
   local spent = now() - start
   say("%-52s  %9.4f  %12s", what, recall, with_commas(rounds * queries.rows / spent))
end

-- The data: signed bytes on disk; only a row's direction means something.
local base = assert(pg.load(data .. "/base.npy")):as "f32":normalize()
local queries = assert(pg.load(data .. "/queries.npy")):as "f32":normalize()
assert(base.rows == catalogue.rows, "base.npy and packages.tsv.gz differ in length")
say("%s Debian packages, %d dimensions", with_commas(base.rows), base.cols)

local start = now()
local index <close> = assert(pg.cagra.build(base, { metric = METRIC, progress = true }))
say("CAGRA graph built in %.1f s", now() - start)

for _, case in ipairs(SENTENCES) do
   answer(index, case[1])
   if case[2] then answer(index, case[1], case[2]) end
end

say("\nThe %s packages held back as queries, %d answers each. Recall is by value: an answer counts"
   .. "\nwhen it is as near as the last true one, since many packages share a description.\n",
   with_commas(queries.rows), K)
say("%-52s  %9s  %12s", "", "recall@" .. K, "queries/s")

local flat <close> = assert(pg.flat.build(base, { metric = METRIC }))
local truth <close> = assert(pg.ground_truth(base, queries, K, { metric = METRIC }))
measure("exact search (flat)", flat, queries, truth)
measure("CAGRA", index, queries, truth)
measure("CAGRA, itopk_size 128", index, queries, truth, { itopk_size = 128 })
do
   local ids = catalogue:ids_of_section "games"
   local filter = pg.filter.ids(ids)
   local filtered_truth <close> = assert(flat:search(queries, K, { filter = filter }))
   local what = ("CAGRA, only section games (%.1f %% of the rows)"):format(100 * #ids / base.rows)
   measure(what, index, queries, filtered_truth, { filter = filter })
end

local hnsw <close> = assert(index:to_hnsw { hierarchy = "cpu" })
assert(hnsw:save("packages.hnsw", { format = "hnswlib" }))
local back <close> = assert(pg.open("packages.hnsw",
   { format = "hnswlib", metric = METRIC, dtype = "f32" }))
measure("HNSW, reopened from packages.hnsw, ef 100", back, queries, truth, { ef = 100 })
answer(back, SENTENCES[1][1])

assert(index:save "packages.perigee")

local first = 0
while arg and arg[first - 1] do first = first - 1 end
local perigee = first < 0 and arg[first] or "perigee"
say("\nWritten here: packages.hnsw, which stock hnswlib reads too, and packages.perigee."
   .. "\nNow ask in your own words:\n")
say('   %s %s/search.lua "play music"', perigee, here)
say('   %s %s/search.lua --section games "build a city"', perigee, here)
