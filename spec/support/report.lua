-- An output handler of busted that writes one line per test to a file, as each test ends.
--
-- The file is apart from the standard output, so a test may print what it likes, and it is flushed
-- line by line, so when a spec process crashes the tests that ended before are still known. The
-- last line is "end"; a file without it is that of a process that did not get there.
--
--   busted -o spec/support/report.lua -Xoutput FILE
--
-- A line is STATUS <tab> NAME <tab> MESSAGE, with STATUS one of start, passed, failed, skipped.
-- Control characters and the backslash are written as \DDD.

local function escape(text)
  return (tostring(text or ""):gsub("[%c\\]", function(c)
    return string.format("\\%03d", c:byte())
  end))
end

local function text_of(message)
  if type(message) == "string" then
    return message
  elseif message == nil then
    return ""
  end
  return require("pl.pretty").write(message)
end

return function(options)
  local busted = require "busted"
  local handler = require "busted.outputHandlers.base"()
  local file = assert(io.open(assert(options.arguments[1], "-Xoutput FILE is missing"), "w"))

  local function write(status, name, message)
    file:write(status, "\t", escape(name), "\t", escape(message), "\n")
    file:flush()
  end

  local function write_failure(failure)
    local at = failure.element and failure.element.trace
    local where = at and at.short_src and ("%s:%d: "):format(at.short_src, at.currentline) or ""
    write("failed", failure.name, where .. text_of(failure.message))
  end

  handler.testStart = function(element)
    file:write("start\t", escape(handler.getFullName(element)), "\t\n")
    file:flush()
    return nil, true
  end

  handler.testEnd = function(element, _, status)
    if status == "success" then
      write("passed", handler.getFullName(element))
    elseif status == "pending" then
      local skipped = handler.pendings[#handler.pendings]
      write("skipped", skipped.name, text_of(skipped.message))
    elseif status == "failure" then
      write_failure(handler.failures[#handler.failures])
    else
      write_failure(handler.errors[#handler.errors])
    end
    return nil, true
  end

  -- An error outside of a test: the file itself, a setup, a before_each.
  handler.otherError = function(element)
    if element.descriptor ~= "it" then
      write_failure(handler.errors[#handler.errors])
    end
    return nil, true
  end

  handler.exit = function()
    file:write("end\t\t\n")
    file:flush()
    return nil, true
  end

  busted.subscribe({ "test", "start" }, handler.testStart)
  busted.subscribe({ "test", "end" }, handler.testEnd)
  busted.subscribe({ "error" }, handler.otherError)
  busted.subscribe({ "failure" }, handler.otherError)
  busted.subscribe({ "suite", "end" }, handler.exit)
  return handler
end
