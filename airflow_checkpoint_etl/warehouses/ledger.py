"""Lanes, stages, runs and fences in the warehouse: who may work, and where a run ends.

The load transaction itself is in :mod:`airflow_checkpoint_etl.warehouses.postgres`; every other write
to the ledger's tables is here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
from typing import TYPE_CHECKING, Any, Final

import psycopg

from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    FencedError,
    ManifestConflictError,
    PipelineChangedError,
    RewoundError,
    SourceResetError,
    StageBusyError,
    UpstreamLostError,
)
from airflow_checkpoint_etl.migrations import migrate, read_script
from airflow_checkpoint_etl.ports import Claim, LaneState, Run
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.protocol import Frontier, Stage
from airflow_checkpoint_etl.quarantine import Tally

if TYPE_CHECKING:
    import datetime as dt

    from airflow_checkpoint_etl.ports import LaneSpec
    from airflow_checkpoint_etl.postgres import Row, Session
    from airflow_checkpoint_etl.protocol import Lane, Owner

log = logging.getLogger(__name__)

SQL: Final = read_statements("airflow_checkpoint_etl.warehouses", "statements.sql")
SCHEMA: Final = (read_script("airflow_checkpoint_etl.warehouses", "ledger.sql"),)
"""The ledger's schema versions, oldest first."""

_LOAD_BACKEND: Final = re.compile(rf"checkpoint_etl {Stage.LOAD} f([0-9]+) ")
"""A load transaction's :func:`application_name`, and its fence."""

_SAME_SOURCE: Final = ("system_identifier", "database", "relation")


def new_incarnation() -> str:
    """Draw the random id of a lane's new life: 96 bits, so that it is never issued twice."""
    return secrets.token_hex(12)


def application_name(lane: Lane, stage: Stage, fence: int) -> str:
    """Name a backend so that a later attempt can tell that it is ours: at most 63 bytes."""
    return f"checkpoint_etl {stage} f{fence} {lane}".encode()[:63].decode(errors="ignore")


def _key(lane: Lane) -> dict[str, Any]:
    return {"pipeline": lane.pipeline, "part": lane.part}


def _task(owner: Owner) -> dict[str, Any]:
    return {
        "dag_id": owner.dag_id,
        "run_id": owner.run_id,
        "task_id": owner.task_id,
        "map_index": owner.map_index,
        "try_number": owner.try_number,
    }


