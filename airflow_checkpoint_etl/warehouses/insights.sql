-- Named statements of the read model; each starts at its "name" line. They read and lock nothing. All of one
-- answer run in one snapshot, and every one is bounded: by a page, by a limit, or by an index on one lane.

-- name: settings
-- What the pipeline looked like when its extract ran last.
select settings
from checkpoint_etl.lane
where pipeline = %(pipeline)s and part = %(part)s;

-- name: lanes
-- A page of lanes, by name: those that hold a text, or one.
with page as (
    select *
    from checkpoint_etl.lane
    where (%(pattern)s::text is null
           or pipeline ilike %(pattern)s or part ilike %(pattern)s
           or settings ->> 'source' ilike %(pattern)s or settings ->> 'target' ilike %(pattern)s)
      and (%(after_pipeline)s::text is null
           or (pipeline, part) > (%(after_pipeline)s, %(after_part)s))
      and (%(pipeline)s::text is null or (pipeline, part) = (%(pipeline)s, %(part)s))
    order by pipeline, part
    limit %(limit)s
)
select page.pipeline, page.part, clock_timestamp(), page.generation, page.incarnation, page.seq,
       page.cursor, page.rows_total, page.updated_at, page.settings,
       complete.settled_at, recent.chunks, recent.rows, recent.seconds, recent.low, quarantined.number,
       run.dag_id, run.run_id, run.low, run.target, run.done, run.stored_at, run.settled_at,
       run.finished_at, run.incarnation
from page
left join lateral (
    select *
    from checkpoint_etl.run
    where run.pipeline = page.pipeline and run.part = page.part
    order by stored_at desc
    limit 1
) as run on true
left join lateral (
    select settled_at
    from checkpoint_etl.run
    where run.pipeline = page.pipeline and run.part = page.part
      and run.incarnation = page.incarnation and run.done
    order by settled_at desc
    limit 1
) as complete on true
left join lateral (
    -- The last chunks that one attempt loaded one after another.
    select count(*) as chunks, sum(rows)::bigint as rows,
           extract(epoch from max(loaded_at) - min(started_at))::float8 as seconds,
           (array_agg(low order by seq))[1] as low
    from (select ledger.seq, ledger.low, ledger.rows, ledger.started_at, ledger.loaded_at, ledger.fence,
                 first_value(ledger.fence) over (order by seq desc) as newest_fence
          from checkpoint_etl.ledger
          where ledger.pipeline = page.pipeline and ledger.part = page.part
            and ledger.rewound_at is null
          order by seq desc
          limit %(recent)s) as last
    where fence = newest_fence
) as recent on true
left join lateral (
    select count(*) as number
    from (select
          from checkpoint_etl.ledger
          cross join lateral (select
                              from checkpoint_etl.quarantine
                              where quarantine.ledger_id = ledger.id
                              limit %(quarantined)s) as record
          where ledger.pipeline = page.pipeline and ledger.part = page.part
            and ledger.rows_rejected > 0
          limit %(quarantined)s) as first_ones
) as quarantined on true
order by page.pipeline, page.part;

-- name: stages
-- The stages of those lanes: who has them, what they wait for, why they failed.
select pipeline, part, stage, fence, dag_id, run_id, task_id, map_index, try_number, host, acquired_at,
       coalesce(extract(epoch from lease_until - clock_timestamp()), 0)::float8, note,
       failure, failures, failed_at
from checkpoint_etl.stage
where (pipeline, part) in (select * from unnest(%(pipelines)s::text[], %(parts)s::text[]));

-- name: runs
-- The newest DAG runs, or one, with what they loaded.
select run.dag_id, run.run_id, run.low, run.target, run.done, count(ledger.id),
       coalesce(sum(ledger.rows), 0)::bigint, coalesce(sum(ledger.rows_rejected), 0)::bigint,
       run.stored_at, run.settled_at, run.finished_at, run.incarnation
from (select *
      from checkpoint_etl.run
      where pipeline = %(pipeline)s and part = %(part)s
        and (%(dag_id)s::text is null or (dag_id, run_id) = (%(dag_id)s, %(run_id)s))
      order by stored_at desc
      limit %(newest)s) as run
left join checkpoint_etl.ledger
  on ledger.pipeline = run.pipeline and ledger.part = run.part and ledger.dag_id = run.dag_id
  and ledger.run_id = run.run_id and ledger.rewound_at is null
group by run.dag_id, run.run_id, run.low, run.target, run.done, run.stored_at, run.settled_at,
         run.finished_at, run.incarnation
order by run.stored_at desc;

-- name: chunks
-- A page of the current chain, the newest first.
select seq, low, high, rows_in, rows, rows_rejected, generation, dag_id, run_id, try_number, started_at,
       loaded_at, extract(epoch from loaded_at - started_at)::float8, id, low = high,
       task_id, map_index
