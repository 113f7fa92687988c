"""The table that is moved, and the sums that say whether it arrived as it was."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import sql

from airflow_checkpoint_etl.postgres import read_statements

if TYPE_CHECKING:
    from collections.abc import Mapping

SQL: Final = read_statements("benchmarks", "table.sql")
SOURCE: Final = "public.events"
TARGET: Final = "public.events_copy"
COLUMNS: Final[Mapping[str, str]] = {
    "id": "bigint",
    "created_at": "timestamptz",
    "quantity": "integer",
    "amount": "numeric(12,2)",
    "score": "double precision",
    "active": "boolean",
    "body": "text",
    "note": "text",
    "payload": "jsonb",
    "token": "uuid",
}
"""The columns and their PostgreSQL types, in the table's order."""
TRANSFORMED: Final[Mapping[str, str]] = {
    "quantity": "quantity + 1",
    "note": "replace(note, 'note', 'remark')",
}
"""What the measured transforms do to a row, said in SQL."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a table: how many rows, and a sum over the hashes of its rows."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a target compares with its source.

    Attributes:
        exact: whether it holds exactly the source's rows.
        rows: how many rows it holds.
        words: what is wrong, or what differs without changing a value; empty when nothing does.
    """

    exact: bool
    rows: int
    words: str = ""


def create_source(dsn: str, rows: int) -> None:
    """Create and fill the source; vacuumed and analysed, as a table that is in use would be."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SQL["create_source"])
        connection.execute(SQL["fill_source"], {"rows": rows})
        connection.execute("vacuum (analyze) public.events")


def create_target(dsn: str) -> None:
    """Create an empty target, in place of the one that is there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop table if exists public.events_copy")
        connection.execute(SQL["create_target"])


def content(
    dsn: str,
    table: str = SOURCE,
    rows: int | None = None,
    changes: Mapping[str, str] | None = None,
) -> Content:
    """Sum the hashes of a table's rows, read as the source's types.

    Args:
        dsn: the database.
        table: the table, with its schema.
        rows: only rows with an id up to this; None for all.
        changes: SQL in place of a column, by the column's name.

    Raises:
        psycopg.DataError: a value cannot be read as the source's type.
    """
    fields = sql.SQL(", ").join(_value(name, changes) for name in COLUMNS)
    return Content(*_sum(dsn, fields, table, rows))


@functools.cache
def expected(dsn: str, rows: int, *, changed: bool = False) -> Content:
    """Return what the source's first rows are to arrive as; summed once, as the source stands still.

    Args:
        dsn: the source's database.
        rows: how many rows.
        changed: whether a transform does to them what ``TRANSFORMED`` says.
    """
    return content(dsn, rows=rows, changes=TRANSFORMED if changed else None)


def verify(
    source: str,
    target: str,
    table: str,
    wanted: Content,
    changes: Mapping[str, str] | None = None,
) -> Verdict:
    """Compare a target with what the source holds, by row hashes; say which columns differ.

    Args:
        source: the source's database.
        target: the target's database.
        table: the target, with its schema.
        wanted: the source's content, of as many rows as were to be moved.
        changes: what a transform did to the rows, as for :func:`content`.
    """
    retyped = "; ".join(
        f"{name} became {kind}" for name, kind in _other_types(target, table).items()
    )
    try:
        found = content(target, table)
    except psycopg.DataError as error:
        reason = str(error).splitlines()[0]
        return Verdict(exact=False, rows=0, words=f"not readable as the source's types: {reason}")
    if found == wanted:
        return Verdict(exact=True, rows=found.rows, words=retyped)
    if found.rows != wanted.rows:
        words = f"{found.rows:,} rows of {wanted.rows:,}"
        return Verdict(exact=False, rows=found.rows, words=words)
    changed = [
        name
        for name in COLUMNS
        if _sum(source, _pair(name, changes), SOURCE, wanted.rows)
        != _sum(target, _pair(name), table, wanted.rows)
    ]
    words = f"values changed in {', '.join(changed) or 'no single column'}"
    return Verdict(exact=False, rows=found.rows, words=f"{words}; {retyped}" if retyped else words)


def _value(name: str, changes: Mapping[str, str] | None = None) -> sql.Composed:
    """A column, or what stands in its place, read as the source's type."""
    changed = (changes or {}).get(name)
    value = sql.SQL(changed) if changed else sql.Identifier(name)
    return sql.SQL("({})::{}").format(value, sql.SQL(COLUMNS[name]))


def _pair(name: str, changes: Mapping[str, str] | None = None) -> sql.Composed:
    return sql.SQL("{}, {}").format(_value("id"), _value(name, changes))


def _sum(dsn: str, fields: sql.Composed, table: str, rows: int | None = None) -> tuple[int, str]:
    query = sql.SQL(
        "select count(*), coalesce(sum(hashtextextended(row({})::text, 0)::numeric), 0)::text from {}"
    ).format(fields, sql.Identifier(*table.split(".")))
    if rows is not None:
        query += sql.SQL(" where id <= {}").format(rows)
    with psycopg.connect(dsn) as connection:
        # The text of a timestamp is that of the session's time zone.
        connection.execute("set timezone to 'UTC'")
        count, total = connection.execute(query).fetchone() or (0, "0")
    return int(count), str(total)


def _other_types(dsn: str, table: str) -> dict[str, str]:
    """The target's columns whose type is not the source's."""
    with psycopg.connect(dsn) as connection:
        found: dict[str, str] = dict(
            connection.execute(
                "select attname, format_type(atttypid, atttypmod) from pg_attribute "
                "where attrelid = %s::regclass and attnum > 0 and not attisdropped",
                (table,),
            ).fetchall()
        )
        wanted: dict[str, str] = dict(
            connection.execute(
                "select name, format_type(to_regtype(kind), to_regtypemod(kind)) "
                "from unnest(%s::text[], %s::text[]) as wanted (name, kind)",
                (list(COLUMNS), list(COLUMNS.values())),
            ).fetchall()
        )
    return {name: found[name] for name in wanted if found.get(name) not in {None, wanted[name]}}


def bytes_a_row(dsn: str) -> float:
    """Return how many bytes a row of the source takes in binary COPY, over its first 10,000 rows."""
    size = 0
    with psycopg.connect(dsn) as connection, connection.cursor() as command:
        statement = (
            "copy (select * from public.events order by id limit 10000) to stdout (format binary)"
        )
        with command.copy(statement) as copy:
            size = sum(len(data) for data in copy)
        found = connection.execute(
            "select count(*) from (select from public.events limit 10000) as s"
        )
        (rows,) = found.fetchone() or (1,)
    return float(size / max(rows, 1))
