"""What a measurement found, and the medians over its repetitions."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.table import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one way to move the rows.

    Attributes:
        name: the way.
        words: how it was used.
        rows: how many rows it moved.
        seconds: wall clock.
        stages: seconds by stage; empty where there are none.
        cpu_seconds: of the client's processes.
        peak_bytes: memory of the largest client process at its peak, above its start.
        chunks: chunks loaded; 0 where there are none.
        verdict: how the target compares with the source.
        staged_bytes: of the files that were staged; 0 where they are elsewhere.
        wal_bytes: that the server wrote to its log meanwhile.
    """

    name: str
    words: str
    rows: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    verdict: Verdict
    stages: Mapping[str, float] = field(default_factory=dict)
    chunks: int = 0
    staged_bytes: int = 0
    wal_bytes: int = 0

    @property
    def rows_a_second(self) -> float:
        """Rows moved in a second."""
        return self.rows / self.seconds

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Failure:
    """A way that could not be measured, and why: it is not installed, or it failed."""

    name: str
    words: str
    reason: str


@dataclass(frozen=True, slots=True)
class Median:
    """The medians over the repetitions of one way.

    A verdict that is not exact in one repetition is the verdict of all.
    """

    name: str
    words: str
    rows: int
    seconds: float
    spread: tuple[float, float]
    rows_a_second: float
    cpu_seconds: float
    peak_bytes: int
    stages: Mapping[str, float]
    chunks: int
    repetitions: int
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Median:
        """Return what :meth:`as_json` gave."""
        low, high = raw["spread"]
        return cls(**{**raw, "spread": (low, high), "verdict": Verdict(**raw["verdict"])})

    @classmethod
    def of(cls, results: Sequence[Result]) -> Median:
        """Return the medians of results of one way."""
        first = results[0]
        inexact = [one.verdict for one in results if not one.verdict.exact]
        seconds = [one.seconds for one in results]
        return cls(
            name=first.name,
            words=first.words,
            rows=first.rows,
            seconds=statistics.median(seconds),
            spread=(min(seconds), max(seconds)),
            rows_a_second=first.rows / statistics.median(seconds),
            cpu_seconds=statistics.median(one.cpu_seconds for one in results),
            peak_bytes=int(statistics.median(one.peak_bytes for one in results)),
            stages={
                stage: statistics.median(one.stages[stage] for one in results)
                for stage in first.stages
            },
            chunks=first.chunks,
            repetitions=len(results),
            verdict=inexact[0] if inexact else first.verdict,
        )
