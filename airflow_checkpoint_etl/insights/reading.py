"""Puts a lane together: from the warehouse, in one snapshot, and from its checkpoint store."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import CheckpointEtlError
from airflow_checkpoint_etl.insights.diagnosis import diagnose
from airflow_checkpoint_etl.insights.facts import Speed, Staged, lag_of
from airflow_checkpoint_etl.insights.views import (
    MOST,
    LaneInsight,
    LaneOfRun,
    LaneSummary,
    Page,
    Position,
    StageView,
)
from airflow_checkpoint_etl.insights.words import lane_state, stage_state
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.insights.facts import LaneFacts
    from airflow_checkpoint_etl.insights.history import (
        ChunkView,
        EventView,
        QuarantineView,
        RunView,
        Throughput,
        TryView,
    )
    from airflow_checkpoint_etl.insights.views import Diagnosis
    from airflow_checkpoint_etl.ports import CheckpointStore, StageRecord
    from airflow_checkpoint_etl.protocol import Chunk, Lane

OpenStore = Callable[[Mapping[str, Any]], "CheckpointStore"]
"""Opens the checkpoint store that a lane's settings name; the caller closes it."""

NewestInSource = Callable[[Mapping[str, Any]], str]
"""Returns the newest id, canonical cursor text, in the source that a lane's settings name."""

_RECENT: Final = 20
"""Chunks over which a stage's speed is taken."""

_SPARK_SECONDS: Final = 12 * 3600.0
_SPARK_BUCKETS: Final = 24


class WarehouseInsights(Protocol):
    """Reads what one warehouse knows of lanes; each call is one snapshot and bounded."""

    def lanes(self, search: str, after: Lane | None, limit: int) -> list[LaneFacts]:
        """Return lanes by name: those that hold ``search``, above ``after``, at most ``limit``."""
        ...

    def settings(self, lane: Lane) -> Mapping[str, Any] | None:
        """Return what the pipeline looked like when its extract ran last; None for no such lane."""
        ...

    def lane(self, lane: Lane, newest: int) -> LaneReading | None:
        """Return what is known of a lane, at most ``newest`` of each kind; None for no such lane."""
        ...

    def chunks(
        self, lane: Lane, before: int | None, limit: int, run: tuple[str, str] | None = None
    ) -> list[ChunkView]:
        """Return loaded chunks of the current chain, the newest first, below a number."""
        ...

    def throughput(self, lane: Lane, seconds: float, buckets: int) -> Throughput:
        """Return rows loaded in the last ``seconds``, in so many buckets."""
        ...

    def sparklines(
        self, lanes: Sequence[Lane], seconds: float, buckets: int
    ) -> dict[Lane, tuple[int, ...]]:
        """Return rows loaded by lane in each of so many spans of the last ``seconds``."""
        ...

    def lanes_of(self, dag_id: str, run_id: str, limit: int) -> list[Lane]:
        """Return the lanes that a DAG run has a goal on, by name."""
        ...

    def run(self, lane: Lane, dag_id: str, run_id: str) -> RunView | None:
        """Return a DAG run's goal on a lane; None where it has none."""
        ...

    def tries(self, lane: Lane, dag_id: str, run_id: str, limit: int) -> list[TryView]:
        """Return what the tries of a DAG run's load did, the newest first."""
        ...

    def events(self, lane: Lane, before: int | None, limit: int) -> list[EventView]:
        """Return events, the newest first, below an id."""
        ...

    def quarantine(
        self, lane: Lane, before: tuple[int, int] | None, limit: int, *, payloads: bool
    ) -> QuarantineView:
        """Return what is in quarantine, with a page of its records."""
        ...


@dataclass(frozen=True, slots=True)
class LaneReading:
    """What one snapshot of the warehouse says of a lane."""

    facts: LaneFacts
    runs: tuple[RunView, ...]
    events: tuple[EventView, ...]
    quarantine: QuarantineView


