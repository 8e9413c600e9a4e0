-- Perigee beside its peers on one machine, in one run, on the same data. Prints tables;
-- scripts/bench builds what this runs and calls it.
--
--   lua5.4 report.lua folder=DIR threads=LIST build_threads=N rounds=N builds=N seconds=S rows=N
--                     small=0|1 wheels=0|1 watched=0|1 [only=WORD] [data=WORD]
--
-- sets.lua says on what, plan.lua what is compared with what, measure.lua how; tables.lua prints.
-- DIR receives runs.jsonl, every measurement as it was made, and table.jsonl, the medians.

package.path = "scripts/benchmarks/?.lua;" .. package.path

local measure = require "measure"
local plan = require "plan"
local sets = require "sets"
local tables = require "tables"
local words = require "words"

local asked <const> = words.read(arg)

local function write_json(file, row)
  local keys, parts = {}, {}
  for key in pairs(row) do
    keys[#keys + 1] = key
  end
  table.sort(keys)
  for i, key in ipairs(keys) do
    local value = row[key]
    parts[i] = ('"%s": %s'):format(key, type(value) == "number" and ("%.14g"):format(value)
      or '"' .. tostring(value):gsub('[\\"]', "\\%0") .. '"')
  end
  file:write("{", table.concat(parts, ", "), "}\n")
  file:flush()
end

local function first_line(command)
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  local line = pipe:read "l"
  pipe:close()
  return line or "?"
end

local function print_machine(load)
  print(("%s, %s threads (builds %d); load before: %s"):format(
    first_line "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo", asked.threads,
    asked.build_threads, load))
  local function version(package)
    return first_line("dpkg-query -W -f '${Version}' " .. package)
  end
  print(("Peers: hnswlib %s, FAISS %s on OpenBLAS %s, from the distribution's packages"):format(
    version "libhnswlib-dev", version "libfaiss-dev", version "libopenblas0-pthread"))
  if asked.wheels == 1 then
    print("Wheels: " .. first_line(asked.folder .. "/venv/bin/python -c 'import faiss; "
      .. "from importlib.metadata import version as v; "
      .. 'print("hnswlib", v("hnswlib") + ", FAISS", faiss.__version__)\''))
  end
end

local function print_roofs(list)
  for _, row in ipairs(list) do
    if row.what == "fma" then
      print(("f32 fused multiply-adds beside %s, %d thread%s: %.0f GFLOP/s"):format(row.data,
        row.threads, row.threads > 1 and "s" or "", row.gflops))
    end
  end
end

local function usable(program)
  local files <const> = { hnswlib = "/hnswlib_peer", faiss = "/faiss_peer",
    wheels = "/venv/bin/python" }
  local file = files[program] and io.open(asked.folder .. files[program])
  if files[program] and not file then
    return false, "it is not on this machine"
  end
  return not file or file:close()
end

-- What could not be measured, once each, in order.
local absent = {}

local function left_out(subject, why)
  local line = ("%s: %s"):format(subject.engine, why)
  if not absent[line] then
    absent[line] = true
    absent[#absent + 1] = line
  end
end

local function watch(text)
  if asked.watched == 1 then
    io.stderr:write("\r\27[K", text:sub(1, 110))
  end
end

local function main()
  local load_file <close> = assert(io.open "/proc/loadavg")
  local load = load_file:read "l":match "^%S+ %S+ %S+"
  local runs_file <close> = assert(io.open(asked.folder .. "/runs.jsonl", "w"))
  local runs, peers = {}, {}
  local options = words.join(asked, { usable = usable, left_out = left_out, watch = watch,
    emit = function(row)
      write_json(runs_file, row)
      runs[#runs + 1] = row
    end })
  options.threads = {}
  for count in tostring(asked.threads):gmatch "%d+" do
    table.insert(options.threads, math.tointeger(count))
  end
  for _, set in ipairs(sets.list { small = asked.small == 1, only = asked.data, rows = asked.rows,
    threads = asked.build_threads, folder = asked.folder }) do
    local parts = plan.parts(set, sets.shape(set),
      { only = asked.only, wheels = asked.wheels == 1 })
    for _, part in ipairs(parts) do
      peers[part.title] = part.peer
    end
    measure.run(set, parts, options)
  end
  watch ""
  local list = tables.medians(runs)
  tables.add_ratios(list, peers)
  local results <close> = assert(io.open(asked.folder .. "/table.jsonl", "w"))
  for _, row in ipairs(list) do
    write_json(results, row)
  end
  print_machine(load)
  print_roofs(list)
  tables.print(list)
  for i, line in ipairs(absent) do
    print((i == 1 and "\nLeft out:\n" or "") .. "  " .. line)
  end
end

main()
