-- One stage's record is one hash: the head's fields, the checkpoint's record, and one field
-- "c:<seq>:<incarnation>" per manifest entry. This part comes before every script over it.
--
-- Fences, generations and chunk numbers stay decimal text (no sign, no leading zeros): a Lua number is
-- a double and breaks above 2^53. Cursors are compared for equality only, as text.

-- Whether one decimal text is a smaller number than another.
local function less(left, right)
    if #left ~= #right then
        return #left < #right
    end
    return left < right
end

-- What the head's own checksum is made over; the cursor comes last, because it may hold anything.
local function sum_of(fence, incarnation, generation, seq, digest, cursor)
    return redis.sha1hex(table.concat({fence, incarnation, generation, seq, digest, cursor}, '\n'))
end

-- The head, or nothing when it is missing, incomplete or damaged; and the key's type.
local function read_head(key)
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'hash' then
        return nil, kind
    end
    local values = redis.call(
        'HMGET', key, 'fence', 'incarnation', 'generation', 'seq', 'digest', 'cursor', 'sum')
    for position = 1, 7 do
        if not values[position] then
            return nil, kind
        end
    end
    local fence, incarnation, generation, seq, digest, cursor, sum = unpack(values)
    if sum ~= sum_of(fence, incarnation, generation, seq, digest, cursor) then
        return nil, kind
    end
    return {
        fence = fence, incarnation = incarnation, generation = generation, seq = seq,
        digest = digest, cursor = cursor,
    }, kind
end

-- Sets the head, its checksum and the checkpoint's record.
local function write_head(key, fence, incarnation, generation, seq, digest, cursor, checkpoint)
    redis.call(
        'HSET', key, 'fence', fence, 'incarnation', incarnation, 'generation', generation,
        'seq', seq, 'digest', digest, 'cursor', cursor, 'checkpoint', checkpoint,
        'sum', sum_of(fence, incarnation, generation, seq, digest, cursor))
end
