-- Named statements of rewind, resync and release; each starts at its "name" line. All of one command
-- run in one transaction, and the lane's row is locked first: a load transaction waits for it and then
-- finds the lane in another life.

-- name: lock_lane
-- The lane, ours until the commit.
select incarnation, generation, seq, cursor, state_digest, swept, target_oid::bigint, settings,
       plan_id, ends_at is not null
from checkpoint_etl.lane
where pipeline = %(pipeline)s and part = %(part)s
for update;

-- name: start
-- Where the chain starts: below its first chunk.
select low
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and rewound_at is null
order by seq
limit 1;

-- name: boundary
-- The first chunk that ended at a cursor; later ones there only swept.
select seq, high, state_digest, swept
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and rewound_at is null and high = %(to)s
order by seq
limit 1;

-- name: chunk_end
-- Where one chunk of the chain ended, for searching the boundary below a value.
select high
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and rewound_at is null and seq = %(seq)s;

-- name: above
-- What was loaded above the point: chunks, their rows, and their quarantined records.
select count(*), coalesce(sum(rows), 0)::bigint,
       (select count(*)
        from checkpoint_etl.quarantine
        where ledger_id in ({above_ids}))
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and rewound_at is null and seq > %(seq)s;

-- name: lineage_target
-- The table the lane loads into, as it may be written in a statement, and whether it keeps lineage.
select format('%%I.%%I', namespace.nspname, class.relname),
       exists (select
               from pg_attribute
               where attrelid = class.oid and attname = %(column)s and not attisdropped)
from pg_class as class
join pg_namespace as namespace on namespace.oid = class.relnamespace
where class.oid = %(target_oid)s::oid;

-- name: above_ids
-- The chunks of this lane above the point, of all its lives, and those of the parts of plans that were
-- closed above it. Never by seq alone: another part or pipeline in the same table has the same numbers.
select id
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and not abandoned
  and ((part = %(part)s and seq > %(seq)s)
       or plan_id in (select closing.plan_id
                      from checkpoint_etl.ledger as closing
                      where closing.pipeline = %(pipeline)s and closing.part = %(part)s
                        and closing.seq > %(seq)s and not closing.abandoned))

-- name: plan_ids
-- The chunks of one plan's parts.
select id
from checkpoint_etl.ledger
where plan_id = %(plan_id)s and part <> %(part)s and not abandoned

-- name: quarantined_of
-- How many rejected records chunks have.
select count(*)
from checkpoint_etl.quarantine
where ledger_id in ({ids});

-- name: drop_quarantined
-- Their rejected records come again.
with taken as materialized ({ids}),
dropped as (
    delete from checkpoint_etl.quarantine
    where ledger_id in (select id from taken)
)
delete from checkpoint_etl.quarantine_file
where ledger_id in (select id from taken);

-- name: take_back
-- These chunks count no more.
update checkpoint_etl.ledger
set rewound_at = clock_timestamp()
where rewound_at is null and id in ({ids});

-- name: end_plans
-- Plans that were closed above the point are taken back whole; their parts get a new life, so that what
-- is staged for them is dead.
with ended as (
    update checkpoint_etl.plan
    set outcome = 'rewound', collected = false
    where outcome = 'loaded'
      and id in (select plan_id
                 from checkpoint_etl.ledger
                 where pipeline = %(pipeline)s and part = %(part)s and seq > %(seq)s
                   and not abandoned)
    returning id
)
update checkpoint_etl.lane
set incarnation = %(incarnation)s, generation = generation + 1, updated_at = clock_timestamp()
where plan_id in (select id from ended) and ends_at is not null;

-- name: raise_fences
-- Whoever works on the lane can write nothing from here on, and nothing has failed in its new life.
-- Returns each stage's new fence.
update checkpoint_etl.stage
set fence = greatest(fence, %(floor)s::bigint) + 1, note = null, failures = 0, failure = null,
    failed_at = null,
    lease_until = case when stage = %(keep)s then lease_until end
where pipeline = %(pipeline)s and part = %(part)s
returning stage, fence;

-- name: live_stage
-- A stage of the lane that another DAG run works on.
select stage, dag_id, run_id, task_id, try_number,
       extract(epoch from lease_until - clock_timestamp())::float8
from checkpoint_etl.stage
where pipeline = %(pipeline)s and part = %(part)s
  and lease_until > clock_timestamp()
  and (dag_id, run_id) is distinct from (%(dag_id)s, %(run_id)s)
limit 1;

-- name: new_life
-- The lane at the point, in its new life.
update checkpoint_etl.lane
set incarnation = %(incarnation)s, generation = %(generation)s, seq = %(seq)s, cursor = %(cursor)s,
    state_digest = %(state_digest)s, swept = %(swept)s,
    rows_total = rows_total - %(rows)s,
    load_fence = greatest(load_fence,
                          coalesce((select fence
                                    from checkpoint_etl.stage
                                    where stage.pipeline = lane.pipeline and stage.part = lane.part
                                      and stage.stage = 'load'), 0)),
    fingerprint = case when %(forget)s then '' else fingerprint end,
    source_identity = case when %(new_source)s then '{}' else source_identity end,
    target_oid = case when %(unbind)s then null else target_oid end,
    updated_at = clock_timestamp()
where pipeline = %(pipeline)s and part = %(part)s;

-- name: reprocess_run
-- The run begins again in the new life, and goes to where the lane was: later runs' rows as well.
update checkpoint_etl.run
set incarnation = %(incarnation)s, low = %(low)s, target = %(target)s, swept = %(swept)s,
    clear_number = %(clear_number)s, done = false, finished_at = null, settled_at = 'epoch',
    stored_at = clock_timestamp()
where pipeline = %(pipeline)s and part = %(part)s and dag_id = %(dag_id)s and run_id = %(run_id)s;

-- name: release_lease
-- End a lease; the fence keeps its former owner from writing.
update checkpoint_etl.stage
set fence = fence + 1, lease_until = null, note = null
where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s
returning fence, dag_id, run_id, task_id, try_number;

-- name: raise_lane_fence
-- For a released load: its fence is in the lane, too.
update checkpoint_etl.lane
set load_fence = greatest(load_fence, %(fence)s)
where pipeline = %(pipeline)s and part = %(part)s;

-- name: note_event
-- The audit row.
insert into checkpoint_etl.event (pipeline, part, kind, actor, detail)
values (%(pipeline)s, %(part)s, %(kind)s, %(actor)s, %(detail)s::jsonb);
