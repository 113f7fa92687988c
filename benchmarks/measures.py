"""The cases by name: each takes the running servers and returns what it found, JSON-ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks import memory, overhead, reading, start, table, transfer
from benchmarks.result import Failure, Result
from benchmarks.scale import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rich.console import Console

    from benchmarks.result import Result
    from benchmarks.servers import Bench


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for.

    Attributes:
        rows: rows of the table.
        repetitions: runs of every way.
        only: names of ways; empty for all.
        peer_folder: where the peers' environments are kept.
        console: takes the progress.
        quick: whether a first look is enough.
        minutes: that the repetitions of the transfer may take.
    """

    rows: int
    repetitions: int
    only: tuple[str, ...]
    peer_folder: Path | None
    console: Console
    quick: bool = False
    minutes: float = 13.0

    def say(self, words: str) -> None:
        """Tell how far it is."""
        self.console.print(words, markup=False, highlight=False)


def measure_transfer(bench: Bench, options: Options) -> dict[str, Any]:
    """Move the table in every way."""
    console = options.console

    def say(way: transfer.Way, repetition: int, outcome: Result | Failure) -> None:
        place = f"{repetition}/{options.repetitions} {way.name}"
        if isinstance(outcome, Failure):
            console.print(f"{place}: {outcome.reason}", style="red", markup=False)
            return
        exact = "exact" if outcome.verdict.exact else outcome.verdict.words
        console.print(
            f"{place}: {outcome.rows:,} rows in {outcome.seconds:.1f} s, "
            f"{outcome.rows_a_second:,.0f} rows/s, {exact}",
            markup=False,
        )

    with console.status(f"filling the source with {options.rows:,} rows"):
        table.create_source(bench.source, options.rows)
    found = transfer.Transfer()
    with console.status("installing peers"):
        ways = transfer.ways(options.rows, options.only, found, options.peer_folder)
    for failure in found.failures.values():
        console.print(f"{failure.name}: {failure.reason}", style="yellow", markup=False)
    repetitions = transfer.measure(
        bench, ways, options.repetitions, found, say, 60.0 * options.minutes
    )
    return {
        "rows": options.rows,
        "row_bytes": table.bytes_a_row(bench.source),
        "repetitions": repetitions,
        **found.as_json(),
    }


def measure_overhead(bench: Bench, options: Options) -> dict[str, Any]:
    """Time the protocol's steps, and count what the servers are asked."""
    with options.console.status("the protocol's steps"):
        return {
            "chunks": overhead.LANES * overhead.CHUNKS,
            "milliseconds": overhead.milliseconds(bench),
            "wire": overhead.wire(bench),
        }


def measure_start(bench: Bench, options: Options) -> dict[str, Any]:
    """Time what starting costs beyond Airflow."""
    with options.console.status("processes that start"):
        return {
            "parse": start.parse_seconds(2 * options.repetitions + 1),
            "resume": start.resume_seconds(bench, options.repetitions),
            "parse_goal": start.PARSE_GOAL,
            "resume_goal": start.RESUME_GOAL,
            "chunk_rows": start.CHUNK_ROWS,
        }


def measure_memory(bench: Bench, options: Options) -> dict[str, Any]:
    """Move ever larger tables."""
    sizes = [size // 40 for size in memory.SIZES] if options.quick else memory.SIZES
    return {"results": memory.by_size(bench, sizes, options.say)}


def measure_insights(bench: Bench, options: Options) -> dict[str, Any]:
    """Ask the read model over many lanes."""
    with options.console.status("the read model"):
        return reading.measure(bench)


def measure_scale(bench: Bench, options: Options) -> dict[str, Any]:
    """Drive many lanes beside long histories."""
    plan = simulate.SMALL if options.quick else simulate.Plan()
    return simulate.simulate(bench, plan, options.say)


MEASURES: Final[Mapping[str, Callable[[Bench, Options], dict[str, Any]]]] = {
    "transfer": measure_transfer,
    "overhead": measure_overhead,
    "start": measure_start,
    "insights": measure_insights,
    "memory": measure_memory,
    "scale": measure_scale,
}
DEFAULT: Final = ("transfer", "overhead", "start", "insights")
"""What is measured when nothing is named; memory and scale take ten minutes and more each."""
