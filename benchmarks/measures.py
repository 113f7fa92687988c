"""The cases by name: each takes the running servers and returns what it found, JSON-ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks import table, transfer
from benchmarks.result import Failure

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
    """

    rows: int
    repetitions: int
    only: tuple[str, ...]
    peer_folder: Path | None
    console: Console
    quick: bool = False


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
    transfer.measure(bench, ways, options.repetitions, found, say)
    return {
        "rows": options.rows,
        "row_bytes": table.bytes_a_row(bench.source),
        "repetitions": options.repetitions,
        **found.as_json(),
    }


MEASURES: Final[Mapping[str, Callable[[Bench, Options], dict[str, Any]]]] = {
    "transfer": measure_transfer
}
DEFAULT: Final = ("transfer",)
