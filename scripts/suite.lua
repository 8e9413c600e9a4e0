-- Runs the tests of a built tree and counts them: what scripts/test calls once all is built.
--
--   lua5.4 scripts/suite.lua [--build-dir DIR] [--place P]... [--tags T] [--exclude-tags T]
--                            [--sanitizer asan|tsan] [FILE]...
--
-- Each program of spec/c and each spec/*_spec.lua is a process of its own, so a crash costs one
-- file and counts as one failed test. FILE limits the run to these: a path, or the bare subject
-- ("matrix" is spec/matrix_spec.lua and spec/c/matrix_test.c). The programs of spec/c have no tags
-- and stay out of a run that asks for one.
--
-- A spec reads its default place from PERIGEE_TEST_PLACE. Without --place every spec runs on the
-- CPU, and those that speak of places run once more on fake:0.
--
-- The last line is "N passed, N failed, N skipped", alone.

local TIMEOUT_S = tonumber(os.getenv "PERIGEE_TEST_TIMEOUT") or 1200
local TAIL_LINES = 40

local total = { passed = 0, failed = 0, skipped = 0 }
local failures, skips = {}, {}
local sets = {} -- beside the checkout, that a spec read: a list, and a set

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then
    return nil
  end
  local text = file:read "a"
  file:close()
  return text
end

local function lines_of(command)
  local list = {}
  local pipe = assert(io.popen(command))
  for line in pipe:lines() do
    list[#list + 1] = line
  end
  pipe:close()
  return list
end

-- ---- the command line ---------------------------------------------------------------------------

local function parse_arguments(argv)
  local options = { build_dir = "build", places = {}, files = {} }
  local valued = {
    ["--build-dir"] = "build_dir", ["--tags"] = "tags", ["--exclude-tags"] = "exclude_tags",
    ["--sanitizer"] = "sanitizer",
  }
  local i = 1
  while i <= #argv do
    local word = argv[i]
    if valued[word] or word == "--place" then
      i = i + 1
      local value = argv[i] or error(word .. " wants a value", 0)
      if word == "--place" then
        table.insert(options.places, value)
      else
        options[valued[word]] = value
      end
    elseif word:sub(1, 1) == "-" then
      error("unknown option " .. word, 0)
    else
      table.insert(options.files, word)
    end
    i = i + 1
  end
  return options
end

local function subject_of(path)
  return (path:match "([^/]+)$":gsub("%.%w+$", ""):gsub("_spec$", ""):gsub("_test$", ""))
end

-- The files that a pattern of the shell names, limited to those asked for.
local function select_files(pattern, wanted)
  local list = {}
  for _, path in ipairs(lines_of("ls -1 " .. pattern .. " 2>/dev/null")) do
    local take = #wanted == 0
    for _, name in ipairs(wanted) do
      if name == path or name == "./" .. path then
        take = true
      elseif not name:find("/", 1, true) and subject_of(name) == subject_of(path) then
        take = true
      end
    end
    if take then
      list[#list + 1] = path
    end
  end
  return list
end

-- ---- running one process ------------------------------------------------------------------------

local function environment_of(options)
  local build = options.build_dir
  return {
    "LUA_PATH=" .. quote "lua/?.lua;lua/?/init.lua;;",
    "LUA_CPATH=" .. quote(build .. "/lib/?.so;;"),
    "PERIGEE_BUILD_DIR=" .. quote(build),
  }
end

-- What a sanitizer wants in the environment, and the words that go before the command. A module
-- with a sanitizer wants its runtime preloaded into lua5.4; the wrapper that does so comes first in
-- PATH, for the specs that start a lua5.4 of their own (spec/support/unpreload.c says the rest).
local function sanitizer_of(options)
  local name = options.sanitizer
  if not name then
    return {}, ""
  end
  local libraries = { asan = "libasan.so", tsan = "libtsan.so" }
  local library = libraries[name] or error("--sanitizer wants asan or tsan, not " .. name, 0)
  local folder = lines_of("realpath " .. quote(options.build_dir .. "/spec"))[1]
  local runtime = lines_of("gcc -print-file-name=" .. library)[1]
  local program = lines_of("command -v lua5.4")[1]
  assert(os.execute("mkdir -p " .. quote(folder .. "/bin")))
  local wrapper = assert(io.open(folder .. "/bin/lua5.4", "w"))
  wrapper:write("#!/bin/bash\nLD_PRELOAD=", runtime, ":", folder, "/unpreload.so exec -a lua5.4 ",
    program, ' "$@"\n')
  wrapper:close()
  assert(os.execute("chmod +x " .. quote(folder .. "/bin/lua5.4")))
  local env = {
    "PATH=" .. quote(folder .. "/bin:" .. os.getenv "PATH"),
    "UBSAN_OPTIONS=print_stacktrace=1",
    "ASAN_OPTIONS=detect_leaks=1:abort_on_error=1:allocator_may_return_null=1",
    "TSAN_OPTIONS=halt_on_error=1:abort_on_error=1:second_deadlock_stack=1:"
      .. "allocator_may_return_null=1",
    "OPENBLAS_NUM_THREADS=1", -- its own threads are not instrumented and look like races
    "PERIGEE_SANITIZER=" .. name,
  }
  -- The shadow of ThreadSanitizer needs a plain address layout, where we may ask for it.
  local plain = name == "tsan" and os.execute "setarch -R true 2>/dev/null"
  return env, plain and "setarch -R " or ""
end

-- Runs a shell command with its output in a file. Returns the exit status, or 128 + the signal.
-- What it leaves among temporary files goes with it.
local function run(command, output, timeout_s)
  local folder = quote(output .. ".files")
  local line = ("mkdir %s && TMPDIR=%s PERIGEE_TEST_FOLDER=%s timeout -k 10 %d %s >%s 2>&1 "
    .. "</dev/null"):format(folder, folder, folder, timeout_s, command, quote(output))
  local _, how, code = os.execute(line)
  for name in (read_file(output .. ".files/sets") or ""):gmatch "[^\n]+" do
    if not sets[name] then
      sets[name] = true
      table.insert(sets, name)
    end
  end
  os.execute("rm -rf " .. folder)
  return how == "signal" and 128 + code or code
end

local function describe_status(status)
  if status == 124 then
    return ("ran longer than %d s"):format(TIMEOUT_S)
  elseif status == 137 then
    return ("was killed (out of memory, or deaf after %d s)"):format(TIMEOUT_S)
  elseif status > 128 then
    return ("crashed with signal %d"):format(status - 128)
  end
  return ("ended with status %d"):format(status)
end

local function print_tail(text)
  local list = {}
  for line in text:gmatch "[^\n]+" do
    list[#list + 1] = line
  end
  for i = math.max(1, #list - TAIL_LINES + 1), #list do
    print("    | " .. list[i])
  end
end

local function report(title, counts, seconds, output)
  for key, value in pairs(counts) do
    total[key] = total[key] + value
  end
  print(("%-44s %4d passed, %d failed, %d skipped  (%d s)"):format(title, counts.passed,
    counts.failed, counts.skipped, seconds))
  if counts.failed > 0 and output then
    print_tail(output)
  end
  io.stdout:flush()
end

local function fail(title, counts, name, message)
  counts.failed = counts.failed + 1
  table.insert(failures, ("%s: %s"):format(title, name))
  print(("  FAILED %s: %s"):format(title, name))
  if message ~= "" then
    print("    " .. message:gsub("\n", "\n    "))
  end
end

local function skip(title, counts, name, reason)
  counts.skipped = counts.skipped + 1
  local because = reason ~= "" and " (" .. reason .. ")" or ""
  table.insert(skips, ("%s: %s%s"):format(title, name, because))
end

-- ---- the C tests --------------------------------------------------------------------------------

-- Reads what a C test printed: the numbers of its last line "N passed, N failed[, N skipped]", if
-- there is one, and the names of what it skipped, on lines that begin with "skip".
local function read_c_output(output, title, counts)
  local passed, failed, skipped
  for p, f, rest in output:gmatch "(%d+) passed, (%d+) failed([^\n]*)" do
    passed, failed = tonumber(p), tonumber(f)
    skipped = tonumber(rest:match "(%d+) skipped")
  end
  for line in output:gmatch "[^\n]+" do
    if line:lower():find "^%s*skip" then
      skip(title, counts, line:gsub("^%s*%a+:?%s*", ""), "")
    end
  end
  for _ = counts.skipped + 1, skipped or 0 do
    skip(title, counts, "not named", "")
  end
  return passed, failed
end

-- A program counts as one test, or as many as it says. Status 77 skips the program.
local function run_c_test(options, source, scratch)
  local title = source
  local program = options.build_dir .. "/spec/c/" .. source:match "([^/]+)%.c$"
  local counts = { passed = 0, failed = 0, skipped = 0 }
  if not read_file(program) then
    fail(title, counts, program .. " was not built", "")
    return report(title, counts, 0)
  end
  local began = os.time()
  local env, prefix = sanitizer_of(options)
  local command = ("env %s %s%s"):format(table.concat(env, " "), prefix, quote(program))
  local status = run(command, scratch, TIMEOUT_S)
  local output = read_file(scratch) or ""
  local passed, failed = read_c_output(output, title, counts)
  counts.passed = passed or 0
  if status == 77 then
    skip(title, counts, "the whole program", "")
  elseif failed and failed > 0 and status < 124 then
    fail(title, counts, ("%d failed"):format(failed), "")
    counts.failed = failed
  elseif status == 0 then
    counts.passed = passed or 1
  else
    fail(title, counts, describe_status(status), "")
  end
  report(title, counts, os.time() - began, output)
end

-- ---- the specs ----------------------------------------------------------------------------------

local function unescape(text)
  return (text:gsub("\\(%d%d%d)", function(code)
    return string.char(tonumber(code))
  end))
end

-- Reads what spec/support/report.lua wrote. Returns whether the process came to its end, and the
-- name of the test that was running when it did not.
local function read_report(path, title, counts)
  local finished, running, seen = false, nil, 0
  for line in (read_file(path) or ""):gmatch "[^\n]+" do
    local status, name, message = line:match "^(%a+)\t([^\t]*)\t([^\t]*)$"
    name, message = unescape(name or ""), unescape(message or "")
    if status == "start" then
      running = name
    elseif status == "end" then
      finished = true
    elseif status then
      running, seen = nil, seen + 1
      if status == "passed" then
        counts.passed = counts.passed + 1
      elseif status == "skipped" then
        skip(title, counts, name, message)
      else
        fail(title, counts, name, message)
      end
    end
  end
  return finished, running, seen
end

local function run_spec(options, path, place, scratch)
  local title = path .. (place and (" [%s]"):format(place) or "")
  local counts = { passed = 0, failed = 0, skipped = 0 }
  local records = scratch .. ".records"
  os.remove(records)
  local env, prefix = sanitizer_of(options)
  table.move(environment_of(options), 1, 3, #env + 1, env)
  if place then
    env[#env + 1] = "PERIGEE_TEST_PLACE=" .. quote(place)
  end
  local words = {
    "env", table.concat(env, " "), prefix .. "lua5.4", quote(options.busted), "--ignore-lua",
    "-o", "spec/support/report.lua", "-Xoutput", quote(records),
  }
  if options.tags then
    table.move({ "--tags", quote(options.tags) }, 1, 2, #words + 1, words)
  end
  if options.exclude_tags then
    table.move({ "--exclude-tags", quote(options.exclude_tags) }, 1, 2, #words + 1, words)
  end
  words[#words + 1] = quote(path)

  local began = os.time()
  local status = run(table.concat(words, " "), scratch, TIMEOUT_S)
  local output = read_file(scratch) or ""
  local finished, running, seen = read_report(records, title, counts)
  if status >= 124 or not finished then
    local during = running and (" in \"%s\""):format(running) or ""
    fail(title, counts, describe_status(status) .. during, "")
  elseif status ~= 0 and counts.failed == 0 then
    fail(title, counts, describe_status(status), "")
  elseif seen == 0 and not options.tags and not options.exclude_tags then
    fail(title, counts, "it holds no test", "")
  end
  os.remove(records)
  report(title, counts, os.time() - began, output)
end

local function speaks_of_places(path)
  return (read_file(path) or ""):find "%f[%w]place%f[%W]" ~= nil
end

-- ---- all of it ----------------------------------------------------------------------------------

local function print_list(heading, list)
  if #list > 0 then
    print("\n" .. heading)
    for _, line in ipairs(list) do
      print("  " .. line:gsub("\n", "\n    "))
    end
  end
end

local function main(argv)
  local options = parse_arguments(argv)
  options.busted = lines_of("command -v busted")[1]
    or error("busted is missing: scripts/setup test", 0)
  local folder = lines_of("mktemp -d")[1] or error("mktemp -d made no folder", 0)
  local scratch = folder .. "/output"

  local c_tests = options.tags and {} or select_files("spec/c/*_test.c", options.files)
  local specs = select_files("spec/*_spec.lua", options.files)
  for _, source in ipairs(c_tests) do
    run_c_test(options, source, scratch)
  end
  for _, place in ipairs(#options.places > 0 and options.places or { false, "fake:0" }) do
    for _, path in ipairs(specs) do
      local again = #options.places == 0 and place
      if not again or speaks_of_places(path) then
        run_spec(options, path, place, scratch)
      end
    end
  end
  os.execute("rm -rf " .. quote(folder))

  if total.passed + total.failed + total.skipped == 0 then
    total.failed = 1
    table.insert(failures, "no test ran: nothing matches")
  end
  print_list("Skipped:", skips)
  print_list("Failed:", failures)
  print()
  if #specs > 0 then
    table.sort(sets)
    print("Sets beside the checkout: " .. (sets[1] and table.concat(sets, ", ") or "none was read"))
  end
  io.stdout:flush()
  os.execute "scripts/cuda-verified"
  print(("%d passed, %d failed, %d skipped"):format(total.passed, total.failed, total.skipped))
  os.exit(total.failed == 0)
end

local done, message = pcall(main, arg)
if not done then
  io.stderr:write("suite: ", tostring(message), "\n")
  os.exit(2)
end
