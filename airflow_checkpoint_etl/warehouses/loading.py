"""Writing one chunk inside the caller's transaction: straight COPY, or through a temporary table.

An append whose every column is the target's own type is one binary COPY into the target. An upsert,
and a column that PostgreSQL has to read from text, take a temporary table that the transaction drops:
COPY into it, look for values that a cast would change, then one INSERT.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from airflow_checkpoint_etl.errors import PreflightError, ValueNotCarriedError
from airflow_checkpoint_etl.warehouses.catalog import LINEAGE_COLUMN, rows
from airflow_checkpoint_etl.warehouses.copying import (
    Encoder,
    copy_rows,
    count_losses,
    count_not_taken,
    create_arrivals,
    insert_all,
    upsert_newest,
)
from airflow_checkpoint_etl.warehouses.refusals import translated

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_checkpoint_etl.warehouses.catalog import TargetFacts
    from airflow_checkpoint_etl.warehouses.wire import ColumnPlan

INPUT_IS_VALID: Final = 16_00_00
"""The first server version that can say whether a text is valid input of a type."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A schema that fits the target, and how.

    Attributes:
        schema: the incoming rows' schema.
        facts: the target as it was when the plans were made.
        plans: the way of every column.
        lineage: whether the ledger id is kept in the lineage column.
        key: an upsert's key columns; empty for an append.
        cursor_columns: the columns that say which of two versions is newer.
        replayed: whether the rows come out of quarantine, after chunks that are later than theirs.
    """

    schema: pa.Schema
    facts: TargetFacts
    plans: tuple[ColumnPlan, ...]
    lineage: bool
    key: tuple[str, ...]
    cursor_columns: tuple[str, ...]
    replayed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the rows, in their order."""
        return tuple(plan.name for plan in self.plans)

    @property
    def direct(self) -> bool:
        """Whether binary COPY may write straight into the target."""
        return not self.key and not any(plan.route.cast for plan in self.plans)


def write_rows(
    connection: psycopg.Connection[Any], accepted: Accepted, table: pa.Table, ledger_id: int
) -> int:
    """Write all rows and return their number.

    Raises:
        ValueNotCarriedError: a value does not fit, or a constraint refuses a row.
        PreflightError: the target took fewer rows than it was given.
        MissingPrivilegeError: the role may not write.
    """
    if accepted.key:
        _check_upsert_values(accepted, table)
    with translated(str(accepted.facts), accepted.names):
        if accepted.direct:
            taken = _copy(connection, accepted, table, ledger_id)
        else:
            taken = _through_arrivals(connection, accepted, table, ledger_id)
    if taken != table.num_rows:
        message = (
            f"target {accepted.facts} took {taken:,} of {table.num_rows:,} rows: a trigger or rule on "
            "it drops or redirects rows, so that what is loaded cannot be counted; load into a table "
            "without it"
        )
        raise PreflightError(message)
    return taken


def _copy(
    connection: psycopg.Connection[Any], accepted: Accepted, table: pa.Table, ledger_id: int
) -> int:
    names, constant = list(accepted.names), None
    if accepted.lineage:
        names.append(LINEAGE_COLUMN)
        constant = ledger_id
    encoder = Encoder(accepted.plans, str(accepted.facts), constant)
    return copy_rows(connection, accepted.facts.identifier, names, encoder.encode(table))


def _through_arrivals(
    connection: psycopg.Connection[Any], accepted: Accepted, table: pa.Table, ledger_id: int
) -> int:
    # A new name for every write: a transaction may hold several chunks.
    arrivals = sql.Identifier("pg_temp", f"_ck_arrivals_{ledger_id}_{next(_numbers)}")
    rows(connection, create_arrivals(accepted.plans, arrivals))
    encoder = Encoder(accepted.plans, str(accepted.facts))
    copied = copy_rows(connection, arrivals, accepted.names, encoder.encode(table))
    try:
        with connection.transaction():  # a savepoint, after which the culprit can be looked for
            _check_losses(connection, accepted, arrivals)
            inserted = _insert(connection, accepted, arrivals, ledger_id)
    except psycopg.DataError as error:
        _name_culprits(connection, accepted, arrivals, error)
        raise
    if accepted.key and inserted < copied:
        check_taken(connection, accepted, arrivals)
    rows(connection, sql.SQL("drop table {}").format(arrivals))
    return copied if accepted.key else inserted


