"""Counts what tests do to the pipeline, so that every run of them ends with its own figures.

A test counts through ``injected``, ``seeded``, ``compared`` and ``noted``; what one test counted travels
with its report, also from pytest-xdist's workers, and is summed up per file at the end. With
``CHECKPOINT_ETL_FIGURES=path`` the same goes into a file as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FILE = "CHECKPOINT_ETL_FIGURES"
PROPERTY = "checkpoint_etl_figures"

DIFFERENCES = ("missing", "extra", "doubled")


@dataclass
class Figures:
    """What was counted.

    Attributes:
        counts: ``injected``, ``compared`` and ``noted``, each by what it was.
        seeds: the seeds that were used.
        points: where something was injected.
        passed: tests that passed.
        failed: tests that did not.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seeds: set[str] = field(default_factory=set)
    points: set[str] = field(default_factory=set)
    passed: int = 0
    failed: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "failed": self.failed,
            "seeds": sorted(self.seeds),
            "points": sorted(self.points),
            **{kind: dict(sorted(counts.items())) for kind, counts in self.counts.items()},
        }

    def add(self, found: dict[str, Any]) -> None:
        self.seeds |= set(found["seeds"])
        self.points |= set(found["points"])
        for kind in ("injected", "compared", "noted"):
            self.counts[kind].update(found.get(kind, {}))

    @property
    def is_telling(self) -> bool:
        return bool(self.counts["injected"] or self.counts["noted"])

    def __str__(self) -> str:
        said = [f"{self.passed:,} passed" + (f", {self.failed:,} FAILED" if self.failed else "")]
        if self.points:
            said.append(f"{len(self.points):,} points")
        if self.seeds:
            said.append(f"{len(self.seeds):,} seed(s)")
        said += _told(self.counts["injected"])
        compared = dict(self.counts["compared"])
        if compared:
            times, rows = compared.pop("times"), compared.pop("rows")
            said.append(
                f"{times:,} comparisons of {rows:,} rows: "
                + ", ".join(f"{name} {compared.get(name, 0):,}" for name in DIFFERENCES)
            )
        return "; ".join([*said, *_told(self.counts["noted"])])


def _told(counts: Counter[str]) -> list[str]:
    return [f"{what} {number:,}" for what, number in sorted(counts.items())]


_current = Figures()
_by_file: dict[str, Figures] = defaultdict(Figures)


# --- what tests call -------------------------------------------------------------------------------


def injected(what: str, number: int = 1, point: str = "") -> None:
    """Something was made to go wrong, at a failpoint if that is where it was."""
    _current.counts["injected"][what] += number
    if point:
        _current.points.add(point.partition("@")[0])


def seeded(seed: object) -> None:
    """A seed decided what happened."""
    _current.seeds.add(str(seed))


def compared(rows: int, missing: int, extra: int, doubled: int) -> None:
    """Source and target were compared in full."""
    found = {"missing": missing, "extra": extra, "doubled": doubled}
    _current.counts["compared"].update({"times": 1, "rows": rows, **found})


def noted(what: str, number: int = 1) -> None:
    """Any other figure: what was explored, survived or lost by a negative control."""
    _current.counts["noted"][what] += number


@contextlib.contextmanager
def damaged(what: str) -> Iterator[None]:
    """A test did damage by hand, which the comparisons of this block must find: no loss of the pipeline's."""
    before = Counter(_current.counts["compared"])
    yield
    _current.counts["compared"] = before
    noted(what)


# --- from one test to the end of the run -----------------------------------------------------------


def pytest_collection_finish() -> None:
    """Forget what was drawn while tests were collected."""
    global _current  # noqa: PLW0603  see below
    _current = Figures()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """Send a test's figures along with its last report."""
    report = yield
    if report.when == "teardown":
        global _current  # noqa: PLW0603  one test after the other
        report.user_properties.append((PROPERTY, _current.as_json()))
        _current = Figures()
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Sum up per file; with pytest-xdist in the process that the workers report to."""
    figures = _by_file[report.nodeid.partition("::")[0].removeprefix("tests/")]
    figures.failed += report.failed
    figures.passed += report.when == "call" and report.passed
    for name, found in report.user_properties:
        if name == PROPERTY:
            figures.add(found)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was injected, and what became of it."""
    telling = {name: found for name, found in sorted(_by_file.items()) if found.is_telling}
    if not telling:
        return
    terminalreporter.section("what was injected, and what became of it")
    for name, found in telling.items():
        terminalreporter.write_line(f"{name}: {found}")
    terminalreporter.write_line(f"in all: {_summed(telling.values())}")
    if path := os.environ.get(FILE):
        files = {name: found.as_json() for name, found in telling.items()}
        Path(path).write_text(json.dumps(files, indent=1, sort_keys=True), encoding="utf-8")


def _summed(every: Iterable[Figures]) -> Figures:
    total = Figures()
    for one in every:
        total.passed += one.passed
        total.failed += one.failed
        total.add(one.as_json())
    total.counts["noted"].clear()  # states and losses of different kinds make no sum
    return total
