"""The demonstration's data: a shop's orders, and the comparison of source and warehouse in SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from airflow_checkpoint_etl.postgres import read_statements

if TYPE_CHECKING:
    from typing import LiteralString

DEFAULT_ROWS: Final = 300_000

SQL: Final = read_statements("airflow_checkpoint_etl.demo", "orders.sql")


def create_orders(connection: psycopg.Connection[Any], rows: int = DEFAULT_ROWS) -> int:
    """Create ``public.orders`` with this many orders and return the last id."""
    connection.execute(SQL["create_orders"])
    return add_orders(connection, rows)


def add_orders(connection: psycopg.Connection[Any], rows: int) -> int:
    """Add orders behind the existing ones, in one transaction, and return the last id."""
    with connection.transaction():
        after = _number(connection, SQL["last_order"])
        # A seed per start, so that added orders are not a copy of the first ones.
        connection.execute(SQL["seed"], [1 / (2 + after % 1000)])
        connection.execute(SQL["add_orders"], {"rows": rows})
        return _number(connection, SQL["last_order"])


def create_target_schema(connection: psycopg.Connection[Any]) -> None:
    """Create the schema ``analytics``; the first load creates its table, without any unique index.

    With one, a doubled row would be refused; without one it would be there to be counted.
    """
    connection.execute("create schema if not exists analytics")
    connection.commit()


def _number(connection: psycopg.Connection[Any], statement: LiteralString) -> int:
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Source and warehouse, compared row by row and both ways.

    Attributes:
        expected: rows the warehouse must hold.
        loaded: rows it holds.
        missing: rows it lacks, or holds changed.
        unexpected: rows it holds that it should not, counting every copy.
        duplicates: rows whose id it holds already.
    """

    expected: int
    loaded: int
    missing: int
    unexpected: int
    duplicates: int

    @property
    def equal(self) -> bool:
        """Whether the warehouse holds exactly the expected rows, each once."""
        return (
            self.missing == self.unexpected == self.duplicates == 0 and self.expected == self.loaded
        )


def compare(source_dsn: str, warehouse_dsn: str) -> Comparison:
    """Compare ``public.orders``, cleaned in SQL, with ``analytics.orders`` of another database.

    The expected rows are copied into a temporary table of the warehouse, and EXCEPT ALL runs there.
    """
    with psycopg.connect(source_dsn) as source, psycopg.connect(warehouse_dsn) as warehouse:
        warehouse.execute(SQL["create_expected"])
        _pipe(source, SQL["cleaned"], warehouse, "expected_orders")
        counts = warehouse.execute(SQL["compare"]).fetchone()
    if counts is None:
        message = "the comparison returned no row"
        raise RuntimeError(message)
    return Comparison(*counts)


def _pipe(
    source: psycopg.Connection[Any],
    query: LiteralString,
    warehouse: psycopg.Connection[Any],
    table: str,
) -> None:
    """Copy a query's rows into a table of another database, in PostgreSQL's binary format."""
    export = sql.SQL("copy ({}) to stdout (format binary)").format(sql.SQL(query))
    fill = sql.SQL("copy {} from stdin (format binary)").format(sql.Identifier(table))
    with (
        source.cursor() as reader,
        warehouse.cursor() as writer,
        reader.copy(export) as rows,
        writer.copy(fill) as copied,
    ):
        for block in rows:
            copied.write(block)
