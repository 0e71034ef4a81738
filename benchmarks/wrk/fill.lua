-- Every one of N URLs once, then the end: fill.lua -- N
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

local count, asked, answered

function init(args)
    count, asked, answered = tonumber(args[1]), -1, 0
end

function request()
    asked = asked + 1
    return string.format("GET /item/%d HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n",
        asked % count)
end

function response()
    answered = answered + 1
    if answered >= count + 100 then wrk.thread:stop() end
end
