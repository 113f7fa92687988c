"""What starting costs beyond Airflow's own start: reading a DAG file, and a retry's first new row."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

import psycopg

from benchmarks import table
from benchmarks.cases import three_stages
from benchmarks.measure import ROOT, Child, MeasurementError, measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.servers import Bench

ROWS: Final = 300_000
CHUNK_ROWS: Final = 50_000
KILLED_AT: Final = 3
"""The load dies before its third chunk."""
PARSE_GOAL: Final = 0.3
RESUME_GOAL: Final = 2.0
"""Seconds that the project allows itself."""
DAG_FILE: Final = "dags/orders_to_warehouse.py"
_WAIT_SECONDS: Final = 60.0


def parse_seconds(repetitions: int) -> dict[str, float]:
    """Seconds of reading a DAG file of this package in a process that has imported Airflow."""
    taken = [
        measured("benchmarks.airflow_alone:read", {"path": str(ROOT / DAG_FILE)}).seconds
        for _ in range(repetitions)
    ]
    return {"median": statistics.median(taken), "lowest": min(taken), "highest": max(taken)}


def resume_seconds(bench: Bench, repetitions: int) -> dict[str, float]:
    """Seconds from the start of a retry's process to its first new rows, and Airflow's share of it."""
    table.create_source(bench.source, ROWS)
    airflow = [_airflow_start() for _ in range(repetitions)]
    resumed = [_resume(bench) for _ in range(repetitions)]
    return {
        "airflow": statistics.median(airflow),
        "first_row": statistics.median(resumed),
        "beyond": statistics.median(resumed) - statistics.median(airflow),
    }


def _airflow_start() -> float:
    """Seconds until a process has imported what Airflow's own task runner imports."""
    started = time.perf_counter()
    with Child("benchmarks.airflow_alone:nothing", {}) as child:
        child.wait_ready()
        return time.perf_counter() - started


def _resume(bench: Bench) -> float:
    """Kill a load between two chunks; return how long its retry takes until a third is visible."""
    bench.clear()
    table.create_target(bench.warehouse)
    with tempfile.TemporaryDirectory(prefix="checkpoint-etl-staged-") as files:
        options = {"staging": f"file://{files}", "source": {"chunk_rows": CHUNK_ROWS}}
        environment = bench.connections()
        for index in (0, 1):
            measured("benchmarks.task:run", _arguments(index, options), environment)
        load = _arguments(2, options)
        killing = {"CHECKPOINT_ETL_FAILPOINTS": f"load.before_load@{KILLED_AT}=kill"}
        with contextlib.suppress(MeasurementError):  # it dies without an answer, as it should
            measured("benchmarks.task:run", load, environment | killing)
        with psycopg.connect(bench.warehouse, autocommit=True) as connection:
            before = _loaded(connection)
            if before != KILLED_AT - 1:
                message = f"the killed load left {before} chunks, not {KILLED_AT - 1}"
                raise MeasurementError(message)
            started = time.perf_counter()
            with Child("benchmarks.task:run", load, environment) as retry:
                retry.go()
                while _loaded(connection) == before:
                    if time.perf_counter() - started > _WAIT_SECONDS:
                        message = f"no new chunk within {_WAIT_SECONDS:.0f} s"
                        raise MeasurementError(message)
                    time.sleep(0.002)
                taken = time.perf_counter() - started
                retry.wait_ready().result()
    return taken


def _arguments(index: int, options: Mapping[str, Any]) -> dict[str, Any]:
    tasks = [{"operator": task.operator, "options": {}} for task in three_stages()]
    return {"tasks": tasks, "index": index, "made_from": options}


def _loaded(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute("select count(*) from checkpoint_etl.ledger").fetchone()
    return int(found[0]) if found else 0
