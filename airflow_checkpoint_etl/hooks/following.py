"""What a deferred stage of a group that runs at once is woken by: looked up without a runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.following import Upstream, is_answered, waiting_bytes
from airflow_checkpoint_etl.hooks.checkpoint import open_ledger, open_store
from airflow_checkpoint_etl.protocol import Lane, Owner, Stage

if TYPE_CHECKING:
    from airflow_checkpoint_etl.ports import LaneState


@dataclass(frozen=True, slots=True)
class Place:
    """Where a deferred stage stands, as the strings a trigger can be serialised with.

    Attributes:
        warehouse_conn_id: where the ledger is.
        checkpoint_conn_id: where the manifest is.
        pipeline: the pipeline's id.
        part: the part's key.
        stage: the stage that is deferred.
        dag_id: its DAG.
        run_id: its DAG run.
        clear_number: how often the DAG run had been cleared when the stage started.
    """

    warehouse_conn_id: str
    checkpoint_conn_id: str
    pipeline: str
    part: str
    stage: str
    dag_id: str
    run_id: str
    clear_number: int

    @property
    def lane(self) -> Lane:
        """The lane."""
        return Lane(self.pipeline, self.part)


def new_chunks(place: Place) -> int:
    """Return how many chunks of the stage before this stage has not done yet; 0 before there is a goal."""
    stage = Stage(place.stage)
    before = stage.before
    if before is None:
        return 0
    store = open_store(place.checkpoint_conn_id)
    try:
        records = {one: store.read(place.lane, one) for one in (before, stage)}
    finally:
        store.close()
    state = _goal(place)
    if state is None:
        return 0
    done, incarnation = state.frontier.seq, state.frontier.incarnation
    mine = records[stage].checkpoint
    if stage is not Stage.LOAD and mine is not None and mine.frontier.incarnation == incarnation:
        done = max(done, mine.frontier.seq)
    return sum(
        entry.incarnation == incarnation and entry.seq > done for entry in records[before].entries
    )


def _goal(place: Place) -> LaneState | None:
    """The lane, once extract has answered; the stage before is at work, or it would not be waited for."""
    owner = Owner(place.dag_id, place.run_id, "")
    ledger = open_ledger(place.warehouse_conn_id)
    try:
        if not ledger.exists():
            return None
        run, state = ledger.run(place.lane, owner), ledger.lane(place.lane)
    finally:
        ledger.close()
    return state if is_answered(Upstream.WORKING, run, state, place.clear_number) else None


def bytes_waiting(place: Place) -> int:
    """Return the bytes that this stage has staged and nobody has loaded yet."""
    store = open_store(place.checkpoint_conn_id)
    try:
        entries = store.read(place.lane, Stage(place.stage)).entries
    finally:
        store.close()
    ledger = open_ledger(place.warehouse_conn_id)
    try:
        state = ledger.lane(place.lane) if ledger.exists() else None
    finally:
        ledger.close()
    if state is None:
        return 0
    alive = [entry for entry in entries if entry.incarnation == state.frontier.incarnation]
    return waiting_bytes(alive, state.frontier.seq)
