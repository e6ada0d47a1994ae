-- Asks the questions, ARGV[2..n], one after the other. Each begins with a byte: how many of KEYS are its own, of which there may be
-- more where it is alone. The answer to one is what it is told; to several, a list of that, in which one that failed has its
-- error.
if not ARGV[3] then return ask(ARGV[2], 0) end

local answers, before = {}, 0
for question = 2, #ARGV do
  local asks = ARGV[question]
  -- What one of them finds in its counters, which only others can have written, is not the others' trouble.
  local done, answer = pcall(ask, asks, before)
  if not done then answer = { err = type(answer) == 'table' and answer.err or answer } end
  answers[question - 1] = answer
  before = before + string.byte(asks)
end
return answers
