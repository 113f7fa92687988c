"""The failpoints as the docs list them, and which scenario reaches which.

To bring in a new group of points, add a line to ``REACHED_BY``: its key is the part of the name before
the dot (or one point's whole name), its value the steps to run and the step that passes the point. A
step is a stage or a name in ``harness_case.STEPS``. Points that no scenario reaches yet go into ``PENDING``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "failpoints.md"

RUN = ("extract", "transform", "load")
"""The steps of one DAG run."""


@dataclass(frozen=True)
class Reach:
    """The step at which a point is passed, and all the steps of its scenario."""

    step: str
    steps: tuple[str, ...] = RUN


REACHED_BY = {
    "extract": Reach("extract"),
    "transform": Reach("transform"),
    "load": Reach("load"),
    "collect": Reach("load"),
}

PENDING: frozenset[str] = frozenset()
"""Listed points that no scenario reaches yet, each with the reason beside it."""

SWALLOWED = frozenset({"collect.after_delete"})
"""Points at which an exception costs nothing: what happens there is best effort."""


def listed_points() -> list[str]:
    """Every point in the first column of the document's table, in its order."""
    found: list[str] = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            found += re.findall(r"`([a-z_]+\.[a-z_]+)`", line.split("|")[1])
    return found


def reach_of(point: str) -> Reach | None:
    return REACHED_BY.get(point) or REACHED_BY.get(point.partition(".")[0])


def reachable_points() -> list[str]:
    """Every listed point that is not pending and has a scenario."""
    return [point for point in listed_points() if point not in PENDING and reach_of(point)]
