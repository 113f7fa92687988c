-- Named statements over range plans; each starts at its "name" line. Making, closing and abandoning a
-- plan are one transaction each, and the main lane's row is locked first: they come one after another,
-- and a load of the main lane either commits before them or finds the lane sealed.

-- name: lock_main
-- The main lane, ours until the commit.
select incarnation, generation, seq, cursor, state_digest, swept, target_oid::bigint, settings, plan_id
from checkpoint_etl.lane
where pipeline = %(pipeline)s and part = %(part)s
for update;

-- name: open_plan
-- The plan that is open over the pipeline.
select id, token, pipeline, low, target, bounds
from checkpoint_etl.plan
where pipeline = %(pipeline)s and outcome = 'open';

-- name: make_plan
-- A plan from where the main lane stands; its target was settled some seconds ago.
insert into checkpoint_etl.plan
    (token, pipeline, incarnation, seq, low, target, bounds, swept, settled_at, dag_id, run_id)
values
    (%(token)s, %(pipeline)s, %(incarnation)s, %(seq)s, %(low)s, %(target)s, %(bounds)s::jsonb,
     %(swept)s, coalesce(clock_timestamp() - make_interval(secs => %(settled_ago)s), 'epoch'),
     %(dag_id)s, %(run_id)s)
returning id;

-- name: seal_main
-- From here on no load moves the main lane, whoever acquired it before.
update checkpoint_etl.lane
set plan_id = %(plan_id)s, sealed = true, updated_at = clock_timestamp()
where pipeline = %(pipeline)s and part = %(part)s;

-- name: make_part
-- A part's lane: it starts at the part's low, and is in everything else like the main lane.
insert into checkpoint_etl.lane
    (pipeline, part, incarnation, cursor, source_identity, fingerprint, settings, target_oid, plan_id,
     ends_at)
select pipeline, %(key)s, %(incarnation)s, %(low)s, source_identity, fingerprint, settings, target_oid,
       %(plan_id)s, %(high)s
from checkpoint_etl.lane
where pipeline = %(pipeline)s and part = %(part)s;

-- name: lock_parts
-- The parts of a plan, ours until the commit.
select part, cursor, ends_at, rows_total, target_oid::bigint
from checkpoint_etl.lane
where plan_id = %(plan_id)s and ends_at is not null
order by part
for update;

-- name: part_totals
-- What the parts have loaded, and one digest over the digests of their chunks.
select count(*), coalesce(sum(rows_in), 0)::bigint, coalesce(sum(rows), 0)::bigint,
       coalesce(sum(rows_rejected), 0)::bigint,
       encode(sha256(convert_to(coalesce(string_agg(digest, ' ' order by part, seq), ''), 'UTF8')),
              'hex')
from checkpoint_etl.ledger
where plan_id = %(plan_id)s and rewound_at is null;

-- name: advance_main
-- The compare-and-set of the main lane, from the plan's low to its target, and its one ledger row.
with moved as (
    update checkpoint_etl.lane
    set seq = lane.seq + 1, cursor = plan.target, plan_id = null, sealed = false,
        swept = case when lane.swept = '' then plan.swept else lane.swept end,
        rows_total = lane.rows_total + %(rows)s,
        target_oid = coalesce(%(target_oid)s::oid, lane.target_oid),
        updated_at = clock_timestamp()
    from checkpoint_etl.plan
    where plan.id = %(plan_id)s and plan.outcome = 'open'
      and lane.pipeline = plan.pipeline and lane.part = %(part)s and lane.plan_id = plan.id
      and lane.incarnation = plan.incarnation and lane.seq = plan.seq and lane.cursor = plan.low
    returning lane.incarnation, lane.generation, lane.seq, plan.low, plan.target, lane.swept,
              lane.load_fence
)
insert into checkpoint_etl.ledger
    (pipeline, part, incarnation, generation, seq, low, high, rows_in, rows, rows_rejected, digest,
     input_digest, swept, fence, dag_id, run_id, task_id, map_index, try_number, plan_id)
