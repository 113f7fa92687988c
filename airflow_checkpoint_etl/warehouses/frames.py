"""Copied rows into the target: what they must be for it, and how they get there.

Binary COPY takes the bytes of an unequal type without a word and makes other values of them. So the
columns that came with the rows are compared with the target's, type by type down to the types within
them, in the load's own transaction and with the table's definition held still. Equal bytes are then
written as they are:

* an append is one COPY into the target. Lineage comes by the default of its column, which reads a
  setting of the transaction (:data:`LINEAGE_DEFAULT`);
* an upsert, and an append whose lineage column has no such default, take a temporary table of the same
  types.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from psycopg import sql

from airflow_checkpoint_etl.columns import field_of
from airflow_checkpoint_etl.errors import PreflightError, TypeMismatchError, ValueNotCarriedError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.warehouses import checks
from airflow_checkpoint_etl.warehouses.catalog import LINEAGE_COLUMN, rows
from airflow_checkpoint_etl.warehouses.convert import keep
from airflow_checkpoint_etl.warehouses.copying import copy_rows, create_arrivals
from airflow_checkpoint_etl.warehouses.ddl import LINEAGE_DEFAULT, LINEAGE_SETTING
from airflow_checkpoint_etl.warehouses.loading import Accepted, check_taken, insertion
from airflow_checkpoint_etl.warehouses.refusals import translated
from airflow_checkpoint_etl.warehouses.wire import ColumnPlan, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from airflow_checkpoint_etl.frames import Columns
    from airflow_checkpoint_etl.warehouses.catalog import TargetFacts
    from airflow_checkpoint_etl.warehouses.target import TargetTable

log = logging.getLogger(__name__)

_STRUCTURES: Final = read_statements("airflow_checkpoint_etl", "structures.sql")["structures"]
_NO_TYPE: Final = pa.null()


def schema_of(columns: Columns) -> pa.Schema:
    """Return the columns as an Arrow schema of texts: their names and PostgreSQL types, for the checks."""
    return pa.schema([field_of(one.name, one.pg_type, as_text=True) for one in columns])


@dataclass(frozen=True, slots=True)
class _Way:
    """How rows with these columns get into the target.

    Attributes:
        columns: the rows' columns.
        accepted: the target and what is written to it, as for rows in arrow form.
        straight: whether COPY writes into the target itself.
        default: the lineage column's default expression; None where lineage is not kept by it.
    """

    columns: Columns
    accepted: Accepted
    straight: bool
    default: str | None


class FrameTable:
    """The target, for rows in copy form.

    Args:
        target: the target.
    """

    def __init__(self, target: TargetTable) -> None:
        self._target = target
        self._way: _Way | None = None
        self._warned = False
        self._checked: str | None = None

    @property
    def accepted_facts(self) -> TargetFacts | None:
        """The facts about the target when rows were accepted or written last; None before."""
        return self._way.accepted.facts if self._way is not None else None

    def forget(self) -> None:
        """Forget the target: it may be another table from here on."""
        self._way = None

    def faults(self, connection: psycopg.Connection[Any], columns: Columns) -> list[str]:
        """Say why rows with these columns cannot be copied into the target; a missing one takes any.

        Raises:
            PreflightError: as for :meth:`TargetTable.describe`.
        """
        with connection.transaction():
            facts = self._target.describe(connection)
            if facts is None:
                return _unsendable(columns)
            unequal, others = self._compare(connection, facts, columns)
        return [*unequal, *others]

    def accept(self, connection: psycopg.Connection[Any], columns: Columns) -> TargetFacts:
        """Check that the rows are what the target holds, creating it when asked to.

        Raises:
            TypeMismatchError: a column's type is not the target's; names every one.
            PreflightError: the target is missing, or its columns and the rows' do not match otherwise.
        """
        if self._way is not None and self._way.columns == columns:
            return self._way.accepted.facts
        with connection.transaction():
            facts = self._target.describe(connection)
            if facts is None:
                facts = self._target.make(connection, schema_of(columns))
            way = self._fit(connection, facts, columns)
        self._way = way
        return facts

    def write(
        self,
        connection: psycopg.Connection[Any],
        columns: Columns,
        blocks: Iterable[bytes],
        ledger_id: int,
    ) -> int:
        """Write a chunk's rows within the caller's transaction, and return how many went in.

        Args:
            connection: with an open transaction, which is left open.
            columns: the rows' columns.
            blocks: the binary COPY, in pieces.
            ledger_id: the chunk's ledger row, kept as lineage where the table has the column.

        Raises:
            TypeMismatchError: the target's types are not those of the rows.
            ValueNotCarriedError: a constraint refuses a row, or a key of an upsert is NULL.
            PreflightError: the target is gone, was replaced or does not take every row.
        """
        known = self._way
        facts = self._target.hold(connection, known.accepted.facts if known else None)
        if known is None or known.accepted.facts != facts or known.columns != columns:
            known = None
        way = self._fit(connection, facts, columns, known)
        self._way = way
        accepted = way.accepted
        names = tuple(column.name for column in columns)
        with translated(str(facts), names):
            if way.default is not None:
                self._say_chunk(connection, facts, way.default, ledger_id)
            failpoint("copy.before_rows")
            if way.straight:
                copied = taken = copy_rows(connection, facts.identifier, names, blocks)
            else:
                copied, taken = _through_arrivals(connection, accepted, names, blocks, ledger_id)
            # A deferred constraint would otherwise refuse at the commit, with the row in its message.
            rows(connection, "set constraints all immediate")
        if not accepted.key and taken != copied:
            message = (
                f"target {facts} took {taken:,} of {copied:,} rows: a trigger or rule on it drops or "
                "redirects rows, so that what is loaded cannot be counted; load into a table without it"
            )
            raise PreflightError(message)
        return copied

    # --- fitting -------------------------------------------------------------------------------------

    def _fit(
        self,
        connection: psycopg.Connection[Any],
        facts: TargetFacts,
        columns: Columns,
        known: _Way | None = None,
    ) -> _Way:
        """Compare, always: a type within a type may change while the table's own definition does not."""
        unequal, others = self._compare(connection, facts, columns)
        if unequal or others:
            lines = "".join(f"\n- {fault}" for fault in [*unequal, *others])
            message = f"the target {facts} cannot take these rows; nothing was written:{lines}"
            raise (TypeMismatchError if unequal else PreflightError)(message)
        if known is not None:
            return known
        config, lineage = self._target.config, self._target.keeps_lineage(facts)
        checks.check_privileges(connection, facts, checks.needed_privileges(config))
        by_name = {column.name: column for column in facts.columns}
        plans = tuple(
            ColumnPlan(_NO_TYPE, by_name[column.name], Route(_NO_TYPE, keep)) for column in columns
        )
        accepted = Accepted(
            schema=schema_of(columns),
            facts=facts,
            plans=plans,
            lineage=lineage,
            key=config.key_columns,
            cursor_columns=self._target.upsert_cursor,
        )
        default = self._lineage_default(connection, facts) if lineage else None
        straight = not accepted.key and (not lineage or default is not None)
        if not straight:
            checks.check_privileges(connection, facts, ["temporary"])
        if lineage and not accepted.key and default is None and not self._warned:
            self._warned = True
            log.warning(
                "target %s: rows take the way over a temporary table, because the lineage column has no "
                "default that reads the chunk; to copy straight: alter table %s alter column %s set "
                "default %s",
                facts,
                facts,
                LINEAGE_COLUMN,
                LINEAGE_DEFAULT,
            )
        return _Way(columns, accepted, straight, default if straight else None)

    def _compare(
        self, connection: psycopg.Connection[Any], facts: TargetFacts, columns: Columns
    ) -> tuple[list[str], list[str]]:
        """Return what differs in type, and what else does not fit."""
        config, schema = self._target.config, schema_of(columns)
        found = self._structures(connection, facts)
        unequal = [
            (
                f'column "{column.name}": {column.pg_type} was copied and the target has {pg_type}, and '
                "copied bytes mean nothing to another type; make the two equal, or stage in arrow form "
                '(form="arrow"), which converts what can be converted'
            )
            for column in columns
            if column.name in found
            for pg_type, structure in [found[column.name]]
            if structure != column.structure
        ]
        others = [
            *_unsendable(columns),
            *checks.table_faults(facts, config, self._target.upsert_cursor),
            *checks.arrival_faults(schema, config, self._target.upsert_cursor),
            *checks.fit_faults(facts, schema),
        ]
        return unequal, others

    @staticmethod
    def _structures(
        connection: psycopg.Connection[Any], facts: TargetFacts
    ) -> dict[str, tuple[str, str]]:
        """Return each column's type and structure, by name."""
        types = rows(
            connection,
            "select attname::text, atttypid, atttypmod from pg_attribute "
            "where attrelid = %(relation)s and attnum > 0 and not attisdropped order by attnum",
            {"relation": facts.oid},
        )
        parameters = {
            "oids": [oid for _, oid, _ in types],
            "modifiers": [modifier for _, _, modifier in types],
        }
        structures = rows(connection, _STRUCTURES, parameters)
        names = {column.name: column.pg_type for column in facts.columns}
        return {
            name: (names.get(name, "another type"), structure)
            for (name, _, _), (structure,) in zip(types, structures, strict=True)
        }

    @staticmethod
    def _lineage_default(connection: psycopg.Connection[Any], facts: TargetFacts) -> str | None:
        """Return the lineage column's default, where it reads the setting."""
        found = rows(
            connection,
            "select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d join pg_attribute a "
            "on a.attrelid = d.adrelid and a.attnum = d.adnum "
            "where d.adrelid = %(relation)s and a.attname = %(column)s",
            {"relation": facts.oid, "column": LINEAGE_COLUMN},
        )
        return found[0][0] if found and LINEAGE_SETTING in found[0][0] else None

    def _say_chunk(
        self, connection: psycopg.Connection[Any], facts: TargetFacts, default: str, ledger_id: int
    ) -> None:
        """Set what the lineage column's default reads, and see once that it does read it."""
        parameters = {"name": LINEAGE_SETTING, "id": str(ledger_id)}
        rows(connection, "select set_config(%(name)s, %(id)s, true)", parameters)
        if self._checked == default:
            return
        ((read,),) = rows(connection, sql.SQL("select ({})::text").format(_catalogued(default)))
        if read != str(ledger_id):
            message = (
                f"target {facts}: the default of {LINEAGE_COLUMN} names {LINEAGE_SETTING} and gives "
                f"something else than it holds; alter the column: set default {LINEAGE_DEFAULT}"
            )
            raise PreflightError(message)
        self._checked = default


