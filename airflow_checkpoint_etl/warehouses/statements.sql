-- Named statements over the ledger; each starts at its "name" line.

-- name: create_lane
-- A lane starts where it is told to; an existing one is left as it is. Chunks of a lane that was
-- removed by hand count no more, and no rewind of the new lane takes their rows: it may start above them.
with made as (
    insert into checkpoint_etl.lane
        (pipeline, part, incarnation, cursor, source_identity, fingerprint)
    values
        (%(pipeline)s, %(part)s, %(incarnation)s, %(cursor)s, %(source_identity)s::jsonb,
         %(fingerprint)s)
    on conflict do nothing
    returning pipeline, part
)
update checkpoint_etl.ledger
set rewound_at = coalesce(ledger.rewound_at, clock_timestamp()), abandoned = true
from made
where ledger.pipeline = made.pipeline and ledger.part = made.part and not ledger.abandoned;

-- name: start_lane_anew
-- A lane that was reset starts where the pipeline now says, as long as no extract has taken it up.
update checkpoint_etl.lane
set cursor = %(cursor)s
where pipeline = %(pipeline)s and part = %(part)s and fingerprint = '' and seq = 0;

-- name: newest_ledger_id
-- The newest id that the ledger gave out.
select coalesce(pg_sequence_last_value(
    pg_get_serial_sequence('checkpoint_etl.ledger', 'id')::regclass), 0);

-- name: skip_ledger_ids
-- Rows in a target carry ids of a ledger that was lost: they are not given out a second time.
select setval(pg_get_serial_sequence('checkpoint_etl.ledger', 'id')::regclass, %(newest)s);

-- name: create_stage
-- The stage row that hands out fences.
insert into checkpoint_etl.stage (pipeline, part, stage)
values (%(pipeline)s, %(part)s, %(stage)s)
on conflict do nothing;

-- name: acquire_stage
-- Take the stage: the same task takes it at once, another one only when the lease has run out.
update checkpoint_etl.stage
set fence = fence + 1,
    dag_id = %(dag_id)s, run_id = %(run_id)s, task_id = %(task_id)s, map_index = %(map_index)s,
    try_number = %(try_number)s, ti_id = %(ti_id)s, host = %(host)s,
    acquired_at = clock_timestamp(), note = null,
    lease_until = clock_timestamp() + %(lease)s::interval
