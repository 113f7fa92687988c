"""The warehouse's protocol over a list of rows: fences, compare-and-set and runs as the real one."""

from __future__ import annotations

import datetime as dt
import secrets
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import (
    FencedError,
    ManifestConflictError,
    PipelineChangedError,
    PreflightError,
    RewindError,
    RewoundError,
    StageBusyError,
    UpstreamLostError,
)
from airflow_checkpoint_etl.frames import Frames
from airflow_checkpoint_etl.ports import Claim, LaneState, Loaded
from airflow_checkpoint_etl.protocol import Frontier, Stage
from airflow_checkpoint_etl.quarantine import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.endpoints import PostgresWarehouse
    from airflow_checkpoint_etl.frames import Columns
    from airflow_checkpoint_etl.ports import Floor, LaneSpec, Note, Passage, Run
    from airflow_checkpoint_etl.ports.rows import Rows
    from airflow_checkpoint_etl.protocol import Chunk, Lane, Owner
    from airflow_checkpoint_etl.quarantine import Policy, Rejects


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class InMemoryWarehouse:
    """Loaded rows in ``rows``, loaded chunks in ``ledger``, rejected records (cursor and reason) in
    ``quarantine``; safe between threads.

    Args:
        config: the pipeline's warehouse, for its write mode and key.
        cursor_columns: the source's cursor columns, which an upsert compares.
    """

    def __init__(self, config: PostgresWarehouse, cursor_columns: tuple[str, ...]) -> None:
        self._config, self._cursor_columns = config, cursor_columns
        self.rows: list[dict[str, Any]] = []
        self.ledger: list[Chunk] = []
        self.quarantine: list[tuple[str, str]] = []
        self.notes: dict[tuple[Lane, Stage], Note] = {}
        self.fenced: list[tuple[Lane, Stage, Owner]] = []
        self._loaded: Counter[tuple[Lane, str, str]] = Counter()
        self._lanes: dict[Lane, LaneState] = {}
        self._fingerprints: dict[Lane, str] = {}
        self._stages: dict[tuple[Lane, Stage], tuple[int, Owner, dt.datetime]] = {}
        self._runs: dict[tuple[Lane, str, str], Run] = {}
        self._lock = threading.RLock()

    @property
    def plans(self) -> None:
        """In memory no range is planned: the main lane loads everything."""
        return

    def preflight(self) -> None:
        """There is nothing to prepare."""

    def prepare(self, spec: LaneSpec) -> LaneState:
        """Create a lane that is new, compare it with the pipeline, and return it."""
        with self._lock:
            if spec.lane not in self._lanes:
                frontier = Frontier(secrets.token_hex(12), 1, 0, spec.start)
                self._lanes[spec.lane] = LaneState(frontier, updated_at=_now().isoformat())
                self._fingerprints[spec.lane] = spec.fingerprint
            if self._fingerprints[spec.lane] != spec.fingerprint:
                raise PipelineChangedError
            return self._lanes[spec.lane]

    def acquire(self, spec: LaneSpec, stage: Stage, owner: Owner, lease: dt.timedelta) -> Claim:
        """Take a stage; extract creates the lane."""
        with self._lock:
            if spec.lane not in self._lanes and stage is not Stage.EXTRACT:
                message = f"{spec.lane} has no checkpoint yet; run extract"
                raise UpstreamLostError(message)
            self.prepare(spec)
            fence, holder, until = self._stages.get(
                (spec.lane, stage), (0, owner, dt.datetime.min.replace(tzinfo=dt.UTC))
            )
            if until > _now() and holder.task != owner.task:
                message = f"{stage} of {spec.lane} is owned by {holder}"
                raise StageBusyError(message)
            self._stages[spec.lane, stage] = (fence + 1, owner, _now() + lease)
            if stage is Stage.LOAD:
                lane = self._lanes[spec.lane]
                self._lanes[spec.lane] = replace(lane, load_fence=fence + 1)
            incarnation = self._lanes[spec.lane].frontier.incarnation
            return Claim(spec.lane, stage, fence + 1, owner, incarnation)

    def heartbeat(self, claim: Claim, lease: dt.timedelta) -> bool:
        """Extend the lease; False when a newer fence was handed out."""
        with self._lock:
            fence, owner, _ = self._stages[claim.lane, claim.stage]
            if fence == claim.fence:
                self._stages[claim.lane, claim.stage] = (fence, owner, _now() + lease)
            return fence == claim.fence

    def release(self, claim: Claim) -> None:
        """End the lease, if this claim still has it."""
        self.heartbeat(claim, dt.timedelta(0))

    def note(self, lane: Lane, stage: Stage, owner: Owner, note: Note, fence: int | None) -> None:
        """Keep the note; nothing happens unless the fence is still the newest."""
        with self._lock:
            if note.fenced:
                self.fenced.append((lane, stage, owner))
            elif fence is not None and self._stages[lane, stage][0] == fence:
                self.notes[lane, stage] = note

    def lane(self, lane: Lane) -> LaneState | None:
        """Read a lane; None when it does not exist."""
        with self._lock:
            return self._lanes.get(lane)

    def run(self, lane: Lane, owner: Owner) -> Run | None:
        """Read this DAG run's goal."""
        with self._lock:
            return self._runs.get((lane, owner.dag_id, owner.run_id))

    def set_target(self, claim: Claim, run: Run) -> Run:
        """Store this DAG run's goal; an unfinished one keeps its target."""
        key = (claim.lane, claim.owner.dag_id, claim.owner.run_id)
        with self._lock:
            stored = self._runs.get(key)
            if stored is None or stored.done or stored.incarnation != run.incarnation:
                self._runs[key] = run
            return self._runs[key]

    def shorten(self, claim: Claim, target: str) -> None:
        """Lower this DAG run's target to where a budgeted extract stopped."""
        self._change(claim, target=target)

    def finish(self, claim: Claim, run: Run, frontier: Frontier) -> None:  # noqa: ARG002
        """Mark this DAG run done on its lane; what is in memory was never failed over."""
        self._change(claim, done=True)

    def reprocess(self, claim: Claim, run: Run) -> Claim:  # noqa: ARG002
        """Refuse: rows in a list do not say which chunk they came from."""
        message = 'on_clear="reprocess" cannot be tried in memory; use a PostgreSQL warehouse'
        raise RewindError(message)

    def resync(self, claim: Claim, floor: Floor) -> Claim:  # noqa: ARG002
        """Go on: what is in memory was never restored."""
        return claim

    def _change(self, claim: Claim, **changes: Any) -> None:
        key = (claim.lane, claim.owner.dag_id, claim.owner.run_id)
        with self._lock:
            self._runs[key] = replace(self._runs[key], **changes)

    def loaded_in_run(self, claim: Claim) -> int:
        """Return how many chunks this DAG run has loaded so far, over all its tries."""
        return self._loaded[claim.lane, claim.owner.dag_id, claim.owner.run_id]

    def loaded_before(self, lane: Lane, incarnation: str, grace: dt.timedelta) -> int:  # noqa: ARG002
        """Return 0: in memory nothing is collected, so that a test can look at what was staged."""
        return 0

    def copy_faults(self, columns: Columns) -> list[str]:
        """Say that a list takes no copied rows."""
        return [f"{len(columns)} column(s) cannot be copied into memory"]

    def receive(
        self,
        claim: Claim,
        chunk: Chunk,
        passage: Passage,  # noqa: ARG002
        preoperator: Sequence[str] = (),  # noqa: ARG002
    ) -> Loaded:
        """Refuse: a list takes no copied rows, and a source in memory gives none."""
        message = f"{claim.lane}: chunk {chunk.seq} cannot be copied into memory"
        raise PreflightError(message)

    def tally(self, claim: Claim) -> Tally:  # noqa: ARG002
        """Return what was loaded from here: in memory there is one run at a time."""
        with self._lock:
            return Tally(
                sum(chunk.rows_in for chunk in self.ledger),
                sum(chunk.rejected for chunk in self.ledger),
            )

    def load(
        self,
        claim: Claim,
        chunk: Chunk,
        table: Rows,
        rejects: Rejects | None = None,
        policy: Policy | None = None,  # noqa: ARG002  a list refuses no row
    ) -> Loaded:
        """Load one chunk by the same compare-and-set as the real warehouse."""
        from airflow_checkpoint_etl.records import to_records  # noqa: PLC0415

        if isinstance(table, Frames):
            message = "a list takes no copied rows; a source in memory gives none"
            raise PreflightError(message)
        with self._lock:
            lane = self._lanes.get(claim.lane)
            if lane is None or lane.frontier.incarnation != chunk.incarnation:
                raise RewoundError
            if lane.load_fence != claim.fence:
                raise FencedError
            if lane.frontier.seq >= chunk.seq and any(
                done.seq == chunk.seq and done.digest == chunk.digest for done in self.ledger
            ):
                return Loaded(lane.frontier, chunk.rows, chunk.seq, already=True)
            at = lane.frontier
            if (at.seq + 1, at.cursor, at.state_digest) != (chunk.seq, chunk.low, chunk.state_in):
                raise ManifestConflictError
            frontier = replace(
                at,
                seq=chunk.seq,
                cursor=chunk.high,
                state_digest=chunk.state_digest,
                swept=chunk.swept or at.swept,
            )
            self._write(list(to_records(table)))
            if rejects is not None:
                self.quarantine += zip(rejects.cursors, rejects.reasons, strict=True)
            self.ledger.append(chunk)
            self._loaded[claim.lane, claim.owner.dag_id, claim.owner.run_id] += 1
            self._lanes[claim.lane] = replace(
                lane,
                frontier=frontier,
                state=chunk.state,
                rows_total=lane.rows_total + chunk.rows,
                updated_at=_now().isoformat(),
            )
            return Loaded(frontier, chunk.rows, len(self.ledger), rejected=chunk.rejected)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self._config.write == "append":
            self.rows += rows
            return
        key, order = self._config.key_columns, self._cursor_columns
        newest = {tuple(row[name] for name in key): row for row in self.rows}
        for row in rows:
            old = newest.get(tuple(row[name] for name in key))
            if old is None or [old[name] for name in order] <= [row[name] for name in order]:
                newest[tuple(row[name] for name in key)] = row
        self.rows[:] = newest.values()

    @property
    def last(self) -> str:
        """The load frontier of the only lane, canonical cursor text."""
        return next(iter(self._lanes.values())).frontier.cursor if self._lanes else cursors.BEGIN

    def cancel(self) -> None:
        """Nothing here runs for long."""

    def close(self) -> None:
        """What is loaded stays."""
