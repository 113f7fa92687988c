"""Runs a case of the chain: every stage in a process of its own, through the real operators."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks import table
from benchmarks.measure import Child
from benchmarks.result import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.cases import Case
    from benchmarks.measure import Measured
    from benchmarks.servers import Bench


def run(bench: Bench, case: Case, rows: int) -> Result:
    """Move the first ``rows`` rows by the chain and compare what arrived.

    The time is the wall clock's from the first ``execute`` to the end of the last one. All processes
    stand ready before that: what starting them costs is Airflow's.
    """
    bench.clear()
    table.create_target(bench.warehouse)
    wal = bench.wal_bytes()
    files = tempfile.mkdtemp(prefix="checkpoint-etl-staged-")
    try:
        taken = _run_tasks(bench, case, rows, files)
        staged = sum(path.stat().st_size for path in Path(files).rglob("*") if path.is_file())
    finally:
        shutil.rmtree(files, ignore_errors=True)
    changes = table.TRANSFORMED if case.changes else None
    expected = table.expected(bench.source, rows, changed=case.changes)
    seconds = max(one.ended for one in taken.values()) - min(one.started for one in taken.values())
    stages: dict[str, float] = {}
    for (stage, _), one in taken.items():
        stages[stage] = max(stages.get(stage, 0.0), one.seconds)
    return Result(
        name=case.name,
        words=case.words,
        rows=rows,
        seconds=seconds,
        stages=stages,
        cpu_seconds=sum(one.cpu_seconds for one in taken.values()),
        peak_bytes=max(one.peak_bytes for one in taken.values()),
        chunks=_chunks(bench),
        staged_bytes=staged,
        wal_bytes=bench.wal_bytes() - wal,
        verdict=table.verify(bench.source, bench.warehouse, table.TARGET, expected, changes),
    )


def _run_tasks(bench: Bench, case: Case, rows: int, files: str) -> dict[tuple[str, str], Measured]:
    """Run every task of every part; by stage and part."""
    with contextlib.ExitStack() as stack:
        lanes: list[list[tuple[tuple[str, str], Child]]] = []
        states = stack.enter_context(tempfile.TemporaryDirectory()) if case.together else ""
        for number in range(case.parts):
            part, made_from = _part(case, rows, files, number)
            tasks = [
                {"operator": task.operator, "options": {**task.options, "part": part}}
                for task in case.tasks
            ]
            arguments = {"tasks": tasks, "made_from": made_from, "states": states}
            lanes.append(
                [
                    (
                        (task.stage, part),
                        stack.enter_context(
                            Child(
                                "benchmarks.task:run",
                                {**arguments, "index": index},
                                bench.connections(),
                            )
                        ),
                    )
                    for index, task in enumerate(case.tasks)
                ]
            )
        for lane in lanes:
            for _, child in lane:
                child.wait_ready()
        return _run_lanes(lanes, together=case.together)


def _run_lanes(
    lanes: list[list[tuple[tuple[str, str], Child]]], *, together: bool
) -> dict[tuple[str, str], Measured]:
    """Run the lanes beside each other, in each the tasks in order or all at once."""
    taken: dict[tuple[str, str], Measured] = {}
    errors: list[Exception] = []

    def work(lane: list[tuple[tuple[str, str], Child]]) -> None:
        try:
            if together:
                for _, child in lane:
                    child.go()
            for key, child in lane:
                if not together:
                    child.go()
                taken[key] = child.result()
        except Exception as error:  # noqa: BLE001  raised again in the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return taken


def _part(case: Case, rows: int, files: str, number: int) -> tuple[str, Mapping[str, Any]]:
    """A part's name and its pipeline: the part's range of ids."""
    options: dict[str, Any] = {
        name: value.format(files=f"file://{files}") if isinstance(value, str) else value
        for name, value in case.pipeline.items()
    }
    if case.parts == 1 and case.share == 1.0:
        return "default", options
    low, high = rows * number // case.parts, rows * (number + 1) // case.parts
    source = {**options.get("source", {}), "where": f"id > {low} and id <= {high}"}
    return f"range-{number}", {**options, "source": source}


def _chunks(bench: Bench) -> int:
    with psycopg.connect(bench.warehouse) as connection:
        found = connection.execute("select count(*) from checkpoint_etl.ledger").fetchone()
    return int(found[0]) if found else 0
