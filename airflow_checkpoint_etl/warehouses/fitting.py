"""Writing the rows that a target takes, and finding those it refuses.

The chunk is written as a whole first, in a savepoint. When the target refuses it, values that cannot be
encoded are found here, and the rest goes into a temporary table from which the server itself inserts row
by row (one block of PL/pgSQL: a savepoint per row over the network would take a hundred times as long).
Where that table cannot be filled, the chunk is halved until the culprits stand alone.

Only what says something about rows is taken as a refusal: a lost connection, a lock or statement
timeout, a deadlock, a full disk, a missing privilege or a changed table end the load as they always do.
Rows are written in the order of the chunk, so that of two with one unique key the first is kept.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from airflow_checkpoint_etl.errors import (
    MissingPrivilegeError,
    PreflightError,
    ValueNotCarriedError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.warehouses.catalog import rows
from airflow_checkpoint_etl.warehouses.copying import Encoder, copy_rows, create_arrivals
from airflow_checkpoint_etl.warehouses.loading import (
    INPUT_IS_VALID,
    check_taken,
    insertion,
    write_rows,
)
from airflow_checkpoint_etl.warehouses.refusals import ROW_CLASSES, explained, translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    import pyarrow as pa

    from airflow_checkpoint_etl.warehouses.loading import Accepted

_FEW: Final = 4
"""Units that are tried one by one rather than halved: with many culprits halving finds nothing out."""

_SUFFIX: Final = ". Nothing of this chunk was written"
_LOSS: Final = "loss"

_ONE_BY_ONE: Final = sql.SQL("""
do $_ck_$
declare
    unit record;
    lost text;
    state text;
    at_column text;
    by_constraint text;
    taken bigint;
    total bigint := 0;
begin
    for unit in select place, first, after from {units} order by place loop
        begin
            {losses}
            {insert};
            get diagnostics taken = row_count;
            total := total + taken;
        exception when others then
            get stacked diagnostics state = returned_sqlstate, at_column = column_name,
                by_constraint = constraint_name;
            if left(state, 2) <> all ({classes}) then
                raise;
            end if;
            insert into {refused} values (unit.place, state, at_column, by_constraint);
        end;
    end loop;
    insert into {refused} values (-1, total::text, null, null);
end
$_ck_$
""")

_LOSSES: Final = sql.SQL("""
            select case {cases} end into lost from {piece} where {any} limit 1;
            if lost is not null then
                insert into {refused} values (unit.place, {loss}, lost, null);
                continue;
            end if;
