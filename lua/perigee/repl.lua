--- repl: what the prompt of the command does with the lines that it reads.
--
-- The command opens a session with a table of functions that Lua lacks (the `host`, made by the
-- command's C side), then calls `read`, runs what it returns, and gives the outcome to `finish`.
-- A chunk may span lines: it goes on as long as Lua's complaint about it ends in `<eof>`, which is
-- how Lua says that nothing is wrong so far. An expression is run as `return expression`.

local complete = require "perigee.complete"

local M = {}

---@class perigee.repl.Host
---@field read fun(prompt: string, complete: function): string|false|nil
---@field remember fun(line: string)
---@field columns fun(): integer
---@field clock fun(): number
---@field entries fun(folder: string): string[]?
---@field open_private fun(path: string): file*?
---@field edits boolean lines are edited on a terminal
---@field environment boolean files of the person's may be read

---@class perigee.repl.Session
local Session = {}
Session.__index = Session

-- Taste: about a year of lines for one person; the editor keeps as many.
local history_lines_max = 5000

local help_text = [[
  1 + 1, pg.version        an expression prints its value; _ is the last one
  help(pg.cagra.build)     what a function takes, with ranges and defaults
  .timer on                say how long each line takes (.timer off)
  .quit                    leave, as Ctrl-D does
Tab completes names, methods (after ":") and files (in quotes); Up and Ctrl-R find earlier
lines. Ctrl-C stops what is running, or clears the line. A line that is not finished goes on
at ">>". A local ends with its line, so give names without 'local'.]]

--- A module of Perigee, or nil where it is not there.
local function optional(name)
  local ok, module = pcall(require, name)
  return ok and module or nil
end

--- The text of a value.
local function text_of(value)
  local show = optional "perigee.show"
  return show and show.value(value) or tostring(value)
end

--- The person's file `name` in the folder of the variable, or of its default below the home.
local function personal(variable, default, name)
  local folder = os.getenv(variable)
  if not folder or folder:sub(1, 1) ~= "/" then -- a relative one is to be ignored, says XDG
    local home = os.getenv "HOME"
    if not home or home == "" then
      return nil
    end
    folder = home .. "/" .. default
  end
  return folder .. "/perigee/" .. name
end

-- ---- help -----------------------------------------------------------------------------------

local help = setmetatable({}, {
  __name = "help",
  __tostring = function() return help_text end,
  __call = function(self, value)
    local texts = optional "perigee.help"
    if value == nil or rawequal(value, self) then
      print(help_text)
    elseif texts then
      print(texts.text(value))
    else
      print(text_of(value))
    end
  end,
})

-- ---- history --------------------------------------------------------------------------------

--- Reads the lines of earlier sessions. A file twice as long as what is kept is written anew,
--- beside and then renamed, so that a crash leaves one or the other.
local function open_history(host)
  local path = host.environment and personal("XDG_STATE_HOME", ".local/state", "history")
  local file = path and host.open_private(path)
  if not file then
    return nil -- a home that cannot be written is no reason to refuse the prompt
  end
  local lines = {}
  for line in file:lines() do
    lines[#lines + 1] = line
  end
  local first = math.max(1, #lines - history_lines_max + 1)
  for i = first, #lines do
    host.remember(lines[i])
  end
  if #lines < 2 * history_lines_max then
    return file
  end
  local beside = path .. ".new"
  os.remove(beside)
  local new = host.open_private(beside)
  if new then
    new:write(table.concat(lines, "\n", first), "\n")
    new:close()
    os.rename(beside, path)
    file:close()
    file = host.open_private(path)
  end
  return file
end

function Session:remember(line)
  if not self.host.edits or not line:find("%S") or line == self.last_line then
    return
  end
  self.last_line = line
  self.host.remember(line)
  if self.history then
    self.history:write(line, "\n")
    self.history:flush()
  end
end

-- ---- reading --------------------------------------------------------------------------------

local function prompt_of(variable, default)
  local prompt = rawget(_G, variable)
  return prompt == nil and default or tostring(prompt)
end

function Session:read_line(prompt)
  local line = self.host.read(prompt, self.complete)
  if line then
    self:remember(line)
  end
  return line
end

--- The function of a chunk; or nil and a message, and whether more lines could make it whole.
local function compile(text)
  local chunk, expression_message = load("return " .. text, "=stdin", "t")
  if chunk then
    return chunk
  end
  local message
  chunk, message = load(text, "=stdin", "t")
  if chunk or message:find("<eof>$") then
    return chunk, message, message ~= nil
  end
  -- "1 +" is no beginning of a statement, but it is one of an expression.
  if expression_message:find("<eof>$") then
    return nil, expression_message, true
  end
  return nil, message, false
end

--- Lines that begin with a dot are for the prompt; no Lua statement does.
local function run_command(self, line)
  local name, argument = line:match("^%s*%.(%a+)%s*(.-)%s*$")
  if name == "timer" and (argument == "on" or argument == "off") then
    self.timer = argument == "on"
  elseif name == "timer" then
    print((".timer is %s; say .timer on or .timer off"):format(self.timer and "on" or "off"))
  elseif name == "help" then
    print(help_text)
  elseif name == "quit" or name == "exit" then
    return nil
  else
    print(("no command '.%s'; there are .timer .help .quit"):format(name))
  end
  return false
end

--- Reads lines until they make a chunk.
---@return function|false|nil chunk false: nothing to run this time; nil: the end of input
function Session:read()
  local line = self:read_line(prompt_of("_PROMPT", "> "))
  if not line then
    return line
  end
  if line:find("^%s*%.%a") then
    return run_command(self, line)
  end
  local text = line:gsub("^%s*=", "return ", 1)
  local chunk, message, more = compile(text)
  while more do
    line = self:read_line(prompt_of("_PROMPT2", ">> "))
    if line == false then
      return false
    elseif line == nil then
      break
    end
    text = text .. "\n" .. line
    chunk, message, more = compile(text)
  end
  if not chunk then
    io.stdout:flush()
    io.stderr:write(message, "\n")
    return false
  end
  self:explain_local(text)
  self.started = self.host.clock()
  return chunk
end

--- A local of one line is gone in the next, which surprises everybody once.
function Session:explain_local(text)
  if not self.local_explained and self.host.edits and text:find("^%s*local%s+[%a_]")
    and not text:find("\n") and not text:find(";%s*%S") then
    self.local_explained = true
    print "(a local ends with its line; without 'local' the name stays)"
  end
end

-- ---- printing -------------------------------------------------------------------------------

--- Values side by side where each is one line, else one below the other.
local function print_values(values)
  local texts, on_one_line = {}, true
  for i = 1, values.n do
    texts[i] = text_of(values[i])
    on_one_line = on_one_line and not texts[i]:find("\n")
  end
  print(table.concat(texts, on_one_line and "\t" or "\n"))
end

--- Shows the outcome of a chunk: its values, or, when it raised, nothing but the time.
---@param ok boolean it did not raise
function Session:finish(ok, ...)
  local elapsed = self.started and self.host.clock() - self.started
  local values = table.pack(...)
  if ok and values.n > 0 then
    if values[1] == nil and type(values[2]) == "string" then
      -- nil, message, code: how the outside world fails
      local code = values[3] ~= nil and (" (%s)"):format(values[3]) or ""
      io.stdout:flush()
      io.stderr:write(values[2], code, "\n")
    else
      rawset(_G, "_", values[1])
      print_values(values)
    end
  end
  if self.timer and elapsed then
    print(("%.3f s"):format(elapsed))
  end
end

-- ---- opening --------------------------------------------------------------------------------

--- Runs the person's start file; an error in it is printed and no more.
local function run_start_file(host)
  local path = host.environment and personal("XDG_CONFIG_HOME", ".config", "init.lua")
  local file = path and io.open(path, "r")
  if not file then
    return
  end
  file:close()
  local chunk, message = loadfile(path, "t")
  local ok = chunk ~= nil
  if chunk then
    ok, message = xpcall(chunk, debug.traceback)
  end
  if not ok then
    io.stderr:write(tostring(message), "\n")
  end
end

--- Opens the prompt: greets, sets the globals `pg` and `help`, runs the start file.
---@param host perigee.repl.Host
---@return perigee.repl.Session
function M.open(host)
  local self = setmetatable({ host = host, timer = false, started = nil }, Session)
  self.complete = function(text) return complete.complete(text, _G, host) end
  local ok, pg = pcall(require, "perigee")
  local version = ok and type(pg) == "table" and pg.version
  print(("Perigee%s, %s. help for help, Ctrl-D to leave."):format(
    type(version) == "string" and " " .. version or "", _VERSION))
  if not ok then
    io.stderr:write("pg is not there: ", tostring(pg):match("^[^\n]*"), "\n")
  elseif rawget(_G, "pg") == nil then
    rawset(_G, "pg", pg)
  end
  if rawget(_G, "help") == nil then
    rawset(_G, "help", help)
  end
  if host.edits then
    self.history = open_history(host)
  end
  run_start_file(host)
  return self
end

return M