class Ledger:
    """The warehouse's record of lanes, over a control session.

    Args:
        session: for acquire, release, runs and reading.
        heartbeat: a second session for leases, used by another thread while a load runs.
        lock_timeout: seconds to wait for a lane that a former owner still holds.
    """

    def __init__(self, session: Session, heartbeat: Session, lock_timeout: float) -> None:
        self._session = session
        self._heartbeat = heartbeat
        self._lock_timeout = lock_timeout

    def exists(self) -> bool:
        """Whether the ledger's tables are there; for readers, who create nothing."""
        row = self._session.row("select to_regclass('checkpoint_etl.lane') is not null")
        return bool(row and row[0])

    def close(self) -> None:
        """Close both sessions."""
        self._heartbeat.close()
        self._session.close()

    def prepare(self) -> None:
        """Create or migrate the tables; see :func:`airflow_checkpoint_etl.migrations.migrate`."""
        migrate(self._session.connection, "ledger", SCHEMA)

    # --- lanes ---------------------------------------------------------------------------------

    def lane(self, lane: Lane) -> LaneState | None:
        """Read a lane; None when it does not exist."""
        row = self._session.row(SQL["read_lane"], _key(lane))
        return _lane_state(row) if row else None

    def target_is_known(self, pipeline: str, target_oid: int) -> bool:
        """Whether a part of this pipeline has loaded into this table."""
        parameters = {"pipeline": pipeline, "target_oid": target_oid}
        row = self._session.row(SQL["target_is_known"], parameters)
        return bool(row and row[0])

    def skip_ids(self, newest: int) -> None:
        """Give out only ledger ids above ``newest``: a ledger that was lost gave out those below."""
        row = self._session.row(SQL["newest_ledger_id"])
        if row is not None and row[0] < newest:
            self._session.rows(SQL["skip_ledger_ids"], {"newest": newest})

    def create(self, spec: LaneSpec) -> None:
        """Create a lane; one that exists is left as it is."""
        self._session.rows(
            SQL["create_lane"],
            _key(spec.lane)
            | {
                "incarnation": new_incarnation(),
                "cursor": spec.start,
                "source_identity": json.dumps(dict(spec.source_identity), sort_keys=True),
                "fingerprint": spec.fingerprint,
            },
        )

    def start_anew(self, spec: LaneSpec) -> None:
        """Have a lane that was reset start where the pipeline now says."""
        self._session.rows(SQL["start_lane_anew"], _key(spec.lane) | {"cursor": spec.start})

    def check(self, spec: LaneSpec) -> LaneState:
        """Compare a lane with the pipeline that wants to use it, and return it.

        Raises:
            PipelineChangedError: cursor, source, target or filter changed under this id.
            SourceResetError: the source was failed over or restored.
            UpstreamLostError: the lane does not exist.
        """
        row = self._session.row(SQL["read_lane"], _key(spec.lane))
        if row is None:
            message = (
                f"{spec.lane} has no checkpoint in the warehouse: its extract has never run; "
                "run (or clear) extract with Downstream"
            )
            raise UpstreamLostError(message)
        fingerprint, identity = row[8], json.loads(row[9])
        if fingerprint not in {"", spec.fingerprint}:  # empty after a reset
            message = (
                f"{spec.lane}: the cursor, source, target, key or filter is not the one its checkpoint "
                f"was made with (stored fingerprint {fingerprint[:12]}, now {spec.fingerprint[:12]}); "
                "going on could lose or double rows. Undo the change, or use a new pipeline_id"
            )
            raise PipelineChangedError(message)
        self._check_source(spec, identity)
        if spec.settings:
            self._session.rows(
                SQL["note_pipeline"],
                _key(spec.lane)
                | {
                    "settings": json.dumps(dict(spec.settings), sort_keys=True),
                    "fingerprint": spec.fingerprint,
                },
            )
        return _lane_state(row)

    def _check_source(self, spec: LaneSpec, stored: dict[str, str]) -> None:
        if not spec.source_identity:
            return
        now = dict(spec.source_identity)
        changed = [
            key for key in _SAME_SOURCE if key in stored and key in now and stored[key] != now[key]
        ]
        if changed:
            values = ", ".join(f"{key} was {stored[key]}, is {now[key]}" for key in changed)
            message = (
                f"{spec.lane}: the source is another one than the checkpoint was made with ({values}); "
                "its ids may mean other rows. Point the connection back, or use a new pipeline_id with "
                "start_after= if the target already holds these rows"
            )
            raise PipelineChangedError(message)
        self._check_timeline(spec, stored.get("timeline"), now.get("timeline"))
        if stored != now:
            identity = json.dumps(now, sort_keys=True)
            self._session.rows(SQL["note_source"], _key(spec.lane) | {"source_identity": identity})

    def _check_timeline(self, spec: LaneSpec, stored: str | None, now: str | None) -> None:
        """A promoted standby, or a restored copy, goes on from where it was: ids are issued again."""
        if stored is None or now is None or stored == now:
            return
        fact = (
            f"{spec.lane}: the source was failed over or restored (timeline {stored}, now {now}); rows "
            "the old server had not passed on are gone there, and their ids may be issued again for "
            "rows that are never read"
        )
        if spec.accepts_reset:
            log.warning('%s. Going on, as on_source_reset="continue" says', fact)
            return
        message = (
            f"{fact}. Compare source and target; then have one run accept it with "
            'on_source_reset="continue", or resync the lane'
        )
        raise SourceResetError(message)

    # --- stages --------------------------------------------------------------------------------

    def acquire(self, lane: Lane, stage: Stage, owner: Owner, lease: dt.timedelta) -> Claim:
        """Take a stage and its next fence.

        Raises:
            StageBusyError: another task has it and its lease is live.
            FencedError: a newer load attempt took the lane meanwhile.
        """
        key = _key(lane) | {"stage": stage.value}
        self._session.rows(SQL["create_stage"], key)
        row = self._session.row(
            SQL["acquire_stage"],
            key | _task(owner) | {"ti_id": owner.ti_id, "host": owner.host, "lease": lease},
        )
        if row is None:
            raise StageBusyError(self._busy(key, lane, stage), stage.value)
        fence = int(row[0])
        claim = Claim(lane, stage, fence, owner, self._incarnation(lane, stage, fence))
        if stage is Stage.LOAD:
            try:
                self._take_lane(claim)
            except Exception:
                self.give_back(claim)
                raise
        return claim

    def _incarnation(self, lane: Lane, stage: Stage, fence: int) -> str:
        """The lane's life in which the fence was handed out; read while nobody has a newer one."""
        parameters = _key(lane) | {"stage": stage.value, "fence": fence}
        row = self._session.row(SQL["claimed_incarnation"], parameters)
        if row is None:
            message = (
                f"{stage} of {lane} was taken over, or the lane rewound or removed, at the moment "
                f"this attempt acquired it (fence {fence}); this attempt stops and has written nothing"
            )
            raise FencedError(message)
        return str(row[0])

    def _busy(self, key: dict[str, Any], lane: Lane, stage: Stage) -> str:
        row = self._session.row(SQL["stage_owner"], key)
        if row is None:
            return f"{stage} of {lane} is owned by another task"
        dag_id, run_id, task_id, try_number, _, seconds = row
        return (
            f"{stage} of {lane} is owned by {dag_id}.{task_id} of {run_id} (try {try_number}); its "
            f"lease runs for {seconds:.0f} s more. It is never taken from a live owner: wait for it"
        )

    def _take_lane(self, claim: Claim) -> None:
        """Raise the lane's load fence; a hung former owner that holds the row is ended.

        The holder is the backend that has the row *now* (never a stored pid: behind a pooler it may
        be an innocent's), and it must carry the application name of an older load attempt, whose lease
        had run out or was our own task's when this one was given the stage.
        """
        parameters = _key(claim.lane) | {"fence": claim.fence}
        for attempt in range(3):
            try:
                with self._session.transaction():
                    self._session.rows(
                        "select set_config('lock_timeout', %s, true)",
                        (f"{int(min(self._lock_timeout, 2.0) * 1000)}ms",),
                    )
                    raised = self._session.count(SQL["raise_load_fence"], parameters)
            except psycopg.errors.LockNotAvailable:
                self._check_newest(claim)
                if attempt == 2:  # noqa: PLR2004  the last of three
                    raise CheckpointEtlError(self._held(claim.lane)) from None
                self._end_holder(claim)
                continue
            if not raised:
                self._check_newest(claim)
            return

    def _check_newest(self, claim: Claim) -> None:
        state = self.lane(claim.lane)
        if state is None:
            message = f"{claim.lane} was removed while its load began; clear extract"
            raise RewoundError(message)
        if state.load_fence > claim.fence:
            message = (
                f"load of {claim.lane} got fence {claim.fence}, but a newer attempt with fence "
                f"{state.load_fence} has the lane; this attempt stops"
            )
            raise FencedError(message)

    def _held(self, lane: Lane) -> str:
        holders = self._session.rows(SQL["lane_row_holder"], _key(lane))
        named = "; ".join(f"backend {pid} ({name or 'no name'})" for pid, name in holders)
        return (
            f"{lane}: another session holds the lane's row in checkpoint_etl.lane and is no older load "
            f"of ours: {named or 'it ended just now'}; have it commit or roll back, then try again"
        )

    def _end_holder(self, claim: Claim) -> None:
        for pid, name in self._session.rows(SQL["lane_row_holder"], _key(claim.lane)):
            # A newer attempt may have the row: this one slept through its own lease meanwhile.
            holder = _LOAD_BACKEND.match(name)
            if holder and int(holder[1]) < claim.fence:
                log.warning(
                    "%s: ending the hung backend %s of an older load attempt", claim.lane, pid
                )
                self._session.rows(SQL["terminate_backend"], {"pid": pid})

    def lease_left(self, lane: Lane, stage: Stage) -> float:
        """Return for how many more seconds somebody's lease on a stage runs; 0 when it is free."""
        row = self._session.row(SQL["stage_owner"], _key(lane) | {"stage": stage.value})
        return float(row[5] or 0.0) if row else 0.0

    def heartbeat(self, claim: Claim, lease: dt.timedelta) -> bool:
        """Extend the lease; False when a newer fence was handed out."""
        key = _key(claim.lane) | {"stage": claim.stage.value, "fence": claim.fence}
        return self._heartbeat.count(SQL["extend_lease"], key | {"lease": lease}) == 1

    def give_back(self, claim: Claim) -> None:
        """End the lease of an attempt that failed before it began; best effort, it runs out by itself."""
        with contextlib.suppress(Exception):
            self.release(claim)

    def release(self, claim: Claim) -> None:
        """End the lease, if this claim still has it."""
        key = _key(claim.lane) | {"stage": claim.stage.value, "fence": claim.fence}
        self._session.rows(SQL["release_stage"], key)

    # --- runs ----------------------------------------------------------------------------------

    def run(self, lane: Lane, owner: Owner) -> Run | None:
        """Read this DAG run's goal."""
        row = self._session.row(SQL["read_run"], _key(lane) | _task(owner))
        return Run(*row) if row else None

    def set_target(self, claim: Claim, run: Run) -> Run:
        """Store this DAG run's goal under the claim's fence; an unfinished one keeps its target."""
        row = self._session.row(
            SQL["set_target"],
            _key(claim.lane)
            | _task(claim.owner)
            | {
                "incarnation": run.incarnation,
                "low": run.low,
                "target": run.target,
                "swept": run.swept,
                "clear_number": claim.owner.clear_number,
                "settled_ago": run.settled_ago,
                "fence": claim.fence,
            },
        )
        if row is None:
            raise FencedError(_fenced(claim))
        return Run(*row)

    def shorten(self, claim: Claim, target: str) -> None:
        """Lower this DAG run's target to where a budgeted extract stopped."""
        parameters = _key(claim.lane) | _task(claim.owner)
        parameters |= {"target": target, "fence": claim.fence}
        if not self._session.count(SQL["shorten_target"], parameters):
            raise FencedError(_fenced(claim))

    def finish(self, claim: Claim, run: Run, frontier: Frontier) -> None:
        """Mark this DAG run done on its lane, if the lane still stands where the load has left it.

        Raises:
            FencedError: a newer attempt has the load.
            ManifestConflictError: the lane or the run's target is another one than the load has seen.
        """
        parameters = _key(claim.lane) | _task(claim.owner)
        parameters |= {
            "fence": claim.fence,
            "incarnation": frontier.incarnation,
            "target": run.target,
            "seq": frontier.seq,
            "cursor": frontier.cursor,
        }
        if self._session.count(SQL["finish_run"], parameters):
            return
        row = self._session.row(SQL["stage_owner"], _key(claim.lane) | {"stage": claim.stage.value})
        if row is None or row[4] != claim.fence:
            raise FencedError(_fenced(claim))
        message = (
            f"load of {claim.lane} had reached {run.target} at chunk {frontier.seq}, but the lane or "
            "the run stands elsewhere now: the warehouse was failed over or restored. Try again: the "
            "load goes on from where the warehouse is"
        )
        raise ManifestConflictError(message)

    def caught_up(self, lane: Lane, not_before: dt.datetime) -> bool:
        """Whether the lane is loaded past a bound that was settled at or after ``not_before``."""
        row = self._session.row(SQL["caught_up"], _key(lane) | {"not_before": not_before})
        return bool(row and row[0])

    def loaded_in_run(self, claim: Claim) -> int:
        """Return how many chunks this DAG run has loaded so far, over all its tries."""
        row = self._session.row(SQL["loaded_in_run"], _key(claim.lane) | _task(claim.owner))
        return int(row[0]) if row else 0

    def tally(self, claim: Claim) -> Tally:
        """Return what this DAG run's loaded chunks have read and rejected, over all its tries."""
        row = self._session.row(SQL["tally"], _key(claim.lane) | _task(claim.owner))
        return Tally(*row) if row else Tally()

    def loaded_before(self, lane: Lane, incarnation: str, grace: dt.timedelta) -> int:
        """Return the newest chunk whose ledger row is older than the grace period; 0 for none."""
        parameters = _key(lane) | {"incarnation": incarnation, "grace": grace}
        row = self._session.row(SQL["loaded_before"], parameters)
        return int(row[0]) if row else 0


def _fenced(claim: Claim) -> str:
    return (
        f"{claim.stage} of {claim.lane} was taken over by a newer attempt (this one has fence "
        f"{claim.fence}); this attempt stops and has written nothing since"
    )


def _lane_state(row: Row) -> LaneState:
    incarnation, generation, seq, at, state_digest, rows_total, load_fence, target_oid = row[:8]
    return LaneState(
        frontier=Frontier(incarnation, generation, seq, at, state_digest, swept=row[12]),
        state=row[10],
        rows_total=rows_total,
        load_fence=load_fence,
        target_oid=target_oid,
        updated_at=row[11].isoformat(),
        settings=row[13],
        fences=row[14],
        is_reset=row[8] == "" and seq == 0,
        ends_at=row[15],
        sealed=row[16],
    )
