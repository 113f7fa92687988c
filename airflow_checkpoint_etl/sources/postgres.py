"""Reading a PostgreSQL table, view or query in the order of its cursor, chunk by chunk.

Each chunk is one short statement in its own snapshot (no long transaction holds back vacuum), bounded by
rows and by bytes. Anything read once can be read again by ``(low, high]``, so a lost connection costs one
repeated statement and nothing else.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import CheckpointEtlError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import Read, Sweep, TableFacts
from airflow_checkpoint_etl.sources import (
    arrow,
    catalog,
    copying,
    modes,
    positions,
    preflight,
    standby,
    sweeping,
)
from airflow_checkpoint_etl.sources.failures import LostConnectionError
from airflow_checkpoint_etl.sources.interrupt import Interruptible
from airflow_checkpoint_etl.sources.planning import make_plan
from airflow_checkpoint_etl.sources.session import Session
from airflow_checkpoint_etl.sources.settle import Settler
from airflow_checkpoint_etl.sources.splitting import Splitter, rows_after

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg
    from psycopg import sql

    from airflow_checkpoint_etl.endpoints import PostgresSource
    from airflow_checkpoint_etl.frames import Columns, Form
    from airflow_checkpoint_etl.ports import Bound, Sink, SourceFacts
    from airflow_checkpoint_etl.sources.planning import Plan

T = TypeVar("T")


class PostgresReader:
    """A PostgresSource being read; implements ``ports.Source``.

    After ``cancel`` every call raises CancelledError: a cancelled reader stays cancelled.

    Args:
        config: what to read.
        connect: opens a psycopg connection to the source.
        start_after: where a new lane starts, one text per cursor column; None for the beginning.
        connect_primary: opens a connection to the source's primary, where the source may be a
            standby; used for settling only.
    """

    def __init__(
        self,
        config: PostgresSource,
        connect: Callable[[], psycopg.Connection[Any]],
        start_after: tuple[str, ...] | None = None,
        connect_primary: Callable[[], psycopg.Connection[Any]] | None = None,
    ) -> None:
        self._config = config
        self._start_after = start_after
        self._interruptible = Interruptible()
        self._session = Session(connect, self._interruptible, f"source {config.conn_id!r}")
        self._primary = (
            Session(connect_primary, self._interruptible, f"primary {config.settle_conn_id!r}")
            if connect_primary is not None
            else None
        )
        self._trusted: psycopg.Connection[Any] | None = None
        self._known_plan: Plan | None = None
        self._bytes_per_row: float | None = None
        self._seconds_per_row = 0.0  # of copied rows; other reads are cut when their time is over
        # A chunk is read ahead by one thread while another one asks where a text cursor stands.
        self._one_at_a_time = threading.RLock()

    def preflight(self) -> SourceFacts:
        """Check names, types, order, privileges and how to settle.

        Raises:
            PreflightError: the source does not allow this pipeline; nothing was written.
        """
        return self._steadily(self._preflight)

    def _preflight(self) -> SourceFacts:
        self._known_plan = None
        plan = self._plan()
        preflight.check(self._session, self._config, plan)
        start = preflight.encode_start(self._session, plan, self._start_after)
        settling = self._settling()
        return preflight.facts(
            self._session, self._writers(settling), self._config, plan, settling, start
        )

    def settle(self, after: str, waiting: Callable[[str], None] | None = None) -> Bound:
        """Return the highest cursor below which no more rows can appear; ``after`` if none is new.

        Args:
            after: where the run begins.
            waiting: is told in words what is waited for, and an empty text when that is over.

        Raises:
            SettleTimeoutError: transactions that may still write did not end; names them.
            SourceResetError: the source has gone back behind ``after``.
        """

        def work() -> Bound:
            settling = self._settling()
            settler = Settler(
                session=self._session,
                writers=self._writers(settling),
                interruptible=self._interruptible,
                config=self._config,
                plan=self._plan(),
                settling=settling,
                waiting=waiting,
            )
            return settler.settle(after)

        return self._steadily(work)

    def newest(self) -> str:
        """Return the highest id there is now, settled or not; for people, never for a run."""

        def work() -> str:
            plan = self._plan()
            rows = self._session.fetch(plan.keyset.newest(cursors.BEGIN))
            if not rows:
                return cursors.BEGIN
            return positions.from_texts(plan.keyset.key, plan.tags, rows[0])

        return self._steadily(work)

    def copied_columns(self) -> Columns:
        """Return the columns that a chunk in copy form has now."""

        def work() -> Columns:
            plan = self._plan()
            return self._session.transact(lambda connection: copying.columns_of(connection, plan))

        return self._steadily(work)

    def read(self, low: str, target: str, form: Form = "arrow") -> Read:
        """Read the next chunk of ``(low, target]``: at most chunk_rows, about chunk_bytes or chunk_seconds.

        Raises:
            ValueNotCarriedError: a value does not fit the type that carries it; names the column.
        """

        def work() -> Read:
            self._trust_server()
            plan, limit = self._plan(), self._limit()
            if form == "copy":
                most = self._config.max_chunk_bytes
                limit, began = self._limit(copying.AIM), time.monotonic()
                read = copying.read(self._session, plan, low, target, limit, most)
                self._note_size(read.table.size, read.table.num_rows, time.monotonic() - began)
                return read
            statement = plan.keyset.chunk(low, target, limit)
            fetched = self._fetch(statement, bounded=True)
            table = arrow.carried(fetched.table, plan.columns)
            self._note_size(fetched.table.nbytes, table.num_rows)
            if not fetched.cut and table.num_rows < limit:
                return Read(table, target)
            return Read(table, positions.last_of(table, plan.keyset.key, plan.tags))

        return self._steadily(work)

    def read_again(self, low: str, high: str, form: Form = "arrow") -> Read:
        """Read exactly ``(low, high]``, which was one chunk before."""

        def work() -> Read:
            self._trust_server()
            plan = self._plan()
            if form == "copy":
                return copying.read_again(self._session, plan, low, high)
            fetched = self._fetch(plan.keyset.chunk(low, high, None))
            return Read(arrow.carried(fetched.table, plan.columns), high)

        return self._steadily(work)

    def copy_out(self, low: str, target: str, sink: Sink) -> tuple[str, int]:
        """Copy the next chunk of ``(low, target]`` into a sink; return where it ended, and its rows.

        Raises:
            LostConnectionError: the connection broke; the sink may have had some of the rows.
        """

        def work() -> tuple[Plan, str]:
            self._trust_server()
            plan = self._plan()
            return plan, copying.bound(self._session, plan, low, target, self._limit())

        with self._one_at_a_time:
            # Both on one connection: another one may lead to a server that lags behind what was settled.
            began = time.monotonic()
            plan, high = self._steadily(work)
            failpoint("copy.after_bound")
            counting = copying.Counting(sink)
            rows = copying.copy_out(self._session, plan, low, high, counting)
            self._note_size(counting.size, rows, time.monotonic() - began)
            return high, rows

    def sweep(self, swept: str, goal: str, upto: str) -> Sweep:
        """Read the next rows at or below ``upto`` that may have appeared since the last sweep.

        The first sweep of a lane reads none: nothing was read before, so nothing was missed.

        Raises:
            CorruptRecordError: a token is none.
            ValueNotCarriedError: a value does not fit the type that carries it; names the column.
        """

        def work() -> Sweep:
            self._trust_server()
            plan, limit = self._plan(), self._limit()
            sweep = sweeping.underway(swept, goal)
            if sweeping.is_first(sweep, upto):
                empty = self._fetch(plan.keyset.chunk(upto, upto, 0))
                return Sweep(arrow.carried(empty.table, plan.columns), sweeping.done_with(sweep))
            failpoint("sweep.before_read")
            statement = sweeping.statement(self._session, plan, sweep, upto, limit)
            fetched = self._fetch(statement, bounded=True)
            failpoint("sweep.after_read")
            table = arrow.carried(fetched.table, plan.columns)
            if not fetched.cut and table.num_rows < limit:
                return Sweep(table, sweeping.done_with(sweep))
            last = positions.last_of(table, plan.keyset.key, plan.tags)
            return Sweep(table, sweeping.come_to(sweep, last))

        return self._steadily(work)

    def at_or_past(self, position: str, target: str) -> bool:
        """Whether ``position`` is at or past ``target``, in the source's own order."""
        try:
            return cursors.compare(position, target) >= 0
        except cursors.IncomparableError:
            pass

        def work() -> bool:
            statement = self._plan().keyset.at_or_past(position, target)
            return bool(self._session.fetch(statement)[0][0])

        return self._steadily(work)

    def rows_after(self, low: str) -> int:
        """Estimate, without counting, how many rows are above ``low``."""
        return self._steadily(lambda: rows_after(self._session, self._plan(), low))

    def split(self, low: str, target: str, parts: int) -> tuple[str, ...]:
        """Cut ``(low, target]`` into ranges of about equal rows; see ``ports.Source``."""
        return self._steadily(
            lambda: Splitter(self._session, self._plan()).split(low, target, parts)
        )

    def table_facts(self) -> TableFacts | None:
        """Return what is read, as the catalog has it; None for a query, or before preflight."""
        plan = self._known_plan
        if plan is None or plan.relation is None:
            return None
        columns = {column.name: column.pg_type for column in plan.columns}
        return TableFacts(plan.relation.schema, plan.relation.name, columns)

    def cancel(self) -> None:
        """Interrupt the running call; safe from any thread and from a signal handler."""
        self._interruptible.cancel()

    def close(self) -> None:
        """Close the connections, if any is open."""
        self._session.discard()
        if self._primary is not None:
            self._primary.discard()

    # --- inside ----------------------------------------------------------------------------------

    def _plan(self) -> Plan:
        if self._known_plan is None:
            self._known_plan = make_plan(self._session, self._config)
        return self._known_plan

    def _settling(self) -> modes.Settling:
        # Never kept: after a failover the same host may be a standby, on which settling loses rows.
        return modes.choose(self._session, self._primary, self._config, self._plan())

    def _writers(self, settling: modes.Settling) -> Session:
        """Where late transactions are seen: on the primary, if the source is its standby."""
        if settling.promise.on_primary and self._primary is not None:
            return self._primary
        return self._session

    def _trust_server(self) -> None:
        """Once per connection: a bound may have been settled on another server than this one.

        A retry keeps its run's bound, and a lost connection is opened anew. Behind one name there may
        then be a standby that has not replayed yet what was waited for.
        """
        control = self._session.control()
        if control is self._trusted:
            return
        if self._config.settle in modes.WAITING and catalog.is_standby(self._session):
            if self._primary is None:
                raise modes.standby_refused(self._config)
            deadline = time.monotonic() + self._config.settle_timeout
            standby.wait_for_replay(self._session, self._primary, self._interruptible, deadline)
        self._trusted = control

    def _limit(self, share: float = 1.0) -> int:
        """Return how many rows to ask for: what fits the bytes, by the rows of the last chunk."""
        if not self._bytes_per_row:
            return self._config.chunk_rows
        fitting = math.floor(share * self._config.max_chunk_bytes / self._bytes_per_row)
        if self._seconds_per_row:
            fitting = min(fitting, math.floor(self._config.chunk_seconds / self._seconds_per_row))
        return max(1, min(self._config.chunk_rows, fitting))

    def _note_size(self, size: int, rows: int, seconds: float = 0.0) -> None:
        if rows:
            self._bytes_per_row, self._seconds_per_row = size / rows, seconds / rows

    def _fetch(self, statement: sql.Composable, *, bounded: bool = False) -> arrow.Fetched:
        """Run one reading statement, a second time when the first was lost on the way.

        Raises:
            LostConnectionError: the connection broke.
            CheckpointEtlError: PostgreSQL refused the statement.
        """
        session = self._session
        text = session.text_of(statement)
        connection = session.rows()
        config = self._config
        bounds = (config.max_chunk_bytes, config.chunk_seconds) if bounded else (None, None)
        try:
            return self._interruptible.run(
                lambda: arrow.fetch(connection, text, *bounds), connection.adbc_cancel
            )
        except CheckpointEtlError:
            raise
        except Exception as error:  # noqa: BLE001  the driver raises OSError and its own errors alike
            failure = type(error).__name__
        # Not chained, and without its text: the driver quotes the statement and rows. Running the
        # statement by psycopg gives the code; when it now succeeds, the fault was the connection's.
        session.discard_rows()
        session.probe(statement)
        message = f"the reading connection to {session.source} failed ({failure}); try again"
        raise LostConnectionError(message)

    def _steadily(self, work: Callable[[], T]) -> T:
        """Run idempotent work, once more on new connections when the first ones were lost."""
        with self._one_at_a_time:
            try:
                return work()
            except LostConnectionError:
                self.close()
                return work()
