"""The staging area in PostgreSQL: one row per file, its bytes sent and read in binary.

Every operation is idempotent, so a broken connection is replaced and the operation repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.migrations import read_script
from airflow_checkpoint_etl.postgres_session import PostgresSession
from airflow_checkpoint_etl.staging.checks import check_cap, check_name, check_same, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg

    from airflow_checkpoint_etl.postgres_session import Session

COMPONENT: Final = "staging"
SCRIPTS: Final = (read_script("airflow_checkpoint_etl.staging", "postgres.sql"),)

MAX_VALUE: Final = (1 << 30) - (1 << 20)
"""Bytes that PostgreSQL takes as one value, with room for what surrounds it."""

_WHERE: Final = "PostgreSQL"

# A new file; one that exists stays as it is.
_PUT: Final = """
    insert into checkpoint_etl.staged (name, data) values (%(name)s, %(data)b)
    on conflict (name) do nothing
"""

# Whether the stored file holds these very bytes.
_SAME: Final = "select data = %(data)b from checkpoint_etl.staged where name = %(name)s"

# The file's bytes.
_GET: Final = "select data from checkpoint_etl.staged where name = %(name)s"

# The file's size, without reading its bytes.
_SIZE: Final = "select size from checkpoint_etl.staged where name = %(name)s"

# One file less.
_DELETE: Final = "delete from checkpoint_etl.staged where name = %(name)s"

# The names under a prefix.
_NAMES: Final = "select name from checkpoint_etl.staged where name like %(pattern)s order by name"


class PostgresStagingArea:
    """Staged files in PostgreSQL.

    Args:
        connect: makes a psycopg connection for this area alone.
        cap: bytes one file may have; never more than PostgreSQL takes as one value.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], cap: int) -> None:
        self._session = PostgresSession(connect, COMPONENT, SCRIPTS)
        self._cap = min(cap, MAX_VALUE)

    def preflight(self) -> None:
        """Connect, create or migrate the table.

        Raises:
            SchemaVersionError: a newer version of this package made the table.
            MissingPrivilegeError: the role may not create or use it; the message says what to run.
        """
        self._session.open()

    def put(self, name: str, data: bytes) -> None:
        """Store a file.

        Raises:
            ChunkTooLargeError: it is larger than the cap.
            StagedChunkError: other bytes have this name.
        """
        check_name(name)
        check_cap(name, len(data), self._cap, _WHERE)
        values = {"name": name, "data": data}

        def work(session: Session) -> None:
            if session.execute(_PUT, values).rowcount == 0:
                row = session.execute(_SAME, values).fetchone()
                check_same(name, same=row is not None and bool(row[0]))

        self._session.run(work)

    def get(self, name: str) -> bytes:
        """Return a file; raises StagedChunkError when it is missing."""

        def work(session: Session) -> bytes | None:
            row = session.execute(_GET, {"name": name}, binary=True).fetchone()
            return bytes(row[0]) if row else None

        data = self._session.run(work)
        if data is None:
            raise missing(name, _WHERE)
        return data

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is missing."""

        def work(session: Session) -> int | None:
            row = session.execute(_SIZE, {"name": name}).fetchone()
            return int(row[0]) if row else None

        return self._session.run(work)

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; missing ones are no error."""

        def work(session: Session) -> None:
            session.executemany(_DELETE, [{"name": name} for name in names])

        self._session.transact(work)

    def names(self, prefix: str) -> list[str]:
        """Return the names of stored files under a prefix, in order."""
        escaped = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

        def work(session: Session) -> list[str]:
            rows = session.execute(_NAMES, {"pattern": escaped + "%"}).fetchall()
            return [str(row[0]) for row in rows]

        return self._session.run(work)

    def close(self) -> None:
        """Close the connection, if one is open."""
        self._session.close()
