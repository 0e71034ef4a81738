-- Each of N URLs in turn, until stopped: fill.lua -- N
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

local count, asked, tail

function init(args)
    count, asked = tonumber(args[1]), -1
    tail = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n"
end

function request()
    asked = asked + 1
    return "GET /item/" .. asked % count .. tail
end
