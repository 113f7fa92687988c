"""The failpoints as the docs list them, and which scenario reaches which.

To bring in a new group of points, add a line to ``REACHED_BY``: its key is the part of the name before
the dot (or one point's whole name), its value the scenario and the step that passes the point. A step is
a stage or a name in ``harness_case.STEPS``. Points that no scenario reaches yet go into ``PENDING``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[2] / "docs" / "failpoints.md"

RUN = ("extract", "transform", "load")
"""The steps of one DAG run."""


@dataclass(frozen=True)
class Scenario:
    """What is done, and to what kind of pipeline.

    Attributes:
        name: for people.
        steps: the steps, in order.
        options: what the pipeline must be like; what it leaves open is drawn.
        several_runs: chunks are worked on in more than one run, so that rework has no simple bound.
    """

    name: str
    steps: tuple[str, ...] = RUN
    options: dict[str, Any] = field(default_factory=dict, compare=False)
    several_runs: bool = False

    def __hash__(self) -> int:
        return hash(self.name)


PLAIN = Scenario("a run")
SWEEP = Scenario(
    "a run that sweeps up late rows",
    (*RUN, "late", "sweep", "transform", "load"),
    # A transform with state would see the swept versions again.
    {"write": "upsert", "source": {"settle": "sweep"}, "transform": "keep"},
    several_runs=True,
)
QUARANTINE = Scenario(
    "a run whose target refuses rows",
    options={"transform": "refused", "pipeline": {"on_error": "quarantine"}},
)
REPLAY = Scenario(
    "a run whose refused rows are replayed",
    (*RUN, "mend", "replay"),
    {"transform": "mended", "pipeline": {"on_error": "quarantine"}},
)
REWIND = Scenario(
    "a run that is rewound", (*RUN, "rewind", *RUN), {"write": "append"}, several_runs=True
)
REPROCESS = Scenario(
    "a run that is reprocessed", (*RUN, "reprocess", "transform", "load"), several_runs=True
)
COPY = Scenario("a run in copy form", options={"transform": "none", "attempt": {"form": "copy"}})
TRANSFER = Scenario(
    "a transfer with a preoperator", ("transfer",), {"transform": "none", "prepared": True}
)
PLANNED = Scenario(
    "a range that is loaded in parts, and an increment",
    ("plan", "parts", "close", "more", *RUN),
    {"transform": "batch"},
    several_runs=True,
)
ABANDONED = Scenario(
    "a range whose plan is abandoned",
    ("plan", "parts", "abandon", *RUN),
    {"transform": "keep"},
    several_runs=True,
)
RESYNC = Scenario("a lane that is resynced", ("extract", "resync", *RUN), several_runs=True)


@dataclass(frozen=True)
class Reach:
    """The step at which a point is passed, and its scenario."""

    step: str
    scenario: Scenario = PLAIN

    @property
    def steps(self) -> tuple[str, ...]:
        return self.scenario.steps


REACHED_BY = {
    "extract": Reach("extract"),
    "settle": Reach("extract"),
    "sweep": Reach("sweep", SWEEP),
    "transform": Reach("transform"),
    "load": Reach("load"),
    "copy": Reach("extract", COPY),
    "copy.before_rows": Reach("load", COPY),
    "transfer": Reach("transfer", TRANSFER),
    "note": Reach("load"),
    "quarantine": Reach("load", QUARANTINE),
    "collect": Reach("load"),
    "replay": Reach("replay", REPLAY),
    "plan": Reach("plan", PLANNED),
    "plan.before_abandon": Reach("abandon", ABANDONED),
    "plan.after_abandon": Reach("abandon", ABANDONED),
    "close": Reach("close", PLANNED),
    "rewind": Reach("rewind", REWIND),
    "reprocess": Reach("reprocess", REPROCESS),
    "resync": Reach("resync", RESYNC),
}

TOGETHER = frozenset(
    {"transform.before_wait", "load.before_wait", "extract.before_hold", "transform.before_hold"}
)
"""Points that stages pass only when they run at once; test_follow.py kills there."""

PENDING: frozenset[str] = TOGETHER
"""Listed points that no scenario of steps in order reaches, each with the reason beside it."""

SWALLOWED = frozenset(
    {
        "collect.before_delete",
        "collect.after_delete",
        "collect.after_forget",
        "note.before_leave",
        "note.after_leave",
    }
)
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


def plain_points() -> list[str]:
    """The points that an ordinary run passes."""
    return [point for point in reachable_points() if reach_of(point).scenario is PLAIN]
