"""Range plans: a range of the main lane, cut into parts that are lanes of their own.

PURE: no IO, no clock. The *main lane* is the pipeline's default part. While a plan is open over it, the
parts load for it and it loads nothing itself; when every part is at its end, closing the plan moves the
main lane from the plan's low to its target in one step. The parts tile the range as chunks tile a lane:
each begins exactly where the one before it ends.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from airflow_checkpoint_etl.protocol import Lane

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