class Insights:
    """The read model over one warehouse.

    Args:
        warehouse: reads the warehouse.
        warehouse_conn_id: the Airflow connection it is behind, to be named in what is shown.
        open_store: opens a lane's checkpoint store.
        newest_in_source: asks a lane's source for its newest id.
    """

    def __init__(
        self,
        warehouse: WarehouseInsights,
        warehouse_conn_id: str,
        open_store: OpenStore,
        newest_in_source: NewestInSource,
    ) -> None:
        self._warehouse, self.warehouse_conn_id = warehouse, warehouse_conn_id
        self._open_store, self._newest_in_source = open_store, newest_in_source

    def pipelines(
        self,
        search: str = "",
        after: Lane | None = None,
        limit: int = 50,
        *,
        complete: bool = False,
    ) -> list[LaneSummary]:
        """Return lanes by pipeline and part, from the warehouse alone unless they are to be complete.

        Args:
            search: a text that the pipeline's id, its part, source or target holds, in any case.
            after: the last lane of the page before.
            limit: how many at most, up to 200.
            complete: with the positions of the stages before the load, for which the checkpoint stores
                are asked, and with the rows loaded in the last twelve hours.
        """
        found = self._warehouse.lanes(search, after, _page(limit))
        if not complete:
            return [self._summary(facts) for facts in found]
        found = self._with_stages(found, search, after, _page(limit))
        lanes = [facts.lane for facts in found]
        sparks = self._warehouse.sparklines(lanes, _SPARK_SECONDS, _SPARK_BUCKETS)
        return [replace(self._summary(facts), sparkline=sparks[facts.lane]) for facts in found]

    def of_run(self, dag_id: str, run_id: str, *, newest: int = 25) -> list[LaneOfRun]:
        """Return what a DAG run did on each of its lanes, by name; at most 200 lanes.

        Args:
            dag_id: the DAG.
            run_id: its run.
            newest: how many chunks of each lane at most, up to 200.
        """
        found: list[LaneOfRun] = []
        for lane in self._warehouse.lanes_of(dag_id, run_id, MOST):
            reading, _ = self._read(lane, newest=1)
            run = self._warehouse.run(lane, dag_id, run_id)
            if reading is None or run is None:  # removed meanwhile
                continue
            found.append(
                LaneOfRun(
                    self._summary(reading.facts),
                    run,
                    tuple(self._warehouse.tries(lane, dag_id, run_id, MOST)),
                    self.chunks(lane, limit=newest, run=(dag_id, run_id)).items,
                )
            )
        return found

    def knows(self, lane: Lane) -> bool:
        """Whether this warehouse has the lane."""
        return self._warehouse.settings(lane) is not None

    def settings(self, lane: Lane) -> Mapping[str, Any] | None:
        """Return what the pipeline looked like when its extract ran last; None for no such lane."""
        return self._warehouse.settings(lane)

    def lane(self, lane: Lane, *, newest: int = 20, ask_source: bool = False) -> LaneInsight | None:
        """Return a lane as a whole; None when this warehouse does not know it.

        Args:
            lane: which.
            newest: how many runs, events and quarantined records at most, up to 200.
            ask_source: also ask the source for its newest id (touches the source).
        """
        reading, faults = self._read(lane, newest)
        if reading is None:
            return None
        source_cursor = None
        if ask_source:
            try:
                source_cursor = self._newest_in_source(reading.facts.settings)
            except CheckpointEtlError as error:
                faults.append(f"the source's newest id is unknown: {error}")
        summary = self._summary(reading.facts, source_cursor)
        return LaneInsight(
            summary,
            reading.facts.settings,
            sum(staged.size for staged in reading.facts.staged.values()),
            reading.runs,
            reading.events,
            reading.quarantine,
            tuple(faults),
        )

    def explain(self, lane: Lane) -> Diagnosis | None:
        """Say why a lane does not go on, and what to do; None when it is not known."""
        reading, faults = self._read(lane, newest=1)
        return None if reading is None else diagnose(reading.facts, faults)

    def chunks(
        self,
        lane: Lane,
        *,
        before: int | None = None,
        limit: int = 50,
        run: tuple[str, str] | None = None,
    ) -> Page[ChunkView]:
        """Return loaded chunks of the current chain, the newest first.

        Args:
            lane: which.
            before: only chunks below this number: the ``next_token`` of the page before.
            limit: how many at most, up to 200.
            run: only those that this DAG run loaded: its dag id and run id.
        """
        limit = _page(limit)
        found = self._warehouse.chunks(lane, before, limit + 1, run)
        token = str(found[limit - 1].seq) if len(found) > limit else None
        return Page(tuple(found[:limit]), token)

    def throughput(self, lane: Lane, *, seconds: float = 86400.0, buckets: int = 48) -> Throughput:
        """Return rows loaded over time.

        Args:
            lane: which.
            seconds: how far back.
            buckets: in how many spans of time, up to 200.
        """
        return self._warehouse.throughput(lane, max(seconds, 1.0), _page(buckets))

    def events(self, lane: Lane, *, before: int | None = None, limit: int = 50) -> Page[EventView]:
        """Return what was done to a lane beside loading, the newest first.

        Args:
            lane: which.
            before: only events below this id: the ``next_token`` of the page before.
            limit: how many at most, up to 200.
        """
        limit = _page(limit)
        found = self._warehouse.events(lane, before, limit + 1)
        token = str(found[limit - 1].id) if len(found) > limit else None
        return Page(tuple(found[:limit]), token)

    def quarantine(
        self,
        lane: Lane,
        *,
        before: tuple[int, int] | None = None,
        limit: int = 50,
        payloads: bool = False,
    ) -> QuarantineView:
        """Return what of a lane is in quarantine.

        Args:
            lane: which.
            before: the ``next_before`` of the page before.
            limit: how many records at most, up to 200.
            payloads: with the records' values; never for a face that was not told to show them.
        """
        return self._warehouse.quarantine(lane, before, _page(limit), payloads=payloads)

    # --- putting it together -------------------------------------------------------------------

    def _read(self, lane: Lane, newest: int) -> tuple[LaneReading | None, list[str]]:
        """Read the store first and the warehouse second, which is then never behind the store (I6)."""
        settings = self._warehouse.settings(lane)
        if settings is None:
            return None, []
        records, faults = self._records(lane, settings)
        reading = self._warehouse.lane(lane, _page(newest))
        if reading is None:  # removed meanwhile
            return None, []
        facts = reading.facts
        staged = {stage: _staged(record, facts) for stage, record in records.items()}
        return replace(reading, facts=replace(facts, staged=staged)), faults

    def _with_stages(
        self, listed: list[LaneFacts], search: str, after: Lane | None, limit: int
    ) -> list[LaneFacts]:
        """Read the stores of listed lanes, and then the lanes again (I6)."""
        records = {facts.lane: self._records(facts.lane, facts.settings)[0] for facts in listed}
        return [
            replace(
                facts,
                staged={
                    stage: _staged(record, facts)
                    for stage, record in records.get(facts.lane, {}).items()
                },
            )
            for facts in self._warehouse.lanes(search, after, limit)
        ]

    def _records(
        self, lane: Lane, settings: Mapping[str, Any]
    ) -> tuple[dict[Stage, StageRecord], list[str]]:
        if not settings:
            return {}, []
        try:
            store = self._open_store(settings)
            try:
                records = {
                    stage: store.read(lane, stage) for stage in (Stage.EXTRACT, Stage.TRANSFORM)
                }
            finally:
                store.close()
        except Exception as error:  # noqa: BLE001  a lost store must not hide what the warehouse says
            told = str(error) if isinstance(error, CheckpointEtlError) else type(error).__name__
            return {}, [f"the checkpoint store did not answer: {told}"]
        faults = [
            f"{stage}: {fault}" for stage, record in records.items() for fault in record.faults
        ]
        return records, faults

    def _summary(self, facts: LaneFacts, source_cursor: str | None = None) -> LaneSummary:
        settings = facts.settings
        return LaneSummary(
            warehouse_conn_id=self.warehouse_conn_id,
            pipeline=facts.lane.pipeline,
            part=facts.lane.part,
            generation=facts.generation,
            incarnation=facts.incarnation,
            state=lane_state(facts),
            position=facts.position,
            target=facts.goal.target if facts.goal else "",
            lag=lag_of(facts, source_cursor),
            guarantee=str(settings.get("guarantee", "")),
            source=str(settings.get("source", "")),
            target_table=str(settings.get("target", "")),
            rows_per_second=facts.speed.rows_per_second,
            quarantined=facts.quarantined,
            stages=tuple(_stage_view(facts, stage) for stage in Stage),
        )


