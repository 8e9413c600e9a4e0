--- From a sentence to a query vector, without a model.
--
--   local words = dofile "scripts/demo/words.lua" .open(pg, "scripts/demo/data")
--   local query, known, unknown = words:query "play chess against the computer"
--
-- Every known term has a vector. A sentence is the sum of (1 + ln count) x vector over its distinct
-- terms, scaled to length 1; the packages' own vectors were made in the same way from their
-- descriptions, so the two can be compared. Sum and scale happen in doubles, in the order in which
-- the terms first appear: the same sentence always gives the same query.

local Words = {}
Words.__index = Words

local function lines(path)
   local file = assert(io.open(path, "r"))
   return function()
      local line = file:read "l"
      if not line then file:close() end
      return line
   end
end

--- Opens the term vectors in `folder` with the perigee module `pg`.
local function open(pg, folder)
   local self = setmetatable({ row = {}, stop = {} }, Words)
   local row = 0
   for term in lines(folder .. "/terms.txt") do
      self.row[term] = row
      row = row + 1
   end
   for word in lines(folder .. "/stopwords.txt") do self.stop[word] = true end
   self.vectors = assert(pg.load(folder .. "/term_vectors.npy"))
   self.scales = assert(pg.load(folder .. "/term_scales.npy"))
   assert(self.vectors.rows == row and self.scales.rows == row,
      folder .. ": terms.txt, term_vectors.npy and term_scales.npy differ in length")
   return self
end

--- The distinct terms of a sentence in order, how often each occurs, and the unknown words.
function Words:terms(sentence)
   local known, count, unknown = {}, {}, {}
   for word in sentence:lower():gmatch "[a-z]+" do
      if #word >= 2 and not self.stop[word] then
         if not count[word] then
            count[word] = 0
            local list = self.row[word] and known or unknown
            list[#list + 1] = word
         end
         count[word] = count[word] + 1
      end
   end
   return known, count, unknown
end

--- A unit vector as a plain table, the terms that it is made of, and the words that have no vector.
-- Answers nil and a message when the sentence holds no known term.
function Words:query(sentence)
   local known, count, unknown = self:terms(sentence)
   if #known == 0 then
      return nil, ("no word of %q is known; try words of a package description"):format(sentence)
   end
   local sum = {}
   for i = 1, self.vectors.cols do sum[i] = 0.0 end
   for _, term in ipairs(known) do
      local row = self.row[term]
      local weight = (1 + math.log(count[term])) * self.scales:row(row)[1]
      for i, value in ipairs(self.vectors:row(row)) do sum[i] = sum[i] + weight * value end
   end
   local square = 0.0
   for _, value in ipairs(sum) do square = square + value * value end
   local length = math.sqrt(square)
   if length == 0 then return nil, ("the words of %q cancel out"):format(sentence) end
   for i, value in ipairs(sum) do sum[i] = value / length end
   return sum, known, unknown
end

return { open = open }
