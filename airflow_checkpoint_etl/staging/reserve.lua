-- Counts a file before it is stored, unless the area would grow above its limits. The size of a file
-- that is counted already is kept: its bytes do not change.
-- KEYS[1] the area's hash of name to "<size>@<seconds since 1970>"
-- ARGV    name, size, most bytes, most files
-- returns ok | full, bytes, files, seconds since 1970

local key = KEYS[1]
local name, size = ARGV[1], tonumber(ARGV[2])
local seconds = redis.call('TIME')[1]

local kind = redis.call('TYPE', key).ok
if kind ~= 'hash' and kind ~= 'none' then
    redis.call('DEL', key)  -- somebody else's value under our name; counts may be lost at any time
end
if redis.call('HEXISTS', key, name) == 1 then
    return {'ok'}
end
local bytes, files = 0, 0
for _, counted in ipairs(redis.call('HVALS', key)) do
    bytes = bytes + (tonumber(string.match(counted, '^(%d+)@')) or 0)
    files = files + 1
end
if bytes + size > tonumber(ARGV[3]) or files + 1 > tonumber(ARGV[4]) then
    return {'full', string.format('%.0f', bytes), tostring(files), seconds}
end
redis.call('HSET', key, name, ARGV[2] .. '@' .. seconds)
return {'ok'}
