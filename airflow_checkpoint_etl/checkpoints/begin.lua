-- Takes over a stage's record: sets its checkpoint, drops what does not belong to it any more.
-- An unreadable head cannot refuse anybody: it is rebuilt.
-- KEYS[1] the record
-- ARGV    fence, incarnation, generation, seq, cursor, checkpoint, then the names of unreadable fields
-- returns ok | fenced, stored fence

local key = KEYS[1]
local fence, incarnation, generation, seq, cursor, checkpoint = unpack(ARGV, 1, 6)

local head, kind = read_head(key)
if head and less(fence, head.fence) then
    return {'fenced', head.fence}
end
if kind ~= 'hash' and kind ~= 'none' then
    redis.call('DEL', key)
end
for position = 7, #ARGV do
    redis.call('HDEL', key, ARGV[position])
end
for _, field in ipairs(redis.call('HKEYS', key)) do
    local entry_seq, entry_incarnation = string.match(field, '^c:(%d+):(.*)$')
    if entry_seq and (entry_incarnation ~= incarnation or less(seq, entry_seq)) then
        redis.call('HDEL', key, field)
    end
end
write_head(key, fence, incarnation, generation, seq, '', cursor, checkpoint)
return {'ok'}
