-- A URL that was never asked for before: fresh.lua -- PATH_PREFIX
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

local prefix, number

function init(args)
    prefix, number = args[1], 0
end

function request()
    number = number + 1
    return "GET " .. prefix .. "-" .. number .. " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
end
