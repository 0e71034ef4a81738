-- N URLs in random order, each as often as any other: uniform.lua -- N PATH_PREFIX SEED
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

local count, prefix, tail

function init(args)
    count, prefix = tonumber(args[1]), args[2]
    tail = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n"
    math.randomseed(tonumber(args[3]))
end

function request()
    return "GET " .. prefix .. math.random(0, count - 1) .. tail
end