def _page(limit: int) -> int:
    return max(1, min(int(limit), MOST))


def _stage_view(facts: LaneFacts, stage: Stage) -> StageView:
    known, staged = facts.of(stage), facts.staged.get(stage, Staged())
    return StageView(
        stage=stage,
        state=stage_state(facts, stage),
        position=facts.position_of(stage),
        fence=known.fence,
        owner=known.owner,
        lease_seconds=known.lease_seconds,
        note=known.note,
        failure=known.failure,
        rows_per_second=facts.speed_of(stage).rows_per_second,
        staged_chunks=staged.chunks,
        staged_rows=staged.rows,
        staged_bytes=staged.size,
        share=_share(facts, stage),
    )


def _share(facts: LaneFacts, stage: Stage) -> float | None:
    """How far a stage is in the newest run."""
    run, position = facts.goal, facts.position_of(stage)
    if run is None:
        return None
    if run.done or (position is not None and position.cursor == run.target):
        return 1.0
    return cursors.share(run.low, position.cursor, run.target) if position is not None else None


def _staged(record: StageRecord, facts: LaneFacts) -> Staged:
    """What a store's record says, as far as it belongs to the lane's current life."""
    checkpoint = record.checkpoint
    if checkpoint is None or checkpoint.frontier.incarnation != facts.incarnation:
        return Staged()
    frontier = checkpoint.frontier
    mine = [entry for entry in record.entries if entry.incarnation == facts.incarnation]
    waiting = [entry for entry in mine if entry.seq > facts.position.seq]
    position = Position(
        frontier.seq, frontier.cursor, checkpoint.rows, _moment(checkpoint.updated_at, facts.now)
    )
    return Staged(
        position,
        _speed(mine[-_RECENT:], facts.now),
        len(waiting),
        sum(entry.rows for entry in waiting),
        sum(entry.size for entry in waiting),
    )


def _speed(entries: list[Chunk], now: dt.datetime) -> Speed:
    """How fast chunks were staged one after another by the newest attempt of them."""
    if not entries:
        return Speed()
    mine = [entry for entry in entries if entry.fence == entries[-1].fence and entry.staged_at]
    if len(mine) <= 1:
        return Speed()
    first, last = _moment(mine[0].staged_at, now), _moment(mine[-1].staged_at, now)
    return Speed(
        len(mine) - 1,
        sum(entry.rows for entry in mine[1:]),
        max(0.0, (last - first).total_seconds()),
        mine[1].low,
    )


def _moment(text: str, otherwise: dt.datetime) -> dt.datetime:
    """Read a time that a worker wrote; one that is none is as good as unknown."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return otherwise
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
