"""A PostgreSQL table as warehouse: the load transaction, exactly as docs/protocol.md writes it.

The lane's compare-and-set, the ledger row and the chunk's rows are one transaction, and the
compare-and-set comes first: a second attempt blocks on the lane's row and then finds 0 rows, so an
in-doubt commit resolves itself and no COPY is done twice.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Final

import psycopg

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.errors import (
    FencedError,
    ManifestConflictError,
    PipelineChangedError,
    PlanEndedError,
    PreflightError,
    RewoundError,
    StagedChunkError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.frames import Frames
from airflow_checkpoint_etl.ports import Loaded, TableFacts
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Frontier, Stage
from airflow_checkpoint_etl.quarantine import Policy, Tally, rejects_of
from airflow_checkpoint_etl.range_plans import is_planned
from airflow_checkpoint_etl.warehouses.first import FirstLoad
from airflow_checkpoint_etl.warehouses.frames import FrameTable, schema_of
from airflow_checkpoint_etl.warehouses.ledger import SQL, Ledger, application_name
from airflow_checkpoint_etl.warehouses.notes import leave
from airflow_checkpoint_etl.warehouses.plans import RangePlans, unknown_part
from airflow_checkpoint_etl.warehouses.quarantine import keep
from airflow_checkpoint_etl.warehouses.rewind import LaneAdmin
from airflow_checkpoint_etl.warehouses.target import TargetTable

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    import pyarrow as pa

    from airflow_checkpoint_etl.frames import Columns
    from airflow_checkpoint_etl.pipeline import PostgresWarehouse
    from airflow_checkpoint_etl.ports import (
        Claim,
        Floor,
        LaneSpec,
        LaneState,
        Note,
        Passage,
        Run,
    )
    from airflow_checkpoint_etl.ports.rows import Rows
    from airflow_checkpoint_etl.postgres import Connect, Row
    from airflow_checkpoint_etl.protocol import Chunk, Lane, Owner
    from airflow_checkpoint_etl.quarantine import Rejects
    from airflow_checkpoint_etl.warehouses.catalog import TargetFacts

log = logging.getLogger(__name__)

_IDLE_TIMEOUT: Final = "10min"
"""How long a load transaction may sit idle (its worker frozen) before the server ends it."""


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
        self._config, self._cursor_columns = config, cursor_columns
        self._control = Session(connect, "checkpoint_etl control", {"synchronous_commit": "on"})
        self._beat = Session(connect, "checkpoint_etl heartbeat")
        self._data = Session(connect, "checkpoint_etl load")
        self._target = TargetTable(config, cursor_columns)
        self._frames = FrameTable(self._target)
        self._ledger = Ledger(self._control, self._beat, config.lock_timeout)
        self._admin = LaneAdmin(self._control, config.lock_timeout, self._target)
        self._plans = RangePlans(self._control, config.lock_timeout, self._target)
        self._schema: pa.Schema | None = None
        self._schema_digest = ""
        self._target_oid: int | None = None

    # --- preflight -----------------------------------------------------------------------------

    def preflight(self) -> None:
        """Create or migrate the ledger; check the target and the role's privileges on it."""
        self._ledger.prepare()
        self._target.check(self._control.connection)

    def accept(self, schema: pa.Schema) -> None:
        """Check that rows of this schema fit the target exactly, creating it when asked to."""
        if self._schema is not None and self._schema.equals(schema, check_metadata=True):
            return
        self._target.accept(self._control.connection, schema)
        facts = self._target.describe(self._control.connection)
        if facts is None:  # dropped between the two statements
            message = (
                f"the target {self._config.table} does not exist; create it and clear the task"
            )
            raise PreflightError(message)
        self._note(facts, schema)

    def copy_faults(self, columns: Columns) -> list[str]:
        """Say why rows with these columns cannot be copied into the target as they are."""
        return self._frames.faults(self._control.connection, columns)

    def _accept_copied(self, columns: Columns) -> None:
        self._note(self._frames.accept(self._control.connection, columns), schema_of(columns))

    def _note(self, facts: TargetFacts, schema: pa.Schema) -> None:
        self._target_oid = facts.oid
        self._schema = schema
        text = schema.to_string(show_field_metadata=True, show_schema_metadata=False)
        self._schema_digest = hashlib.sha256(text.encode()).hexdigest()

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

    # --- the load transaction ------------------------------------------------------------------

    def load(
        self,
        claim: Claim,
        chunk: Chunk,
        table: Rows,
        rejects: Rejects | None = None,
        policy: Policy | None = None,
    ) -> Loaded:
        """Load one chunk in one transaction; see the port for what it raises."""
        policy = policy or Policy()
        rejected = len(rejects) if rejects is not None else 0
        if (table.num_rows, rejected) != (chunk.rows, chunk.rejected):
            message = (
                f"chunk {chunk.seq} of {claim.lane} should hold {chunk.rows} rows and {chunk.rejected} "
                f"rejected records, but its file holds {table.num_rows} and {rejected}"
            )
            raise StagedChunkError(message)
        if table.num_rows:
            if isinstance(table, Frames):
                self._accept_copied(table.columns)
            else:
                self.accept(table.schema)
        with self._data.transaction():
            self._data.rows(SQL["prepare_transaction"], self._settings(claim))
            failpoint("load.before_advance")
            row = self._advance(claim, chunk)
            if row is not None:
                ledger_id, generation, swept = row
                failpoint("load.before_rows")
                written, refused = self._write(chunk, table, ledger_id, policy)
                failpoint("load.after_rows")
                if written + (len(refused) if refused else 0) != chunk.rows:
                    message = (
                        f"chunk {chunk.seq} of {claim.lane} should hold {chunk.rows} rows but "
                        f"{written} were written; the transaction is rolled back"
                    )
                    raise StagedChunkError(message)
                if rejects is not None or refused is not None:
                    rejected = self._quarantine(claim, chunk, ledger_id, rejects, refused)
                    self._check_limits(claim, chunk, policy, rejects, refused)
                self._data.rows(SQL["stamp_ledger"], {"id": ledger_id})
                failpoint("load.before_commit")
            # From here the commit may have landed, whatever this process hears of it.
        if row is None:
            return self._explain(claim, chunk)
        failpoint("load.after_commit")
        frontier = Frontier(
            chunk.incarnation, generation, chunk.seq, chunk.high, chunk.state_digest, swept
        )
        return Loaded(frontier, written, ledger_id, rejected=rejected)

    def receive(
        self, claim: Claim, chunk: Chunk, passage: Passage, preoperator: Sequence[str] = ()
    ) -> Loaded:
        """Load one chunk while it is read, in one transaction; see the port for what it raises."""
        self._accept_copied(passage.columns)
        with self._data.transaction():
            self._data.rows(SQL["prepare_transaction"], self._settings(claim))
            failpoint("load.before_advance")
            row = self._advance(claim, chunk)
            if row is not None:
                ledger_id, generation, swept = row
                if preoperator and chunk.seq == 1:
                    first = FirstLoad(self._data.connection, self._target, claim.lane)
                    first.run(preoperator)
                    self._frames.forget()
                failpoint("load.before_rows")
                connection = self._data.connection
                written = self._frames.write(
                    connection, passage.columns, passage.blocks(), ledger_id
                )
                failpoint("load.after_rows")
                if written != passage.rows:
                    message = (
                        f"chunk {chunk.seq} of {claim.lane}: {passage.rows:,} rows were read and "
                        f"{written:,} written; the transaction is rolled back"
                    )
                    raise StagedChunkError(message)
                facts = self._frames.accepted_facts
                target_oid = facts.oid if facts is not None else self._target_oid
                counted = {"id": ledger_id, "rows": written, "target_oid": target_oid}
                self._data.rows(SQL["count_passed"], counted)
                failpoint("load.before_commit")
            # From here the commit may have landed, whatever this process hears of it.
        if row is None:
            return self._explain(claim, chunk)
        failpoint("load.after_commit")
        frontier = Frontier(
            chunk.incarnation, generation, chunk.seq, chunk.high, chunk.state_digest, swept
        )
        return Loaded(frontier, written, ledger_id)

    def _advance(self, claim: Claim, chunk: Chunk) -> Row | None:
        """L2 and the ledger row; None when the lane does not stand where the chunk begins."""
        try:
            return self._data.row(SQL["advance_lane"], self._move(claim, chunk))
        except psycopg.errors.CheckViolation as error:
            if error.diag.constraint_name != "part_has_no_state":
                raise
            message = (
                f"{claim.lane} is a part of a range plan, and its transform keeps a state: parts are "
                "loaded in any order, so a state that goes from chunk to chunk has none. Leave out "
                "initial_state, or load with checkpoint_task_group"
            )
            raise PreflightError(message) from None

    def _write(
        self, chunk: Chunk, table: Rows, ledger_id: int, policy: Policy
    ) -> tuple[int, Rejects | None]:
        """Write the rows; return how many, and those the target refused where they may be kept aside."""
        if not table.num_rows:  # every record of the chunk was dropped: only the frontier moves
            return 0, None
        connection = self._data.connection
        if isinstance(table, Frames):
            return self._frames.write(connection, table.columns, table.blocks(), ledger_id), None
        if not policy.quarantines:
            return self._target.write(connection, table, ledger_id), None
        reasons = self._target.write_fitting(connection, table, ledger_id)
        refused = rejects_of(table, reasons, self._cursor_columns, chunk.high)
        return table.num_rows - len(reasons), refused

    def _quarantine(
        self,
        claim: Claim,
        chunk: Chunk,
        ledger_id: int,
        rejects: Rejects | None,
        refused: Rejects | None,
    ) -> int:
        """Keep the chunk's rejected records under its ledger row; return how many there are."""
        failpoint("quarantine.before_records")
        count = 0
        for stage, found in ((Stage.TRANSFORM, rejects), (Stage.LOAD, refused)):
            if found is not None:
                keep(self._data, ledger_id, stage, found, count)
                count += len(found)
        if refused is not None:
            parameters = {"id": ledger_id, "refused": len(refused)}
            self._data.rows(SQL["count_refused"], parameters)
            log.warning(
                "load %s: the target refused %s of %s rows of chunk %s; they are in quarantine",
                claim.lane,
                f"{len(refused):,}",
                f"{chunk.rows:,}",
                chunk.seq,
            )
        failpoint("quarantine.after_records")
        return count

    def _check_limits(
        self,
        claim: Claim,
        chunk: Chunk,
        policy: Policy,
        rejects: Rejects | None,
        refused: Rejects | None,
    ) -> None:
        """Check the run's rejected records, this chunk's included; its ledger row counts them."""
        key = {
            "pipeline": claim.lane.pipeline,
            "part": claim.lane.part,
            "dag_id": claim.owner.dag_id,
            "run_id": claim.owner.run_id,
        }
        tally = Tally(*(self._data.row(SQL["tally"], key) or (0, 0)))
        first = [text for found in (rejects, refused) if found for text in found.cursors]
        policy.check(tally, first, f"load of {claim.lane}, chunk {chunk.seq}")

    def _settings(self, claim: Claim) -> dict[str, str]:
        return {
            "application_name": application_name(claim.lane, claim.stage, claim.fence),
            "lock_timeout": f"{int(self._config.lock_timeout * 1000)}ms",
            "statement_timeout": f"{int(self._config.statement_timeout * 1000)}ms",
            "idle_timeout": _IDLE_TIMEOUT,
        }

    def _move(self, claim: Claim, chunk: Chunk) -> dict[str, object]:
        owner = claim.owner
        return {
            "pipeline": claim.lane.pipeline,
            "part": claim.lane.part,
            "incarnation": chunk.incarnation,
            "fence": claim.fence,
            "seq": chunk.seq,
            "low": chunk.low,
            "high": chunk.high,
            "state_in": chunk.state_in,
            "state_digest": chunk.state_digest,
            "state": chunk.state,
            "swept_in": chunk.swept_in,
            "swept": chunk.swept,
            "rows_in": chunk.rows_in,
            "rows": chunk.rows,
            "rejected": chunk.rejected,
            "digest": chunk.digest,
            "input_digest": chunk.input_digest,
            "schema_digest": self._schema_digest,
            "target_oid": self._target_oid,
            "dag_id": owner.dag_id,
            "run_id": owner.run_id,
            "task_id": owner.task_id,
            "map_index": owner.map_index,
            "try_number": owner.try_number,
        }

    def _explain(self, claim: Claim, chunk: Chunk) -> Loaded:
        """The compare-and-set touched no row: say why, or find that the chunk is already loaded."""
        state = self._ledger.lane(claim.lane)
        if state is None or state.frontier.incarnation != chunk.incarnation:
            message = (
                f"{claim.lane} was rewound or reset while this load ran; chunk {chunk.seq} belongs to "
                "its former life and was not loaded. Clear extract with Downstream"
            )
            raise RewoundError(message)
        if state.sealed and state.frontier.seq < chunk.seq:
            raise self._plans.sealed(claim.lane)
        if state.load_fence > claim.fence:
            message = (
                f"load of {claim.lane} was taken over by a newer attempt (fence {state.load_fence}, "
                f"this one has {claim.fence}); chunk {chunk.seq} was not loaded by this attempt"
            )
            raise FencedError(message)
        if state.frontier.seq >= chunk.seq:
            row = self._control.row(
                SQL["loaded_chunk"],
                {
                    "pipeline": claim.lane.pipeline,
                    "part": claim.lane.part,
                    "incarnation": chunk.incarnation,
                    "seq": chunk.seq,
                },
            )
            if row and chunk.digest and row[0] == chunk.digest:
                return Loaded(
                    state.frontier, int(row[1]), int(row[2]), already=True, rejected=int(row[3])
                )
        message = (
            f"the load frontier of {claim.lane} is at chunk {state.frontier.seq}, "
            f"{state.frontier.cursor}; chunk {chunk.seq} ({chunk.low}, {chunk.high}] does not "
            "continue it"
        )
        raise ManifestConflictError(message)

    def table_facts(self) -> TableFacts | None:
        """Return what is known of the target since rows were accepted; None before."""
        facts = self._target.accepted_facts or self._frames.accepted_facts
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
