-- The same request again and again: fixed.lua -- METHOD PATH ["Name: value" ...]
dofile(os.getenv("WRK_SCRIPTS") .. "/report.lua")

function init(args)
    wrk.method = args[1]
    wrk.path = args[2]
    for i = 3, #args do
        local name, value = args[i]:match("^([^:]+): *(.*)$")
        wrk.headers[name] = value
    end
end
