-- A URL that was never asked for before: fresh.lua -- PATH_PREFIX
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

local prefix, number, tail

function init(args)
    prefix, number = args[1], 0
    tail = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n\r\n"
end

function request()
    number = number + 1
    return "GET " .. prefix .. "-" .. number .. tail
end