def _catalogued(expression: str) -> sql.SQL:
    """Take an expression from the catalog into a statement."""
    return sql.SQL(expression)


def _unsendable(columns: Columns) -> list[str]:
    return [
        (
            f'column "{column.name}": {column.pg_type}, or a type within it, has no binary form; stage in '
            'arrow form (form="arrow")'
        )
        for column in columns
        if not column.binary
    ]


# --- the way over a temporary table ------------------------------------------------------------------


def _through_arrivals(
    connection: psycopg.Connection[Any],
    accepted: Accepted,
    names: tuple[str, ...],
    blocks: Iterable[bytes],
    ledger_id: int,
) -> tuple[int, int]:
    """Return how many rows arrived, and how many an INSERT of them touched."""
    arrivals = sql.Identifier("pg_temp", f"_ck_copied_{ledger_id}")
    rows(connection, create_arrivals(accepted.plans, arrivals))
    copied = copy_rows(connection, arrivals, names, blocks)
    if accepted.key:
        _check_upsert_values(connection, accepted, arrivals)
    with connection.cursor() as command:
        command.execute(insertion(accepted, arrivals, ledger_id), prepare=False)
        touched = command.rowcount
    if accepted.key and touched < copied:
        check_taken(connection, accepted, arrivals)
    rows(connection, sql.SQL("drop table {}").format(arrivals))
    return copied, touched


def _check_upsert_values(
    connection: psycopg.Connection[Any], accepted: Accepted, arrivals: sql.Identifier
) -> None:
    """NULL never equals a key, and is neither older nor newer than a cursor."""
    columns = [*(("key", name) for name in accepted.key)]
    columns += [("cursor", name) for name in accepted.cursor_columns]
    counts = sql.SQL(", ").join(
        sql.SQL("count(*) filter (where {} is null)").format(sql.Identifier(name))
        for _, name in columns
    )
    (missing,) = rows(connection, sql.SQL("select {} from {}").format(counts, arrivals))
    for (what, name), count in zip(columns, missing, strict=True):
        if count:
            message = (
                f'target {accepted.facts}: the {what} column "{name}" of an upsert is NULL in {count:,} '
                "rows; leave them out with where=. Nothing of this chunk was written"
            )
            raise ValueNotCarriedError(message)
