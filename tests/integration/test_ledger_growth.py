"""Asking the ledger costs the same after years: counted in pages that a statement visits."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
import pytest

from airflow_checkpoint_etl.warehouses.ledger import SQL
from benchmarks.scale import prefill

LANES = 100
CHUNKS = 600
FEW_PAGES = 150
"""A run has a hundred chunks of the lane; each may be on a page of its own."""

KEY: dict[str, Any] = {"pipeline": "scale", "part": "lane-7"}
RUN = KEY | {"dag_id": "scale", "run_id": "past-3"}
QUESTIONS = {
    "read_lane": KEY,
    "read_run": RUN,
    "loaded_in_run": RUN,
    "tally": RUN,
    "loaded_before": KEY | {"incarnation": "past", "grace": dt.timedelta(minutes=15)},
    "loaded_chunk": KEY | {"incarnation": "past", "seq": 400},
    "caught_up": KEY | {"not_before": dt.datetime(2030, 1, 1, tzinfo=dt.UTC)},
}


@pytest.fixture(scope="module")
def long_history(postgres_server):
    """A ledger of a hundred lanes with sixty thousand chunks in a few runs, and many old runs."""
    dsn = postgres_server.create_database("ledger_growth")
    prefill.prepare(dsn)
    prefill.fill(dsn, LANES, 0, CHUNKS)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """
            insert into checkpoint_etl.run
                (pipeline, part, dag_id, run_id, incarnation, low, target, done, settled_at)
            select 'scale', 'lane-7', 'scale', 'older-' || n, 'past', 'i8:0', 'i8:0', true,
                   '2020-01-01Z'::timestamptz + n * interval '1 hour'
            from generate_series(1, 20000) as n
            """
        )
        connection.execute("vacuum (analyze) checkpoint_etl.run")
        yield connection
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute("drop database ledger_growth with (force)")


def pages(connection, question):
    """Return how many pages one of the ledger's statements visits."""
    with psycopg.ClientCursor(connection) as command:
        explain = f"explain (analyze, buffers, format json) {SQL[question]}"
        (plan,) = command.execute(explain, QUESTIONS[question]).fetchone()[0]
    return plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_visits_few_pages_however_long_the_history_is(long_history, question):
    assert pages(long_history, question) <= FEW_PAGES


@pytest.mark.parametrize(
    ("question", "index"), [("loaded_in_run", "ledger_by_run"), ("caught_up", "run_complete")]
)
def test_without_its_index_a_question_visits_many_pages(long_history, question, index):
    """The negative control: the history is long enough to tell."""
    with long_history.transaction(force_rollback=True):
        long_history.execute(f"drop index checkpoint_etl.{index}")
        assert pages(long_history, question) > FEW_PAGES
