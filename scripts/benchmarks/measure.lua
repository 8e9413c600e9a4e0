-- measure: does what plan.lua compares, on one set: starts the programs, has the indexes built,
-- finds for each subject the smallest knob that reaches a recall, and times all of them in rounds,
-- side by side, in an order that every second round turns around. All programs are asked the same
-- questions; none of them knows what it is compared with.

local words = require "words"
local Program = require "program"
local sets = require "sets"

local M = {}

local CODES_SHARE <const> = 0.97   -- of the recall that codes can reach, to compare them at
local RECALL_SLACK <const> = 0.001 -- what a build's recall may be below the peer's: noise
local GRID_SECONDS <const> = 0.1   -- of a measurement that only chooses a parameter

---@class bench.Run
---@field set bench.Set
---@field shape { rows: integer, dim: integer }
---@field options table<string, any>  rounds builds seconds threads folder ...
---@field emit fun(row: table)
---@field left_out fun(subject: bench.Subject, why: string)
---@field watch fun(text: string)
---@field programs table<string, any>
---@field indexes table<string, { seconds: number, bytes: number }>

local function program_of(run, subject)
  local key = subject.program .. " " .. (subject.library or "") .. " " .. subject.dtype
  local program = run.programs[key]
  if program == nil then
    local usable, why = run.options.usable(subject.program, subject.library)
    if usable then
      program = Program.start(run.options.folder, sets.command(subject.program, run.set,
        subject.dtype, run.options.folder, { library = subject.library }))
    else
      program = { absent = why }
    end
    run.programs[key] = program
  end
  if program.absent then
    return nil, program.absent
  end
  return program
end

-- ---- indexes ------------------------------------------------------------------------------------

local function index_name(subject, build)
  return subject.program .. " " .. (subject.library or "") .. " " .. subject.dtype .. ": "
    .. words.write(build, " ")
end

local function build_index(run, subject, build)
  local program, why = program_of(run, subject)
  if not program then
    return nil, why
  end
  local name = index_name(subject, build)
  run.watch("builds " .. name)
  local built, reason = program:ask(words.join(build, { ["do"] = "build",
    name = name:gsub("[^%w]", "_"), threads = run.options.build_threads }))
  run.indexes[name] = built or { why = reason }
  return built, reason
end

-- Builds the index that is not there yet.
local function need_index(run, subject)
  local build = subject.build
  local there = run.indexes[index_name(subject, build)]
  if there then
    return there.seconds and there, there.why
  end
  return build_index(run, subject, build)
end

local function ask_search(run, subject, question)
  local program = assert(program_of(run, subject))
  return assert(program:ask(words.join({ ["do"] = "search", k = 10, seconds = 0,
    threads = run.options.build_threads,
    name = index_name(subject, question.build or subject.build):gsub("[^%w]", "_") },
    question.words)))
end

-- ---- the knobs ----------------------------------------------------------------------------------

local function recall_at(run, subject, k, knobs)
  return ask_search(run, subject, { words = words.join(knobs, { k = k }) }).recall
end

-- The smallest knob that reaches the target, and true; or the largest, and false.
local function smallest_knob(run, subject, k, target, more)
  local function recall(value)
    return recall_at(run, subject, k, words.join(more, { [subject.knob] = value }))
  end
  local low, high = subject.low, subject.low
  local reached = recall(high) >= target
  while not reached and high < subject.high do
    low, high = high + 1, math.min(2 * high, subject.high)
    reached = recall(high) >= target
  end
  while reached and low < high do
    local middle = (low + high) // 2
    if recall(middle) >= target then
      high = middle
    else
      low = middle + 1
    end
  end
  return high, reached
end

-- The knobs of a subject for a target: of the grid, the value that is fastest where it reaches it.
local function knobs_for(run, subject, k, target)
  if not subject.knob then
    return {}
  end
  local best, best_qps
  for _, value in ipairs(subject.grid and subject.grid.values or { false }) do
    local more = value and { [subject.grid.name] = value } or {}
    local at, reached = smallest_knob(run, subject, k, target, more)
    local knobs = words.join(more, { [subject.knob] = at })
    if not value then
      return knobs
    end
    local qps = reached and ask_search(run, subject, { words = words.join(knobs, { k = k,
      threads = 1, seconds = GRID_SECONDS }) }).qps
    if not best or qps and (not best_qps or qps > best_qps) then
      best, best_qps = knobs, qps or best_qps
    end
  end
  return best
end

-- What the codes of all subjects reach when all that is allowed is looked at.
local function codes_target(run, subjects, k)
  local least = 1
  for _, subject in ipairs(subjects) do
    least = math.min(least, recall_at(run, subject, k, { [subject.knob] = subject.high }))
  end
  return CODES_SHARE * least
end

-- ---- searches -----------------------------------------------------------------------------------

-- The words of a build as a table of the report tells them.
local function build_text(build)
  return build.factory or words.write(build, " ")
end

local function row_of(run, part, subject, more)
  return words.join({ what = part.word, part = part.title, engine = subject.engine,
    data = run.set.name, dtype = subject.dtype, n = run.shape.rows, dim = run.shape.dim }, more)
end

