-- Named statements of the read model; each starts at its "name" line. They read and lock nothing.

-- name: lanes
-- Every lane.
select pipeline, part
from checkpoint_etl.lane
order by pipeline, part;

-- name: lane
-- The lane's load frontier.
select generation, incarnation, seq, cursor, rows_total, updated_at, settings
from checkpoint_etl.lane
where pipeline = %(pipeline)s and part = %(part)s;

-- name: quarantined
-- Quarantined records by the stage that rejected them.
select quarantine.stage, count(*)
from checkpoint_etl.quarantine
join checkpoint_etl.ledger on ledger.id = quarantine.ledger_id
where ledger.pipeline = %(pipeline)s and ledger.part = %(part)s
group by quarantine.stage;

-- name: reasons
-- The newest quarantined records, without their values.
select quarantine.stage, quarantine.cursor, quarantine.reason, ledger.seq, quarantine.created_at
from checkpoint_etl.quarantine
join checkpoint_etl.ledger on ledger.id = quarantine.ledger_id
where ledger.pipeline = %(pipeline)s and ledger.part = %(part)s
order by quarantine.ledger_id desc, quarantine.ordinal desc
limit %(newest)s;

-- name: runs
-- The newest DAG runs, with what they loaded.
select run.dag_id, run.run_id, run.low, run.target, run.done, count(ledger.id),
       coalesce(sum(ledger.rows), 0)::bigint, coalesce(sum(ledger.rows_rejected), 0)::bigint,
       run.settled_at, run.finished_at
from (select *
      from checkpoint_etl.run
      where pipeline = %(pipeline)s and part = %(part)s
      order by settled_at desc, run_id desc
      limit %(newest)s) as run
left join checkpoint_etl.ledger
  on ledger.pipeline = run.pipeline and ledger.part = run.part and ledger.dag_id = run.dag_id
  and ledger.run_id = run.run_id and ledger.rewound_at is null
group by run.dag_id, run.run_id, run.low, run.target, run.done, run.settled_at, run.finished_at
order by run.settled_at desc, run.run_id desc;

-- name: events
-- The newest events.
select kind, actor, detail, created_at
from checkpoint_etl.event
where pipeline = %(pipeline)s and part = %(part)s
order by id desc
limit %(newest)s;
