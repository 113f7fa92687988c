"""What a lane looks like, as values: the one vocabulary of the UI, the command line and the MCP server.

PURE: no IO and no clock. No row value is in any of them: quarantined records are named by cursor and
reason, failures by what the package itself says of them. :func:`as_json` gives every view's JSON form:
its fields and its properties.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.insights.history import (
    ChunkView,
    Count,
    EventView,
    QuarantineView,
    RunView,
    TryView,
)
from airflow_checkpoint_etl.protocol import Lane, Stage

T = TypeVar("T")

MOST: Final = 200
"""The most entries that a page of anything has."""


class Condition(StrEnum):
    """What a lane or a stage is up to, in one word; :class:`State` has the sentence."""

    WORKING = "working"
    """A task works on it and reports."""
    WAITING = "waiting"
    """It will go on by itself: a task waits for something, or has not started yet."""
    CAUGHT_UP = "caught_up"
    """The newest run is loaded to its end."""
    FAILED = "failed"
    """The last attempt failed; Airflow will try again."""
    STUCK = "stuck"
    """It does not go on by itself: somebody has to act."""
    IDLE = "idle"
    """Nothing is to be done and nothing was, yet or since a rewind."""

    @property
    def needs_somebody(self) -> bool:
        """Whether a person has to act."""
        return self is Condition.STUCK


@dataclass(frozen=True, slots=True)
class State:
    """What a lane or a stage is up to.

    Attributes:
        condition: in one word.
        words: in a sentence.
        next_move: what to do about it; empty where nothing is to be done.
    """

    condition: Condition
    words: str
    next_move: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stage is.

    Attributes:
        seq: its last chunk.
        cursor: the last id, canonical cursor text.
        rows: rows that came out of the stage; for the load, rows in the target.
        updated_at: when it moved last.
    """

    seq: int
    cursor: str
    rows: int
    updated_at: dt.datetime

    @property
    def shown(self) -> str:
        """The last id for people."""
        return cursors.display(self.cursor)


