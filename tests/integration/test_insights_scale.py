"""Insights stay cheap: whatever the ledger holds, an answer visits a bounded number of rows."""

from __future__ import annotations

import json

import psycopg
import pytest

from airflow_checkpoint_etl.insights import Insights
from airflow_checkpoint_etl.migrations import migrate
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Lane
from airflow_checkpoint_etl.warehouses.insights import LedgerInsights
from airflow_checkpoint_etl.warehouses.ledger import SCHEMA

LANES, CHUNKS, RUNS, REJECTED = 200, 10_000, 5_000, 20_000
BIG = Lane("pipeline_100")

FILL = f"""
insert into checkpoint_etl.lane (pipeline, part, incarnation, seq, cursor, rows_total, fingerprint, settings)
select 'pipeline_' || n, 'default', 'a1', 40, 'i8:4000', 4000, 'f', '{{"source": "public.orders"}}'
from generate_series(1, {LANES}) as n;
insert into checkpoint_etl.stage (pipeline, part, stage, fence, dag_id, run_id, task_id, map_index,
                                  try_number, host, acquired_at)
select 'pipeline_' || n, 'default', stage, 1, 'dag', 'run_1', stage, -1, 1, 'host', now()
from generate_series(1, {LANES}) as n, unnest(array['extract', 'transform', 'load']) as stage;
insert into checkpoint_etl.run (pipeline, part, dag_id, run_id, incarnation, low, target, done, settled_at,
                                stored_at)
select 'pipeline_' || n, 'default', 'dag', 'run_' || run, 'a1', 'begin', 'i8:4000', true,
       now() - make_interval(mins => 200 - run), now() - make_interval(mins => 200 - run)
from generate_series(1, {LANES}) as n, generate_series(1, 50) as run;
insert into checkpoint_etl.run (pipeline, part, dag_id, run_id, incarnation, low, target, done, settled_at,
                                stored_at)
select '{BIG.pipeline}', 'default', 'dag', 'big_' || run, 'a1', 'begin', 'i8:4000', true,
       now() - make_interval(mins => 9000 - run), now() - make_interval(mins => 9000 - run)
from generate_series(1, {RUNS}) as run;
insert into checkpoint_etl.ledger
    (pipeline, part, incarnation, generation, seq, low, high, rows_in, rows, rows_rejected, digest,
     input_digest, fence, dag_id, run_id, task_id, map_index, try_number, started_at, loaded_at)
select 'pipeline_' || n, 'default', 'a1', 1, seq, 'i8:' || (seq - 1) * 100, 'i8:' || seq * 100, 100,
       case when seq % 5 = 0 then 98 else 100 end, case when seq % 5 = 0 then 2 else 0 end, 'd', 'd', 1,
       'dag', 'run_' || seq, 'load', -1, 1, now() - make_interval(secs => {CHUNKS} - seq),
       now() - make_interval(secs => {CHUNKS} - seq)
from generate_series(1, {LANES}) as n,
     lateral generate_series(1, case when n = 100 then {CHUNKS} else 200 end) as seq;
insert into checkpoint_etl.quarantine (ledger_id, ordinal, stage, position, cursor, reason)
select id, ordinal, 'transform', ordinal, high, 'ValueError in clean'
from checkpoint_etl.ledger, generate_series(0, {REJECTED} / {CHUNKS} * 5 - 1) as ordinal
where rows_rejected > 0 and (pipeline = '{BIG.pipeline}' or seq <= 20);
insert into checkpoint_etl.event (pipeline, part, kind, actor)
select 'pipeline_' || (n % {LANES} + 1), 'default', 'release', 'ann' from generate_series(1, 20000) as n;
"""


class Explained(Session):
    """A session that explains its statements, and adds up how many rows they visit."""

    def __init__(self, connect):
        super().__init__(connect, "checkpoint_etl insights")
        self.plans = []

    def rows(self, statement, parameters=None):
        if "checkpoint_etl." in statement and "to_regclass" not in statement:
            explain = "explain (analyze, format json) " + statement
            (plan,) = super().rows(explain, parameters)[0]
            self.plans.append((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"])
        return super().rows(statement, parameters)

    def visited(self):
        """Rows read from tables and indexes, discarded ones included."""
        rows = 0
        for plan in self.plans:
            nodes = [plan]
            while nodes:
                node = nodes.pop()
                nodes += node.get("Plans", [])
                if "Relation Name" not in node:
                    continue
                discarded = node.get("Rows Removed by Filter", 0)
                rows += (node["Actual Rows"] + discarded) * node["Actual Loops"]
        return rows


@pytest.fixture(scope="module")
def filled(postgres_server):
    dsn = postgres_server.create_database("insights_scale")
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrate(connection, "ledger", SCHEMA)
        connection.execute(FILL)
        connection.execute("vacuum analyze")
    yield dsn
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute("drop database insights_scale with (force)")


@pytest.fixture
def explained(filled):
    session = Explained(lambda: psycopg.connect(filled))
    yield session
    session.close()


@pytest.fixture
def insights(explained):
    return Insights(LedgerInsights(explained), "dwh", lambda _: None, lambda _: "")


@pytest.mark.parametrize(
    ("ask", "most"),
    [
        (lambda insights: insights.pipelines(limit=200), 40_000),
        (lambda insights: insights.pipelines("pipeline_19", limit=50), 4_000),
        (lambda insights: insights.lane(BIG), 60_000),
        (lambda insights: insights.chunks(BIG, limit=50), 200),
        (lambda insights: insights.chunks(BIG, before=5_000, limit=200), 500),
        (lambda insights: insights.throughput(BIG), 10_500),
        (lambda insights: insights.events(BIG, limit=50), 200),
        (lambda insights: insights.events(BIG, before=10_000, limit=50), 200),
        (lambda insights: insights.quarantine(BIG, limit=50), 40_000),
        (lambda insights: insights.explain(BIG), 60_000),
    ],
    ids=[
        "list",
        "search",
        "lane",
        "chunks",
        "chunks_later",
        "throughput",
        "events",
        "events_later",
        "quarantine",
        "explain",
    ],
)
def test_an_answer_visits_a_bounded_number_of_rows(insights, explained, ask, most):
    assert ask(insights)
    assert explained.visited() <= most
