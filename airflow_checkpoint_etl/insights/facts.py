"""What the warehouse and the checkpoint store say of a lane, before it is put into words. PURE."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.insights.history import Count
from airflow_checkpoint_etl.insights.views import Lag
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_checkpoint_etl.insights.views import FailureView, OwnerView, Position
    from airflow_checkpoint_etl.protocol import Lane

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""What a run is settled at whose bound says nothing about what is new."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the last chunks were: so many of them from ``low`` on, with their rows, in so long."""

    chunks: int = 0
    rows: int = 0
    seconds: float = 0.0
    low: str = cursors.BEGIN

    @property
    def rows_per_second(self) -> float | None:
        """Rows per second; None where nothing was measured."""
        return self.rows / self.seconds if self.seconds > 0 and self.chunks else None

    @property
    def seconds_per_chunk(self) -> float | None:
        """Seconds per chunk; None where nothing was measured."""
        return self.seconds / self.chunks if self.seconds > 0 and self.chunks else None


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a DAG run goes; the attributes are those of ``views.RunView``."""

    dag_id: str
    run_id: str
    low: str
    target: str
    done: bool
    stored_at: dt.datetime
    settled_at: dt.datetime | None
    finished_at: dt.datetime | None
    incarnation: str

    @property
    def shown(self) -> str:
        """Where it goes, for people."""
        return cursors.display(self.target)


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What the warehouse says of a stage: who has it, what it waits for, why it failed.

    The attributes are those of :class:`~airflow_checkpoint_etl.insights.views.StageView`.
    """

    stage: Stage
    fence: int = 0
    owner: OwnerView | None = None
    lease_seconds: float = 0.0
    note: str = ""
    failure: FailureView | None = None

    @property
    def is_owned(self) -> bool:
        """Whether a task has it and reports."""
        return self.owner is not None and self.lease_seconds > 0

    @property
    def is_lost(self) -> bool:
        """Whether its task stopped reporting without giving it back."""
        return self.owner is not None and self.lease_seconds < 0


@dataclass(frozen=True, slots=True)
class Staged:
    """What the checkpoint store says of a stage before the load.

    Attributes:
        position: where it is; None where it has no checkpoint in this life of the lane.
        speed: how fast its last chunks were.
        chunks: chunks staged and not loaded yet.
        rows: rows in them.
        size: bytes in them.
    """

    position: Position | None = None
    speed: Speed = field(default_factory=Speed)
    chunks: int = 0
    rows: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class LaneFacts:
    """What is known of a lane at one moment.

    Attributes:
        lane: which.
        now: the moment, by the warehouse's clock.
        generation: which life of the lane it is.
        incarnation: the random name of that life.
        position: the load frontier.
        settings: what the pipeline looked like when its extract ran last.
        run: the run whose extract stored its end last; None before the first.
        complete_as_of: the newest bound that a finished run of this life was settled at.
        speed: how fast the last chunks were loaded.
        quarantined: quarantined records.
        stages: what is known of each stage.
        staged: what the checkpoint store says; empty where it was not asked.
    """

    lane: Lane
    now: dt.datetime
    generation: int
    incarnation: str
    position: Position
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Goal | None = None
    complete_as_of: dt.datetime | None = None
    speed: Speed = field(default_factory=Speed)
    quarantined: Count = field(default_factory=lambda: Count(0))
    stages: Mapping[Stage, StageFacts] = field(default_factory=dict)
    staged: Mapping[Stage, Staged] = field(default_factory=dict)

    @property
    def goal(self) -> Goal | None:
        """The newest run's, if it is of the lane's current life; a rewind makes it void."""
        run = self.run
        return run if run is not None and run.incarnation == self.incarnation else None

    def of(self, stage: Stage) -> StageFacts:
        """Return what is known of a stage; nothing, where it was never acquired."""
        return self.stages.get(stage) or StageFacts(stage)

    def position_of(self, stage: Stage) -> Position | None:
        """Return where a stage is, as far as that is known."""
        if stage is Stage.LOAD:
            return self.position
        staged = self.staged.get(stage)
        return staged.position if staged else None

    def speed_of(self, stage: Stage) -> Speed:
        """Return how fast a stage's last chunks were."""
        if stage is Stage.LOAD:
            return self.speed
        staged = self.staged.get(stage)
        return staged.speed if staged else Speed()


def settled(at: dt.datetime | None) -> dt.datetime | None:
    """Return when a bound was settled; None for one that says nothing about what is new."""
    return None if at is None or at <= _EPOCH else at


def ids_between(low: str, high: str) -> int | None:
    """Return how many ids there are in ``(low, high]``; None where the ids are no single integers."""
    texts = [cursors.decode(text) for text in (low, high) if text != cursors.BEGIN]
    if any(len(values) != 1 or not isinstance(values[0][1], int) for values in texts):
        return None
    if high == cursors.BEGIN:
        return 0
    numbers = [int(str(values[0][1])) for values in texts]
    return max(0, numbers[-1] - (numbers[0] if low != cursors.BEGIN else min(0, numbers[-1])))


def lag_of(facts: LaneFacts, source_cursor: str | None = None) -> Lag:
    """Return how far a lane is behind.

    Args:
        facts: what is known of the lane.
        source_cursor: the newest id in the source, where it was asked.
    """
    complete = facts.complete_as_of
    at = facts.position.cursor
    goal = facts.goal
    return Lag(
        complete_as_of=complete,
        seconds=(facts.now - complete).total_seconds() if complete else None,
        ids=ids_between(at, goal.target if goal is not None and not goal.done else at),
        source_cursor=source_cursor,
        source_ids=ids_between(at, source_cursor) if source_cursor is not None else None,
    )
