"""What every PostgreSQL adapter here shares: a lazily opened session, and named statements."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, LiteralString, cast

import psycopg
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Row = tuple[Any, ...]
Connect = Callable[[], "psycopg.Connection[Any]"]
"""A factory of connections; Airflow's PostgresHook is one, a test's ``psycopg.connect`` another."""

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_CANCEL_SECONDS: Final = 5.0


def read_statements(package: str, filename: str) -> dict[str, LiteralString]:
    """Read a .sql file of named statements: ``-- name: x`` starts the statement ``x``."""
    text = resources.files(package).joinpath(filename).read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {
        name: cast("LiteralString", body.strip())
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def make_plain(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Make a fresh connection, whoever made it, autocommit and READ COMMITTED, and return it.

    No statement is prepared on the server: a pooler may not keep it, and it keeps stale types.
    """
    connection.rollback()
    connection.autocommit = True
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.prepare_threshold = None
    return connection


class Session:
    """One connection, opened on first use, autocommit and READ COMMITTED, reopened when broken.

    Nothing about it depends on the role's or the database's defaults, nor on which factory made the
    connection: rows are tuples, and no statement is prepared on the server (a pooler may not keep it,
    and a prepared statement keeps stale parameter types after a table was recreated).

    Args:
        connect: makes a connection.
        application_name: what ``pg_stat_activity`` shows for it.
        settings: session settings applied when it is opened.
    """

    def __init__(
        self, connect: Connect, application_name: str, settings: Mapping[str, str] | None = None
    ) -> None:
        self._connect = connect
        self._application_name = application_name
        self._settings = dict(settings or {})
        self._connection: psycopg.Connection[Any] | None = None
        self._in_transaction: psycopg.Connection[Any] | None = None
        self._opening = threading.Lock()

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The open connection; within a transaction its own, even when that is broken."""
        with self._opening:
            if self._in_transaction is not None:
                # On a new connection the rest of the transaction would commit without its beginning.
                return self._in_transaction
            if self._connection is None or self._connection.closed or self._connection.broken:
                self._connection = self._open()
            return self._connection

    def _open(self) -> psycopg.Connection[Any]:
        connection = make_plain(self._connect())
        settings = {
            "application_name": self._application_name,
            "client_encoding": "UTF8",
            "default_transaction_isolation": "read committed",
            "default_transaction_read_only": "off",
            **self._settings,
        }
        with connection.cursor(row_factory=tuple_row) as command:
            for name, value in settings.items():
                command.execute("select set_config(%s, %s, false)", (name, value))
        return connection

    def rows(
        self, statement: LiteralString, parameters: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> list[Row]:
        """Execute one statement and return its rows; an empty list when it returns none."""
        with self.connection.cursor(row_factory=tuple_row) as command:
            command.execute(statement, parameters)
            return command.fetchall() if command.description else []

    def row(
        self, statement: LiteralString, parameters: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> Row | None:
        """Execute one statement and return its first row, None when there is none."""
        found = self.rows(statement, parameters)
        return found[0] if found else None

    def count(self, statement: LiteralString, parameters: Mapping[str, Any] | None = None) -> int:
        """Execute one statement and return how many rows it touched."""
        with self.connection.cursor(row_factory=tuple_row) as command:
            command.execute(statement, parameters)
            return command.rowcount

    @contextlib.contextmanager
    def transaction(self) -> Iterator[psycopg.Transaction]:
        """Open a transaction: committed at the end of the block, rolled back when it raises."""
        connection = self.connection
        with connection.transaction() as transaction:
            outer, self._in_transaction = self._in_transaction, connection
            try:
                yield transaction
            finally:
                self._in_transaction = outer

    def cancel(self) -> None:
        """Interrupt the running statement, from another thread."""
        connection = self._connection
        if connection is not None and not connection.closed:
            connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def close(self) -> None:
        """Close the connection, if it is open."""
        with self._opening:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
