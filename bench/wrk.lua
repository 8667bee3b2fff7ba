-- Arguments: the size of the file and of the ranges asked for in it; none: plain requests.
local requests, turn = {}, 0

function init(args)
   local size, length = tonumber(args[1]), tonumber(args[2])
   if not size then return end
   math.randomseed(1) -- every server gets the same offsets
   for i = 1, 4096 do
      local first = math.random(0, size - length)
      requests[i] = wrk.format("GET", nil, { Range = "bytes=" .. first .. "-" .. first + length - 1 })
   end
   request = function()
      turn = turn % #requests + 1
      return requests[turn]
   end
end

function done(summary, latency, _)
   local failed = summary.errors.connect + summary.errors.read + summary.errors.write
      + summary.errors.timeout
   io.write(string.format(
      '\n{"requests": %d, "bytes": %d, "seconds": %f, "failed": %d, "status": %d, "p99": %f}\n',
      summary.requests, summary.bytes, summary.duration / 1e6, failed, summary.errors.status,
      latency:percentile(99) / 1000))
end
