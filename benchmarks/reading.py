"""What the read model costs with many lanes: it is asked whenever somebody opens a page."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, Final

import psycopg

from airflow_checkpoint_etl import insights
from airflow_checkpoint_etl.checkpoints.postgres import PostgresCheckpointStore
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Lane
from airflow_checkpoint_etl.warehouses.insights import LedgerInsights
from benchmarks.scale import prefill

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.servers import Bench

LANES: Final = 200
CHUNKS: Final = 50
LONG: Final = 10_000
"""Chunks of the one lane that has a long history."""
CALLS: Final = 20
GOAL_MS: Final = 300


def measure(bench: Bench) -> dict[str, Any]:
    """Fill a ledger and time the read model's calls."""
    prefill.prepare(bench.warehouse)
    prefill.fill(bench.warehouse, LANES, 0, CHUNKS)
    prefill.fill(bench.warehouse, 1, CHUNKS, LONG)
    session = Session(lambda: psycopg.connect(bench.warehouse), "checkpoint_etl benchmark")
    store = PostgresCheckpointStore(lambda: psycopg.connect(bench.warehouse))
    store.preflight()
    try:
        calls = _calls(insights, LedgerInsights(session), store)
        return {
            "lanes": LANES,
            "chunks": (LANES - 1) * CHUNKS + LONG,
            "long": LONG,
            "calls": CALLS,
            "goal_ms": GOAL_MS,
            "ms": {name: _median_ms(call) for name, call in calls.items()},
        }
    finally:
        store.close()
        session.close()


def _calls(model: Any, warehouse: Any, store: Any) -> dict[str, Callable[[], Any]]:
    """What this version's read model can be asked; ``model`` is its module."""
    lane = Lane("scale", "lane-0")
    if not hasattr(model, "Insights"):
        return {
            "every lane's name": warehouse.lanes,
            "a lane with its newest runs and events": lambda: model.lane_insight(
                warehouse, store, lane
            ),
        }
    read = model.Insights(warehouse, "dwh", lambda _: store, lambda _: "")
    return {
        "all lanes, as a list": lambda: read.pipelines(limit=200),
        "lanes that a text is searched in": lambda: read.pipelines("lane-19", limit=50),
        "a lane as a whole": lambda: read.lane(lane),
        "its newest chunks": lambda: read.chunks(lane, limit=50),
        "its throughput": lambda: read.throughput(lane),
        "its events": lambda: read.events(lane),
        "its quarantine": lambda: read.quarantine(lane),
    }


def _median_ms(call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)
