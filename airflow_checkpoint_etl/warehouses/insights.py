"""The read model's half that is in the warehouse; implements ``insights.WarehouseInsights``.

Every call is one connection and one repeatable-read snapshot, and is bounded whatever the ledger holds.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.insights.facts import Goal, LaneFacts, Speed, StageFacts, settled
from airflow_checkpoint_etl.insights.history import (
    Bucket,
    ChunkView,
    Count,
    EventView,
    QuarantineReason,
    QuarantineView,
    Rejected,
    RunView,
    Throughput,
    TryView,
)
from airflow_checkpoint_etl.insights.reading import LaneReading
from airflow_checkpoint_etl.insights.views import FailureView, OwnerView, Position
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.protocol import Lane, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_checkpoint_etl.postgres import Row, Session

SQL: Final = read_statements("airflow_checkpoint_etl.warehouses", "insights.sql")

_RECENT: Final = 20
"""Chunks over which the load's speed is taken."""
_LISTED: Final = 100
"""Up to how many quarantined records are counted for a list."""
_COUNTED: Final = 10_000
"""Up to how many chunks or quarantined records are looked at for one lane."""
_REASONS: Final = 50
_SPARKS: Final = 500
"""Up to how many chunks are looked at for one lane's sparkline."""


class LedgerInsights:
    """Reads what the ledger knows of lanes.

    Args:
        session: for reading.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def lanes(self, search: str, after: Lane | None, limit: int) -> list[LaneFacts]:
        """Return lanes by name: those that hold ``search``, above ``after``, at most ``limit``."""
        with self._snapshot() as exists:
            return self._lanes(search, after, limit, _LISTED) if exists else []

    def settings(self, lane: Lane) -> Mapping[str, Any] | None:
        """Return what the pipeline looked like when its extract ran last; None for no such lane."""
        with self._snapshot() as exists:
            row = self._session.row(SQL["settings"], _key(lane)) if exists else None
        return row[0] if row else None

    def lane(self, lane: Lane, newest: int) -> LaneReading | None:
        """Return what is known of a lane, at most ``newest`` of each kind; None for no such lane."""
        with self._snapshot() as exists:
            found = self._lanes("", None, 1, _COUNTED, only=lane) if exists else []
            if not found:
                return None
            runs = self._session.rows(SQL["runs"], _runs_of(lane, newest))
            return LaneReading(
                found[0],
                tuple(_run_view(row) for row in runs),
                tuple(self._events(lane, None, newest)),
                self._quarantine(lane, None, newest, payloads=False),
            )

    def chunks(
        self, lane: Lane, before: int | None, limit: int, run: tuple[str, str] | None = None
    ) -> list[ChunkView]:
        """Return loaded chunks of the current chain, the newest first, below a number."""
        dag_id, run_id = run or (None, None)
        with self._snapshot() as exists:
            parameters = _key(lane) | {"before": before, "limit": limit}
            parameters |= {"dag_id": dag_id, "run_id": run_id}
            found = self._session.rows(SQL["chunks"], parameters) if exists else []
        return [ChunkView(*row) for row in found]

    def throughput(self, lane: Lane, seconds: float, buckets: int) -> Throughput:
        """Return rows loaded in the last ``seconds``, in so many buckets."""
        bucket = seconds / buckets
        with self._snapshot() as exists:
            if not exists:
                return Throughput(bucket, ())
            parameters = _key(lane) | {"seconds": seconds, "bucket": bucket, "limit": _COUNTED}
            (newest, _, _, _, is_cut), *found = self._session.rows(SQL["throughput"], parameters)
        loaded = {row[0]: row[1:4] for row in found}
        return Throughput(
            bucket,
            tuple(
                Bucket(
                    dt.datetime.fromtimestamp(number * bucket, dt.UTC),
                    *loaded.get(number, (0, 0, 0)),
                )
                for number in range(newest - buckets + 1, newest + 1)
            ),
            is_cut,
        )

    def sparklines(
        self, lanes: Sequence[Lane], seconds: float, buckets: int
    ) -> dict[Lane, tuple[int, ...]]:
        """Return rows loaded by lane in each of so many spans of the last ``seconds``."""
        loaded = {lane: [0] * buckets for lane in lanes}
        with self._snapshot() as exists:
            parameters = _keys(lanes) | {"bucket": seconds / buckets, "buckets": buckets}
            parameters["limit"] = _SPARKS
            found = self._session.rows(SQL["sparklines"], parameters) if exists else []
        for pipeline, part, place, rows in found:
            loaded[Lane(pipeline, part)][place] = rows
        return {lane: tuple(rows) for lane, rows in loaded.items()}

    def lanes_of(self, dag_id: str, run_id: str, limit: int) -> list[Lane]:
        """Return the lanes that a DAG run has a goal on, by name."""
        with self._snapshot() as exists:
            parameters = {"dag_id": dag_id, "run_id": run_id, "limit": limit}
            found = self._session.rows(SQL["lanes_of"], parameters) if exists else []
        return [Lane(*row) for row in found]

    def run(self, lane: Lane, dag_id: str, run_id: str) -> RunView | None:
        """Return a DAG run's goal on a lane; None where it has none."""
        with self._snapshot() as exists:
            parameters = _runs_of(lane, 1, dag_id, run_id)
            row = self._session.row(SQL["runs"], parameters) if exists else None
        return _run_view(row) if row else None

    def tries(self, lane: Lane, dag_id: str, run_id: str, limit: int) -> list[TryView]:
        """Return what the tries of a DAG run's load did, the newest first."""
        with self._snapshot() as exists:
            parameters = _key(lane) | {"dag_id": dag_id, "run_id": run_id, "limit": limit}
            found = self._session.rows(SQL["tries"], parameters) if exists else []
        return [TryView(*row) for row in found]

    def events(self, lane: Lane, before: int | None, limit: int) -> list[EventView]:
        """Return events, the newest first, below an id."""
        with self._snapshot() as exists:
            return self._events(lane, before, limit) if exists else []

    def quarantine(
        self, lane: Lane, before: tuple[int, int] | None, limit: int, *, payloads: bool
    ) -> QuarantineView:
        """Return what is in quarantine, with a page of its records."""
        with self._snapshot() as exists:
            if not exists:
                return QuarantineView(Count(0), (), ())
            return self._quarantine(lane, before, limit, payloads=payloads)

    # --- within a snapshot ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[bool]:
        """One consistent reading; says whether there is a ledger at all."""
        with self._session.transaction():
            self._session.rows("set transaction isolation level repeatable read, read only")
            row = self._session.row("select to_regclass('checkpoint_etl.lane') is not null")
            yield bool(row and row[0])

    def _lanes(
        self, search: str, after: Lane | None, limit: int, counted: int, only: Lane | None = None
    ) -> list[LaneFacts]:
        rows = self._session.rows(
            SQL["lanes"],
            {
                "pattern": f"%{_literally(search)}%" if search else None,
                "after_pipeline": after.pipeline if after else None,
                "after_part": after.part if after else None,
                "pipeline": only.pipeline if only else None,
                "part": only.part if only else None,
                "limit": limit,
                "recent": _RECENT,
                "quarantined": counted + 1,
            },
        )
        stages = self._stages([Lane(row[0], row[1]) for row in rows])
        return [_lane_facts(row, stages, counted) for row in rows]

    def _stages(self, lanes: Sequence[Lane]) -> dict[Lane, dict[Stage, StageFacts]]:
        found: dict[Lane, dict[Stage, StageFacts]] = {lane: {} for lane in lanes}
        for pipeline, part, stage, *rest in self._session.rows(SQL["stages"], _keys(lanes)):
            found[Lane(pipeline, part)][Stage(stage)] = _stage_facts(Stage(stage), rest)
        return found

    def _events(self, lane: Lane, before: int | None, limit: int) -> list[EventView]:
        parameters = _key(lane) | {"before": before, "limit": limit}
        return [EventView(*row) for row in self._session.rows(SQL["events"], parameters)]

    def _quarantine(
        self, lane: Lane, before: tuple[int, int] | None, limit: int, *, payloads: bool
    ) -> QuarantineView:
        reasons = self._session.rows(
            SQL["reasons"], _key(lane) | {"counted": _COUNTED + 1, "reasons": _REASONS}
        )
        total = int(reasons[0][5]) if reasons else 0
        before_id, before_ordinal = before or (None, None)
        found = self._session.rows(
            SQL["rejected"],
            _key(lane)
            | {
                "payloads": payloads,
                "before_id": before_id,
                "before_ordinal": before_ordinal,
                "limit": limit + 1,
            },
        )
        records = tuple(Rejected(*row) for row in found[:limit])
        more = len(found) > limit
        return QuarantineView(
            Count(min(total, _COUNTED), total > _COUNTED),
            tuple(QuarantineReason(*row[:5]) for row in reasons),
            records,
            (records[-1].ledger_id, records[-1].ordinal) if more else None,
        )


