-- Named statements over the quarantine; each starts at its "name" line. Writing them belongs to the load
-- transaction of the chunk, taking them out to the transaction of a replay, which locks the lane first.

-- name: keep_file
-- The records of one chunk and stage, exactly as they travelled.
insert into checkpoint_etl.quarantine_file (ledger_id, stage, data)
values (%(ledger_id)s, %(stage)s, %(data)s);

-- name: keep_records
-- One row per record, for people and for finding it in its file.
copy checkpoint_etl.quarantine (ledger_id, ordinal, stage, position, cursor, reason, payload)
from stdin;

-- name: chunks
-- The chunks of a lane that have quarantined records and count, oldest first.
select ledger.id, ledger.incarnation, ledger.seq, ledger.low, ledger.high, ledger.fence
from checkpoint_etl.ledger
where ledger.pipeline = %(pipeline)s and ledger.part = %(part)s and ledger.rewound_at is null
  and exists (select
              from checkpoint_etl.quarantine
              where quarantine.ledger_id = ledger.id and quarantine.stage = any(%(stages)s))
order by ledger.seq;

-- name: take
-- Take a chunk's records out, to try them again; what fails again is put back.
with taken as (
    delete from checkpoint_etl.quarantine
    where ledger_id = %(ledger_id)s and stage = %(stage)s
    returning ordinal, position, cursor, reason, payload, created_at
)
select ordinal, position, cursor, reason, payload::text, created_at
from taken
order by ordinal;

-- name: file
-- The file those records are in.
select data
from checkpoint_etl.quarantine_file
where ledger_id = %(ledger_id)s and stage = %(stage)s;

-- name: put_back
-- It failed again: the same record, with the new reason.
insert into checkpoint_etl.quarantine
    (ledger_id, ordinal, stage, position, cursor, reason, payload, created_at, tried_at)
values (%(ledger_id)s, %(ordinal)s, %(stage)s, %(position)s, %(cursor)s, %(reason)s,
        %(payload)s::jsonb, %(created_at)s, clock_timestamp());

-- name: drop_file
-- A file whose last record was released.
delete from checkpoint_etl.quarantine_file as file
where file.ledger_id = %(ledger_id)s and file.stage = %(stage)s
  and not exists (select
                  from checkpoint_etl.quarantine
                  where quarantine.ledger_id = file.ledger_id and quarantine.stage = file.stage);

-- name: released
-- Rows of a chunk that went into the target after all: chunk and lane count them.
with counted as (
    update checkpoint_etl.ledger
    set rows = rows + %(rows)s, rows_rejected = rows_rejected - %(released)s
    where id = %(ledger_id)s
    returning pipeline, part
)
update checkpoint_etl.lane
set rows_total = rows_total + %(rows)s
from counted
where lane.pipeline = counted.pipeline and lane.part = counted.part;

-- name: left
-- How many records of the lane are in quarantine.
select count(*)
from checkpoint_etl.quarantine
join checkpoint_etl.ledger on ledger.id = quarantine.ledger_id
where ledger.pipeline = %(pipeline)s and ledger.part = %(part)s;
