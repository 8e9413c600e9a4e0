-- The command `perigee`: the options of lua5.4, judged by lua5.4 itself, then the prompt, fed
-- through a pipe where that is enough and through a pseudo-terminal where keys matter.

local complete = require "perigee.complete"
local repl = require "perigee.repl"
local words = require "perigee.command"

local build = package.cpath:match("([^;]*)/lib/%?%.so") or "build"
local perigee = build .. "/bin/perigee"

local function succeeds(command)
  return (os.execute(command .. " >/dev/null 2>&1"))
end

local function quoted(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local function write_file(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

local folder, checkout, absolute
local is_built = succeeds("test -x " .. quoted(perigee))
local has_terminal = succeeds(
  "python3 -c 'import pty, os; os.waitstatus_to_exitcode; pty.openpty()'")

-- No start file, no history and no variable of the person who runs the tests.
local function environment(settings)
  return ("env -u LUA_INIT -u LUA_INIT_5_4 -u LUA_PATH -u LUA_PATH_5_4 -u LUA_CPATH "
    .. "-u LUA_CPATH_5_4 -u XDG_STATE_HOME -u XDG_CONFIG_HOME HOME=%s TERM=xterm %s ")
    :format(folder, settings or "")
end

-- Runs a shell line in which INTERPRETER stands for `program`; outputs name it INTERPRETER again.
local function run(program, line, settings)
  local command = line:gsub("INTERPRETER", function() return environment(settings) .. program end)
  local out, err = folder .. "/out", folder .. "/err"
  local _, how, code = os.execute(("cd %s && { %s; } >%s 2>%s"):format(folder, command, out, err))
  local function normalised(text)
    text = text:gsub(program:gsub("%p", "%%%0"), "INTERPRETER")
    -- The command looks for modules in three places more.
    return (text:gsub("\n\tno file '" .. absolute:gsub("%p", "%%%0") .. "[^\n]*", ""))
  end
  return { out = normalised(read_file(out)), err = normalised(read_file(err)),
    how = how, code = code }
end

-- Gives the prompt these lines through a pipe.
local function at_prompt(lines, options, settings)
  write_file(folder .. "/lines", table.concat(lines, "\n") .. "\n")
  return run(absolute .. "/bin/perigee", "INTERPRETER " .. (options or "-i") .. " <lines", settings)
end

-- Types at the prompt on a terminal; answers all that was seen.
local function at_terminal(steps, settings)
  write_file(folder .. "/steps", table.concat(steps, "\n") .. "\n")
  local command = ("cd %s && %s python3 %s %s <steps >out 2>err"):format(folder,
    environment(settings), quoted(checkout .. "/spec/support/terminal.py"),
    quoted(absolute .. "/bin/perigee"))
  local ok = os.execute(command)
  local seen = read_file(folder .. "/out")
  assert.message("at step " .. read_file(folder .. "/err") .. "seen: " .. seen).is_true(ok)
  return seen
end

local function needs(what, present)
  if not present then
    pending(what .. " is not there")
  end
  return present
end

setup(function()
  local pipe = assert(io.popen("mktemp -d && pwd && cd " .. quoted(build)
    .. " 2>/dev/null && pwd -P"))
  folder, checkout, absolute = pipe:read "l", pipe:read "l", pipe:read "l"
  pipe:close()
  write_file(folder .. "/script.lua", [[
    for i = -9, #arg do if arg[i] and i >= 0 then print(i, arg[i]) end end
    local before = 0
    while arg[before - 1] do before = before - 1 end
    print(before, select("#", ...), ...)]])
  write_file(folder .. "/fails.lua", "local function inner() error('boom') end\ninner()\n")
  write_file(folder .. "/syntax.lua", "x = = 1\n")
  write_file(folder .. "/mod.lua", "print('mod', ...) return { value = 7 }\n")
  write_file(folder .. "/init_file.lua", "print 'init file'\n")
  write_file(folder .. "/exits.lua", "os.exit(tonumber(arg[1]), true)\n")
end)

teardown(function()
  os.execute("rm -rf " .. quoted(folder))
end)

describe("perigee options", function()
  -- Each line is run by both interpreters, which must agree on both outputs and the exit code.
  local lines = {
    "INTERPRETER script.lua", "INTERPRETER script.lua a 'b c' ''", "INTERPRETER -W script.lua -e x",
    "INTERPRETER -- script.lua a", "INTERPRETER -e 'x = 1' -e 'print(x)' script.lua a",
    "INTERPRETER -e 'print(...)'", "INTERPRETER '-eprint(arg[0], arg[-1], arg[1])'",
    "INTERPRETER -e 'print(#arg, arg[0], arg[1], arg[2])'", "INTERPRETER -e", "INTERPRETER -e -v",
    "INTERPRETER -l", "INTERPRETER -l mod -e 'print(mod.value)'",
    "INTERPRETER -lmod -e 'print(mod.value)'", "INTERPRETER -l g=mod -e 'print(g.value, mod)'",
    "INTERPRETER -l g=nothing", "INTERPRETER -l nothing -e 'print(1)'", "INTERPRETER -l g= ",
    "INTERPRETER -v", "INTERPRETER -v script.lua", "INTERPRETER -v -e 'print(1)'",
    "INTERPRETER -vx", "INTERPRETER -z", "INTERPRETER --x", "INTERPRETER -E -Wx", "INTERPRETER -ii",
    "INTERPRETER -E -e 'print(package.config)'", "INTERPRETER nofile", "INTERPRETER -- -e",
    "INTERPRETER .", "INTERPRETER syntax.lua", "INTERPRETER fails.lua",
    "INTERPRETER -e 'error({})'", "INTERPRETER -e 'error()'", "INTERPRETER -e 'x ='",
    "INTERPRETER -e 'error(setmetatable({}, {__tostring = function() return [[said]] end}))'",
    "INTERPRETER -e 'error(setmetatable({}, {__tostring = function() error(1) end}))'",
    "INTERPRETER -e 'warn([[unseen]])'", "INTERPRETER -W -e 'warn([[seen]])'",
    "INTERPRETER -e 'warn([[@on]]) warn([[a]], [[b]]) warn([[@off]]) warn([[c]])'",
    "INTERPRETER -e 'print(1)' -W -e 'warn([[late]])'", "INTERPRETER exits.lua 3",
    "INTERPRETER -e 'os.exit(true, true)'", "INTERPRETER -e 'os.exit(false)'",
    "INTERPRETER -e 'arg = nil' script.lua", "INTERPRETER -e 'arg = {1, 2, 3}' -e 'print(#arg)'",
    "echo 'print(..., arg[0])' | INTERPRETER - a b", "echo 'print(2)' | INTERPRETER",
    "echo 'print(arg[0], #arg)' | INTERPRETER", "echo 'error(1)' | INTERPRETER",
    "echo 'print(3)' | INTERPRETER -v", "echo 'print(3)' | INTERPRETER -e 'print(4)'",
    "echo 'print(3)' | INTERPRETER -W", "echo 'print(3)' | INTERPRETER -- -",
    "printf '#!/usr/bin/lua\\nprint(5)\\n' | INTERPRETER -", "INTERPRETER < /dev/null",
    "INTERPRETER -e 'print(collectgarbage([[incremental]]))'",
    "INTERPRETER -e 'setmetatable({}, {__gc = function() print(6) end})'",
    "INTERPRETER -e 'local t <close> = setmetatable({}, {__close = print}) error(7)' 2>&1 | wc -l",
    "INTERPRETER -e 'string.rep([[x]], -1):bad()'", "INTERPRETER -e 'goto out'",
    "INTERPRETER -e 'print(require([[mod]]).value, package.loaded.mod ~= nil)'",
  }
  for _, line in ipairs(lines) do
    it("agrees with lua5.4: " .. line, function()
      if needs(perigee, is_built) then
        assert.same(run("lua5.4", line), run(absolute .. "/bin/perigee", line))
      end
    end)
  end

  for _, settings in ipairs {
    "LUA_INIT='print(1)'", "LUA_INIT='print(1)' LUA_INIT_5_4='print(2)'", "LUA_INIT=@init_file.lua",
    "LUA_INIT=@nofile", "LUA_INIT='error(1)'", "LUA_INIT='x ='", "LUA_INIT_5_4=''",
    "LUA_INIT='-- nothing' LUA_PATH='elsewhere/?.lua;;'",
  } do
    it("agrees with lua5.4 under " .. settings, function()
      if needs(perigee, is_built) then
        for _, line in ipairs { "INTERPRETER -e 'print(3)'", "INTERPRETER -E -e 'print(3)'" } do
          local theirs, ours = run("lua5.4", line, settings),
            run(absolute .. "/bin/perigee", line, settings)
          assert.same(theirs, ours)
        end
      end
    end)
  end

  it("keeps LUA_PATH and LUA_CPATH after the folders beside the executable", function()
    if not needs(perigee, is_built) then return end
    local got = run(absolute .. "/bin/perigee",
      "INTERPRETER -e 'print(package.path) print(package.cpath)'",
      "LUA_PATH_5_4='mine/?.lua' LUA_CPATH='mine/?.so'")
    local prefix = absolute
    assert.equal(("%s/share/lua/5.4/?.lua;%s/share/lua/5.4/?/init.lua;mine/?.lua\n" ..
      "%s/lib/lua/5.4/?.so;mine/?.so\n"):format(prefix, prefix, prefix), got.out)
  end)

  it("finds its files when called through a link from another folder", function()
    if not needs(perigee, is_built) then return end
    os.execute(("ln -s %s/bin/perigee %s/linked"):format(absolute, folder))
    local got = run("./linked", "INTERPRETER -e 'print(require([[perigee.repl]]).open ~= nil)'")
    assert.equal("true\n", got.out)
  end)

  it("ends a script by Ctrl-C with a message and exit code 1", function()
    if not needs(perigee, is_built) then return end
    -- By io.popen, since os.execute keeps the signal from the caller; and the loop has an end.
    local line = [[INTERPRETER -e 'local f = io.open("/proc/self/stat") local pid = f:read("n")
      io.popen("sleep 0.3; kill -INT " .. pid) for i = 1, 4e9 do end']]
    local got = run(absolute .. "/bin/perigee", line)
    assert.equal(1, got.code)
    -- Where in the loop the signal came decides how the traceback ends.
    local lua = run("lua5.4", line)
    assert.equal("INTERPRETER: interrupted!", got.err:match "^[^\n]*")
    assert.equal(lua.err:match "^[^\n]*", got.err:match "^[^\n]*")
    assert.same({ lua.code, lua.how, lua.out }, { got.code, got.how, got.out })
  end)
end)

describe("perigee words", function()
  it("prints its help on standard output", function()
    if not needs(perigee, is_built) then return end
    local got = run(absolute .. "/bin/perigee", "INTERPRETER --help")
    assert.equal(0, got.code)
    assert.equal("", got.err)
    for _, text in ipairs { "%-e stat", "doctor", "history", "LUA_INIT", "Ctrl%-C" } do
      assert.matches(text, got.out)
    end
  end)

  it("runs a file named like a word", function()
    if not needs(perigee, is_built) then return end
    write_file(folder .. "/doctor", "print('the file', ...)")
    local got = run(absolute .. "/bin/perigee", "INTERPRETER doctor a; INTERPRETER ./doctor")
    os.remove(folder .. "/doctor")
    assert.equal("the file\ta\nthe file\n", got.out)
  end)

  it("prints what pg.doctor says", function()
    if not needs("the module", is_built and pcall(require, "perigee")) then return end
    local got = run(absolute .. "/bin/perigee", "INTERPRETER doctor")
    assert.equal("", got.err)
    assert.equal(0, got.code)
    assert.matches("%S", got.out)
  end)

  it("refuses arguments and words that do not exist", function()
    assert.has_error(function() words.run("doctor", "x") end,
      "'doctor' takes no arguments, but got 'x'")
    assert.has_error(function() words.run "nurse" end, "no word 'nurse'")
  end)
end)

describe("perigee prompt", function()
  local function output_of(lines, settings)
    local got = at_prompt(lines, "-i", settings)
    assert.equal(0, got.code)
    return got.out:match("^[^\n]*\n(.*)$"), got.err -- without the greeting
  end

  it("prints the values of expressions, with and without '='", function()
    if not needs(perigee, is_built) then return end
    assert.equal("> 2\n> 3\t4\n> 5\n> > > 7\n> \n", (output_of {
      "1 + 1", "= 3, 4", "math.max(5, 2)", "x = 7", "local y = 1", "x" }) .. "\n")
  end)

  it("keeps the last value in _", function()
    if not needs(perigee, is_built) then return end
    assert.equal("> 2\n> 20\n> > 20\n> ", (output_of { "1 + 1", "_ * 10", "x = 1", "_" }))
  end)

  it("reads on until a chunk is complete", function()
    if not needs(perigee, is_built) then return end
    assert.equal("> >> >> 1\n2\n> >> >> 6\n> >> 3\n> ", (output_of {
      "for i = 1, 2 do", "print(i)", "end", "math.max(", "6", ")", "#[[a", "b]]" }))
  end)

  it("prints an error with its traceback and goes on", function()
    if not needs(perigee, is_built) then return end
    local out, err = output_of { "error('boom')", "x = = 1", "error({})", "1 + 1" }
    assert.equal("> > > > 2\n> ", out)
    assert.matches("stdin:1: boom\nstack traceback:\n\t%[C%]: in function 'error'\n"
      .. "\tstdin:1: in main chunk\n\t%[C%]: in %?\nstdin:1: unexpected symbol near '='\n", err)
    assert.matches("error object is a table value", err)
    assert.not_matches("repl%.lua", err)
  end)

  it("prints nil, message, code as the message", function()
    if not needs(perigee, is_built) then return end
    local out, err = output_of { "nil, 'no such file', 'io'", "nil", "nil, 2" }
    assert.matches("no such file %(io%)\n", err)
    assert.equal("> > nil\n> nil\t2\n> ", out)
  end)

  it("reports a chunk that the end of input cuts off", function()
    if not needs(perigee, is_built) then return end
    local out, err = output_of { "x = (" }
    assert.matches("^> >> > ", out)
    assert.matches("near <eof>", err)
  end)

  it("times lines when asked", function()
    if not needs(perigee, is_built) then return end
    local out = output_of { ".timer on", "1", ".timer", ".timer off", "2", ".nothing" }
    assert.matches("^> > 1\n%d+%.%d%d%d s\n> %.timer is on[^\n]*\n> > 2\n"
      .. "> no command '%.nothing'", out)
  end)

  it("leaves at .quit", function()
    if not needs(perigee, is_built) then return end
    assert.equal("> ", (output_of { ".quit", "print(1)" }))
  end)

  it("takes its prompts from _PROMPT and _PROMPT2", function()
    if not needs(perigee, is_built) then return end
    assert.equal("> A>> B1\nA>", (output_of { "_PROMPT, _PROMPT2 = 'A>', '> B'", "(", "1)" }))
  end)

  it("explains itself to help", function()
    if not needs(perigee, is_built) then return end
    local out = output_of { "help", "help()", "rawequal(help, nil)" }
    local _, count = out:gsub("Tab completes", "")
    assert.equal(2, count)
  end)

  it("has help and pg at the prompt only", function()
    if not needs(perigee, is_built) then return end
    local got = run(absolute .. "/bin/perigee", "INTERPRETER -e 'print(help, pg)'")
    assert.equal("nil\tnil\n", got.out)
    if pcall(require, "perigee") then
      assert.equal("> table\n> ", (output_of { "type(pg)" }))
    end
  end)

  it("runs -e and a script before it opens, and keeps their globals", function()
    if not needs(perigee, is_built) then return end
    write_file(folder .. "/sets.lua", "y = 2")
    local got = at_prompt({ "x + y" }, "-i -e 'x = 40' sets.lua")
    assert.matches("\n> 42\n", got.out)
  end)

  it("runs the start file, and survives an error in it", function()
    if not needs(perigee, is_built) then return end
    os.execute(("mkdir -p %s/config/perigee"):format(folder))
    local settings = ("XDG_CONFIG_HOME=%s/config"):format(folder)
    write_file(folder .. "/config/perigee/init.lua", "started = 11")
    assert.equal("> 11\n> ", (output_of({ "started" }, settings)))
    local got = at_prompt({ "started" }, "-E -i", settings)
    assert.matches("\n> nil\n", got.out)
    write_file(folder .. "/config/perigee/init.lua", "started = 11 error 'bad start'")
    local out, err = output_of({ "started" }, settings)
    assert.equal("> 11\n> ", out)
    assert.matches("init%.lua:1: bad start", err)
  end)
end)

describe("perigee terminal", function()
  local function ready()
    return needs(perigee, is_built) and needs("python3 with a pseudo-terminal", has_terminal)
  end

  it("opens the prompt by itself, edits lines and leaves at Ctrl-D", function()
    if not ready() then return end
    at_terminal { "expect Perigee", "expect > ", [[send 1 + 15\x7f\r]], [[expect \n2\r\n]],
      "expect > ", [[send \x04]], "exit 0" }
  end)

  it("drops the line at Ctrl-C, and a chunk that is not finished", function()
    if not ready() then return end
    at_terminal { "expect > ", "send 12345", "expect 12345", [[send \x03]], [[expect ^C\r\n]],
      "expect > ", [[send 6 * 7\r]], [[expect \n42\r\n]], "expect > ", [[send for i = 1, 2 do\r]],
      "expect >> ", [[send \x03]], [[expect ^C\r\n]], "expect > ", [[send 6 * 8\r]],
      [[expect \n48\r\n]], "expect > ", [[send \x04]], "exit 0" }
  end)

  it("stops a loop at Ctrl-C and goes on, as often as asked", function()
    if not ready() then return end
    local steps = { "expect > " }
    for i = 1, 3 do
      for _, step in ipairs { [[send print 'runs' while true do end\r]], [[expect \nruns\r\n]],
        [[send \x03]], "expect interrupted!", "expect > ", ([[send 100 + %d\r]]):format(i),
        ([[expect \n%d\r\n]]):format(100 + i) } do
        steps[#steps + 1] = step
      end
    end
    steps[#steps + 1] = "expect > "
    steps[#steps + 1] = [[send \x04]]
    steps[#steps + 1] = "exit 0"
    at_terminal(steps)
  end)

  it("ends at a second Ctrl-C when C code is stuck", function()
    if not ready() then return end
    at_terminal { "expect > ",
      [[send print 'runs' return ('a'):rep(60):find(('a*'):rep(40) .. 'b')\r]],
      [[expect \nruns\r\n]], "pause 0.2", [[send \x03]], "pause 0.2", [[send \x03]], "exit -2" }
  end)

  it("takes a paste of many lines, tabs and all", function()
    if not ready() then return end
    local seen = at_terminal { "expect > ",
      [[send for i = 1, 2 do\n\tprint('got' .. i)\nend\nt = {\n\ta = 1\t-- one\n}\nt.a + 4\n]],
      [[expect got1\r\ngot2\r\n]], [[expect \n5\r\n]], "expect > ", [[send \x04]], "exit 0" }
    assert.not_matches("near", seen)
  end)

  it("reads and shows UTF-8", function()
    if not ready() then return end
    at_terminal({ "expect > ", [[send #'\xc3\xa9\xe2\x82\xac'\r]], [[expect \n5\r\n]],
      [[send '\xc3\xa9\xe2\x82\xac' .. 1\r]], [[expect \xc3\xa9\xe2\x82\xac1]],
      "expect > ", [[send \x04]], "exit 0" }, "LC_ALL=C")
  end)

  it("completes globals, fields, methods and files", function()
    if not ready() then return end
    os.execute(("mkdir -p %s/deep && touch %s/deep/packages.hnsw"):format(folder, folder))
    -- Tab is pressed once the text is seen: a tab that comes along with other input is pasted text.
    local function typed(text)
      return "send " .. text, "expect " .. text, [[send \t]]
    end
    local steps = {}
    local function add(...)
      table.move({ ... }, 1, select("#", ...), #steps + 1, steps)
    end
    add "expect > "
    add(typed "tostri") add("expect ng", [[send (8) .. 'x'\r]], "expect 8x", "expect > ")
    add(typed "string.rever") add("expect se", [[send ('abc')\r]], "expect cba", "expect > ")
    add([[send s = 'xy'\r]], "expect > ")
    add(typed "s:upp") add("expect er", [[send ()\r]], "expect XY", "expect > ")
    add(typed "io.open('dee") add("expect p/", [[send \t]], "expect packages.hnsw'")
    add([[send ) ~= nil\r]], "expect true", "expect > ")
    add(typed "s:re") add("expect rep", "expect reverse", [[send \x03]], "expect ^C", "expect > ")
    add([[send \x04]], "exit 0")
    at_terminal(steps)
  end)

  it("keeps its history between sessions, for this user's eyes only", function()
    if not ready() then return end
    local settings = ("XDG_STATE_HOME=%s/state"):format(folder)
    at_terminal({ "expect > ", [[send 'remember' .. 'ed'\r]], "expect remembered", "expect > ",
      [[send \x04]], "exit 0" }, settings)
    at_terminal({ "expect > ", [[send \x1b[A\r]], "expect remembered", "expect > ", [[send \x04]],
      "exit 0" }, settings)
    local path = folder .. "/state/perigee/history"
    assert.equal("'remember' .. 'ed'\n'remember' .. 'ed'\n", read_file(path))
    local pipe = assert(io.popen("stat -c %a " .. path .. " " .. folder .. "/state/perigee"))
    assert.equal("600\n700\n", pipe:read "a")
    pipe:close()
  end)

  it("cuts a history that has grown to twice what it keeps", function()
    if not ready() then return end
    local settings = ("XDG_STATE_HOME=%s/long"):format(folder)
    local lines = {}
    for i = 1, 10001 do lines[i] = "x = " .. i end
    os.execute(("mkdir -p %s/long/perigee"):format(folder))
    local path = folder .. "/long/perigee/history"
    write_file(path, table.concat(lines, "\n") .. "\n")
    at_terminal({ "expect > ", [[send \x1b[A\r]], "expect x = 10001", "expect > ", [[send \x04]],
      "exit 0" }, settings)
    local text = read_file(path)
    assert.matches("^x = 5002\n", text)
    assert.matches("x = 10001\nx = 10001\n$", text)
  end)

  it("reads lines plainly on a terminal that cannot move its cursor", function()
    if not ready() then return end
    at_terminal({ "expect > ", [[send 6 * 7\r]], "expect 42", "expect > ", [[send 12]],
      "pause 0.3", [[send \x03]], "expect > ", [[send 6 * 8\r]], "expect 48", "expect > ",
      [[send \x04]], "exit 0" }, "TERM=dumb")
  end)

  it("stops a build of the module at Ctrl-C and leaves it usable", function()
    local ok, pg = pcall(require, "perigee")
    if not (ready() and needs("the module", ok and type(pg.cagra) == "table")) then return end
    at_terminal { "expect > ",
      [[send rows = {} for i = 1, 60000 do local r = {} for j = 1, 32 do r[j] = math.random() end ]]
        .. [[rows[i] = r end base = pg.matrix(rows)\r]], "expect > ",
      [[send options = { graph_degree = 64, intermediate_graph_degree = 128 }\r]], "expect > ",
      [[send print 'builds' index = pg.cagra.build(base, options)\r]], [[expect \nbuilds\r\n]],
      "pause 0.3", "mark", [[send \x03]], "expect interrupted", "expect > ", "within 2",
      [[send index == nil, base.rows\r]], "expect true", "expect 60000", "expect > ",
      [[send #pg.cagra.build(base:slice(0, 500)):search(base:slice(0, 2), 3).neighbors:row(0)\r]],
      "expect > ", [[send 6 * 7\r]], "expect 42", "expect > ", [[send \x04]], "exit 0" }
  end)
end)

describe("perigee.complete.candidates", function()
  local globals = {
    alpha = { beta = { gamma = 1 }, below = 2, call = print, _hidden = 3, ["not a name"] = 4 },
    alphabet = 1, text = "s",
  }
  globals.derived = setmetatable({ own = 1 },
    { __index = { inherited = print }, __metatable = false })
  globals.circle = {}
  setmetatable(globals.circle, { __index = globals.circle })
  globals.trap = setmetatable({}, { __index = function() error "looked" end })
  local listing = { ["./"] = { "a.npy", "b.npy", ".hidden", "sub/" }, ["sub/"] = { "c d.fvecs" } }
  local function entries(name) return listing[name] end

  local cases = {
    { "alp", { "alpha", "alphabet" } }, { "x = alp", { "alpha", "alphabet" } },
    { "f(alp", { "alpha", "alphabet" } }, { "alpha.be", { "below", "beta" } },
    { "alpha.beta.", { "gamma" } }, { "alpha.", { "below", "beta", "call" } },
    { "alpha._", { "_hidden" } }, { "alpha:", { "call" } }, { "derived.", { "inherited", "own" } },
    { "derived:", { "inherited" } }, { "circle.", {} }, { "trap.x", {} }, { "trap.x.", {} },
    { "nosuch.", {} }, { "nosuch.x.y", {} }, { "f().", {} }, { "t[1].al", {} }, { "12", {} },
    { "text:le", { "len" } }, { "whi", { "while" } }, { "a .. alphab", { "alphabet" } },
    { "pg.load '", { "a.npy", "b.npy", "sub/" } }, { 'pg.load "sub/', { "c d.fvecs" } },
    { "pg.load '.h", { ".hidden" } }, { "'done' .. alphab", { "alphabet" } },
    { "'it\\'s b", {} }, { "'nofolder/", {} }, { "-- it's a", nil },
  }
  for _, case in ipairs(cases) do
    if case[2] then
      it("offers what can follow: " .. case[1], function()
        assert.same(case[2], (complete.candidates(case[1], globals, entries)))
      end)
    end
  end

  it("offers members of the module's objects", function()
    local ok, pg = pcall(require, "perigee")
    if not needs("the module", ok) then return end
    local names = complete.candidates("m:", { m = pg.matrix(2, 2, "f32") }, entries)
    local set = {}
    for _, name in ipairs(names) do set[name] = true end
    assert.is_true(set.slice and set.save and not set.rows)
    local fields = complete.candidates("m.ro", { m = pg.matrix(2, 2, "f32") }, entries)
    assert.same({ "row", "rows" }, fields)
  end)

  it("completes up to what all have in common, then lists them", function()
    local host = { entries = entries, columns = function() return 20 end }
    assert.equal("ha", (complete.complete("alp", globals, host)))
    local insert, list = complete.complete("alpha.be", globals, host)
    assert.is_nil(insert)
    assert.equal("below  beta", list)
    assert.equal("d.fvecs'", (complete.complete("'sub/c ", globals, host)))
    assert.equal("b/", (complete.complete("'su", globals, host)))
    assert.equal("  ", (complete.complete("", globals, host)))
  end)

  it("sets names in columns that fit", function()
    assert.equal("a  c\nb", complete.columns({ "a", "b", "c" }, 5))
    assert.equal("long\nname", complete.columns({ "long", "name" }, 3))
    local many = {}
    for i = 1, 250 do many[i] = "n" .. i end
    assert.matches("and 50 more$", complete.columns(many, 80))
  end)
end)

describe("perigee.repl.open", function()
  it("works on any host that gives it lines", function()
    local lines = { "1 +", "2", ".timer on", false }
    local host = { edits = false, environment = false, clock = os.clock, remember = function() end }
    function host.read() return table.remove(lines, 1) end
    local printed = {}
    local real_print, real_pg, real_help = print, rawget(_G, "pg"), rawget(_G, "help")
    _G.print = function(text) printed[#printed + 1] = text end
    local session = repl.open(host)
    local chunk = session:read()
    session:finish(true, chunk())
    local command, dropped, ended = session:read(), session:read(), session:read()
    _G.print, _G.pg, _G.help = real_print, real_pg, real_help
    assert.matches("^Perigee", printed[1])
    assert.equal("3", printed[2])
    assert.is_false(command)
    assert.is_false(dropped)
    assert.is_nil(ended)
  end)
end)
