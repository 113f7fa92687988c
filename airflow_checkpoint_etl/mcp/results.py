"""What the tools return: schemas are made from these. Times are ISO 8601, ids are as people read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datetime as dt

    from airflow_checkpoint_etl.insights import (
        ChunkView,
        LaneInsight,
        LaneSummary,
        QuarantineView,
        StageView,
    )
    from airflow_checkpoint_etl.plans import RewindPlan


@dataclass
class LaneLine:
    """A lane in a list: what it is up to, where its load is, how far behind."""

    pipeline: str
    part: str
    warehouse: str
    condition: str
    words: str
    next_move: str
    last_id: str
    chunk: int
    rows_loaded: int
    run_ends_at: str
    ids_left: int | None
    complete_as_of: str | None
    seconds_behind: float | None
    quarantined: str

    @classmethod
    def of(cls, lane: LaneSummary) -> LaneLine:
        """Return the line of a lane."""
        return cls(
            lane.pipeline,
            lane.part,
            lane.warehouse_conn_id,
            lane.state.condition.value,
            lane.state.words,
            lane.state.next_move,
            lane.position.shown,
            lane.position.seq,
            lane.position.rows,
            lane.target_shown,
            lane.lag.ids,
            _iso(lane.lag.complete_as_of),
            lane.lag.seconds,
            lane.quarantined.shown,
        )


@dataclass
class Lanes:
    """A page of lanes; ``next_token`` is what to pass for the next page."""

    lanes: list[LaneLine]
    next_token: str | None
    not_readable: list[str]


@dataclass
class StageLine:
    """One stage of a lane; ``owner`` is set while a task works on it."""

    stage: str
    condition: str
    words: str
    chunk: int | None
    last_id: str | None
    cursor: str | None
    rows: int | None
    moved_at: str | None
    rows_per_second: float | None
    staged_chunks: int
    staged_bytes: int
    owner: str | None
    lease_seconds: float
    failures: int

    @classmethod
    def of(cls, stage: StageView) -> StageLine:
        """Return the line of a stage."""
        at = stage.position
        owned = stage.owner is not None and stage.lease_seconds > 0
        return cls(
            stage.stage.value,
            stage.state.condition.value,
            stage.state.words,
            at.seq if at else None,
            at.shown if at else None,
            at.cursor if at else None,
            at.rows if at else None,
            at.updated_at.isoformat() if at else None,
            stage.rows_per_second,
            stage.staged_chunks,
            stage.staged_bytes,
            f"{stage.owner.task} of {stage.owner.run_id}, try {stage.owner.try_number}"
            if owned and stage.owner
            else None,
            max(0.0, stage.lease_seconds),
            stage.failure.count if stage.failure else 0,
        )


@dataclass
class RunLine:
    """A DAG run on the lane."""

    dag_id: str
    run_id: str
    ends_at: str
    done: bool
    chunks: int
    rows: int
    rejected: int
    finished_at: str | None


@dataclass
class EventLine:
    """Something done to the lane beside loading."""

    kind: str
    actor: str
    reason: str
    at: str


@dataclass
class LaneCheckpoint:
    """A lane's checkpoint as a whole."""

    lane: LaneLine
    generation: int
    guarantee: str
    source: str
    target: str
    stages: list[StageLine]
    newest_runs: list[RunLine]
    newest_events: list[EventLine]
    not_readable: list[str]

    @classmethod
    def of(cls, seen: LaneInsight) -> LaneCheckpoint:
        """Return the checkpoint of a lane."""
        summary = seen.summary
        runs = [
            RunLine(
                run.dag_id,
                run.run_id,
                run.target_shown,
                run.done,
                run.chunks,
                run.rows,
                run.rejected,
                _iso(run.finished_at),
            )
            for run in seen.runs
        ]
        events = [
            EventLine(event.kind, event.actor, event.reason, event.created_at.isoformat())
            for event in seen.events
        ]
        return cls(
            LaneLine.of(summary),
            summary.generation,
            summary.guarantee,
            summary.source,
            summary.target_table,
            [StageLine.of(stage) for stage in summary.stages],
            runs,
            events,
            list(seen.faults),
        )