@dataclass(frozen=True, slots=True)
class OwnerView:
    """The task that has, or had last, a stage."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    host: str
    acquired_at: dt.datetime

    @property
    def task(self) -> str:
        """The task for people: ``orders.load[2]``."""
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{mapped}"


@dataclass(frozen=True, slots=True)
class FailureView:
    """Why a stage's attempts failed, since it moved last.

    Attributes:
        kind: the error's class, e.g. ``SettleTimeoutError``.
        message: what it says, without row values, passwords and URIs.
        cursor: where the stage stood, canonical cursor text; empty where it had not begun.
        retryable: whether trying again can help.
        count: how many attempts failed.
        at: when the last one did.
    """

    kind: str
    message: str
    cursor: str
    retryable: bool
    count: int
    at: dt.datetime

    @property
    def shown(self) -> str:
        """Where the stage stood, for people."""
        return cursors.display(self.cursor) if self.cursor else ""


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage of a lane.

    Attributes:
        stage: which.
        state: what it is up to.
        position: where it is; None where it has no checkpoint in this life of the lane, or the
            checkpoint store was not asked (in lists).
        fence: the newest fence it was handed.
        owner: who has it, or had it last.
        lease_seconds: for how much longer it is reserved for the owner; 0 when it is free, negative
            when the lease has run out without having been given back (the worker was lost).
        note: what its attempt waits for; empty for nothing.
        failure: why its last attempts failed; None when they did not.
        rows_per_second: how fast its last chunks were; None where that is unknown.
        staged_chunks: chunks it has staged that are not loaded yet.
        staged_rows: rows in them.
        staged_bytes: bytes in them.
        share: how far it is in the newest run, 0 to 1; None where that cannot be told.
    """

    stage: Stage
    state: State
    position: Position | None = None
    fence: int = 0
    owner: OwnerView | None = None
    lease_seconds: float = 0.0
    note: str = ""
    failure: FailureView | None = None
    rows_per_second: float | None = None
    staged_chunks: int = 0
    staged_rows: int = 0
    staged_bytes: int = 0
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a lane is behind, from what the warehouse knows.

    Attributes:
        complete_as_of: every row committed to the source before this moment is loaded: the newest
            bound that a finished run was settled at. None: no run has finished yet.
        seconds: how long ago that is.
        ids: how many ids are between the load and the end of the newest run, which is the most rows
            that can be missing; None where ids are no integers.
        source_cursor: the newest id in the source, when it was asked; canonical cursor text.
        source_ids: how many ids are between the load and the source's newest, when it was asked.
    """

    complete_as_of: dt.datetime | None = None
    seconds: float | None = None
    ids: int | None = None
    source_cursor: str | None = None
    source_ids: int | None = None

    @property
    def source_shown(self) -> str | None:
        """The newest id in the source, for people."""
        return None if self.source_cursor is None else cursors.display(self.source_cursor)


@dataclass(frozen=True, slots=True)
class LaneSummary:
    """A lane in a list, from the warehouse alone.

    Attributes:
        warehouse_conn_id: the Airflow connection of the warehouse it is in.
        pipeline: the pipeline's id.
        part: the part's key.
        generation: which life of the lane it is, for people.
        incarnation: the random name of that life.
        state: what it is up to.
        position: the load frontier, with the rows loaded in all.
        target: the settled bound of the newest run, canonical cursor text; empty without a run in
            this life of the lane.
        lag: how far it is behind.
        guarantee: what the configuration promised when its extract ran last; empty when it never did.
        source: the source's table, or ``query``.
        target_table: the target's table.
        rows_per_second: how fast its last chunks were loaded; None where that is unknown.
        quarantined: quarantined records, counted up to 100.
        stages: its stages; their positions before the load only where the list is complete.
        sparkline: rows loaded in each half-hour of the last twelve hours, the oldest first; empty where
            the list is not complete.
    """

    warehouse_conn_id: str
    pipeline: str
    part: str
    generation: int
    incarnation: str
    state: State
    position: Position
    target: str
    lag: Lag
    guarantee: str
    source: str
    target_table: str
    rows_per_second: float | None
    quarantined: Count
    stages: tuple[StageView, ...]
    sparkline: tuple[int, ...] = ()

    @property
    def lane(self) -> Lane:
        """The lane itself."""
        return Lane(self.pipeline, self.part)

    @property
    def target_shown(self) -> str:
        """Where the newest run ends, for people."""
        return cursors.display(self.target) if self.target else ""


@dataclass(frozen=True, slots=True)
class LaneOfRun:
    """What one DAG run did on a lane.

    Attributes:
        summary: the lane as it is now, with all stages.
        run: where the run goes.
        tries: what the tries of its load did, the newest first.
        chunks: the newest chunks it loaded.
    """

    summary: LaneSummary
    run: RunView
    tries: tuple[TryView, ...]
    chunks: tuple[ChunkView, ...]


@dataclass(frozen=True, slots=True)
class LaneInsight:
    """A lane as a whole, in one consistent reading.

    Attributes:
        summary: what a list says of it; its stages are complete here.
        settings: what the pipeline looked like when its extract ran last; connection ids, no secrets.
        staged_bytes: bytes staged and not loaded, over both stages.
        runs: the newest DAG runs.
        events: the newest events.
        quarantine: what is in quarantine.
        faults: what the checkpoint store could not say, in words.
    """

    summary: LaneSummary
    settings: Mapping[str, Any] = field(default_factory=dict)
    staged_bytes: int = 0
    runs: tuple[RunView, ...] = ()
    events: tuple[EventView, ...] = ()
    quarantine: QuarantineView = field(default_factory=lambda: QuarantineView(Count(0), (), ()))
    faults: tuple[str, ...] = ()

    @property
    def lane(self) -> Lane:
        """The lane itself."""
        return self.summary.lane

    def stage(self, stage: Stage) -> StageView:
        """Return one of its stages."""
        return next(view for view in self.summary.stages if view.stage is stage)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some entries, and where the next ones begin.

    Attributes:
        items: the entries.
        next_token: what to pass for the next page; None on the last one.
        faults: what could not be read, in words, e.g. a warehouse that does not answer.
    """

    items: tuple[T, ...]
    next_token: str | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a lane does not go on, and what to do.

    Attributes:
        lane: its name.
        state: what it is up to.
        facts: what was found, a sentence each.
        next_moves: what to do, in this order.
    """

    lane: str
    state: State
    facts: tuple[str, ...]
    next_moves: tuple[str, ...]


def as_json(value: Any) -> Any:
    """Return a view as JSON values: its fields and properties by name, times in ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in fields(value)]
        names += [
            name for name, member in vars(type(value)).items() if isinstance(member, property)
        ]
        return {name: as_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value
