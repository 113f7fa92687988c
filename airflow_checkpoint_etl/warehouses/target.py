"""The target table: what it is, whether rows fit it, and writing them.

Rows are checked before the first one is written: :meth:`TargetTable.accept` plans the way of every
column and refuses the schema as a whole, with every fault in one message. :meth:`TargetTable.write`
then holds the table's definition still (a row-exclusive lock, which every INSERT takes anyway) and
compares it with the one the plan was made for, because a plan for other types would mangle values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg import pq, sql

from airflow_checkpoint_etl.errors import (
    MissingPrivilegeError,
    PreflightError,
    TypeMismatchError,
)
from airflow_checkpoint_etl.warehouses import catalog, checks
from airflow_checkpoint_etl.warehouses.catalog import LINEAGE_COLUMN, TargetFacts, quoted
from airflow_checkpoint_etl.warehouses.ddl import new_table
from airflow_checkpoint_etl.warehouses.fitting import write_fitting
from airflow_checkpoint_etl.warehouses.loading import Accepted, write_rows
from airflow_checkpoint_etl.warehouses.refusals import translated
from airflow_checkpoint_etl.warehouses.wire import plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    import pyarrow as pa

    from airflow_checkpoint_etl.endpoints import PostgresWarehouse
    from airflow_checkpoint_etl.warehouses.catalog import Place
    from airflow_checkpoint_etl.warehouses.ddl import NewTable

__all__ = ["LINEAGE_COLUMN", "TargetFacts", "TargetTable"]


class TargetTable:
    """The table a pipeline loads into.

    Connections are the caller's, and may be any of psycopg 3. ``check`` and ``accept`` run in
    transactions of their own; ``write`` belongs to the caller's and never commits.

    Args:
        config: the value object a DAG author wrote.
        cursor_columns: the source's cursor columns, which an upsert compares.
    """

    def __init__(self, config: PostgresWarehouse, cursor_columns: tuple[str, ...]) -> None:
        self._config = config
        self._cursor_columns = cursor_columns
        self._upsert_cursor = cursor_columns if config.write == "upsert" else ()
        self._accepted: Accepted | None = None

    @property
    def config(self) -> PostgresWarehouse:
        """The value object a DAG author wrote."""
        return self._config

    @property
    def upsert_cursor(self) -> tuple[str, ...]:
        """The cursor columns that an upsert compares; none for an append."""
        return self._upsert_cursor

    # --- before any row is known ----------------------------------------------------------------

    def describe(self, connection: psycopg.Connection[Any]) -> TargetFacts | None:
        """Read the facts about the target; None when it does not exist.

        Raises:
            ConfigurationError: the configured name is not a name.
            MissingPrivilegeError: the role may not look into the schema.
            PreflightError: the name is that of a view or something else that is no table.
        """
        return catalog.describe(connection, self._config.table)

    def check(self, connection: psycopg.Connection[Any]) -> None:
        """Check the target and the role's privileges, as far as that needs no rows.

        Raises:
            PreflightError: the target is missing, or lacks what the write mode needs.
            MissingPrivilegeError: the role may not load into it; says what to grant.
        """
        with connection.transaction():
            facts = self.describe(connection)
            if facts is None:
                self._check_place(connection)
                return
            checks.check_privileges(connection, facts, checks.needed_privileges(self._config))
            faults = checks.table_faults(facts, self._config, self._upsert_cursor)
            if faults:
                raise _unfit(facts, faults)

    def keeps_lineage(self, facts: TargetFacts) -> bool:
        """Whether each row's ledger id is kept in this table."""
        return checks.lineage_wanted(facts, self._config)

    def is_empty(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether the target holds no row; a missing one holds none.

        Raises:
            MissingPrivilegeError: the role may not read the target.
        """
        facts = self.describe(connection)
        if facts is None:
            return True
        checks.check_privileges(connection, facts, ["select"])
        statement = sql.SQL("select not exists (select from {} limit 1)").format(facts.identifier)
        ((empty,),) = catalog.rows(connection, statement)
        return bool(empty)

    def newest_lineage(self, connection: psycopg.Connection[Any]) -> int:
        """Return the highest ledger id that a row of the target names; 0 when none does."""
        facts = self.describe(connection)
        if facts is None or not self.keeps_lineage(facts):
            return 0
        statement = sql.SQL("select coalesce(max({}), 0) from {}").format(
            sql.Identifier(LINEAGE_COLUMN), facts.identifier
        )
        ((newest,),) = catalog.rows(connection, statement)
        return int(newest)

    # --- when the rows' schema is known ---------------------------------------------------------

    def accept(self, connection: psycopg.Connection[Any], schema: pa.Schema) -> None:
        """Check that rows of this schema fit the target exactly, creating it when asked to.

        An equal schema is accepted again without asking the database.

        Raises:
            TypeMismatchError: columns cannot be carried into their targets; names every one.
            PreflightError: the target is missing (with the statement that would create it), or its
                columns and the rows' do not match otherwise.
            MissingPrivilegeError: the role may not create or load the table.
        """
        if self._accepted is not None and _equal(self._accepted.schema, schema):
            return
        with connection.transaction():
            facts = self.describe(connection)
            if facts is None:
                facts = self.make(connection, schema)
            accepted = self._fit(connection, facts, schema)
        self._accepted = accepted

    @property
    def accepted_facts(self) -> TargetFacts | None:
        """The facts about the target when rows were accepted last; None before."""
        return self._accepted.facts if self._accepted else None

    def forget(self) -> None:
        """Forget what was accepted: the transaction it was seen in may have been rolled back."""
        self._accepted = None

    # --- rows -----------------------------------------------------------------------------------

    def write(self, connection: psycopg.Connection[Any], table: pa.Table, ledger_id: int) -> int:
        """Write a chunk's rows within the caller's transaction, and return how many went in.

        For an upsert that is the number of rows consumed: older versions of a key are passed over.

        Args:
            connection: with an open transaction, which is left open.
            table: the chunk's rows.
            ledger_id: the chunk's ledger row, kept as lineage where the table has the column.

        Raises:
            ValueNotCarriedError: a value does not fit, or a constraint refuses a row; the message
                names table, column or constraint and never a value.
            TypeMismatchError: the target was changed, and the rows do not fit it any more.
            PreflightError: the target is gone, was replaced or does not take every row.
        """
        accepted = self._ready(connection, table)
        if not table.num_rows:
            return 0
        return write_rows(connection, accepted, table, ledger_id)

    def write_fitting(
        self,
        connection: psycopg.Connection[Any],
        table: pa.Table,
        ledger_id: int,
        bounds: Sequence[int] | None = None,
        *,
        replayed: bool = False,
    ) -> dict[int, str]:
        """Write the rows that fit, and return why the others were refused, by their unit's place.

        Args:
            connection: with an open transaction, which is left open; savepoints are set in it.
            table: the chunk's rows.
            ledger_id: the chunk's ledger row.
            bounds: where each unit begins, and the number of rows: rows of one unit are written
                together or not at all. None: every row is a unit.
            replayed: whether the rows come out of quarantine: later chunks may have been loaded.

        Raises:
            TypeMismatchError: the target was changed, and the rows do not fit it any more.
            PreflightError: the target is gone, was replaced or does not take every row.
        """
        accepted = replace(self._ready(connection, table), replayed=replayed)
        places = range(table.num_rows + 1) if bounds is None else bounds
        return write_fitting(connection, accepted, table, ledger_id, places)

    def _ready(self, connection: psycopg.Connection[Any], table: pa.Table) -> Accepted:
        """Return the plan for the rows, with the table held still until the commit."""
        accepted = self._accepted
        found = self.hold(connection, accepted.facts if accepted else None)
        if accepted is None or found != accepted.facts or not _equal(accepted.schema, table.schema):
            accepted = self._fit(connection, found, table.schema)
            self._accepted = accepted
        return accepted

    def hold(
        self, connection: psycopg.Connection[Any], facts: TargetFacts | None = None
    ) -> TargetFacts:
        """Hold the table's definition still until the commit, and return the facts about it.

        Args:
            connection: with an open transaction.
            facts: the table as it was last seen; another one in its place is refused.

        Raises:
            PreflightError: no transaction is open, or the target is gone or was replaced.
        """
        if connection.info.transaction_status != pq.TransactionStatus.INTRANS:
            message = "rows are written inside the load's transaction only, and none is open"
            raise PreflightError(message)
        encoding = connection.info.parameter_status("client_encoding")
        if encoding != "UTF8":
            message = (
                f"the warehouse connection's client_encoding is {encoding}, which would change text; "
                'set "client_encoding": "utf8" in the extras of the connection'
            )
            raise PreflightError(message)
        facts = facts or self.describe(connection)
        if facts is None:
            raise self._gone()
        with translated(str(facts), ()):
            found = catalog.hold(connection, facts, self._config.table)
        if found is None or found.oid != facts.oid:
            raise self._gone()
        return found

    def _gone(self) -> PreflightError:
        return PreflightError(
            f"the target {self._config.table} was dropped or replaced while the load ran; "
            "restore it and clear the task"
        )

    # --- creating and fitting -------------------------------------------------------------------

    def _check_place(self, connection: psycopg.Connection[Any]) -> Place:
        place = catalog.place_of(connection, self._config.table)
        if not self._config.create_table:
            message = (
                f"the target {place} does not exist; create it, or pass create_table=True to have it "
                "created from the rows' schema"
            )
            raise PreflightError(message)
        self._check_may_create(connection, place)
        return place

    def _check_may_create(self, connection: psycopg.Connection[Any], place: Place) -> None:
        role, database = catalog.role_and_database(connection)
        if not place.exists:
            schema = f"the schema {quoted(place.schema)}" if place.schema else "a schema"
            message = (
                f"{schema} for the target {place} does not exist; create it, or correct table="
            )
            raise PreflightError(message)
        grants: list[str] = []
        if not place.may_create:
            grants.append(f"grant create on schema {quoted(place.schema or '')} to {quoted(role)}")
        if self._config.write == "upsert" and not place.may_create_temporary:
            grants.append(f"grant temporary on database {quoted(database)} to {quoted(role)}")
        if grants:
            message = f"the role {role} may not create the target {place}; run: {'; '.join(grants)}"
            raise MissingPrivilegeError(message)

    def make(self, connection: psycopg.Connection[Any], schema: pa.Schema) -> TargetFacts:
        """Create the missing table in the caller's transaction, or show the statement that would.

        Raises:
            PreflightError: it is not to be created, or cannot be.
            MissingPrivilegeError: the role may not.
        """
        place = catalog.place_of(connection, self._config.table)
        table = new_table(
            place, schema, self._config.key_columns, lineage=self._config.lineage != "never"
        )
        untyped = self._type_faults(connection, table)
        faults = [
            *untyped,
            *checks.arrival_faults(schema, self._config, self._upsert_cursor),
        ]
        if not self._config.create_table:
            message = (
                f"the target {place} does not exist; create it, or pass create_table=True to run:\n"
                f"{table.statement};"
            )
            raise PreflightError(message + "".join(f"\n- {fault}" for fault in faults))
        if faults:
            lines = "".join(f"\n- {fault}" for fault in faults)
            message = f"the target {place} cannot be created from these rows:{lines}"
            raise (TypeMismatchError if untyped else PreflightError)(message)
        self._check_may_create(connection, place)
        catalog.lock_creation(connection, str(place))
        facts = self.describe(connection)
        if facts is None:
            with translated(str(place), ()):
                catalog.rows(connection, sql.SQL(table.statement))
            facts = self.describe(connection)
        if facts is None:  # dropped at once by an event trigger, say
            raise self._gone()
        return facts

    @staticmethod
    def _type_faults(connection: psycopg.Connection[Any], table: NewTable) -> list[str]:
        """Also keeps a recorded type that is more than a type's name out of the statement."""
        missing = set(catalog.unknown_types(connection, [pg_type for _, pg_type in table.types]))
        return [
            *table.faults,
            *(
                f'column "{name}": the warehouse has no type {pg_type}; create it there, or declare '
                f'another one on the transform: output_columns={{"{name}": "text"}}'
                for name, pg_type in table.types
                if pg_type in missing
            ),
        ]

    def _fit(
        self, connection: psycopg.Connection[Any], facts: TargetFacts, schema: pa.Schema
    ) -> Accepted:
        checks.check_privileges(connection, facts, checks.needed_privileges(self._config))
        columns = {column.name: column for column in facts.columns}
        plans, misfits = plan((field for field in schema if field.name in columns), facts.columns)
        faults = [
            *checks.table_faults(facts, self._config, self._upsert_cursor),
            *checks.arrival_faults(schema, self._config, self._upsert_cursor),
            *checks.fit_faults(facts, schema),
        ]
        if misfits:
            raise _unfit(facts, [*misfits, *faults], TypeMismatchError)
        if faults:
            raise _unfit(facts, faults)
        accepted = Accepted(
            schema=schema,
            facts=facts,
            plans=plans,
            lineage=self.keeps_lineage(facts),
            key=self._config.key_columns,
            cursor_columns=self._upsert_cursor,
        )
        if not accepted.direct:
            checks.check_privileges(connection, facts, ["temporary"])
        return accepted


def _unfit(
    facts: TargetFacts, faults: list[str], kind: type[PreflightError] = PreflightError
) -> PreflightError:
    lines = "".join(f"\n- {fault}" for fault in faults)
    return kind(f"the target {facts} cannot take these rows; nothing was written:{lines}")


def _equal(one: pa.Schema, other: pa.Schema) -> bool:
    """Whether two schemas have equal columns and recorded types, whatever else is noted on them."""
    return bool(one.equals(other, check_metadata=True))