from checkpoint_etl.ledger
where pipeline = %(pipeline)s and part = %(part)s and rewound_at is null
  and (%(before)s::bigint is null or seq < %(before)s)
  and (%(dag_id)s::text is null or (dag_id, run_id) = (%(dag_id)s, %(run_id)s))
order by seq desc
limit %(limit)s;

-- name: sparklines
-- Rows loaded lately by lane, from the newest chunks of each; spans without any are left out.
select lane.pipeline, lane.part, recent.place, sum(recent.rows)::bigint
from unnest(%(pipelines)s::text[], %(parts)s::text[]) as lane (pipeline, part)
cross join lateral (
    select rows,
           %(buckets)s - 1
           - floor(extract(epoch from clock_timestamp() - loaded_at) / %(bucket)s)::integer as place
    from (select rows, loaded_at
          from checkpoint_etl.ledger
          where ledger.pipeline = lane.pipeline and ledger.part = lane.part and rewound_at is null
          order by seq desc
          limit %(limit)s) as newest
) as recent
where recent.place between 0 and %(buckets)s - 1
group by lane.pipeline, lane.part, recent.place;

-- name: lanes_of
-- The lanes that a DAG run has a goal on.
select pipeline, part
from checkpoint_etl.run
where dag_id = %(dag_id)s and run_id = %(run_id)s
order by pipeline, part
limit %(limit)s;

-- name: tries
-- What the tries of a DAG run's load did, the newest first, with what earlier ones had done.
select try_number,
       (sum(count(*)) over (order by min(seq)) - count(*))::bigint,
       count(*), sum(rows)::bigint,
       (array_agg(low order by seq))[1], (array_agg(high order by seq desc))[1],
       min(started_at), extract(epoch from max(loaded_at) - min(started_at))::float8
from checkpoint_etl.ledger
where dag_id = %(dag_id)s and run_id = %(run_id)s and pipeline = %(pipeline)s and part = %(part)s
  and rewound_at is null
group by try_number
order by min(seq) desc
limit %(limit)s;

-- name: throughput
-- Rows loaded over time, from the newest chunks. Buckets without any are left out, but the first row says
-- where they begin and whether there were more chunks than are looked at.
with newest as (
    select rows, rows_rejected, loaded_at
    from checkpoint_etl.ledger
    where pipeline = %(pipeline)s and part = %(part)s and rewound_at is null
    order by seq desc
    limit %(limit)s
), spanned as (
    select *, floor(extract(epoch from loaded_at) / %(bucket)s)::bigint as bucket
    from newest
    where loaded_at > clock_timestamp() - make_interval(secs => %(seconds)s)
)
select floor(extract(epoch from clock_timestamp()) / %(bucket)s)::bigint, null, null, null,
       (select count(*) from spanned) = %(limit)s
union all
select bucket, sum(rows)::bigint, count(*), sum(rows_rejected)::bigint, false
from spanned
group by bucket;

-- name: events
-- A page of events, the newest first.
select id, kind, actor, detail, created_at
from checkpoint_etl.event
where pipeline = %(pipeline)s and part = %(part)s and (%(before)s::bigint is null or id < %(before)s)
order by id desc
limit %(limit)s;

-- Laterals with limits: a chunk may have rejected everything, and a join would look at all of a lane's.

-- name: reasons
-- The newest quarantined records by stage and reason, the most frequent first; and how many there are.
select stage, reason, count(*), max(created_at), (array_agg(cursor))[1], sum(count(*)) over ()
from (select record.*
      from checkpoint_etl.ledger
      cross join lateral (select stage, reason, created_at, cursor
                          from checkpoint_etl.quarantine
                          where quarantine.ledger_id = ledger.id
                          order by ordinal desc
                          limit %(counted)s) as record
      where ledger.pipeline = %(pipeline)s and ledger.part = %(part)s and ledger.rows_rejected > 0
      order by ledger.id desc
      limit %(counted)s) as newest
group by stage, reason
order by count(*) desc, stage, reason
limit %(reasons)s;

-- name: rejected
-- A page of quarantined records, the newest first; their values only where they are asked for.
select record.stage, record.cursor, record.reason, ledger.seq, record.created_at, ledger.id,
       record.ordinal, case when %(payloads)s then record.payload end
from checkpoint_etl.ledger
cross join lateral (select *
                    from checkpoint_etl.quarantine
                    where quarantine.ledger_id = ledger.id
                      and (%(before_id)s::bigint is null
                           or (quarantine.ledger_id, ordinal) < (%(before_id)s, %(before_ordinal)s))
                    order by ordinal desc
                    limit %(limit)s) as record
where ledger.pipeline = %(pipeline)s and ledger.part = %(part)s and ledger.rows_rejected > 0
  and (%(before_id)s::bigint is null or ledger.id <= %(before_id)s)
order by ledger.id desc, record.ordinal desc
limit %(limit)s;
