"""Range plans: a range of the main lane, cut into parts that are lanes of their own.

No IO, no clock. The *main lane* is the pipeline's default part. While a plan is open over it, the
parts load for it and it loads nothing itself; when every part is at its end, closing the plan moves the
main lane from the plan's low to its target in one step. The parts tile the range as chunks tile a lane:
each begins exactly where the one before it ends.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from airflow_checkpoint_etl.protocol import Lane

if TYPE_CHECKING:
    import datetime as dt

    from airflow_checkpoint_etl.ports import RewindRequest
    from airflow_checkpoint_etl.protocol import Frontier, Owner

MAIN_PART: Final = "default"
"""The part whose lane a plan loads for."""

_KEY: Final = re.compile(r"plan-\d+\.\d+-of-\d+\.[0-9a-f]{12}")


def is_planned(part: str) -> bool:
    """Whether a part's key is one that plans give: nobody but a plan makes a lane for it."""
    return _KEY.fullmatch(part) is not None


def main_lane(pipeline: str) -> Lane:
    """Return the lane that plans of a pipeline load for."""
    return Lane(pipeline, MAIN_PART)


@dataclass(frozen=True, slots=True)
class RangePart:
    """One part of a plan: the half-open interval ``(low, high]`` of the cursor.

    Attributes:
        key: the part's key, by value: of the plan and of the interval.
        low: exclusive lower end, canonical cursor text.
        high: inclusive upper end, canonical cursor text.
    """

    key: str
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class RangePlan:
    """A range and where it is cut.

    Attributes:
        number: the plan's number in the warehouse.
        token: random; a warehouse that was restored issues numbers again.
        pipeline: the pipeline.
        low: where the range begins, exclusive: the main lane's frontier when the plan was made.
        target: where it ends, inclusive: the settled bound.
        bounds: where one part ends and the next begins, in the source's order.
    """

    number: int
    token: str
    pipeline: str
    low: str
    target: str
    bounds: tuple[str, ...]

    @property
    def parts(self) -> tuple[RangePart, ...]:
        """The parts, in order; they tile the range."""
        lows, highs = (self.low, *self.bounds), (*self.bounds, self.target)
        return tuple(
            RangePart(self._key(position, low, high), low, high)
            for position, (low, high) in enumerate(zip(lows, highs, strict=True), 1)
        )

    @property
    def keys(self) -> list[str]:
        """The parts' keys, in order."""
        return [part.key for part in self.parts]

    def _key(self, position: int, low: str, high: str) -> str:
        told = f"{self.token}\n{low}\n{high}"
        digest = hashlib.sha256(told.encode()).hexdigest()[:12]
        return f"plan-{self.number}.{position}-of-{len(self.bounds) + 1}.{digest}"

    def __str__(self) -> str:
        return f"plan {self.number} of {self.pipeline}"


# --- the port ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A range plan to make.

    Attributes:
        frontier: the main lane's frontier it was worked out from.
        target: the settled bound.
        bounds: where the range is cut.
        swept: how far late rows need no sweeping once it is closed; empty where nothing is swept.
        settled_ago: how many seconds before now the target was taken; None for a bound that says
            nothing about what is new.
        owner: who plans.
    """

    frontier: Frontier
    target: str
    bounds: tuple[str, ...]
    swept: str
    settled_ago: float | None
    owner: Owner


@dataclass(frozen=True, slots=True)
class ClosedPlan:
    """What closing a range plan did, in this attempt or in an earlier one of its DAG run.

    Attributes:
        number: the plan's number.
        low: where the main lane was.
        target: where it is now.
        rows: rows its parts have loaded.
        rejected: records of its parts in quarantine.
        chunks: chunks its parts have loaded.
        seq: the number of the one chunk it is in the main lane.
        generation: the main lane's life, for people.
    """

    number: int
    low: str
    target: str
    rows: int
    rejected: int
    chunks: int
    seq: int
    generation: int


@dataclass(frozen=True, slots=True)
class Abandoned:
    """What abandoning a range plan did, or would do.

    Attributes:
        number: the plan's number.
        chunks: chunks its parts had loaded.
        rows: rows these chunks had loaded.
        deleted: rows deleted from the target; None when they are left there.
        quarantined: quarantined records dropped with their chunks.
    """

    number: int
    chunks: int
    rows: int
    deleted: int | None
    quarantined: int


class Plans(Protocol):
    """Range plans in the warehouse; each command is one transaction under the main lane's lock."""

    def current(self, pipeline: str) -> RangePlan | None:
        """Return the open plan; None when there is none."""
        ...

    def make(self, pipeline: str, request: PlanRequest) -> RangePlan:
        """Return the open plan, or make the requested one with a lane per part.

        Raises:
            StageBusyError: another DAG run works on the main lane.
            ManifestConflictError: the main lane is not at the request's frontier any more.
            PreflightError: the main lane carries a transform's state.
        """
        ...

    def close(self, pipeline: str, owner: Owner) -> ClosedPlan | None:
        """Move the main lane over the open plan's range, all of whose parts are at their end.

        Where none is open: what this DAG run has closed before, or None.

        Raises:
            PlanNotDoneError: parts are not at their end; names them.
            PipelineChangedError: parts were loaded into different tables.
        """
        ...

    def abandon(self, pipeline: str, request: RewindRequest, *, dry_run: bool) -> Abandoned:
        """End the open plan and take its rows back, as a rewind does; ``request.to`` is not used.

        Raises:
            RewindError: no plan is open, or its rows cannot be taken back.
        """
        ...

    def uncollected(self, pipeline: str, grace: dt.timedelta) -> list[RangePlan]:
        """Return the plans that ended before the grace period and may have left files staged."""
        ...

    def note_collected(self, plan: RangePlan) -> None:
        """Remember that nothing of a plan is staged any more."""
        ...