select %(pipeline)s, %(part)s, moved.incarnation, moved.generation, moved.seq, moved.low, moved.target,
       %(rows_in)s, %(rows)s, %(rejected)s, %(digest)s, %(digest)s, moved.swept, moved.load_fence,
       %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s, %(try_number)s, %(plan_id)s
from moved
returning seq;

-- name: finish_run
-- The DAG run that closed the plan has loaded up to its target, which was settled when it was made.
insert into checkpoint_etl.run
    (pipeline, part, dag_id, run_id, incarnation, low, target, swept, clear_number, done, settled_at,
     finished_at)
select plan.pipeline, %(part)s, %(dag_id)s, %(run_id)s, plan.incarnation, plan.low, plan.target,
       plan.swept, %(clear_number)s, true, plan.settled_at, clock_timestamp()
from checkpoint_etl.plan
where plan.id = %(plan_id)s
on conflict (pipeline, part, dag_id, run_id) do update
set low = case when run.incarnation = excluded.incarnation then run.low else excluded.low end,
    incarnation = excluded.incarnation, target = excluded.target, swept = excluded.swept,
    clear_number = excluded.clear_number, done = true, settled_at = excluded.settled_at,
    stored_at = excluded.stored_at, finished_at = excluded.finished_at;

-- name: end_plan
-- The plan has ended; no load moves its parts any more.
with ended as (
    update checkpoint_etl.plan
    set outcome = %(outcome)s, closed_at = clock_timestamp()
    where id = %(plan_id)s
    returning id
)
update checkpoint_etl.lane
set sealed = true
from ended
where lane.plan_id = ended.id and lane.ends_at is not null;

-- name: unseal_main
-- The main lane loads by itself again.
update checkpoint_etl.lane
set plan_id = null, sealed = false, updated_at = clock_timestamp()
where pipeline = %(pipeline)s and part = %(part)s;

-- name: bury_parts
-- The parts of an abandoned plan: what is staged for them is dead, and who works on them is fenced.
with buried as (
    update checkpoint_etl.lane
    set incarnation = %(incarnation)s, generation = generation + 1
    where plan_id = %(plan_id)s and ends_at is not null
    returning pipeline, part
)
update checkpoint_etl.stage
set fence = fence + 1, lease_until = null, note = null
from buried
where stage.pipeline = buried.pipeline and stage.part = buried.part;

-- name: closed_by_run
-- The plans that a DAG run has closed and that still count: low, target, rows and records rejected.
select plan.id, plan.low, plan.target, ledger.rows, ledger.rows_rejected,
       (select count(*)
        from checkpoint_etl.ledger as chunk
        where chunk.plan_id = plan.id and chunk.part <> ledger.part and chunk.rewound_at is null),
       ledger.seq, ledger.generation
from checkpoint_etl.ledger
join checkpoint_etl.plan on plan.id = ledger.plan_id
where ledger.pipeline = %(pipeline)s and ledger.part = %(part)s
  and ledger.dag_id = %(dag_id)s and ledger.run_id = %(run_id)s and ledger.rewound_at is null
order by ledger.seq desc
limit 1;

-- name: sealing_plan
-- Why a lane is sealed: the plan over it, or the one it is a part of, and how many parts that has at
-- their end.
select plan.id, plan.outcome, plan.dag_id, plan.run_id, plan.created_at,
       (select count(*) filter (where parts.cursor = parts.ends_at)
        from checkpoint_etl.lane as parts
        where parts.plan_id = plan.id and parts.ends_at is not null),
       jsonb_array_length(plan.bounds) + 1
from checkpoint_etl.lane
join checkpoint_etl.plan on plan.id = lane.plan_id
where lane.pipeline = %(pipeline)s and lane.part = %(part)s and lane.sealed;

-- name: uncollected
-- Plans that ended longer ago than the grace period and whose parts may have left something staged.
select id, token, pipeline, low, target, bounds
from checkpoint_etl.plan
where pipeline = %(pipeline)s and outcome <> 'open' and not collected
  and closed_at < clock_timestamp() - %(grace)s::interval;

-- name: note_collected
-- Nothing of its parts is staged any more.
update checkpoint_etl.plan
set collected = true
where id = %(plan_id)s and outcome <> 'open';
