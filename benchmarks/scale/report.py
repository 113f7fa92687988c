"""The page about scaling: the simulation's tables and the model's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.report import markdown_table
from benchmarks.scale import capacity

if TYPE_CHECKING:
    from collections.abc import Mapping

_STORES: Final = {"redis": "Redis", "postgres": "PostgreSQL"}
_STEPS: Final = {
    "chunk": "a chunk",
    "load": "load transaction",
    "append": "append",
    "note_loaded": "note",
    "acquire": "acquire",
    "loaded_in_run": "loaded in run",
    "loaded_before": "collectable",
    "finish": "finish",
}
NEEDED: Final = ("transfer", "overhead", "scale")


def values(sections: Mapping[str, Any]) -> dict[str, object]:
    """Return what the page's text asks for.

    Args:
        sections: what was found, by case; all of ``NEEDED``.
    """
    scale = sections["scale"]
    driven, measured = scale["driven"], capacity.constants(sections)
    longest = scale["levels"][-1]["ledger_rows"]
    most = capacity.demand(capacity.ROWS[-1], capacity.WORKERS[-1], measured)
    full_chunks = measured.warehouse_rows_a_second / capacity.CHUNK_ROWS
    return {
        "levels": _levels(scale["levels"]),
        "tenths": _tenths(driven["tenths"]),
        "growth": _growth(scale),
        "model": _model(measured),
        "alone": "; ".join(
            f"10^{len(str(rows)) - 1} rows in {_time(rows / measured.warehouse_rows_a_second)}"
            for rows in capacity.ROWS
        ),
        "probe_lanes": scale["probe_lanes"],
        "chunks_a_lane": scale["chunks_a_lane"],
        "lanes": f"{scale['lanes']:,}",
        "history_rows": f"{longest:,}",
        "history_chunks": f"{longest // scale['lanes']:,}",
        "driven_lanes": f"{driven['lanes']:,}",
        "driven_chunks": f"{driven['chunks']:,}",
        "driven_seconds": f"{driven['seconds']:.0f}",
        "workers": driven["workers"],
        "rows_a_second": f"{measured.rows_a_second:,.0f}",
        "warehouse_rows": f"{measured.warehouse_rows_a_second:,.0f}",
        "row_bytes": f"{measured.row_bytes:.0f}",
        "staged_bytes": f"{measured.staged_bytes:.0f}",
        "wal_bytes": f"{measured.wal_bytes:.0f}",
        "chunk_wal_bytes": f"{measured.chunk_wal_bytes:,.0f}",
        "chunk_rows": f"{capacity.CHUNK_ROWS:,}",
        "redis_round_trips": f"{measured.redis_round_trips:.0f}",
        "redis_bytes": f"{measured.redis_bytes:,.0f}",
        "ledger_bytes": f"{measured.ledger_bytes:,.0f}",
        "ledger_rows": f"{most.chunks:,.0f}",
        "ledger_size": _bytes(most.ledger_bytes),
        "full_chunks": f"{full_chunks:.1f}",
        "full_share": f"{measured.load_ms / 1000 * full_chunks:.1%}",
    }


def _levels(levels: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{level['ledger_rows']:,}",
            _STORES[level["store"]],
            f"{level['pages_a_chunk']:.0f}",
            *(f"{level['ms'][step]:.2f}" for step in _STEPS),
        )
        for level in levels
    ]
    return markdown_table(
        ("ledger rows before", "checkpoints in", "pages a chunk", *_STEPS.values()), rows
    )


def _tenths(tenths: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{_STEPS[step]}, {_STORES[one['store']]}",
            *(f"{milliseconds:.1f}" for milliseconds in one["ms"][step]),
        )
        for one in tenths
        for step in ("chunk", "load", "append")
    ]
    return markdown_table(("step", *(str(number) for number in range(1, 11))), rows)


def _growth(scale: Mapping[str, Any]) -> str:
    """Say how the cost of a chunk differs between no history and the longest."""
    said = []
    for store, name in _STORES.items():
        taken = [level["ms"]["chunk"] for level in scale["levels"] if level["store"] == store]
        if len(taken) > 1:
            said.append(f"{name} {taken[-1] / taken[0]:.2f}")
    pages = [level["pages_a_chunk"] for level in scale["levels"]]
    return (
        "Beside the longest history, as a multiple of beside none: a chunk's pages "
        f"{pages[-1] / pages[0]:.2f}; its milliseconds {', '.join(said)}."
    )


def _model(measured: capacity.Constants) -> str:
    rows = []
    for count in capacity.ROWS:
        for workers in capacity.WORKERS:
            asked = capacity.demand(count, workers, measured)
            rows.append(
                (
                    f"10^{len(str(count)) - 1}",
                    str(workers),
                    _time(asked.hours * 3600),
                    f"{asked.rows_a_second / 1e6:,.1f} M",
                    f"{asked.chunks_a_second:,.0f}",
                    f"{asked.checkpoint_writes:,.0f}",
                    _bytes(asked.redis_bytes),
                    f"{asked.objects:,.0f}",
                    _bytes(asked.object_bytes) + "/s",
                    _bytes(asked.wal_bytes) + "/s",
                    f"{asked.connections:,.0f}",
                    _bytes(asked.ledger_bytes),
                    f"{asked.warehouses:,.1f}",
                )
            )
    header = (
        "rows",
        "workers",
        "time, by the workers",
        "rows/s",
        "load transactions/s",
        "checkpoint writes/s",
        "Redis, manifest",
        "object requests/s",
        "staged",
        "log",
        "connections",
        "ledger in the end",
        "warehouses",
    )
    return markdown_table(header, rows)


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"
