-- Perigee beside its peers on one machine, in one run, on the same data. Prints tables;
-- scripts/bench builds what this runs and calls it.
--
--   lua5.4 report.lua folder=DIR threads=N rounds=N builds=N seconds=S target=R quick=0|1
--                     watched=0|1
--
-- A round runs every program once, peers and ours in turn, in an order that every second round
-- turns around; the tables show the median of the rounds. A program finds, each time, the smallest
-- parameter that reaches the target recall, and is timed there. Indexes are built in the first
-- `builds` rounds (at least one) and read from files afterwards.
--
-- DIR receives runs.jsonl, every measurement as it was made, and table.jsonl, the medians.
--
-- Data: debian-packages-96 and sift-debian-photos in $PERIGEE_DATA or ../shared/data, else (and
-- with quick=1) the small sets of spec/data.

local HERE <const> = "scripts/benchmarks/"

local words = {}
for _, word in ipairs(arg) do
  local key, value = word:match "^(%w+)=(.*)$"
  words[key or error(word .. " is not key=value", 0)] = tonumber(value) or value
end

local function file_exists(path)
  local file = io.open(path, "rb")
  return file and file:close()
end

local function quote(text)
  return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

-- ---- data ---------------------------------------------------------------------------------------

local function data_sets()
  local data = os.getenv "PERIGEE_DATA" or "../shared/data"
  local packages, sift = data .. "/debian-packages-96/", data .. "/sift-debian-photos/"
  if words.quick == 0 and file_exists(packages .. "base.fvecs")
    and file_exists(sift .. "base.bvecs") then
    return {
      packages = { base = packages .. "base.fvecs", queries = packages .. "query.fvecs",
        ids = packages .. "gt_ip.ivecs", truth = packages .. "gt_ip_sim.fvecs", metric = "ip" },
      sift = { base = sift .. "base.bvecs", queries = sift .. "query.bvecs",
        ids = sift .. "gt.ivecs", truth = sift .. "gt_dist2.fvecs", metric = "l2" },
    }
  end
  local small = "spec/data/"
  return {
    packages = { base = small .. "packages.fvecs", queries = small .. "packages_queries.fvecs",
      ids = small .. "packages_truth.ivecs", truth = small .. "packages_truth_similarity.fvecs",
      metric = "ip" },
    sift = { base = small .. "sift.bvecs", queries = small .. "sift_queries.bvecs",
      ids = small .. "sift_truth.ivecs", truth = small .. "sift_truth_dist2.fvecs", metric = "l2" },
  }
end

-- What is compared: data sets as they are searched. A graph of degree 32 has as many links as
-- hnswlib's M = 16 gives a row of its base level; 64 is CAGRA's default.
local cases <const> = {
  { data = "packages", dtype = "f32", degrees = { 32, 64 }, faiss = true },
  { data = "sift", dtype = "f32", degrees = { 32 }, faiss = true },
  { data = "sift", dtype = "u8", degrees = { 32, 64 } }, -- FAISS has no exact index of bytes
}

-- ---- running ------------------------------------------------------------------------------------

local runs = assert(io.open(words.folder .. "/runs.jsonl", "w"))

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

-- Every measurement, by what is the same in all rounds.
local measured, order = {}, {}

