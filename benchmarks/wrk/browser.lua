-- A browser's head on one of N URLs, in turn, with a trace id that never repeats: browser.lua -- N
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

local count, number, run, head

function init(args)
    count, number, run = tonumber(args[1]), 0, os.time()
    head = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n"
        .. "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
        .. "Accept: application/json,text/plain;q=0.9,*/*;q=0.8\r\nAccept-Encoding: gzip, deflate, br\r\n"
end

function request()
    number = number + 1
    return string.format("GET /item/%d%straceparent: 00-%024x%08x-%016x-01\r\n\r\n",
        number % count, head, run, number % 4294967296, number)
end
