-- N URLs by Zipf's law with exponent 1, the same head otherwise: zipf.lua -- N SEED
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

local DRAWS = 262144
local drawn, position, tail = {}, 0, nil

function init(args)
    local count = tonumber(args[1])
    tail = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n"
    math.randomseed(tonumber(args[2]))
    local upto, total = {}, 0
    for rank = 1, count do
        total = total + 1 / rank
        upto[rank] = total
    end
    for draw = 1, DRAWS do
        local mark, low, high = math.random() * total, 1, count
        while low < high do
            local middle = math.floor((low + high) / 2)
            if upto[middle] < mark then low = middle + 1 else high = middle end
        end
        drawn[draw] = low - 1
    end
end

function request()
    position = position % DRAWS + 1
    return "GET /item/" .. drawn[position] .. tail
end