local function keep(row, round)
  row.round = round
  write_json(runs, row)
  local key = table.concat({ row.what, row.engine or "", row.data or "", row.dtype or "",
    row.threads, (row.parameters or ""):match "graph_degree=%d+" or "" }, "|")
  if not measured[key] then
    measured[key] = {}
    order[#order + 1] = key
  end
  table.insert(measured[key], row)
end

local function run(command, round)
  local pipe = assert(io.popen(command))
  for line in pipe:lines() do
    local row = {}
    for key, value in line:gmatch "([%w_]+)=([^\t]*)" do
      row[key] = tonumber(value) or value
    end
    keep(row, round)
  end
  local ok, _, status = pipe:close()
  if not ok then
    error(("%s: ended with %s"):format(command, status), 0)
  end
end

local function command_of(program, case, set, build, more)
  local line = { program }
  local values = { data = case.data, dtype = case.dtype, threads = words.threads,
    seconds = words.seconds, target = words.target, build = build and 1 or 0 }
  for _, from in ipairs { set, values, more } do
    for key, value in pairs(from) do
      line[#line + 1] = key .. "=" .. quote(value)
    end
  end
  return table.concat(line, " ")
end

-- The commands of a round, in turn ours and theirs.
local function commands_of(build)
  local sets, list = data_sets(), {}
  local function add(program, case, more)
    list[#list + 1] = command_of(program, case, sets[case.data], build, more)
  end
  for _, case in ipairs(cases) do
    local file = ("%s/%s_%s"):format(words.folder, case.data, case.dtype)
    if case.faiss then
      add(words.folder .. "/faiss_peer", case, { file = file })
    end
    add("lua5.4 " .. HERE .. "ours.lua", case, { part = "flat", file = file })
    add(words.folder .. "/hnswlib_peer", case, { file = file .. ".hnswlib" })
    for _, degree in ipairs(case.degrees) do
      add("lua5.4 " .. HERE .. "ours.lua", case,
        { part = "graph", degree = degree, file = file .. "_" .. degree })
    end
  end
  return list
end

local function run_round(round)
  for _, threads in ipairs(words.threads > 1 and { 1, words.threads } or { 1 }) do
    run(("%s/fma_rate %d %g"):format(words.folder, threads, words.seconds), round)
  end
  local list = commands_of(round <= words.builds)
  for i = 1, #list do
    if words.watched == 1 then
      io.stderr:write(("\r\27[Kround %d of %d: %d of %d"):format(round, words.rounds, i, #list))
    end
    run(list[round % 2 == 1 and i or #list + 1 - i], round)
  end
  if words.watched == 1 then
    io.stderr:write "\r\27[K"
  end
end

-- ---- the tables ---------------------------------------------------------------------------------

local function median(rows, key)
  local values = {}
  for i, row in ipairs(rows) do
    values[i] = row[key]
  end
  table.sort(values)
  local middle = (#values + 1) // 2
  return #values % 2 == 1 and values[middle] or (values[middle] + values[middle + 1]) / 2
end

local function of_searches(list)
  local kept = {}
  for _, row in ipairs(list) do
    if row.what ~= "fma" then
      kept[#kept + 1] = row
    end
  end
  return kept
end

-- One row for each thing measured, with the median of its rounds and the parameters of the last.
local function medians()
  local list = {}
  for _, key in ipairs(order) do
    local rows = measured[key]
    local row = {}
    for name, value in pairs(rows[#rows]) do
      row[name] = value
    end
    row.round, row.runs = nil, #rows
    for _, name in ipairs { "qps", "seconds", "gflops", "recall" } do
      row[name] = row[name] and median(rows, name)
    end
    list[#list + 1] = row
  end
  return list
end

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

-- Ratios: ours over the peer's; how many times less time, for a build.
local function add_ratios(list)
  for _, row in ipairs(list) do
    if row.what == "flat" then
      -- FAISS has floats only: bytes are compared with its floats.
      row.peer = find(list, { what = "flat", engine = "faiss", data = row.data,
        threads = row.threads })
      local roof = find(list, { what = "fma", threads = row.threads })
      row.gflops = 2 * row.n * row.dim * row.qps / 1e9
      row.share = row.dtype == "f32" and row.gflops / roof.gflops or nil
      row.ratio = row.peer and row.qps / row.peer.qps
    elseif row.what ~= "fma" then
      row.peer = find(list, { what = row.what, engine = "hnswlib", data = row.data,
        dtype = row.dtype, threads = row.threads })
      row.ratio = row.peer and (row.qps and row.qps / row.peer.qps
        or row.peer.seconds / row.seconds)
    end
    row.peer = nil
  end
end

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
    for c, cell in ipairs(row) do
      local right = heads[c]:sub(1, 1) == ">"
      row[c] = (right and "%%%ds" or "%%-%ds"):format(widths[c]):format((cell:gsub("^>", "")))
    end
    print((table.concat(row, "  "):gsub("%s+$", "")))
  end
end

local function text(form, value)
  return value and form:format(value) or "-"
end

-- The cells of a row by the heads of their columns.
local function cells_of(row)
  return {
    data = row.data, n = text("%d", row.n), dim = text("%d", row.dim), dtype = row.dtype,
    threads = text("%d", row.threads), engine = row.engine, parameters = row.parameters,
    recall = text("%.4f", row.recall), ["queries/s"] = text("%.0f", row.qps),
    ratio = text("%.2f", row.ratio), ["GFLOP/s"] = text("%.1f", row.gflops),
    share = text("%.0f %%", row.share and 100 * row.share), seconds = text("%.2f", row.seconds),
    runs = text("%d", row.runs),
  }
end

local COMMON <const> = { "data", ">n", ">dim", "dtype", ">threads", "engine", "parameters" }
local TABLES <const> = {
  { what = "graph", title = ("Graph search, smallest parameter with recall@10 >= %g; ratio to "
    .. "hnswlib"):format(words.target), more = { ">recall", ">queries/s", ">ratio" } },
  { what = "flat", title = "Exact search; ratio to FAISS; share of the fused multiply-adds",
    more = { ">recall", ">queries/s", ">ratio", ">GFLOP/s", ">share" } },
  { what = "build", title = "Builds, recall@10 at ef or itopk_size 100; ratio to hnswlib",
    more = { ">recall", ">seconds", ">ratio", ">runs" } },
}

local function print_tables(list)
  table.sort(list, function(a, b)
    for _, key in ipairs { "data", "dtype", "threads", "engine", "parameters" } do
      if a[key] ~= b[key] then
        return a[key] < b[key]
      end
    end
    return false
  end)
  for _, wanted in ipairs(TABLES) do
    local heads, rows = table.move(COMMON, 1, #COMMON, 1, {}), {}
    table.move(wanted.more, 1, #wanted.more, #heads + 1, heads)
    for _, row in ipairs(list) do
      if row.what == wanted.what then
        local cells, line = cells_of(row), {}
        for c, head in ipairs(heads) do
          line[c] = cells[head:gsub("^>", "")]
        end
        rows[#rows + 1] = line
      end
    end
    print_table(wanted.title, heads, rows)
  end
end

local function print_machine(list)
  local function first_line(command)
    local pipe = assert(io.popen(command .. " 2>/dev/null"))
    local line = pipe:read "l"
    pipe:close()
    return line or "?"
  end
  print(("%s, %d threads; load before: %s"):format(
    first_line "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo", words.threads, words.load))
  print(("hnswlib %s, FAISS %s, OpenBLAS %s, from the distribution's packages"):format(
    first_line "dpkg-query -W -f '${Version}' libhnswlib-dev",
    first_line "dpkg-query -W -f '${Version}' libfaiss-dev",
    first_line "dpkg-query -W -f '${Version}' libopenblas0-pthread"))
  for _, row in ipairs(list) do
    if row.what == "fma" then
      print(("f32 fused multiply-adds, %d thread%s: %.0f GFLOP/s"):format(row.threads,
        row.threads > 1 and "s" or "", row.gflops))
    end
  end
end

local load <close> = assert(io.open "/proc/loadavg")
words.load = load:read "l":match "^%S+ %S+ %S+"
for round = 1, words.rounds do
  run_round(round)
end
local list = medians()
add_ratios(list)
local results <close> = assert(io.open(words.folder .. "/table.jsonl", "w"))
for _, row in ipairs(list) do
  write_json(results, row)
end
print_machine(list)
print_tables(of_searches(list))
