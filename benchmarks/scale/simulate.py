"""The simulation: the cost of a chunk beside ever longer histories, then many lanes on the longest."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg

from benchmarks.measure import measured, measured_together
from benchmarks.scale import prefill

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.servers import Bench

WORKERS: Final = 2
FUNCTION: Final = "benchmarks.scale.drive:run"


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the simulation is.

    Attributes:
        lanes: lanes with a history.
        histories: chunks of each lane's history, rising.
        probe: lanes driven beside each history.
        chunks: chunks by which a lane is driven.
        seconds: that driving all lanes may take.
    """

    lanes: int = 1000
    histories: tuple[int, ...] = (0, 1000, 10_000)
    probe: int = 6
    chunks: int = 50
    seconds: float = 600.0


SMALL: Final = Plan(lanes=100, histories=(0, 100, 1000), probe=10, chunks=20)


def simulate(bench: Bench, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure beside every history with both stores, then drive all lanes beside the longest."""
    prefill.prepare(bench.warehouse)
    levels = []
    before = 0
    for history in plan.histories:
        prefill.fill(bench.warehouse, plan.lanes, before, history)
        before = history
        rows = history * plan.lanes
        say(f"the ledger has {rows:,} rows")
        for store in ("redis", "postgres"):
            bench.client().flushall()
            _forget(bench, store)
            pages = bench.warehouse_pages()
            taken = measured(
                FUNCTION,
                _arguments(bench, store, range(plan.probe), plan, f"{store}-{history}", 60.0),
            ).value
            medians = _medians(taken)
            pages = bench.warehouse_pages() - pages
            levels.append(
                {
                    "ledger_rows": rows,
                    "store": store,
                    "ms": medians,
                    "pages_a_chunk": pages / (len(taken["chunk"]) * plan.chunks),
                }
            )
            say(
                f"  {store}: {medians['chunk']:.2f} ms a chunk, {medians['load']:.2f} of it its load"
            )
            _step_back(bench, plan, history)
    return {
        "lanes": plan.lanes,
        "chunks_a_lane": plan.chunks,
        "probe_lanes": plan.probe,
        "levels": levels,
        "driven": _drive_all(bench, plan, say),
        "ledger_bytes_a_row": _ledger_bytes(bench),
    }


def _drive_all(bench: Bench, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Drive every lane, half of them on each store, by workers beside each other."""
    stores = ("redis", "postgres")
    functions = [
        (
            FUNCTION,
            _arguments(
                bench,
                stores[worker % 2],
                range(worker, plan.lanes, WORKERS),
                plan,
                "all-lanes",
                plan.seconds,
            ),
        )
        for worker in range(WORKERS)
    ]
    _forget(bench, "postgres")
    bench.client().flushall()
    wal, memory = bench.wal_bytes(), _redis_bytes(bench)
    answers = measured_together(functions, bench.connections())
    wal, memory = bench.wal_bytes() - wal, _redis_bytes(bench) - memory
    lanes = sum(len(one.value["chunk"]) for one in answers)
    chunks = lanes * plan.chunks
    seconds = max(one.ended for one in answers) - min(one.started for one in answers)
    say(f"{chunks:,} chunks of {lanes:,} lanes in {seconds:.0f} s")
    return {
        "chunks": chunks,
        "lanes": lanes,
        "seconds": seconds,
        "workers": WORKERS,
        "wal_bytes_a_chunk": wal / chunks,
        "redis_bytes_a_chunk": memory / (chunks / len(stores)),
        "tenths": [
            {"store": store, "ms": _tenths(answer.value)}
            for store, answer in zip(stores, answers, strict=True)
        ],
    }


def _arguments(
    bench: Bench, store: str, lanes: range, plan: Plan, run_id: str, seconds: float
) -> dict[str, Any]:
    return {
        "warehouse": bench.warehouse,
        "checkpoints": bench.checkpoints if store == "postgres" else None,
        "redis_port": bench.valkey.port,
        "lanes": list(lanes),
        "chunks": plan.chunks,
        "run_id": run_id,
        "seconds": seconds,
    }


def _medians(taken: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in taken.items()}


def _tenths(taken: dict[str, list[float]]) -> dict[str, list[float]]:
    """Medians over the first, the second, ... tenth of what was done."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, values in taken.items():
        for tenth in range(10):
            part = values[len(values) * tenth // 10 : len(values) * (tenth + 1) // 10]
            if part:
                found[name].append(statistics.median(part))
    return dict(found)


def _step_back(bench: Bench, plan: Plan, history: int) -> None:
    """Remove what was driven, so that the next store finds the same history."""
    with psycopg.connect(bench.warehouse, autocommit=True) as connection:
        connection.execute("delete from checkpoint_etl.ledger where seq > %s", (history,))
        connection.execute("delete from checkpoint_etl.run where run_id not like 'past-%'")
        connection.execute("truncate public.scale_target")
    prefill.stand(bench.warehouse, plan.lanes, history)


def _forget(bench: Bench, store: str) -> None:
    if store == "postgres":
        with psycopg.connect(bench.checkpoints, autocommit=True) as connection:
            connection.execute("drop schema if exists checkpoint_etl cascade")


def _redis_bytes(bench: Bench) -> int:
    return int(bench.client().info("memory")["used_memory"])


def _ledger_bytes(bench: Bench) -> dict[str, float]:
    """Bytes of a ledger row in the table and in its indexes, as they stand after filling."""
    with psycopg.connect(bench.warehouse) as connection:
        found = connection.execute(
            "select pg_relation_size('checkpoint_etl.ledger')::float8, "
            "pg_indexes_size('checkpoint_etl.ledger')::float8, "
            "(select count(*) from checkpoint_etl.ledger)::float8"
        ).fetchone()
    table, indexes, rows = found or (0.0, 0.0, 1.0)
    return {"table": table / max(rows, 1), "indexes": indexes / max(rows, 1)}
