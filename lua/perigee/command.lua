--- command: the words of the command line, `perigee WORD [arguments]`.

local M = {}

local words = {}

--- Shows devices, instruction sets and libraries, what is missing and why.
words["doctor"] = function()
  local report = require "perigee".doctor()
  if type(report) ~= "string" then
    local has_show, show = pcall(require, "perigee.show")
    report = has_show and show.value(report) or tostring(report)
  end
  print((report:gsub("\n$", "")))
end

words["--version"] = function()
  print(("Perigee %s"):format(require "perigee".version))
end

--- Runs a word; raises when the word does, or when there is none of this name.
---@param word string
---@param ... string the arguments that follow it
function M.run(word, ...)
  local run = words[word] or error(("no word '%s'"):format(word), 0)
  if select("#", ...) > 0 then
    error(("'%s' takes no arguments, but got '%s'"):format(word, (...)), 0)
  end
  run()
end

return M
