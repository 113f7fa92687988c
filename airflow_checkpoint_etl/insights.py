"""The read model: what a lane looks like, for whoever shows it. Nothing here writes, and no SQL is here.

No row value is in it: quarantined records are named by cursor and reason, and their payload stays in the
warehouse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from airflow_checkpoint_etl.ports import CheckpointStore
    from airflow_checkpoint_etl.protocol import Lane


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stage is.

    Attributes:
        seq: its last chunk.
        cursor: the last id, canonical cursor text.
        rows: rows that came out of the stage; for the load, rows in the target.
        updated_at: when it moved last, ISO 8601.
    """

    seq: int
    cursor: str
    rows: int
    updated_at: str

    @property
    def shown(self) -> str:
        """The last id for people."""
        return cursors.display(self.cursor)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A quarantined record, without its values: the stage that rejected it, where it is and why."""

    stage: str
    cursor: str
    reason: str
    chunk: int
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class RunView:
    """One DAG run on the lane: where it goes, whether it is there, and what it loaded so far."""

    dag_id: str
    run_id: str
    low: str
    target: str
    done: bool
    chunks: int
    rows: int
    rejected: int
    settled_at: dt.datetime
    finished_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class EventView:
    """Something done to the lane beside loading: what, by whom, when, and its details."""

    kind: str
    actor: str
    detail: Mapping[str, Any]
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the warehouse says of a lane, in one consistent reading.

    Attributes:
        generation: which life of the lane it is.
        incarnation: the random name of that life.
        position: the load frontier, with the rows loaded in all.
        settings: what the pipeline looked like when its extract ran last.
        quarantined: quarantined records by the stage that rejected them.
        reasons: the newest of them.
        runs: the newest DAG runs.
        events: the newest events.
    """

    generation: int
    incarnation: str
    position: Position
    settings: Mapping[str, Any] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[Rejected, ...] = ()
    runs: tuple[RunView, ...] = ()
    events: tuple[EventView, ...] = ()


@dataclass(frozen=True, slots=True)
class LaneInsight:
    """A lane as a whole.

    Attributes:
        lane: which one.
        loaded: what the warehouse says.
        positions: where each stage is that has a checkpoint of the current life; the load's is the
            warehouse's.
    """

    lane: Lane
    loaded: Loaded
    positions: Mapping[Stage, Position]

    @property
    def guarantee(self) -> str:
        """What the configuration promised when its extract ran last; empty when it never ran."""
        return str(self.loaded.settings.get("guarantee", ""))


class WarehouseInsights(Protocol):
    """Reads what the warehouse knows of lanes."""

    def lanes(self) -> list[Lane]:
        """Return every lane, by name."""
        ...

    def loaded(self, lane: Lane, newest: int) -> Loaded | None:
        """Return what is known of a lane, at most ``newest`` of each kind; None for no such lane."""
        ...


def lane_insight(
    warehouse: WarehouseInsights, checkpoints: CheckpointStore, lane: Lane, newest: int = 20
) -> LaneInsight | None:
    """Return a lane as a whole; None when the warehouse does not know it.

    Args:
        warehouse: reads the warehouse.
        checkpoints: the checkpoint store, for the stages before the load.
        lane: the lane.
        newest: how many reasons, runs and events at most.
    """
    records = {
        stage: checkpoints.read(lane, stage).checkpoint
        for stage in (Stage.EXTRACT, Stage.TRANSFORM)
    }
    loaded = warehouse.loaded(lane, newest)  # after the store: the warehouse is never behind it
    if loaded is None:
        return None
    positions = {
        stage: Position(
            checkpoint.frontier.seq,
            checkpoint.frontier.cursor,
            checkpoint.rows,
            checkpoint.updated_at,
        )
        for stage, checkpoint in records.items()
        if checkpoint is not None and checkpoint.frontier.incarnation == loaded.incarnation
    }
    return LaneInsight(lane, loaded, positions | {Stage.LOAD: loaded.position})
