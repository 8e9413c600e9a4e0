-- The mechanical part of the style guide, as a test. Prints "file:line: what", and exits 1 when it
-- printed anything.
--
--   lua5.4 scripts/tidy.lua [FILE]...        all files of the repository when none is named
--
-- What it holds to:
--   columns       no line of code is wider than 100 columns
--   lengths       no function is longer than 70 lines, no file longer than 800
--   banned calls  the library never prints, exits, allocates behind its context's back, ...
--   arrows        includes go one way through the rooms of the house (README.md, "The rooms")
--   documents     a comment stands above every group of PERI_API declarations
--   specs         every Lua module is the subject of a spec
--   words         no mark of unfinished work
--   kernels       a plug-in that was built has no more kernels and bytes than its build may cost;
--                 they are counted and told

local COLUMNS_MAX <const> = 100
local FUNCTION_LINES_MAX <const> = 70
local FILE_LINES_MAX <const> = 800

local problems = 0

local function complain(path, line, message, ...)
  problems = problems + 1
  print(("%s:%d: %s"):format(path, line, message:format(...)))
end

-- ---- reading ------------------------------------------------------------------------------------

local function lines_of_command(command)
  local list = {}
  local pipe = assert(io.popen(command))
  for line in pipe:lines() do
    list[#list + 1] = line
  end
  pipe:close()
  return list
end

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then
    return nil -- removed from the work tree, still in the index
  end
  local text = file:read "a"
  file:close()
  return text
end

local function split_lines(text)
  local list = {}
  for line in (text:sub(-1) == "\n" and text or text .. "\n"):gmatch "(.-)\n" do
    list[#list + 1] = line
  end
  return list
end

local C_KINDS <const> = { c = true, h = true, cu = true, cuh = true, cpp = true }

local function kind_of(path, text)
  local extension = path:match "%.(%w+)$"
  if C_KINDS[extension] then
    return "c"
  elseif extension == "lua" or path:match "rockspec$" then
    return "lua"
  elseif path:match "CMakeLists%.txt$" or extension == "cmake" or text:match "^#!" then
    return "script"
  end
  return nil
end

-- C source with comments, strings and characters blanked out, line by line as it was.
local function blank_c(text)
  local out, at = {}, 1
  local function blank(from, to)
    out[#out + 1] = text:sub(from, to):gsub("[^\n]", " ")
    at = to + 1
  end
  while at <= #text do
    local found = text:find("[\"'/]", at)
    if not found then
      break
    end
    out[#out + 1] = text:sub(at, found - 1)
    at = found
    local two, one = text:sub(found, found + 1), text:sub(found, found)
    if two == "/*" then
      blank(found, select(2, text:find("*/", found + 2, true)) or #text)
    elseif two == "//" then
      blank(found, (text:find("\n", found, true) or #text + 1) - 1)
    elseif one == "/" then
      out[#out + 1] = "/"
      at = found + 1
    else
      local close = found + 1
      while close <= #text and text:sub(close, close) ~= one do
        close = close + (text:sub(close, close) == "\\" and 2 or 1)
      end
      blank(found, math.min(close, #text))
    end
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

-- ---- columns, lengths, words --------------------------------------------------------------------

local WORDS <const> = { "TO" .. "DO", "FIX" .. "ME", "XX" .. "X", "HA" .. "CK" }

local function check_lines(path, lines)
  for i, line in ipairs(lines) do
    local width = utf8.len(line) or #line
    if width > COLUMNS_MAX then
      complain(path, i, "%d columns wide (at most %d)", width, COLUMNS_MAX)
    end
    if line:find "%s$" then
      complain(path, i, "white space at the end of the line")
    end
    for _, word in ipairs(WORDS) do
      if line:find("%f[%w_]" .. word .. "%f[^%w_]") then
        complain(path, i, "the word %s: finish it, or list it in the changelog", word)
      end
    end
  end
  if #lines > FILE_LINES_MAX then
    complain(path, #lines, "%d lines long (at most %d)", #lines, FILE_LINES_MAX)
  end
end

local function check_function_length(path, first, last)
  local count = last - first + 1
  if count > FUNCTION_LINES_MAX then
    complain(path, first, "a function of %d lines (at most %d)", count, FUNCTION_LINES_MAX)
  end
end

-- The formatter puts a function's braces at the end of its head and in the first column.
local function check_c_functions(path, code_lines)
  local first
  for i, line in ipairs(code_lines) do
    if first and line:find "^}" then
      check_function_length(path, first, i)
      first = nil
    elseif not first and line:find "%)[%w_ ]*{%s*$" and not line:find "=%s*{" then
      first = i
    end
  end
end

local function check_lua_functions(path, lines)
  local open = {}
  for i, line in ipairs(lines) do
    local indent, rest = line:match "^(%s*)(.*)$"
    local top = open[#open]
    if top and indent == top.indent and rest:find "^end%f[%W]" then
      if not top.group then
        check_function_length(path, top.line, i)
      end
      open[#open] = nil
    elseif rest:find "%f[%w]function%s*[%w_.:]*%b()%s*$" and not rest:find "^%-%-" then
      local group = rest:find "^describe%(" or rest:find "^insulate%(" or rest:find "^expose%("
      open[#open + 1] = { indent = indent, line = i, group = group }
    end
  end
end

-- ---- banned calls -------------------------------------------------------------------------------

-- Names, the folders where they are banned, and the files where they are at home.
local BANNED <const> = {
  {
    names = "printf fprintf vprintf vfprintf puts fputs putchar perror exit _exit abort getenv "
      .. "setenv system popen signal sigaction strcpy strcat sprintf vsprintf gets strtok rand "
      .. "srand",
    rooms = { "engine/", "cuda/", "lua/binding/" },
    why = "the library lives in someone else's process",
  },
  {
    names = "malloc calloc realloc free strdup aligned_alloc posix_memalign",
    rooms = { "engine/", "cuda/", "lua/binding/" },
    home = { ["engine/core/memory.c"] = true },
    why = "memory comes from the context's allocator (engine/core/memory.h)",
  },
  {
    names = "cudaMalloc cudaFree cudaMallocAsync cudaFreeAsync cudaMallocHost cudaFreeHost "
      .. "cudaHostAlloc cudaDeviceSynchronize cudaStreamSynchronize cudaSetDevice cudaMemcpy "
      .. "cudaMallocFromPoolAsync",
    rooms = { "cuda/" },
    home = {
      ["cuda/device.cu"] = true, ["cuda/memory.cu"] = true, ["cuda/stream.cu"] = true,
      ["cuda/device.cuh"] = true,
    },
    why = "a kernel file launches and nothing else; device.cu, stream.cu and memory.cu do the rest",
  },
}

local function starts_with_any(path, prefixes)
  for _, prefix in ipairs(prefixes) do
    if path:sub(1, #prefix) == prefix then
      return true
    end
  end
  return false
end

local function check_banned_calls(path, code_lines)
  for _, rule in ipairs(BANNED) do
    if starts_with_any(path, rule.rooms) and not (rule.home and rule.home[path]) then
      local banned = {}
      for name in rule.names:gmatch "%S+" do
        banned[name] = true
      end
      for i, line in ipairs(code_lines) do
        for name in line:gmatch "([%a_][%w_]*)%s*%(" do
          if banned[name] and not line:find "__attribute__" then
            complain(path, i, "%s() is banned here: %s", name, rule.why)
          end
        end
      end
    end
  end
end

-- ---- the arrows ---------------------------------------------------------------------------------

-- A room may include its own folder and what is listed; the first prefix that fits decides.
-- `system` lists patterns of <headers> that the room may not know.
local LUA <const> = { "^lua", "^lauxlib", "^lualib" }
local CUDA <const> = { "^cuda", "^cublas", "^nvml", "^nccl" }
local BOTH <const> = { LUA[1], LUA[2], LUA[3], CUDA[1], CUDA[2], CUDA[3], CUDA[4] }
local BASE <const> = { "engine/include/", "engine/core/" }
local ROOMS <const> = {
  { "engine/include/", sees = {}, blind = BOTH },
  -- A context opens devices, so core knows the list of drivers; nothing else of the backends.
  { "engine/core/", sees = { "engine/include/", "engine/backend/drivers.h" }, blind = BOTH },
  { "engine/backend/", sees = BASE, blind = BOTH },
  { "engine/io/", sees = BASE, blind = BOTH },
  { "engine/filter/", sees = BASE, blind = BOTH },
  { "engine/quant/", sees = { BASE[1], BASE[2], "engine/io/" }, blind = BOTH },
  { "engine/graph/", sees = { BASE[1], BASE[2], "engine/quant/" }, blind = BOTH },
  {
    "engine/index/",
    sees = { BASE[1], BASE[2], "engine/io/", "engine/graph/", "engine/filter/", "engine/quant/" },
    blind = BOTH,
  },
  { "engine/", sees = { "engine/" }, blind = BOTH },
  { "cuda/", sees = BASE, blind = LUA },
  { "lua/binding/", sees = { "engine/include/" }, blind = CUDA },
  { "lua/command/", sees = { "engine/include/", "lua/binding/" }, blind = CUDA },
}

local function room_of(path)
  for _, room in ipairs(ROOMS) do
    if path:sub(1, #room[1]) == room[1] then
      return room
    end
  end
  return nil
end

-- The file of the repository that a quoted include means; nil when it is not ours.
local function resolve_include(path, name, known)
  local folders = { path:match "^(.*/)" or "", "engine/include/", "engine/", "" }
  for _, folder in ipairs(folders) do
    local candidate = folder .. name
    repeat
      local shorter, count = candidate:gsub("[^/]+/%.%./", "", 1)
      candidate = shorter
    until count == 0
    if known[candidate] then
      return candidate
    end
  end
  return nil
end

local function check_arrows(path, lines, known)
  local room = room_of(path)
  if not room then
    return
  end
  for i, line in ipairs(lines) do
    local name = line:match "^%s*#%s*include%s*[<\"]([^>\"]+)[>\"]"
    local target = name and line:find '"' and resolve_include(path, name, known)
    if target then
      if not starts_with_any(target, { room[1] }) and not starts_with_any(target, room.sees) then
        complain(path, i, "%s may not include %s: the arrows go one way", room[1], target)
      end
    elseif name then
      for _, pattern in ipairs(room.blind) do
        if name:find(pattern) then
          complain(path, i, "%s knows nothing of <%s>", room[1], name)
        end
      end
    end
  end
end

-- ---- documents and specs ------------------------------------------------------------------------

local function check_documents(path, lines)
  local documented = false -- a comment ended in this block of lines without a blank one
  for i, line in ipairs(lines) do
    if line:find "^%s*$" then
      documented = false
    elseif line:find "%*/%s*$" then
      documented = true
    elseif line:find "^PERI_API%s" and not documented then
      complain(path, i, "no comment above %s", line:match "([%w_]+)%(" or line)
    end
  end
end

local function check_specs(known)
  local specs = {}
  for path in pairs(known) do
    if path:find "^spec/[%w_]+_spec%.lua$" then
      specs[#specs + 1] = read_file(path) or ""
    end
  end
  local all_specs = table.concat(specs, "\n")
  for path in pairs(known) do
    local module = path:match "^lua/perigee/([%w_]+)%.lua$"
    local exempt = not module or module:sub(1, 1) == "_"
    local subject = module == "init" and "perigee" or module
    if not exempt and not known[("spec/%s_spec.lua"):format(subject)]
      and not all_specs:find(("perigee%%.%s%%f[^%%w_]"):format(module)) then
      complain(path, 1, "no spec: spec/%s_spec.lua is missing, and no other requires it", subject)
    end
  end
end

-- ---- kernels ------------------------------------------------------------------------------------

local KERNELS_MAX <const> = 500 -- some 15 minutes on two cores for all architectures
local PLUGIN_BYTES_MAX <const> = 30 << 20

-- Of the newest plug-in in a build folder, by the symbols through which the host launches them.
local function check_kernels()
  local path = lines_of_command "ls -t build*/lib/perigee/perigee_cuda.so 2>/dev/null"[1]
  local symbols = path and lines_of_command(("nm %s 2>/dev/null"):format(path)) or {}
  local count, seen, files, order = 0, {}, {}, {}
  for _, symbol in ipairs(symbols) do
    local name = symbol:match "__device_stub__(.*)E%d+__handle$" -- one a kernel, inlined or not
    if name and not seen[name] then
      seen[name] = true
      local file = name:match "_GLOBAL__N__%x+_%d+_(.-)_cu_%x+" or "cub"
      if not files[file] then
        order[#order + 1] = file
      end
      count, files[file] = count + 1, (files[file] or 0) + 1
    end
  end
  if count == 0 then
    return
  end
  table.sort(order, function(a, b) return files[a] > files[b] end)
  for i, file in ipairs(order) do
    order[i] = ("%s %d"):format(file, files[file])
  end
  local file = assert(io.open(path))
  local bytes = file:seek "end"
  file:close()
  print(("%s: %d kernels, %.1f MiB: %s"):format(path, count, bytes / (1 << 20),
    table.concat(order, ", ")))
  if count > KERNELS_MAX or bytes > PLUGIN_BYTES_MAX then
    complain(path, 1, "more than %d kernels or %d MiB", KERNELS_MAX, PLUGIN_BYTES_MAX >> 20)
  end
end

-- ---- all of it ----------------------------------------------------------------------------------

local function check_file(path, known)
  local text = read_file(path)
  local kind = text and kind_of(path, text)
  if not kind then
    return
  end
  local lines = split_lines(text)
  check_lines(path, lines)
  if kind == "c" then
    local code_lines = split_lines(blank_c(text))
    check_c_functions(path, code_lines)
    check_banned_calls(path, code_lines)
    check_arrows(path, lines, known)
    if path:find "^engine/include/" then
      check_documents(path, lines)
    end
  elseif kind == "lua" then
    check_lua_functions(path, lines)
  end
end

local function main(argv)
  local files = lines_of_command "git ls-files --cached --others --exclude-standard"
  local known = {}
  for _, path in ipairs(files) do
    known[path] = true
  end
  for _, path in ipairs(#argv > 0 and argv or files) do
    if not path:find "^spec/data/" then
      check_file(path, known)
    end
  end
  if #argv == 0 then
    check_specs(known)
    check_kernels()
  end
  if problems > 0 then
    print(("tidy: %d problems"):format(problems))
  end
  os.exit(problems == 0)
end

main(arg)
