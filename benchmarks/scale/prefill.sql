-- name: lanes
-- Lanes that have loaded for a long time: each stands at the end of its history.
insert into checkpoint_etl.lane
    (pipeline, part, incarnation, seq, cursor, rows_total, fingerprint)
select 'scale', 'lane-' || lane, 'past', %(chunks)s, 'i8:' || %(chunks)s * 1000::bigint,
       %(chunks)s * 1000::bigint, ''
from generate_series(0, %(lanes)s - 1) as lane
on conflict (pipeline, part) do update
set seq = excluded.seq, cursor = excluded.cursor, incarnation = excluded.incarnation, swept = '';

-- name: runs
-- One DAG run per hundred chunks, each over all lanes, as a mapped task group would have it.
insert into checkpoint_etl.run
    (pipeline, part, dag_id, run_id, incarnation, low, target, done, settled_at, finished_at)
select 'scale', 'lane-' || lane, 'scale', 'past-' || run, 'past', 'i8:' || run * 100000::bigint,
       'i8:' || (run + 1) * 100000::bigint, true,
       '2026-01-01Z'::timestamptz + run * interval '1 hour',
       '2026-01-01Z'::timestamptz + run * interval '1 hour'
from generate_series(%(from)s / 100, (%(chunks)s - 1) / 100) as run,
     generate_series(0, %(lanes)s - 1) as lane
on conflict do nothing;

-- name: ledger
-- Their history, in the order in which it would have come: chunk after chunk, all lanes beside each other.
insert into checkpoint_etl.ledger
    (pipeline, part, incarnation, generation, seq, low, high, rows_in, rows, digest, input_digest,
     schema_digest, fence, dag_id, run_id, task_id, map_index, try_number, xid, started_at, loaded_at)
select 'scale', 'lane-' || lane, 'past', 1, chunk, 'i8:' || (chunk - 1) * 1000::bigint,
       'i8:' || chunk * 1000::bigint, 1000, 1000, repeat(md5(chunk::text), 2),
       repeat(md5(chunk::text), 2), repeat(md5('schema'), 2), 1, 'scale', 'past-' || (chunk - 1) / 100,
       'load', lane, 1, '1', '2026-01-01Z'::timestamptz + chunk * interval '1 minute',
       '2026-01-01Z'::timestamptz + chunk * interval '1 minute'
from generate_series(%(from)s + 1, %(chunks)s) as chunk
cross join lateral generate_series(0 * chunk, %(lanes)s - 1) as lane;
