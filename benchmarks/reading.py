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
CALLS: Final = 20


def measure(bench: Bench) -> dict[str, Any]:
    """Fill a ledger and time the read model's calls."""
    prefill.prepare(bench.warehouse)
    prefill.fill(bench.warehouse, LANES, 0, CHUNKS)
    session = Session(lambda: psycopg.connect(bench.warehouse), "checkpoint_etl benchmark")
    store = PostgresCheckpointStore(lambda: psycopg.connect(bench.warehouse))
    store.preflight()
    warehouse = LedgerInsights(session)
    lane = Lane("scale", "lane-7")
    calls: dict[str, Callable[[], Any]] = {
        "every lane's name": warehouse.lanes,
        "one lane, with its newest runs and events": lambda: insights.lane_insight(
            warehouse, store, lane
        ),
        "all lanes, one after the other": lambda: [
            warehouse.loaded(one, 1) for one in warehouse.lanes()
        ],
    }
    try:
        return {
            "lanes": LANES,
            "chunks": LANES * CHUNKS,
            "calls": CALLS,
            "ms": {name: _median_ms(call) for name, call in calls.items()},
        }
    finally:
        store.close()
        session.close()


def _median_ms(call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)