where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s
  and ((dag_id, run_id, task_id, map_index)
           = (%(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s::integer)
       or lease_until is null
       or lease_until < clock_timestamp())
returning fence;

-- name: claimed_incarnation
-- The lane's life at a moment when the fence was still the newest: the one it was acquired in.
select lane.incarnation
from checkpoint_etl.lane
join checkpoint_etl.stage using (pipeline, part)
where pipeline = %(pipeline)s and part = %(part)s and stage.stage = %(stage)s
  and stage.fence = %(fence)s;

-- name: stage_owner
-- Who has the stage, and for how many more seconds.
select dag_id, run_id, task_id, try_number, fence,
       greatest(0, extract(epoch from lease_until - clock_timestamp()))::float8
from checkpoint_etl.stage
where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s;

-- name: extend_lease
-- The heartbeat; touches nothing once a newer fence was handed out.
update checkpoint_etl.stage
set lease_until = clock_timestamp() + %(lease)s::interval
where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s and fence = %(fence)s;

-- name: release_stage
-- End the lease; the owner stays for the audit.
update checkpoint_etl.stage
set lease_until = null, note = null
where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s and fence = %(fence)s;

-- name: note_stage
-- What people are told of an attempt: what it waits for, and why it failed. Under its fence; before it has
-- one, only where nobody else works.
update checkpoint_etl.stage
set note = %(note)s,
    failures = case when %(failure)s::jsonb is null then case when %(moved)s then 0 else failures end
                    when %(moved)s then 1
                    else failures + 1 end,
    failure = case when %(failure)s::jsonb is null and not %(moved)s then failure else %(failure)s end,
    failed_at = case when %(failure)s::jsonb is not null then clock_timestamp()
                     when not %(moved)s then failed_at end
where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s
  and (fence = %(fence)s
       or %(fence)s::bigint is null
          and ((dag_id, run_id, task_id, map_index)
                   = (%(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s::integer)
               or lease_until is null
               or lease_until < clock_timestamp()));

-- name: note_fenced
-- An attempt that was taken over says so in the lane's history: the one thing that its stage's newest owner
-- does not decide, and nothing reads to decide.
insert into checkpoint_etl.event (pipeline, part, kind, actor, detail)
select pipeline, part, 'fenced', %(actor)s, jsonb_build_object(
    'stage', stage, 'fence', %(fence)s::bigint, 'newest_fence', fence, 'reason', format(
        '%%s was taken over, released or rewound while it worked: its fence was %%s, the newest is %%s',
        stage, %(fence)s::bigint, fence))
from checkpoint_etl.stage
where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s and fence > %(fence)s;

-- name: raise_load_fence
-- From here on, the load transaction of any older attempt finds 0 rows.
update checkpoint_etl.lane
set load_fence = %(fence)s
where pipeline = %(pipeline)s and part = %(part)s and load_fence < %(fence)s;

-- name: lane_row_holder
-- The backend that holds the lane's row now: the transaction in its xmax, and who runs that.
select activity.pid, activity.application_name
from checkpoint_etl.lane
join pg_locks as locks
  on locks.locktype = 'transactionid' and locks.granted and locks.transactionid = lane.xmax
join pg_stat_activity as activity on activity.pid = locks.pid
where lane.pipeline = %(pipeline)s and lane.part = %(part)s;

-- name: terminate_backend
-- End a hung former owner; its transaction rolls back.
select pg_terminate_backend(%(pid)s);

-- name: read_lane
-- The lane with the transform's state at its frontier.
select lane.incarnation, lane.generation, lane.seq, lane.cursor, lane.state_digest,
       lane.rows_total, lane.load_fence, lane.target_oid::bigint, lane.fingerprint,
       lane.source_identity::text,
       (select ledger.state
        from checkpoint_etl.ledger
        where ledger.pipeline = lane.pipeline and ledger.part = lane.part
          and ledger.seq = lane.seq and ledger.state_digest = lane.state_digest
          and ledger.rewound_at is null),
       lane.updated_at, lane.swept, lane.settings,
       (select coalesce(jsonb_object_agg(stage.stage, stage.fence), '{}')
        from checkpoint_etl.stage
        where stage.pipeline = lane.pipeline and stage.part = lane.part),
       lane.ends_at, lane.sealed
from checkpoint_etl.lane
where pipeline = %(pipeline)s and part = %(part)s;

-- name: target_is_known
-- Whether another part of this pipeline already loads into this table. Another pipeline does not
-- count: a copied or renamed one would load again what is there.
select exists (
    select
    from checkpoint_etl.lane
    where pipeline = %(pipeline)s and target_oid = %(target_oid)s::oid
);

-- name: note_source
-- Remember the source's identity (first use, or a new timeline of the same source).
update checkpoint_etl.lane
set source_identity = %(source_identity)s::jsonb
where pipeline = %(pipeline)s and part = %(part)s;

-- name: note_pipeline
-- What the pipeline is now, for people and for admin; after a reset also what must not change.
update checkpoint_etl.lane
set settings = %(settings)s::jsonb,
    fingerprint = case when fingerprint = '' then %(fingerprint)s else fingerprint end
where pipeline = %(pipeline)s and part = %(part)s
  and (settings <> %(settings)s::jsonb or fingerprint = '');

-- name: read_run
-- This DAG run's goal, and how many seconds ago its bound was taken (null: it promises nothing).
select low, target, incarnation, swept, done, clear_number,
       case when settled_at > 'epoch'
            then extract(epoch from clock_timestamp() - settled_at)::float8 end
from checkpoint_etl.run
where pipeline = %(pipeline)s and part = %(part)s and dag_id = %(dag_id)s and run_id = %(run_id)s;

-- name: set_target
-- Store the goal under this extract's fence. An unfinished run of this life keeps its target.
-- settled_at is when the bound was taken: what commits while settling waits may be above it.
insert into checkpoint_etl.run
    (pipeline, part, dag_id, run_id, incarnation, low, target, swept, clear_number, settled_at)
select %(pipeline)s, %(part)s, %(dag_id)s, %(run_id)s, %(incarnation)s, %(low)s, %(target)s,
       %(swept)s, %(clear_number)s,
       coalesce(clock_timestamp() - make_interval(secs => %(settled_ago)s), 'epoch')
from checkpoint_etl.stage
where pipeline = %(pipeline)s and part = %(part)s and stage = 'extract' and fence = %(fence)s
on conflict (pipeline, part, dag_id, run_id) do update
set low = case when run.done or run.incarnation <> excluded.incarnation
               then excluded.low else run.low end,
    target = case when run.done or run.incarnation <> excluded.incarnation
                  then excluded.target else run.target end,
    swept = case when run.done or run.incarnation <> excluded.incarnation
                 then excluded.swept else run.swept end,
    settled_at = case when run.done or run.incarnation <> excluded.incarnation
                      then excluded.settled_at else run.settled_at end,
    incarnation = excluded.incarnation,
    clear_number = excluded.clear_number,
    done = false,
    stored_at = clock_timestamp(),
    finished_at = null
returning low, target, incarnation, swept, done, clear_number,
          case when settled_at > 'epoch'
               then extract(epoch from clock_timestamp() - settled_at)::float8 end;

-- name: shorten_target
-- A budgeted extract stopped before its target: the run ends where it stopped. There are rows above
-- that the bound had promised, so nobody is caught up by this run, whenever it settled.
update checkpoint_etl.run
set target = %(target)s, settled_at = 'epoch'
from checkpoint_etl.stage
where run.pipeline = %(pipeline)s and run.part = %(part)s
  and run.dag_id = %(dag_id)s and run.run_id = %(run_id)s
  and stage.pipeline = run.pipeline and stage.part = run.part
  and stage.stage = 'extract' and stage.fence = %(fence)s;

-- name: finish_run
-- The load reached the run's target, under this load's fence. Compared here and not before: the run may
-- have been given another target since, and after a failover the lane may stand lower than what this
-- load has committed.
update checkpoint_etl.run
set done = true, finished_at = coalesce(run.finished_at, clock_timestamp())
from checkpoint_etl.stage, checkpoint_etl.lane
where run.pipeline = %(pipeline)s and run.part = %(part)s
  and run.dag_id = %(dag_id)s and run.run_id = %(run_id)s
  and run.incarnation = %(incarnation)s and run.target = %(target)s
  and lane.pipeline = run.pipeline and lane.part = run.part
  and lane.incarnation = run.incarnation
  and lane.seq = %(seq)s and lane.cursor = %(cursor)s
  and stage.pipeline = run.pipeline and stage.part = run.part
  and stage.stage = 'load' and stage.fence = %(fence)s;

-- name: prepare_transaction
-- Settings for one load transaction only; durability does not depend on the server's default.
select set_config('synchronous_commit', 'on', true),
       set_config('application_name', %(application_name)s, true),
       set_config('lock_timeout', %(lock_timeout)s, true),
       set_config('statement_timeout', %(statement_timeout)s, true),
       set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, true),
       set_config('timezone', 'UTC', true),
       set_config('datestyle', 'ISO, YMD', true),
       -- as the source session has them: text that was read so is read back so
       set_config('intervalstyle', 'iso_8601', true),
       set_config('extra_float_digits', '3', true),
       set_config('bytea_output', 'hex', true),
       set_config('checkpoint_etl.chunk', '', true);

-- name: advance_lane
-- The compare-and-set, first in the load transaction, and the ledger row with it. A second attempt
-- blocks here on the row and then finds 0 rows: an in-doubt commit resolves itself.
with moved as (
    update checkpoint_etl.lane
    set seq = %(seq)s, cursor = %(high)s, state_digest = %(state_digest)s,
        swept = case when %(swept)s = '' then swept else %(swept)s end,
        rows_total = rows_total + %(rows)s, target_oid = coalesce(%(target_oid)s::oid, target_oid),
        updated_at = clock_timestamp()
    where pipeline = %(pipeline)s and part = %(part)s
      and incarnation = %(incarnation)s and load_fence = %(fence)s
      and seq = %(seq)s - 1 and cursor = %(low)s and state_digest = %(state_in)s
      and (%(swept)s = '' or swept = %(swept_in)s)
      and not sealed
    returning generation, swept, plan_id
)
insert into checkpoint_etl.ledger
    (pipeline, part, incarnation, generation, seq, low, high, rows_in, rows, rows_rejected, digest,
     input_digest, state_digest, state, swept, schema_digest, fence, dag_id, run_id, task_id, map_index,
     try_number, plan_id)
select %(pipeline)s, %(part)s, %(incarnation)s, moved.generation, %(seq)s, %(low)s, %(high)s,
       %(rows_in)s, %(rows)s, %(rejected)s, %(digest)s, %(input_digest)s, %(state_digest)s, %(state)s,
       moved.swept, %(schema_digest)s, %(fence)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s,
       %(try_number)s, moved.plan_id
from moved
returning id, generation, swept;

-- name: stamp_ledger
-- When the rows were in, just before the commit.
update checkpoint_etl.ledger set loaded_at = clock_timestamp() where id = %(id)s;

-- name: count_passed
-- A chunk whose rows came straight from the source: they are counted when they are in. The lane's row is
-- this transaction's since its compare-and-set.
with counted as (
    update checkpoint_etl.ledger
    set rows_in = %(rows)s, rows = %(rows)s, loaded_at = clock_timestamp()
    where id = %(id)s
    returning pipeline, part
)
update checkpoint_etl.lane
set rows_total = rows_total + %(rows)s, target_oid = %(target_oid)s::oid
from counted
where lane.pipeline = counted.pipeline and lane.part = counted.part;

-- name: other_loaders
-- Other lanes that load into a table: what they have loaded must not be emptied away.
select pipeline || case when part = 'default' then '' else '[' || part || ']' end
from checkpoint_etl.lane
where target_oid = %(target_oid)s::oid and (pipeline, part) <> (%(pipeline)s, %(part)s)
order by 1;

-- name: count_refused
-- The target refused rows of the chunk: what advance_lane counted as loaded is in quarantine instead.
with refused as (
    update checkpoint_etl.ledger
    set rows = rows - %(refused)s, rows_rejected = rows_rejected + %(refused)s
    where id = %(id)s
    returning pipeline, part
)
update checkpoint_etl.lane
set rows_total = rows_total - %(refused)s
from refused
where lane.pipeline = refused.pipeline and lane.part = refused.part;

-- name: tally
-- What this DAG run's chunks that count have read and rejected, over all its tries.
select coalesce(sum(rows_in), 0)::bigint, coalesce(sum(rows_rejected), 0)::bigint
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and dag_id = %(dag_id)s and run_id = %(run_id)s
  and rewound_at is null;

-- name: loaded_chunk
-- What was loaded under this number, to tell "already loaded" from "something else is there".
select digest, rows, id, rows_rejected
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and incarnation = %(incarnation)s
  and seq = %(seq)s;

-- name: loaded_before
-- The newest chunk whose ledger row has been durable for the whole grace period.
select coalesce(max(seq), 0)
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and incarnation = %(incarnation)s
  and loaded_at < clock_timestamp() - %(grace)s::interval;

-- name: loaded_in_run
-- Chunks that count and that this DAG run has loaded, over all its tries.
select count(*)
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and dag_id = %(dag_id)s and run_id = %(run_id)s
  and rewound_at is null;

-- name: caught_up
-- Whether a run whose bound was settled at or after a moment has been loaded to its end.
select exists (
    select
    from checkpoint_etl.run
    join checkpoint_etl.lane using (pipeline, part, incarnation)
    where pipeline = %(pipeline)s and part = %(part)s and run.done
      and run.settled_at >= %(not_before)s::timestamptz
);