@dataclass
class Explanation:
    """Why a lane does not go on: the facts, and what to do, in this order."""

    lane: str
    condition: str
    words: str
    facts: list[str]
    next_moves: list[str]


@dataclass
class LagAnswer:
    """How far a lane is behind; the source's numbers only where it was asked."""

    lane: str
    last_id: str
    complete_as_of: str | None
    seconds_behind: float | None
    ids_left_in_run: int | None
    newest_source_id: str | None
    ids_left_in_source: int | None
    not_readable: list[str]


@dataclass
class ChunkLine:
    """A loaded chunk: ids above ``above`` up to and with ``up_to``."""

    chunk: int
    above: str
    up_to: str
    rows: int
    rejected: int
    seconds: float
    loaded_at: str
    run_id: str
    try_number: int

    @classmethod
    def of(cls, chunk: ChunkView) -> ChunkLine:
        """Return the line of a chunk."""
        return cls(
            chunk.seq,
            chunk.low_shown,
            chunk.high_shown,
            chunk.rows,
            chunk.rejected,
            round(chunk.seconds, 3),
            chunk.loaded_at.isoformat(),
            chunk.run_id,
            chunk.try_number,
        )


@dataclass
class Chunks:
    """A page of chunks, the newest first; ``next_before`` is what to pass for the next page."""

    chunks: list[ChunkLine]
    next_before: int | None


@dataclass
class ReasonLine:
    """Rejected records with one reason."""

    stage: str
    reason: str
    records: int
    newest_id: str


@dataclass
class RecordLine:
    """A rejected record; ``values`` only on a server that may show them."""

    stage: str
    id: str
    reason: str
    chunk: int
    values: dict[str, Any] | None


@dataclass
class Quarantine:
    """What of a lane is in quarantine."""

    total: str
    reasons: list[ReasonLine]
    newest: list[RecordLine]

    @classmethod
    def of(cls, found: QuarantineView) -> Quarantine:
        """Return the summary of a quarantine."""
        return cls(
            found.total.shown,
            [
                ReasonLine(reason.stage, reason.reason, reason.count, reason.newest_shown)
                for reason in found.reasons
            ],
            [
                RecordLine(
                    record.stage,
                    record.shown,
                    record.reason,
                    record.chunk,
                    record.payload if isinstance(record.payload, dict) else None,
                )
                for record in found.records
            ],
        )


@dataclass
class Planned:
    """What an action would do; pass ``confirmation_token`` to the action to do exactly that."""

    action: str
    lane: str
    effect: str
    details: dict[str, Any]
    warnings: list[str]
    confirmation_token: str | None
    holds_for_seconds: float


@dataclass
class Done:
    """What an action did."""

    action: str
    lane: str
    effect: str
    details: dict[str, Any]


def of_rewind(plan: RewindPlan) -> tuple[str, dict[str, Any]]:
    """Return a rewind's effect in words, and its numbers."""
    rows = (
        f"{plan.rows:,} rows stay in the target"
        if plan.deleted is None
        else f"{plan.deleted:,} rows are deleted from the target"
    )
    effect = (
        f"from chunk {plan.from_seq:,} at {plan.from_shown} back to chunk {plan.to_seq:,} at "
        f"{plan.to_shown}: {plan.chunks:,} chunk(s) are taken back, {rows}, {plan.quarantined:,} "
        "quarantined record(s) are dropped; the next run loads them again"
    )
    details = {
        "from_id": plan.from_shown,
        "to_id": plan.to_shown,
        "chunks": plan.chunks,
        "rows": plan.rows,
        "deleted": plan.deleted,
        "quarantined": plan.quarantined,
    }
    return effect, details


def _iso(moment: dt.datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
