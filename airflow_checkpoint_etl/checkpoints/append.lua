-- Adds one manifest entry and moves the checkpoint, if the record stands exactly before the chunk.
-- KEYS[1] the record
-- ARGV    fence, incarnation, generation, seq, digest, high, checkpoint, seq before, low, entry
-- returns ok | fenced, stored fence | conflict | conflict, the head's six values

local key = KEYS[1]
local fence, incarnation, generation, seq, digest, high, checkpoint = unpack(ARGV, 1, 7)
local seq_before, low, entry = unpack(ARGV, 8, 10)

local head = read_head(key)
if not head then
    return {'conflict'}
end
if less(fence, head.fence) then
    return {'fenced', head.fence}
end
if head.fence == fence and head.incarnation == incarnation then
    -- The first attempt at this very append succeeded, and its answer was lost.
    if head.seq == seq and head.cursor == high and head.digest == digest then
        return {'ok'}
    end
    if head.seq == seq_before and head.cursor == low then
        redis.call('HSET', key, 'c:' .. seq .. ':' .. incarnation, entry)
        write_head(key, fence, incarnation, generation, seq, digest, high, checkpoint)
        return {'ok'}
    end
end
return {
    'conflict', head.fence, head.incarnation, head.generation, head.seq, head.cursor, head.digest,
}