def _key(lane: Lane) -> dict[str, Any]:
    return {"pipeline": lane.pipeline, "part": lane.part}


def _runs_of(
    lane: Lane, newest: int, dag_id: str | None = None, run_id: str | None = None
) -> dict[str, Any]:
    return _key(lane) | {"newest": newest, "dag_id": dag_id, "run_id": run_id}


def _keys(lanes: Sequence[Lane]) -> dict[str, Any]:
    return {
        "pipelines": [lane.pipeline for lane in lanes],
        "parts": [lane.part for lane in lanes],
    }


def _literally(text: str) -> str:
    """Return a text as LIKE finds it literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _lane_facts(
    row: Row, stages: Mapping[Lane, Mapping[Stage, StageFacts]], counted: int
) -> LaneFacts:
    pipeline, part, now, generation, incarnation, seq, at, rows, updated_at, settings = row[:10]
    complete, chunks, loaded, seconds, low, quarantined = row[10:16]
    lane = Lane(pipeline, part)
    return LaneFacts(
        lane=lane,
        now=now,
        generation=generation,
        incarnation=incarnation,
        position=Position(seq, at, rows, updated_at),
        settings=settings,
        run=_goal(row[16:]),
        complete_as_of=settled(complete),
        speed=Speed(chunks, loaded, seconds, low) if chunks else Speed(),
        quarantined=Count(min(quarantined, counted), quarantined > counted),
        stages=stages[lane],
    )


def _goal(row: Row) -> Goal | None:
    dag_id, run_id, low, target, done, stored_at, settled_at, finished_at, incarnation = row
    if dag_id is None:
        return None
    return Goal(
        dag_id, run_id, low, target, done, stored_at, settled(settled_at), finished_at, incarnation
    )


def _run_view(row: Row) -> RunView:
    values = list(row)
    values[9] = settled(row[9])
    return RunView(*values)


def _stage_facts(stage: Stage, row: Sequence[Any]) -> StageFacts:
    fence, dag_id, run_id, task_id, map_index, try_number, host, acquired_at, lease = row[:9]
    note, failure, failures, failed_at = row[9:]
    owner = None
    if dag_id is not None:
        owner = OwnerView(
            dag_id, run_id, task_id, map_index, try_number, host or "unknown host", acquired_at
        )
    failed = None
    if failure is not None:
        failed = FailureView(
            str(failure.get("kind", "")),
            str(failure.get("message", "")),
            str(failure.get("cursor", "")),
            bool(failure.get("retryable", True)),
            failures,
            failed_at,
        )
    return StageFacts(stage, fence, owner, lease, note or "", failed)
