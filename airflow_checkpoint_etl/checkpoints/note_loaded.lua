-- Records the load frontier: forwards only, and to another incarnation only with a higher generation.
-- KEYS[1] the record
-- ARGV    incarnation, generation, seq, cursor, checkpoint
-- returns ok | behind

local key = KEYS[1]
local incarnation, generation, seq, cursor, checkpoint = unpack(ARGV, 1, 5)

local head, kind = read_head(key)
if head then
    local ahead
    if head.incarnation == incarnation then
        ahead = less(head.seq, seq)
    else
        ahead = less(head.generation, generation)
    end
    if not ahead then
        return {'behind'}
    end
elseif kind ~= 'hash' and kind ~= 'none' then
    redis.call('DEL', key)
end
write_head(key, head and head.fence or '0', incarnation, generation, seq, '', cursor, checkpoint)
return {'ok'}
