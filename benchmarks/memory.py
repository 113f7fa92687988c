"""Memory by the size of the table: chunks bound it, so it does not grow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from benchmarks import chain, table
from benchmarks.cases import CASES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.servers import Bench

SIZES: Final = (500_000, 2_000_000, 8_000_000)
WAYS: Final = ("pass-through", "batch transform", "copy form", "one task")


def by_size(bench: Bench, sizes: Sequence[int], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Move ever more rows; return seconds and the largest peak of a stage."""
    table.create_source(bench.source, max(sizes))
    found = []
    for case in CASES:
        if case.name not in WAYS or case.missing():
            continue
        for rows in sizes:
            # A share below one makes the source a range of ids.
            part = case if rows == max(sizes) else replace(case, share=rows / max(sizes))
            result = chain.run(bench, part, rows)
            say(f"{case.name}, {rows:,} rows: {result.peak_bytes / 1e6:.0f} MB")
            found.append(result.as_json())
    return found
