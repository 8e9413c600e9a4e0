-- program: a program of this folder at work: a question is a line, its answer is a line. Questions
-- go through a named pipe, since io.popen has one direction. It sleeps while it is not asked, and
-- ends when it is told to.

local words = require "words"

local Program = {}
Program.__index = Program

-- A program does not outlive us, whatever ends us; what util-linux has for that.
local GUARD <const> = "$(command -v setpriv >/dev/null && echo setpriv --pdeathsig TERM --)"

local started = 0

---@param folder string  where the named pipe is made, and programs.log has their complaints
---@param command string
function Program.start(folder, command)
  started = started + 1
  local path = ("%s/questions.%d"):format(folder, started)
  local quoted = words.quote(path)
  assert(os.execute(("rm -f %s && mkfifo %s"):format(quoted, quoted)))
  local answers = assert(io.popen(("exec %s %s <%s 2>>%s"):format(GUARD, command, quoted,
    words.quote(folder .. "/programs.log")), "r"))
  local questions = assert(io.open(path, "w")) -- waits for the reader
  os.remove(path)
  questions:setvbuf "line"
  return setmetatable({ command = command, answers = answers, questions = questions }, Program)
end

---@param question table<string, any>
---@return table<string, any>?  nil when it can't, with the reason
---@return string?
function Program:ask(question)
  local line = self.questions:write(words.write(question), "\n") and self.answers:read "l"
  if not line then
    error(("%s: ended, see programs.log, when it was asked: %s"):format(self.command,
      words.write(question, " ")), 0)
  end
  if line:find "^error=" then
    return nil, line:sub(#"error=" + 1)
  end
  return words.read_line(line)
end

-- Told so, since programs that were started later hold the pipe open too.
function Program:stop()
  self.questions:write "do=stop\n"
  self.questions:close()
  self.answers:close()
end

return Program
