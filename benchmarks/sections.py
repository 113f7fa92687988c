"""The sections of the page: each case's results, put into its text in ``pages/``."""

from __future__ import annotations

from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any, Final

from benchmarks import report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def page(name: str, **values: object) -> str:
    """Return a text of ``pages/`` with its ``$names`` replaced."""
    text = resources.files("benchmarks").joinpath("pages", f"{name}.md").read_text("utf-8")
    return Template(text).substitute(values).strip()


def transfer(found: Mapping[str, Any]) -> str:
    """The limit, the chain and the peers."""
    missing = report.failures_list(found)
    return page(
        "transfer",
        rows=f"{found['rows']:,}",
        row_bytes=f"{found['row_bytes']:.0f}",
        repetitions=found["repetitions"],
        table=report.transfer_table(found),
        against=report.against(found, "GenericTransfer", COMPARED),
        missing=f"\nNot measured:\n\n{missing}\n" if missing else "",
    )


COMPARED: Final = ("copy form", "stages at once, copy form", "two parts, copy form", "one task")
"""What is told as so many times as fast as GenericTransfer."""


def overhead(found: Mapping[str, Any]) -> str:
    """Milliseconds, statements and round trips of a chunk."""
    rows = [
        (
            _STORES[store],
            f"{2 * ms['append'] + ms['note_loaded']:.2f}",
            f"{ms['append']:.2f}",
            f"{ms['note_loaded']:.2f}",
            f"{ms['load']:.2f}",
            f"{ms['acquire']:.2f}",
        )
        for store, ms in found["milliseconds"].items()
    ]
    header = (
        "checkpoints in",
        "checkpoints a chunk",
        "an append",
        "the load's note",
        "the load's transaction",
        "acquiring a stage, once",
    )
    wire = [
        (
            f"{_SERVERS[name]}, checkpoints in {_STORES[store]}",
            f"{counted['statements'][name]:.1f}" if name in counted["statements"] else "-",
            f"{trips:.1f}",
        )
        for store, counted in found["wire"].items()
        for name, trips in counted["round trips"].items()
        if trips > 0
    ]
    return page(
        "overhead",
        chunks=found["chunks"],
        milliseconds=report.markdown_table(header, rows),
        wire=report.markdown_table(("server", "statements", "round trips"), wire),
    )


_STORES: Final = {"redis": "Redis", "postgres": "PostgreSQL"}
_SERVERS: Final = {
    "shop": "source",
    "dwh": "warehouse",
    "checkpoints": "checkpoint store",
    "redis": "checkpoint store and staging",
}


def start(found: Mapping[str, Any]) -> str:
    """Reading a DAG file, and a retry's first new rows."""
    parse, resume = found["parse"], found["resume"]
    rows = [
        ("reading a DAG file", f"{parse['median']:.2f}", f"at most {found['parse_goal']}"),
        ("a retry's first new rows", f"{resume['beyond']:.2f}", f"at most {found['resume_goal']}"),
        ("Airflow's own start, for comparison", f"{resume['airflow']:.2f}", "-"),
    ]
    return page(
        "start",
        table=report.markdown_table(("what", "s", "goal, s"), rows),
        chunk_rows=f"{found['chunk_rows']:,}",
    )


def memory(found: Mapping[str, Any]) -> str:
    """Peaks by the number of rows."""
    rows = [
        (
            one["name"],
            f"{one['rows']:,}",
            f"{one['peak_bytes'] / 1e6:.0f}",
            f"{one['seconds']:.1f}",
            "exact" if one["verdict"]["exact"] else one["verdict"]["words"],
        )
        for one in found["results"]
    ]
    header = ("way", "rows", "peak, MB", "s", "content")
    return page("memory", table=report.markdown_table(header, rows))


def insights(found: Mapping[str, Any]) -> str:
    """Milliseconds of the read model's calls."""
    rows = [(name, f"{ms:.1f}") for name, ms in found["ms"].items()]
    return page(
        "insights",
        lanes=f"{found['lanes']:,}",
        chunks=f"{found['chunks']:,}",
        long=f"{found['long']:,}",
        calls=found["calls"],
        goal=found["goal_ms"],
        table=report.markdown_table(("call", "ms"), rows),
    )


RENDERERS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "transfer": transfer,
    "overhead": overhead,
    "start": start,
    "memory": memory,
    "insights": insights,
}
