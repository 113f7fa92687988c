"""Chunks in copy form: bound first, then copied as they are.

The chunk's end is found before its rows are read, by asking for the n-th key alone, which an index
answers. A chunk is then all of ``(low, high]``, today and whenever it is read again, and no row has to
be looked at to know where it ends. The columns are described in the transaction that copies: the lock
that describing takes on the tables keeps their types as they are until the copy has ended.
"""

from __future__ import annotations

import contextlib
import math
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.copyout import CopyOut
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.frames import FrameColumn, Packer
from airflow_checkpoint_etl.ports import Read
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.sources import positions, queries
from airflow_checkpoint_etl.sources.failures import LostConnectionError
from airflow_checkpoint_etl.sources.session import describe, run

if TYPE_CHECKING:
    import psycopg

    from airflow_checkpoint_etl.frames import Columns, Frames
    from airflow_checkpoint_etl.ports import Sink
    from airflow_checkpoint_etl.sources.planning import Plan
    from airflow_checkpoint_etl.sources.session import Session

AIM: Final = 0.9
"""Share of the byte bound that a chunk aims at: one that passes it is read twice."""


@cache
def _structures() -> bytes:
    statements = read_statements("airflow_checkpoint_etl", "structures.sql")
    return statements["structures"].encode()


def columns_of(connection: psycopg.Connection[Any], plan: Plan) -> Columns:
    """Describe the columns of what a plan reads, in the connection's transaction."""
    names = [column.name for column in plan.columns]
    described = describe(connection, plan.keyset.shape(names))
    parameters = {
        "oids": [column.type_oid for column in described],
        "modifiers": [column.modifier for column in described],
    }
    types = run(connection, queries.load("catalog.sql")["types"], parameters)
    structures = run(connection, _structures(), parameters)
    return tuple(
        FrameColumn(name, pg_type, structure)
        for name, (pg_type, _), (structure,) in zip(names, types, structures, strict=True)
    )


def bound(session: Session, plan: Plan, low: str, target: str, rows: int) -> str:
    """Return the cursor of the chunk that begins at ``low`` and holds ``rows`` rows, or the target."""
    found = session.fetch(plan.keyset.nth(low, target, rows))
    if not found:
        return target
    return positions.from_texts(plan.keyset.key, plan.tags, found[0])


def copy_out(session: Session, plan: Plan, low: str, high: str, sink: Sink) -> int:
    """Copy the rows of ``(low, high]`` into a sink and return how many there were.

    Raises:
        CheckpointEtlError: translated from PostgreSQL's error, without data.
        Exception: whatever the sink raised; the statement is cancelled.
    """

    def work(connection: psycopg.Connection[Any]) -> int:
        columns = columns_of(connection, plan)
        failpoint("copy.after_describe")
        sink.begin(high, columns)
        statement = plan.keyset.copied(low, high).as_bytes(connection)
        out = CopyOut(connection, statement, sink.check)
        with contextlib.closing(out.blocks()) as blocks:
            for block in blocks:
                sink.write(block, out.arrived)
        return out.rows

    return session.transact(work)


class _TooLargeError(Exception):
    """The chunk passes its byte bound.

    Args:
        rows: about how many rows it had when it did.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows


class _Packing:
    """Packs one chunk.

    Args:
        most: bytes after which the chunk is too large; None for any size.
    """

    def __init__(self, most: int | None) -> None:
        self._packer, self._most = Packer(), most
        self._columns: Columns = ()

    def begin(self, high: str, columns: Columns) -> None:  # noqa: ARG002  the caller knows it
        self._columns = columns

    def check(self) -> None:
        """The reader's own cancelling interrupts the statement."""

    def write(self, block: bytes, rows: int) -> None:
        self._packer.add(block)
        if self._most is not None and self._packer.size > self._most:
            raise _TooLargeError(rows)

    def frames(self, rows: int) -> Frames:
        return self._packer.frames(self._columns, rows)


def read(session: Session, plan: Plan, low: str, target: str, rows: int, most: int) -> Read:
    """Read the next chunk of ``(low, target]``, of at most ``rows`` rows and ``most`` bytes.

    A single row may be larger. ``rows`` that fit by the size of the last chunk's may not fit by this
    one's: then fewer are asked for, and what was read is read again.
    """
    while True:
        high = bound(session, plan, low, target, rows)
        failpoint("copy.after_bound")
        packing = _Packing(most if rows > 1 else None)
        try:
            count = copy_out(session, plan, low, high, packing)
        except _TooLargeError as large:
            if not session.is_open:  # a new connection has to be trusted first
                message = f"the connection to {session.source} was given up; try again"
                raise LostConnectionError(message) from None
            rows = max(1, min(math.floor(large.rows * AIM), rows // 2))
            continue
        return Read(packing.frames(count), high)


def read_again(session: Session, plan: Plan, low: str, high: str) -> Read:
    """Read exactly ``(low, high]``."""
    packing = _Packing(None)
    return Read(packing.frames(copy_out(session, plan, low, high, packing)), high)


class Counting:
    """Passes a chunk on to another sink and counts its bytes.

    Args:
        sink: where it goes.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.size = 0
        self.begin, self.check = sink.begin, sink.check

    def write(self, block: bytes, rows: int) -> None:
        """Count a block and pass it on."""
        self.size += len(block)
        self._sink.write(block, rows)
