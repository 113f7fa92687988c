"""``python -m benchmarks``: measures, and writes what it found into the docs."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.book import Book
from benchmarks.measures import DEFAULT, MEASURES, Options
from benchmarks.servers import machine, running

if TYPE_CHECKING:
    from collections.abc import Sequence

QUICK_ROWS = 200_000


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the table (2,000,000)")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of every way (3)")
    parser.add_argument(
        "--quick", action="store_true", help=f"one run over {QUICK_ROWS:,} rows; for a first look"
    )
    parser.add_argument(
        "--case",
        action="append",
        choices=list(MEASURES),
        help=f"measure this section, again for more ({', '.join(DEFAULT)})",
    )
    parser.add_argument(
        "--only", action="append", default=[], help="of the ways, only the limit and this one"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=13.0,
        help="begin no repetition that would end later than this (13)",
    )
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder to write into")
    parser.add_argument(
        "--peers-folder", type=Path, help="where the peers' environments are kept (a user's cache)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; the servers end whatever happens."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    asked = parse(given)
    console = Console(stderr=True)
    options = Options(
        rows=min(asked.rows, QUICK_ROWS) if asked.quick else asked.rows,
        repetitions=1 if asked.quick else asked.repetitions,
        only=tuple(asked.only),
        peer_folder=asked.peers_folder,
        console=console,
        quick=asked.quick,
        minutes=asked.minutes,
    )
    shown = [word for word in given if not word.startswith(("--output", "--peers-folder", "/"))]
    book = Book(asked.output, " ".join(["python -m benchmarks", *shown]))
    for case in asked.case or DEFAULT:
        console.rule(case)
        with running() as bench:
            described, settings = machine(bench), bench.settings()
            book.put(case, MEASURES[case](bench, options), described, settings)
        page = book.write()
    console.print(f"written: {page.name} and {page.with_suffix('.json').name}")
    return 0


if __name__ == "__main__":
    # So that being ended in order ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    sys.exit(main())
