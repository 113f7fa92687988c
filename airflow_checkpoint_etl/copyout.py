"""COPY out of PostgreSQL, a block of many rows at a time.

libpq hands a COPY out row by row, and psycopg looks at the socket anew for each. Here everything that
has arrived is taken in one tight loop and joined into blocks, and the socket is waited for when nothing
is left.
"""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from airflow_checkpoint_etl.frames import BLOCK, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_PIECE: Final = 64 << 10
"""Bytes of rows that are joined at once. psycopg gives every row as a memoryview, and Python's garbage
collector looks at each that lives: of a whole block of them it takes a third of the reading's time."""

_WAIT_SECONDS: Final = 0.25
_CANCEL_SECONDS: Final = 2.0
_DRAIN_SECONDS: Final = 10.0


class CopyOut:
    """One COPY .. TO STDOUT.

    Args:
        connection: where to run it; nothing else may use it until the blocks have ended.
        statement: the COPY statement.
        check: called while nothing arrives; what it raises ends the COPY.

    Attributes:
        arrived: messages that have arrived so far; about as many rows.
        rows: the rows, as the server counted them; known when the blocks have ended.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        statement: bytes,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._connection, self._pgconn = connection, connection.pgconn
        self._statement, self._check = statement, check
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)
        self._copying = True
        self.arrived = 0
        self.rows = 0

    def blocks(self) -> Generator[bytes]:
        """Run it and yield what it writes. Left early, the statement is cancelled.

        Raises:
            psycopg.Error: the server refused the statement, or failed in it.
        """
        self._pgconn.send_query(self._statement)
        begun = self._result()
        if begun is None or begun.status != pq.ExecStatus.COPY_OUT:
            self._finish(begun)
            return
        ended = False
        try:
            yield from joined(self._pieces(), BLOCK)
            ended = True
        finally:
            if not ended:
                self._abandon()
        self._finish(self._result())

    def _pieces(self) -> Iterator[bytes]:
        take, pieces, size = self._pgconn.get_copy_data, [], 0
        while True:
            length, data = take(1)
            if length > 0:
                pieces.append(data)
                size += length
                if size < _PIECE:
                    continue
            elif length == 0:
                self._check()
                self._wait()
                continue
            self._copying = length > 0
            if pieces:
                self.arrived += len(pieces)
                yield b"".join(pieces)
                pieces, size = [], 0
            if not self._copying:
                return

    def _wait(self) -> None:
        while not self._poll.poll(_WAIT_SECONDS * 1000):
            self._check()
        self._pgconn.consume_input()

    def _result(self) -> pq.abc.PGresult | None:
        while True:
            self._pgconn.flush()
            if not self._pgconn.is_busy():
                return self._pgconn.get_result()
            self._wait()

    def _finish(self, result: pq.abc.PGresult | None) -> None:
        while self._result() is not None:
            pass
        if result is None:
            message = "the server ended a COPY without a result"
            raise psycopg.OperationalError(message)
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise error_from_result(result, encoding="utf-8")
        self.rows = result.command_tuples or 0

    def _abandon(self) -> None:
        """Cancel the statement and take what was on the way, or give the connection up."""
        deadline = time.monotonic() + _DRAIN_SECONDS

        def check() -> None:
            if time.monotonic() > deadline:
                message = "the server did not end a cancelled COPY in time"
                raise psycopg.OperationalError(message)

        self._check = check
        try:
            if self._copying:  # else there is nothing to cancel but the next statement
                self._connection.cancel_safe(timeout=_CANCEL_SECONDS)
            while self._copying:
                length, _ = self._pgconn.get_copy_data(1)
                self._copying = length >= 0
                if length == 0:
                    self._wait()
            while self._result() is not None:
                pass
        except psycopg.Error:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
