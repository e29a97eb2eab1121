-- For wrk: asks with the requests of a file in turn, and prints what came of it as one line.
-- REQUESTS is a file with a request's headers per line, as name=value, separated by tabs. PAUSE is how many milliseconds a
-- connection waits between two requests; 0 for none.
local requests, turn, pause = {}, 0, tonumber(os.getenv("PAUSE")) or 0
for line in io.lines(os.getenv("REQUESTS")) do
  local headers = {}
  for name, value in line:gmatch("([^=\t]+)=([^\t]+)") do headers[name] = value end
  requests[#requests + 1] = headers
end

function init(args)
  for i, headers in ipairs(requests) do requests[i] = wrk.format("GET", "/signin", headers) end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

if pause > 0 then
  function delay() return pause end
end

function done(summary, latency, _)
  io.write(string.format("RESULT %f %f %f %d %d\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