-- What is timed in every round: a subject with its knobs at one k and target.
local function contests_of(run, part, subjects)
  local list = {}
  for _, k in ipairs(part.ks) do
    for _, wanted in ipairs(part.targets or { false }) do
      local target = wanted == "codes" and codes_target(run, subjects, k) or wanted or nil
      local entries = {}
      for _, subject in ipairs(subjects) do
        run.watch(("%s: %s to recall %s"):format(part.word, subject.engine, target or "1"))
        entries[#entries + 1] = { subject = subject, knobs = knobs_for(run, subject, k, target) }
      end
      list[#list + 1] = { k = k, target = target, wanted = wanted, entries = entries }
    end
  end
  return list
end

local function time_entry(run, part, contest, entry, threads, round)
  local subject = entry.subject
  local told = ask_search(run, subject, { words = words.join(entry.knobs, { k = contest.k,
    threads = threads, seconds = run.options.seconds }) })
  run.emit(row_of(run, part, subject, { threads = threads, k = contest.k, qps = told.qps,
    target = contest.target, recall = told.recall, round = round,
    bytes = need_index(run, subject).bytes, versus = subject.versus,
    built = build_text(subject.build), parameters = words.write(entry.knobs, " ") }))
end

local function time_fma(run, threads, round)
  local pipe = assert(io.popen(("%s/fma_rate %d %g"):format(run.options.folder, threads,
    run.options.seconds)))
  run.emit(words.join(words.read_line(pipe:read "l"), { round = round, data = run.set.name }))
  pipe:close()
end

local function search_part(run, part, subjects)
  local contests = contests_of(run, part, subjects)
  for round = 1, run.options.rounds do
    for _, threads in ipairs(run.options.threads) do
      run.watch(("%s: round %d of %d, %d threads"):format(part.word, round, run.options.rounds,
        threads))
      if part.fma then
        time_fma(run, threads, round)
      end
      for _, contest in ipairs(contests) do
        local count = #contest.entries
        for i = 1, count do
          local entry = contest.entries[round % 2 == 1 and i or count + 1 - i]
          time_entry(run, part, contest, entry, threads, round)
        end
      end
    end
  end
end

-- ---- builds -------------------------------------------------------------------------------------

local function timed_build(run, subject, build, at)
  local built, why = build_index(run, subject, build)
  if not built then
    return nil, why
  end
  local recall = ask_search(run, subject, { build = build, words = { [subject.knob] = at } }).recall
  return { seconds = built.seconds, bytes = built.bytes, recall = recall }
end

-- The cheapest build of the ladder with the recall, or the last; what it took comes with it.
local function climb(run, subject, at, recall)
  for i, step in ipairs(subject.ladder) do
    local build = words.join(subject.build, step)
    local told, why = timed_build(run, subject, build, at)
    if not told then
      return nil, nil, why
    elseif i == #subject.ladder or told.recall >= recall - RECALL_SLACK then
      return build, told
    end
  end
end

-- The peer's build: where it reaches the target, and its recall there.
local function lead(run, part)
  for _, subject in ipairs(part.subjects) do
    local built = subject.engine == part.peer and build_index(run, subject, subject.build)
    if built then
      local at = smallest_knob(run, subject, 10, part.target, {})
      local recall = recall_at(run, subject, 10, { [subject.knob] = at })
      return { subject = subject, at = at,
        told = { seconds = built.seconds, bytes = built.bytes, recall = recall } }
    end
  end
end

-- The builds that are measured, with what the first of each took.
local function choose_builds(run, part, leader)
  local chosen = {}
  for _, subject in ipairs(part.subjects) do
    local build, told, why = subject.build, leader.told, nil
    if subject.ladder then
      build, told, why = climb(run, subject, leader.at, leader.told.recall)
    elseif subject ~= leader.subject then
      told, why = timed_build(run, subject, build, leader.at)
    end
    if told then
      chosen[#chosen + 1] = { subject = subject, build = build, told = told }
    else
      run.left_out(subject, why)
    end
  end
  return chosen
end

local function build_part(run, part)
  local leader = lead(run, part)
  if not leader then
    return run.left_out({ engine = part.word }, "there is no " .. part.peer .. " to compare with")
  end
  local chosen = choose_builds(run, part, leader)
  for round = 1, run.options.builds do
    for i = 1, #chosen do
      local one = chosen[round % 2 == 1 and i or #chosen + 1 - i]
      local told = round == 1 and one.told
        or assert(timed_build(run, one.subject, one.build, leader.at))
      run.emit(row_of(run, part, one.subject, words.join(told, { k = 10, round = round,
        threads = run.options.build_threads, target = part.target,
        parameters = ("%s, %s=%d"):format(build_text(one.build), one.subject.knob, leader.at) })))
    end
  end
end

-- ---- all ----------------------------------------------------------------------------------------

local function usable_subjects(run, part)
  local list = {}
  for _, subject in ipairs(part.subjects) do
    local built, why = need_index(run, subject)
    if built then
      list[#list + 1] = subject
    else
      run.left_out(subject, why)
    end
  end
  return list
end

-- Also after an error: a program that is not told to would wait for ever.
local function stop_programs(programs)
  for _, program in pairs(programs) do
    if not program.absent then
      pcall(program.stop, program)
    end
  end
end

---@param set bench.Set
---@param parts bench.Part[]
---@param options table  and emit, left_out, watch, usable
function M.run(set, parts, options)
  local run = { set = set, shape = sets.shape(set), options = options, emit = options.emit,
    left_out = options.left_out, programs = {}, indexes = {},
    watch = function(text)
      options.watch(set.name .. ", " .. text)
    end }
  local _ <close> = setmetatable({}, { __close = function()
    stop_programs(run.programs)
  end })
  for _, part in ipairs(parts) do
    if part.builds then
      build_part(run, part)
    else
      search_part(run, part, usable_subjects(run, part))
    end
  end
end

return M