def check_taken(
    connection: psycopg.Connection[Any], accepted: Accepted, arrivals: sql.Composable
) -> None:
    """Check that every arrived row of an upsert is in the target, or a newer version of it.

    Raises:
        PreflightError: some are not.
    """
    query = count_not_taken(
        accepted.facts.identifier,
        accepted.plans,
        arrivals,
        accepted.key,
        accepted.cursor_columns,
    )
    ((left,),) = rows(connection, query)
    if left:
        message = (
            f"target {accepted.facts} did not take {left:,} rows of the chunk: a trigger or rule on it "
            "drops or redirects rows, or changes their key or cursor; load into a table without it"
        )
        raise PreflightError(message)


def _insert(
    connection: psycopg.Connection[Any],
    accepted: Accepted,
    arrivals: sql.Identifier,
    ledger_id: int,
) -> int:
    with connection.cursor() as command:
        command.execute(insertion(accepted, arrivals, ledger_id), prepare=False)
        return command.rowcount


def insertion(accepted: Accepted, arrivals: sql.Composable, ledger_id: int) -> sql.Composed:
    """Return the statement that takes arrived rows into the target: an INSERT or an upsert."""
    lineage = {LINEAGE_COLUMN: ledger_id} if accepted.lineage else {}
    target = accepted.facts.identifier
    if accepted.key:
        return upsert_newest(
            target,
            accepted.plans,
            arrivals,
            lineage,
            accepted.key,
            accepted.cursor_columns,
            replayed=accepted.replayed,
        )
    return insert_all(target, accepted.plans, arrivals, lineage)


def _check_upsert_values(accepted: Accepted, table: pa.Table) -> None:
    """NULL never equals a key, and is neither older nor newer than a cursor."""
    for what, columns in (("key", accepted.key), ("cursor", accepted.cursor_columns)):
        for column in columns:
            missing = table.column(column).null_count
            if missing:
                message = (
                    f'target {accepted.facts}: the {what} column "{column}" of an upsert is NULL in '
                    f"{missing:,} of {table.num_rows:,} rows; give it a value in the transform. "
                    "Nothing of this chunk was written"
                )
                raise ValueNotCarriedError(message)


def _check_losses(
    connection: psycopg.Connection[Any], accepted: Accepted, arrivals: sql.Identifier
) -> None:
    """Raise when PostgreSQL would read a text as another value than it says."""
    query = count_losses(accepted.plans, arrivals)
    if query is None:
        return
    (counts,) = rows(connection, query)
    checked = [plan for plan in accepted.plans if plan.route.check is not None]
    lost = [
        f'column "{plan.name}": {count:,} value(s) {plan.route.check.words} as {plan.target.pg_type}'
        for plan, count in zip(checked, counts, strict=True)
        if count and plan.route.check is not None
    ]
    if lost:
        message = (
            f"target {accepted.facts}: {'; '.join(lost)}; correct them in the transform, or widen the "
            "target column. Nothing of this chunk was written"
        )
        raise ValueNotCarriedError(message)


def _name_culprits(
    connection: psycopg.Connection[Any],
    accepted: Accepted,
    arrivals: sql.Identifier,
    error: psycopg.DataError,
) -> None:
    """Raise an error that names the columns whose text is no valid input, where the server can tell."""
    if connection.info.server_version < INPUT_IS_VALID:
        return
    cast = [plan for plan in accepted.plans if plan.route.cast]
    if not cast:
        return
    counts = sql.SQL(", ").join(
        sql.SQL("count(*) filter (where not pg_input_is_valid({}, {}))").format(
            sql.Identifier(plan.name), sql.Literal(plan.target.base_type)
        )
        for plan in cast
    )
    (found,) = rows(connection, sql.SQL("select {} from {}").format(counts, arrivals))
    invalid = [
        f'column "{plan.name}": {count:,} text(s) are no valid {plan.target.base_type}'
        for plan, count in zip(cast, found, strict=True)
        if count
    ]
    if invalid:
        message = (
            f"target {accepted.facts}: {'; '.join(invalid)} (SQLSTATE {error.sqlstate}); correct them "
            "in the transform. Nothing of this chunk was written"
        )
        raise ValueNotCarriedError(message) from None