""")


def write_fitting(
    connection: psycopg.Connection[Any],
    accepted: Accepted,
    table: pa.Table,
    ledger_id: int,
    bounds: Sequence[int],
) -> dict[int, str]:
    """Write what fits within the caller's transaction; return why the other units were refused.

    Args:
        connection: with an open transaction.
        accepted: the plan for the rows.
        table: the rows.
        ledger_id: the chunk's ledger row.
        bounds: where each unit begins, and the number of rows at the end.
    """
    if not table.num_rows:
        return {}
    try:
        with connection.transaction():  # a savepoint
            write_rows(connection, accepted, table, ledger_id)
    except ValueNotCarriedError:
        failpoint("quarantine.before_search")
    else:
        return {}
    unfit = _misfits(accepted, table, bounds)
    try:
        with connection.transaction():
            return unfit | _one_by_one(connection, accepted, table, ledger_id, bounds, unfit)
    except (MissingPrivilegeError, ValueNotCarriedError):
        # No right to temporary tables, or a type that checks its values whatever table they are in.
        return _halve(connection, accepted, table, ledger_id, bounds)


# --- values that cannot even travel ---------------------------------------------------------------


def _misfits(accepted: Accepted, table: pa.Table, bounds: Sequence[int]) -> dict[int, str]:
    """Say which units hold a value that does not fit, or lack the key or cursor of an upsert."""
    found = Encoder(accepted.plans, str(accepted.facts)).misfits(table)
    for what, columns in (("key", accepted.key), ("cursor", accepted.cursor_columns)):
        for column in columns:
            missing = table.column(column).is_null().to_pylist()
            words = f'target {accepted.facts}: the {what} column "{column}" of an upsert is NULL'
            for place, is_null in enumerate(missing):
                if is_null:
                    found.setdefault(place, words)
    if not found:
        return {}
    return {
        unit: found[place].removesuffix(_SUFFIX)
        for unit, (first, after) in enumerate(pairwise(bounds))
        for place in range(after - 1, first - 1, -1)
        if place in found
    }


# --- one by one, on the server --------------------------------------------------------------------


def _one_by_one(
    connection: psycopg.Connection[Any],
    accepted: Accepted,
    table: pa.Table,
    ledger_id: int,
    bounds: Sequence[int],
    unfit: dict[int, str],
) -> dict[int, str]:
    places = [unit for unit in range(len(bounds) - 1) if unit not in unfit]
    fit = table
    if unfit:
        fit = table.take([row for unit in places for row in range(bounds[unit], bounds[unit + 1])])
    arrivals, units, refused = (
        sql.Identifier("pg_temp", f"_ck_fit_{what}") for what in ("rows", "units", "refused")
    )
    with translated(str(accepted.facts), accepted.names):
        rows(connection, create_arrivals(accepted.plans, arrivals))
        rows(connection, _numbered(arrivals))
        rows(connection, _tables(units, refused))
        encoder = Encoder(accepted.plans, str(accepted.facts))
        copy_rows(connection, arrivals, accepted.names, encoder.encode(fit))
        _copy_units(connection, units, places, bounds)
        rows(connection, sql.SQL("analyze {}").format(arrivals))
        with connection.cursor() as command:
            block = _block(accepted, ledger_id, arrivals, units, refused)
            command.execute(block, prepare=False)
    found = {row[0]: row[1:] for row in rows(connection, sql.SQL("table {}").format(refused))}
    columns = _invalid_columns(connection, accepted, arrivals, units, refused)
    taken = int(found.pop(-1)[0])
    expected = sum(bounds[unit + 1] - bounds[unit] for unit in places if unit not in found)
    if accepted.key and taken < expected:
        rows(connection, _without_refused(arrivals, units, refused))
        check_taken(connection, accepted, arrivals)
    rows(connection, sql.SQL("drop table {}, {}, {}").format(arrivals, units, refused))
    if not accepted.key and taken != expected:
        message = (
            f"target {accepted.facts} took {taken:,} of {expected:,} rows: a trigger or rule on it drops "
            "or redirects rows, so that what is loaded cannot be counted; load into a table without it"
        )
        raise PreflightError(message)
    return {
        unit: _reason(accepted, state, column or columns.get(unit), constraint)
        for unit, (state, column, constraint) in found.items()
    }


def _invalid_columns(
    connection: psycopg.Connection[Any],
    accepted: Accepted,
    arrivals: sql.Identifier,
    units: sql.Identifier,
    refused: sql.Identifier,
) -> dict[int, str]:
    """Name the column whose text is no valid input, where the server can tell."""
    cast = [plan for plan in accepted.plans if plan.route.cast]
    if not cast or connection.info.server_version < INPUT_IS_VALID:
        return {}
    cases = sql.SQL(" ").join(
        sql.SQL("when not pg_input_is_valid(arrived.{}, {}) then {}").format(
            sql.Identifier(plan.name), sql.Literal(plan.target.base_type), sql.Literal(plan.name)
        )
        for plan in cast
    )
    query = sql.SQL(
        "select unit.place, min(case {cases} end) from {refused} refused "
        "join {units} unit on unit.place = refused.place "
        "join {arrivals} arrived on arrived._ck_row >= unit.first and arrived._ck_row < unit.after "
        "where refused.state like '22%' group by unit.place"
    ).format(cases=cases, refused=refused, units=units, arrivals=arrivals)
    return {place: column for place, column in rows(connection, query) if column is not None}


def _numbered(arrivals: sql.Identifier) -> sql.Composed:
    return sql.SQL(
        "alter table {} add column _ck_row integer generated always as identity primary key"
    ).format(arrivals)


def _tables(units: sql.Identifier, refused: sql.Identifier) -> sql.Composed:
    return sql.SQL(
        "create temporary table {} (place integer, first integer, after integer) on commit drop;"
        "create temporary table {} (place integer, state text, at_column text, by_constraint text)"
        " on commit drop"
    ).format(units, refused)


def _without_refused(
    arrivals: sql.Identifier, units: sql.Identifier, refused: sql.Identifier
) -> sql.Composed:
    return sql.SQL(
        "delete from {arrivals} arrived using {units} unit, {refused} refused "
        "where refused.place = unit.place "
        "and arrived._ck_row >= unit.first and arrived._ck_row < unit.after"
    ).format(arrivals=arrivals, units=units, refused=refused)


def _copy_units(
    connection: psycopg.Connection[Any],
    units: sql.Identifier,
    places: Sequence[int],
    bounds: Sequence[int],
) -> None:
    """Tell the server which of the numbered rows, from 1, belong together."""
    statement = sql.SQL("copy {} (place, first, after) from stdin").format(units)
    first = 1
    with connection.cursor() as command, command.copy(statement) as copy:
        for unit in places:
            count = bounds[unit + 1] - bounds[unit]
            if count:
                copy.write_row((unit, first, first + count))
            first += count


def _block(
    accepted: Accepted,
    ledger_id: int,
    arrivals: sql.Identifier,
    units: sql.Identifier,
    refused: sql.Identifier,
) -> sql.Composed:
    piece = sql.SQL(
        "(select arrived.*, arrived.ctid from {} arrived where arrived._ck_row >= unit.first and "
        "arrived._ck_row < unit.after order by arrived._ck_row) piece"
    ).format(arrivals)
    conditions = [
        (
            sql.SQL(plan.route.check.condition).format(value=sql.Identifier(plan.name)),
            sql.Literal(plan.name),
        )
        for plan in accepted.plans
        if plan.route.check is not None
    ]
    losses: sql.Composable = sql.SQL("")
    if conditions:
        losses = _LOSSES.format(
            cases=sql.SQL(" ").join(
                sql.SQL("when {} then {}").format(condition, name) for condition, name in conditions
            ),
            piece=piece,
            any=sql.SQL(" or ").join(
                sql.SQL("({})").format(condition) for condition, _ in conditions
            ),
            refused=refused,
            loss=sql.Literal(_LOSS),
        )
    return _ONE_BY_ONE.format(
        units=units,
        losses=losses,
        insert=insertion(accepted, piece, ledger_id),
        classes=sql.Literal(list(ROW_CLASSES)),
        refused=refused,
    )


def _reason(accepted: Accepted, state: str, column: str | None, constraint: str | None) -> str:
    if state == _LOSS:
        (plan,) = (plan for plan in accepted.plans if plan.name == column)
        words = plan.route.check.words if plan.route.check is not None else ""
        return (
            f'target {accepted.facts}: column "{column}": a value {words} as {plan.target.pg_type}'
        )
    error = explained(state, str(accepted.facts), column or None, constraint or None)
    return str(error).removesuffix(_SUFFIX)


# --- halving --------------------------------------------------------------------------------------


def _halve(
    connection: psycopg.Connection[Any],
    accepted: Accepted,
    table: pa.Table,
    ledger_id: int,
    bounds: Sequence[int],
) -> dict[int, str]:
    refused: dict[int, str] = {}
    waiting = [(0, len(bounds) - 1)]
    while waiting:
        start, stop = waiting.pop()
        first, after = bounds[start], bounds[stop]
        if first == after:
            continue
        piece = table.slice(first, after - first)
        try:
            with connection.transaction():  # a savepoint
                write_rows(connection, accepted, piece, ledger_id)
        except ValueNotCarriedError as error:
            if stop - start == 1:
                refused[start] = str(error).removesuffix(_SUFFIX)
            elif stop - start <= _FEW:
                waiting += [(unit, unit + 1) for unit in reversed(range(start, stop))]
            else:
                middle = (start + stop) // 2
                waiting += [(middle, stop), (start, middle)]  # the last one is next
    return refused
