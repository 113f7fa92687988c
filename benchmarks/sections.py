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
        missing=f"\nNot measured:\n\n{missing}\n" if missing else "",
    )


RENDERERS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {"transfer": transfer}
