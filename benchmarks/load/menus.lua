-- Menus in turn, as a browser's fetch would ask: menus.lua -- PATH...
local paths, position = {}, 0

function init(args)
    for _, path in ipairs(args) do paths[#paths + 1] = wrk.format("GET", path) end
end

function request()
    position = position % #paths + 1
    return paths[position]
end

-- One line of JSON with what was counted. Times in microseconds.
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        '\n{"requests": %d, "duration_us": %d, "p95_us": %d, "p99_us": %d, "failed": %d}\n',
        summary.requests, summary.duration, latency:percentile(95), latency:percentile(99),
        e.connect + e.read + e.write + e.status + e.timeout))
end
