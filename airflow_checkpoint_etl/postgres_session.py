"""One cached PostgreSQL connection for an adapter whose every operation may be run twice.

Work is given as a function of an open session. When the connection turns out to be broken (a server
restart, a pooler that dropped it), it is replaced and the work runs once more. It may have been
done already: *the outcome of the first run is unknown*. So only idempotent work belongs here, or
work that recognises its own earlier success.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from airflow_checkpoint_etl.migrations import migrate, missing_grants
from airflow_checkpoint_etl.postgres import make_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Session = psycopg.Cursor[tuple[Any, ...]]
"""An open session as work gets it: rows are tuples, whatever the connection's factories make."""

T = TypeVar("T")


class PostgresSession:
    """A connection made on first use, with the component's tables in place; safe between threads.

    Args:
        connect: makes a connection; it is used by this object alone and closed by ``close``.
        component: the component whose tables the work uses, see :mod:`.migrations`.
        scripts: every version of that component's DDL.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        component: str,
        scripts: Sequence[str],
    ) -> None:
        self._connect = connect
        self._component = component
        self._scripts = tuple(scripts)
        self._connection: psycopg.Connection[Any] | None = None
        self._lock = threading.RLock()

    def open(self) -> None:
        """Connect, and create or migrate the component's tables.

        Raises:
            SchemaVersionError: a newer version of this package made the tables.
            MissingPrivilegeError: the role may not create or use them.
        """
        self.run(lambda _: None)

    def run(self, work: Callable[[Session], T]) -> T:
        """Run idempotent work in which every statement commits by itself.

        Raises:
            MissingPrivilegeError: the role may not use the tables.
        """
        with self._lock:
            connection = self._opened()
            try:
                return self._attempt(connection, work)
            except psycopg.OperationalError:
                if not connection.closed:
                    raise
            # From here the work may have been done once: nobody heard the answer.
            return self._attempt(self._opened(), work)

    def transact(self, work: Callable[[Session], T]) -> T:
        """Run idempotent work in one READ COMMITTED transaction; an exception rolls it back."""

        def in_transaction(session: Session) -> T:
            with session.connection.transaction():
                return work(session)

        return self.run(in_transaction)

    def close(self) -> None:
        """Close the connection, if one is open."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _attempt(self, connection: psycopg.Connection[Any], work: Callable[[Session], T]) -> T:
        try:
            with psycopg.Cursor(connection, row_factory=tuple_row) as session:
                return work(session)
        except psycopg.errors.InsufficientPrivilege as error:
            raise missing_grants(connection.info.user) from error
        finally:
            # A broken connection, or one that an interrupt left in the middle of a statement.
            if connection.info.transaction_status != pq.TransactionStatus.IDLE:
                self.close()

    def _opened(self) -> psycopg.Connection[Any]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        self._connection = None
        connection = self._connect()
        try:
            make_plain(connection)
            migrate(connection, self._component, self._scripts)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection
