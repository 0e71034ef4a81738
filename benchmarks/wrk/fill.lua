-- Each of N URLs in turn, until stopped: fill.lua -- N PATH_PREFIX
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

local count, asked, prefix, tail

function init(args)
    count, prefix, asked = tonumber(args[1]), args[2], -1
    tail = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n"
end

function request()
    asked = asked + 1
    return "GET " .. prefix .. asked % count .. tail
end
