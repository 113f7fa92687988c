"""The load transaction, exactly as docs/protocol.md writes it.

The lane's compare-and-set, the ledger row and the chunk's rows are one transaction, and the
compare-and-set comes first: a second attempt blocks on the lane's row and then finds 0 rows, so an
in-doubt commit resolves itself and no COPY is done twice.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg

from airflow_checkpoint_etl.errors import (
    FencedError,
    ManifestConflictError,
    PreflightError,
    RewoundError,
    StagedChunkError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.frames import Frames
from airflow_checkpoint_etl.ports import Loaded
from airflow_checkpoint_etl.protocol import Frontier, Stage
from airflow_checkpoint_etl.quarantine import Tally, rejects_of
from airflow_checkpoint_etl.warehouses.first import FirstLoad
from airflow_checkpoint_etl.warehouses.frames import FrameTable, schema_of
from airflow_checkpoint_etl.warehouses.ledger import SQL, application_name
from airflow_checkpoint_etl.warehouses.quarantine import keep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from airflow_checkpoint_etl.endpoints import PostgresWarehouse
    from airflow_checkpoint_etl.frames import Columns
    from airflow_checkpoint_etl.ports import Claim, Passage
    from airflow_checkpoint_etl.ports.rows import Rows
    from airflow_checkpoint_etl.postgres import Row, Session
    from airflow_checkpoint_etl.protocol import Chunk
    from airflow_checkpoint_etl.quarantine import Policy, Rejects
    from airflow_checkpoint_etl.warehouses.catalog import TargetFacts
    from airflow_checkpoint_etl.warehouses.ledger import Ledger
    from airflow_checkpoint_etl.warehouses.plans import RangePlans
    from airflow_checkpoint_etl.warehouses.target import TargetTable

log = logging.getLogger(__name__)

_IDLE_TIMEOUT: Final = "10min"
"""How long a load transaction may sit idle (its worker frozen) before the server ends it."""


class _Written(NamedTuple):
    """What went into the target under one ledger row, and how many records went into quarantine."""

    rows: int
    rejected: int


class LoadTransaction:
    """Writes chunks into the target, each in one transaction with its ledger row.

    Args:
        config: the value object a DAG author wrote.
        data: the connection of the load transactions.
        control: the connection that looks at lanes and at the target.
        ledger: the ledger.
        plans: the range plans, which know why a lane is sealed.
        target: the target table.
        cursor_columns: the source's cursor columns, which name a refused row.
    """

    def __init__(
        self,
        config: PostgresWarehouse,
        data: Session,
        control: Session,
        ledger: Ledger,
        plans: RangePlans,
        target: TargetTable,
        cursor_columns: tuple[str, ...],
    ) -> None:
        self._config, self._cursor_columns = config, cursor_columns
        self._data, self._control = data, control
        self._ledger, self._plans, self._target = ledger, plans, target
        self._frames = FrameTable(target)
        self._schema: pa.Schema | None = None
        self._schema_digest = ""
        self._target_oid: int | None = None

    # --- what is loaded has to fit ---------------------------------------------------------------

    def copy_faults(self, columns: Columns) -> list[str]:
        """Say why rows with these columns cannot be copied into the target as they are."""
        return self._frames.faults(self._control.connection, columns)

    @property
    def accepted_facts(self) -> TargetFacts | None:
        """What is known of the target since rows were accepted; None before."""
        return self._target.accepted_facts or self._frames.accepted_facts

    def _accept(self, schema: pa.Schema) -> None:
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

    def _accept_copied(self, columns: Columns) -> None:
        self._note(self._frames.accept(self._control.connection, columns), schema_of(columns))

    def _note(self, facts: TargetFacts, schema: pa.Schema) -> None:
        self._target_oid = facts.oid
        self._schema = schema
        text = schema.to_string(show_field_metadata=True, show_schema_metadata=False)
        self._schema_digest = hashlib.sha256(text.encode()).hexdigest()

    # --- the two ways to load a chunk ------------------------------------------------------------

    def load(
        self, claim: Claim, chunk: Chunk, table: Rows, rejects: Rejects | None, policy: Policy
    ) -> Loaded:
        """Load a chunk that is staged; see the port for what it raises."""
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
                self._accept(table.schema)

        def write(ledger_id: int) -> _Written:
            failpoint("load.before_rows")
            written, refused = self._write(chunk, table, ledger_id, policy)
            failpoint("load.after_rows")
            if written + (len(refused) if refused else 0) != chunk.rows:
                message = (
                    f"chunk {chunk.seq} of {claim.lane} should hold {chunk.rows} rows but "
                    f"{written} were written; the transaction is rolled back"
                )
                raise StagedChunkError(message)
            aside = rejected
            if rejects is not None or refused is not None:
                aside = self._quarantine(claim, chunk, ledger_id, rejects, refused)
                self._check_limits(claim, chunk, policy, rejects, refused)
            self._data.rows(SQL["stamp_ledger"], {"id": ledger_id})
            return _Written(written, aside)

        return self._transact(claim, chunk, write)

    def receive(
        self, claim: Claim, chunk: Chunk, passage: Passage, preoperator: Sequence[str]
    ) -> Loaded:
        """Load a chunk while it is read; see the port for what it raises."""
        self._accept_copied(passage.columns)

        def write(ledger_id: int) -> _Written:
            connection = self._data.connection
            if preoperator and chunk.seq == 1:
                FirstLoad(connection, self._target, claim.lane).run(preoperator)
                self._frames.forget()
            failpoint("load.before_rows")
            written = self._frames.write(connection, passage.columns, passage.blocks(), ledger_id)
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
            return _Written(written, 0)

        return self._transact(claim, chunk, write)

    # --- the transaction -------------------------------------------------------------------------

    def _transact(self, claim: Claim, chunk: Chunk, write: Callable[[int], _Written]) -> Loaded:
        """L1 to L5: move the lane, write its ledger row and under it the rows, and commit."""
        with self._data.transaction():
            self._data.rows(SQL["prepare_transaction"], self._settings(claim))
            failpoint("load.before_advance")
            row = self._advance(claim, chunk)
            if row is not None:
                ledger_id, generation, swept = row
                written = write(ledger_id)
                failpoint("load.before_commit")
            # From here the commit may have landed, whatever this process hears of it.
        if row is None:
            return self._explain(claim, chunk)
        failpoint("load.after_commit")
        frontier = Frontier(
            chunk.incarnation, generation, chunk.seq, chunk.high, chunk.state_digest, swept
        )
        return Loaded(frontier, written.rows, ledger_id, rejected=written.rejected)

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

    # --- the rows --------------------------------------------------------------------------------

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
