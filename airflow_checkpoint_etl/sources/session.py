"""The two connections to one source: psycopg for the catalog and settling, ADBC for the rows.

Both are opened when first used, autocommit, READ COMMITTED, and set alike (session.sql). The second one
goes to exactly the host the first one reached: rows read from another server than the one that was
settled on would be lost rows.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import adbc_driver_manager
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import tuple_row

from airflow_checkpoint_etl.errors import CheckpointEtlError
from airflow_checkpoint_etl.postgres import make_plain
from airflow_checkpoint_etl.sources import queries
from airflow_checkpoint_etl.sources.failures import LostConnectionError, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_checkpoint_etl.sources.interrupt import Interruptible

    Statement = bytes | sql.Composable

T = TypeVar("T")

_CANCEL_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One column of a statement's result, as the server describes it.

    Attributes:
        name: the column's name.
        type_oid: its type; a domain shows as its base type.
        modifier: its length or precision, -1 for none.
        table_oid: the table it comes from unchanged, 0 when computed.
        table_column: its number in that table.
    """

    name: str
    type_oid: int
    modifier: int
    table_oid: int
    table_column: int


class Session:
    """A source's connections, opened lazily and dropped when lost.

    Attributes:
        source: how messages name the source.
        time_zone: the server-side default time zone, known once connected.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        interruptible: Interruptible,
        source: str,
    ) -> None:
        self.source = source
        self.time_zone = "UTC"
        self._connect = connect
        self._interruptible = interruptible
        self._control: psycopg.Connection[Any] | None = None
        self._started = ""
        self._inherited: tuple[str, str] = ("none", "")
        self._rows: Any = None

    # --- psycopg ---------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the psycopg connection is open."""
        return self._control is not None and not self._control.closed

    def control(self) -> psycopg.Connection[Any]:
        """Return the psycopg connection, opening it if need be."""
        if self._control is None or self._control.closed:
            self.discard()
            try:
                return self._interruptible.run(self._open_control, lambda: None)
            except psycopg.Error as error:
                # libpq's own words name host, port and user, and never the password.
                reason = str(error).strip() or type(error).__name__
                message = (
                    f"cannot connect to {self.source}: {reason}; try again when the server takes "
                    "connections, or correct the connection"
                )
                raise CheckpointEtlError(message) from None
        return self._control

    def _open_control(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            make_plain(connection)
            statements = queries.load("session.sql")
            (zone, role, path) = run(connection, statements["inherited"], None)[0]
            self.time_zone, self._inherited = zone, (role, path)
            self._started = run(connection, statements["settings"], None)[0][-1]
        except BaseException:
            connection.close()
            raise
        # Kept here, not by the caller: a cancelled one has left before, and discard closes it.
        self._control = connection
        return connection

    def fetch(
        self, statement: Statement, parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement in its own transaction and return its rows.

        Raises:
            CheckpointEtlError: translated from PostgreSQL's error, without data.
            CancelledError: cancelled meanwhile.
        """
        return self._guarded(lambda connection: run(connection, statement, parameters))

    def fetch_planned(self, settings: Sequence[str], statement: Statement) -> list[tuple[Any, ...]]:
        """Run one statement with some planner settings switched off for it alone."""

        def work(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
            with connection.transaction():
                for name in settings:
                    off = sql.SQL("set local {} = off").format(sql.Identifier(name))
                    run(connection, off, None)
                return run(connection, statement, None)

        return self._guarded(work)

    def describe(self, statement: Statement) -> list[ResultColumn]:
        """Return the result columns of a statement; pass one that returns no rows."""
        return self._guarded(lambda connection: describe(connection, statement))

    def transact(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Run work in one transaction of the psycopg connection; it may be interrupted anywhere."""

        def in_transaction(connection: psycopg.Connection[Any]) -> T:
            with connection.transaction():
                return work(connection)

        return self._guarded(in_transaction)

    def probe(self, statement: sql.Composable) -> None:
        """Run a statement for its error only, streaming its rows to nowhere.

        ADBC loses the error code of a statement that fails on the way; this finds it.
        """
        copy = sql.SQL("copy ({}) to stdout (format binary)").format(statement)

        def work(connection: psycopg.Connection[Any]) -> None:
            with (
                psycopg.Cursor(connection) as execution,
                execution.copy(_query(copy, connection)) as stream,
            ):
                while stream.read():
                    pass

        self._guarded(work)

    def text_of(self, statement: sql.Composable) -> str:
        """Return a composed statement as text, quoted for this connection."""
        return statement.as_string(self.control())

    def _guarded(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        connection = self.control()
        try:
            return self._interruptible.run(
                lambda: work(connection),
                lambda: connection.cancel_safe(timeout=_CANCEL_SECONDS),
            )
        except psycopg.Error as error:
            # Not chained: the original may quote rows, and a traceback prints the whole chain.
            raise translate(error, self.source) from None

    # --- ADBC ------------------------------------------------------------------------------------

    def rows(self) -> Any:
        """Return the ADBC connection, opening it beside the psycopg one if need be.

        Raises:
            LostConnectionError: it could not be opened, or reached another server.
        """
        control = self.control()
        if self._rows is None:
            try:
                return self._interruptible.run(lambda: self._open_rows(control), lambda: None)
            except adbc_driver_manager.Error as error:
                state = getattr(error, "sqlstate", None) or "no code"
                message = (
                    f"cannot open the reading connection to {self.source} ({state}); try again"
                )
                raise LostConnectionError(message) from None
        return self._rows

    def _open_rows(self, control: psycopg.Connection[Any]) -> Any:
        # It brings pyarrow.dataset and parquet with it, which nothing but these reads needs.
        import adbc_driver_postgresql.dbapi  # noqa: PLC0415

        connection = adbc_driver_postgresql.dbapi.connect(conninfo_of(control), autocommit=True)
        try:
            role, path = self._inherited
            adopt = sql.SQL("select set_config('search_path', {}, false)").format(sql.Literal(path))
            if role != "none":
                adopt += sql.SQL(", set_config('role', {}, false)").format(sql.Literal(role))
            _run_adbc(connection, adopt.as_string(control))
            started = _run_adbc(connection, queries.load("session.sql")["settings"].decode())[-1]
            self._require_same_server(started)
        except BaseException:
            connection.close()
            raise
        self._rows = connection  # as for the other one
        return connection

    def _require_same_server(self, started: str) -> None:
        if started != self._started:
            message = (
                f"two connections to {self.source} reached two servers; rows settled on one could be "
                "missing from the other; connect to one server directly"
            )
            raise LostConnectionError(message)

    # --- both ------------------------------------------------------------------------------------

    def discard_rows(self) -> None:
        """Drop the ADBC connection; the next read opens a new one."""
        rows, self._rows = self._rows, None
        if rows is not None:
            with contextlib.suppress(adbc_driver_manager.Error):
                rows.close()

    def discard(self) -> None:
        """Drop both connections; the next statement opens new ones."""
        self.discard_rows()
        control, self._control = self._control, None
        if control is not None:
            with contextlib.suppress(psycopg.Error):
                control.close()


def conninfo_of(connection: psycopg.Connection[Any]) -> str:
    """Return a connection string that leads to the same server, database and role.

    It carries the password and is for connecting only: never log it.
    """
    info = connection.info
    parameters: dict[str, Any] = dict(info.get_parameters())
    # Of several hosts or addresses, the one that answered.
    parameters |= {"host": info.host, "port": info.port, "user": info.user, "dbname": info.dbname}
    parameters["hostaddr"] = info.hostaddr or None
    parameters["password"] = info.password or None
    return make_conninfo(
        **{name: value for name, value in parameters.items() if value not in {None, ""}}
    )


def describe(connection: psycopg.Connection[Any], statement: Statement) -> list[ResultColumn]:
    """Return the result columns of a statement that returns no rows."""
    with psycopg.Cursor(connection) as execution:
        execution.execute(_query(statement, connection))
        result = execution.pgresult
        assert result is not None  # noqa: S101  a SELECT has a result
        return [
            ResultColumn(
                (result.fname(i) or b"").decode(),
                result.ftype(i),
                result.fmod(i),
                result.ftable(i),
                result.ftablecol(i),
            )
            for i in range(result.nfields)
        ]


def _query(statement: Statement, connection: psycopg.Connection[Any]) -> bytes:
    return statement if isinstance(statement, bytes) else statement.as_bytes(connection)


def run(
    connection: psycopg.Connection[Any],
    statement: Statement,
    parameters: Mapping[str, Any] | None,
) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows, whatever the connection's row factory."""
    with psycopg.Cursor(connection, row_factory=tuple_row) as execution:
        execution.execute(_query(statement, connection), parameters)
        return execution.fetchall() if execution.description else []


def _run_adbc(connection: Any, statement: str) -> tuple[Any, ...]:
    with connection.cursor() as execution:
        execution.execute(statement)
        return tuple(execution.fetchone())
