"""A PostgreSQL table as warehouse: who may load into it, and the parts that do each thing.

Its lanes, stages and runs are the ledger's, rows go in by :mod:`.transaction`, and what people do to a lane
beside loading it is :mod:`.rewind`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.errors import (
    PipelineChangedError,
    PlanEndedError,
    PreflightError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import TableFacts
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Stage
from airflow_checkpoint_etl.quarantine import Policy
from airflow_checkpoint_etl.range_plans import is_planned
from airflow_checkpoint_etl.warehouses.ledger import Ledger
from airflow_checkpoint_etl.warehouses.notes import leave
from airflow_checkpoint_etl.warehouses.plans import RangePlans, unknown_part
from airflow_checkpoint_etl.warehouses.rewind import LaneAdmin
from airflow_checkpoint_etl.warehouses.target import TargetTable
from airflow_checkpoint_etl.warehouses.transaction import LoadTransaction

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from airflow_checkpoint_etl.endpoints import PostgresWarehouse
    from airflow_checkpoint_etl.frames import Columns
    from airflow_checkpoint_etl.ports import (
        Claim,
        Floor,
        LaneSpec,
        LaneState,
        Loaded,
        Note,
        Passage,
        Run,
    )
    from airflow_checkpoint_etl.ports.rows import Rows
    from airflow_checkpoint_etl.postgres import Connect
    from airflow_checkpoint_etl.protocol import Chunk, Frontier, Lane, Owner
    from airflow_checkpoint_etl.quarantine import Rejects, Tally


class PostgresWarehouseAdapter:
    """The warehouse port over PostgreSQL.

    Args:
        config: the value object a DAG author wrote.
        connect: makes connections; three are opened at most (control, heartbeat, load).
        cursor_columns: the source's cursor columns, which an upsert compares.
    """

    def __init__(
        self, config: PostgresWarehouse, connect: Connect, cursor_columns: tuple[str, ...]
    ) -> None:
        self._config = config
        self._control = Session(connect, "checkpoint_etl control", {"synchronous_commit": "on"})
        self._beat = Session(connect, "checkpoint_etl heartbeat")
        self._data = Session(connect, "checkpoint_etl load")
        self._target = TargetTable(config, cursor_columns)
        self._ledger = Ledger(self._control, self._beat, config.lock_timeout)
        self._admin = LaneAdmin(self._control, config.lock_timeout, self._target)
        self._plans = RangePlans(self._control, config.lock_timeout, self._target)
        self._loading = LoadTransaction(
            config,
            self._data,
            self._control,
            self._ledger,
            self._plans,
            self._target,
            cursor_columns,
        )

    # --- preflight -----------------------------------------------------------------------------

    def preflight(self) -> None:
        """Create or migrate the ledger; check the target and the role's privileges on it."""
        self._ledger.prepare()
        self._target.check(self._control.connection)

    def copy_faults(self, columns: Columns) -> list[str]:
        """Say why rows with these columns cannot be copied into the target as they are."""
        return self._loading.copy_faults(columns)

    # --- lanes, stages, runs -------------------------------------------------------------------

    def prepare(self, spec: LaneSpec) -> LaneState:
        """Create a lane that is new, compare it with the pipeline, and return it."""
        self._begin_lane(spec)
        return self._ledger.check(spec)

    def acquire(self, spec: LaneSpec, stage: Stage, owner: Owner, lease: dt.timedelta) -> Claim:
        """Take a stage; extract creates the lane."""
        state = self.prepare(spec) if stage is Stage.EXTRACT else self._ledger.check(spec)
        if state.sealed:  # who gets past this is held by the compare-and-set
            raise self._plans.sealed(spec.lane)
        claim = self._ledger.acquire(spec.lane, stage, owner, lease)
        try:
            failpoint(f"{stage}.after_acquire")
            if stage is Stage.LOAD:
                self._check_target(spec.lane)
        except Exception:
            self._ledger.give_back(claim)
            raise
        return claim

    def _begin_lane(self, spec: LaneSpec) -> None:
        """Create the lane, or have one that was reset start where the pipeline now says."""
        state = self._ledger.lane(spec.lane)
        if state is None:
            if is_planned(spec.lane.part):  # as a lane of its own it would read the whole source
                raise PlanEndedError(unknown_part(spec.lane))
            self._check_new_lane(spec)
            self._ledger.create(spec)
        elif state.is_reset and state.frontier.cursor != spec.start:
            self._check_new_lane(spec)
            self._ledger.start_anew(spec)

    def _check_new_lane(self, spec: LaneSpec) -> None:
        """A new lane on a table with rows would load again what is there, e.g. after a lost ledger."""
        facts = self._target.describe(self._control.connection)
        if (
            facts is None
            or spec.empties
            or self._target.is_empty(self._control.connection)
            or self._ledger.target_is_known(spec.lane.pipeline, facts.oid)
        ):
            return
        if spec.start != BEGIN:
            # A rewind of this lane finds its rows by ledger id: never those of a ledger that was lost.
            self._ledger.skip_ids(self._target.newest_lineage(self._control.connection))
            return
        message = (
            f"{spec.lane} has no checkpoint in the warehouse, but its target {self._config.table} "
            "already holds rows: loading from the beginning would double them. Empty the table, or "
            "say with Pipeline(start_after=...) up to which cursor value it is loaded"
        )
        raise PreflightError(message)

    def _check_target(self, lane: Lane) -> None:
        state = self._ledger.lane(lane)
        facts = self._target.describe(self._control.connection)
        loaded_into = state.target_oid if state else None
        if loaded_into is None:
            return
        if facts is None or facts.oid != loaded_into:
            message = (
                f"{lane}: the target {self._config.table} was dropped or replaced since the last load "
                f"(its oid was {loaded_into}, is {facts.oid if facts else 'missing'}), so the rows "
                "the checkpoint stands for are gone. Restore the table, or load into a new one under "
                "a new pipeline_id"
            )
            raise PipelineChangedError(message)

    def heartbeat(self, claim: Claim, lease: dt.timedelta) -> bool:
        """Extend the lease; False when a newer fence was handed out."""
        return self._ledger.heartbeat(claim, lease)

    def release(self, claim: Claim) -> None:
        """End the lease, if this claim still has it."""
        self._ledger.release(claim)

    def note(self, lane: Lane, stage: Stage, owner: Owner, note: Note, fence: int | None) -> None:
        """Leave a note on a stage, for people; see the port."""
        leave(self._control, lane, stage, owner, note, fence)

    def lane(self, lane: Lane) -> LaneState | None:
        """Read a lane; None when it does not exist."""
        return self._ledger.lane(lane)

    def run(self, lane: Lane, owner: Owner) -> Run | None:
        """Read this DAG run's goal."""
        return self._ledger.run(lane, owner)

    def set_target(self, claim: Claim, run: Run) -> Run:
        """Store this DAG run's goal; an unfinished one keeps its target."""
        return self._ledger.set_target(claim, run)

    def shorten(self, claim: Claim, target: str) -> None:
        """Lower this DAG run's target to where a budgeted extract stopped."""
        self._ledger.shorten(claim, target)

    def finish(self, claim: Claim, run: Run, frontier: Frontier) -> None:
        """Mark this DAG run done on its lane, which must stand where the load has left it."""
        self._ledger.finish(claim, run, frontier)

    def reprocess(self, claim: Claim, run: Run) -> Claim:
        """Rewind the lane to the run's low, and have the run load up to the old load frontier."""
        return self._admin.reprocess(claim, run)

    def resync(self, claim: Claim, floor: Floor) -> Claim:
        """Begin a new life at the warehouse's own frontier."""
        return self._admin.resync(claim, floor)

    @property
    def admin(self) -> LaneAdmin:
        """What people do to a lane beside loading it."""
        return self._admin

    @property
    def plans(self) -> RangePlans:
        """Range plans: loading one range in parts."""
        return self._plans

    def loaded_in_run(self, claim: Claim) -> int:
        """Return how many chunks this DAG run has loaded so far, over all its tries."""
        return self._ledger.loaded_in_run(claim)

    def tally(self, claim: Claim) -> Tally:
        """Return what this DAG run's loaded chunks have read and rejected, over all its tries."""
        return self._ledger.tally(claim)

    def loaded_before(self, lane: Lane, incarnation: str, grace: dt.timedelta) -> int:
        """Return the newest chunk whose ledger row is older than the grace period; 0 for none."""
        return self._ledger.loaded_before(lane, incarnation, grace)

    # --- loading -------------------------------------------------------------------------------

    def load(
        self,
        claim: Claim,
        chunk: Chunk,
        table: Rows,
        rejects: Rejects | None = None,
        policy: Policy | None = None,
    ) -> Loaded:
        """Load one chunk in one transaction; see the port for what it raises."""
        return self._loading.load(claim, chunk, table, rejects, policy or Policy())

    def receive(
        self, claim: Claim, chunk: Chunk, passage: Passage, preoperator: Sequence[str] = ()
    ) -> Loaded:
        """Load one chunk while it is read, in one transaction; see the port for what it raises."""
        return self._loading.receive(claim, chunk, passage, preoperator)

    def table_facts(self) -> TableFacts | None:
        """Return what is known of the target since rows were accepted; None before."""
        facts = self._loading.accepted_facts
        if facts is None:
            return None
        columns = {column.name: column.pg_type for column in facts.columns}
        return TableFacts(facts.schema, facts.name, columns)

    # --- ending --------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Interrupt the running load, from another thread."""
        self._data.cancel()

    def close(self) -> None:
        """Close the connections."""
        for session in (self._data, self._beat, self._control):
            session.close()
