"""The staging area in Redis (or Valkey): a string per file, and one hash that counts them.

Redis keeps everything in memory and is often shared, so three limits hold: bytes per file, bytes in all
and files in all. A file is counted in the hash first and stored then. A put that is killed in between, and
a file that Redis evicts or loses, leave a count without a file, which costs nothing but room: a full
area drops such counts, once they are older than any put, before it refuses. They are never listed: a
stage takes a listed file for one that it need not stage again. A file whose count was lost is listed,
because listing scans the keys themselves. A key that holds another type than it should is no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import redis

from airflow_checkpoint_etl.errors import PreflightError, StagedChunkError
from airflow_checkpoint_etl.redis_session import (
    RedisSession,
    is_out_of_memory,
    is_wrong_type,
    read_script,
)
from airflow_checkpoint_etl.staging.checks import (
    OBJECT_STORAGE,
    check_cap,
    check_name,
    check_same,
    missing,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_checkpoint_etl.redis_session import Argument, Client

TOTAL_CAP: Final = 2 << 30
MAX_FILES: Final = 10_000
MAX_VALUE: Final = 512 << 20
"""Bytes that Redis takes as one value, in its default configuration."""

PUT_SECONDS: Final = 600
"""How long a file may be counted before its bytes are there; no client waits longer for a reply."""

_RESERVE: Final = read_script("airflow_checkpoint_etl.staging", "reserve.lua")
_WHERE: Final = "Redis"


class RedisStagingArea:
    """Staged files in Redis.

    Args:
        connect: makes a client of a single server, a sentinel's primary or a cluster.
        cap: bytes one file may have; never more than Redis takes as one value.
        prefix: what every key starts with.
        total_cap: bytes all files under the prefix may have together.
        max_files: how many files there may be under the prefix.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        cap: int,
        prefix: str = "checkpoint_etl",
        total_cap: int = TOTAL_CAP,
        max_files: int = MAX_FILES,
    ) -> None:
        self._session = RedisSession(connect)
        self._cap = min(cap, MAX_VALUE)
        self._prefix = f"{prefix}:staged:"
        self._sizes = f"{prefix}:staged_sizes"
        self._total_cap = total_cap
        self._max_files = max_files

    def preflight(self) -> None:
        """Connect, and write a key that vanishes by itself.

        Raises:
            PreflightError: the server is a read-only replica, or its access rules forbid writing.
        """
        try:
            self._session.command("SET", f"{self._sizes}:preflight", "1", "PX", 1)
        except (redis.exceptions.NoPermissionError, redis.exceptions.ReadOnlyError) as error:
            message = (
                f"Redis refuses to store staged files under {self._prefix}*: "
                f"{type(error).__name__}; allow it, or {OBJECT_STORAGE}"
            )
            raise PreflightError(message) from error
        except redis.ResponseError as error:
            probe = "preflight"
            raise self._translated(probe, 1, error) from error

    def put(self, name: str, data: bytes) -> None:
        """Store a file.

        Raises:
            ChunkTooLargeError: it is larger than the cap.
            StagedChunkError: the area or Redis itself is full, or other bytes have this name.
        """
        check_name(name)
        check_cap(name, len(data), self._cap, _WHERE)
        try:
            self._reserve(name, len(data))
            if self._session.command("SET", self._prefix + name, data, "NX"):
                return
        except redis.ResponseError as error:
            if is_out_of_memory(error) and self.size(name) is None:
                self._session.command("HDEL", self._sizes, name)
            raise self._translated(name, len(data), error) from error
        check_same(name, same=self.get(name) == data)

    def get(self, name: str) -> bytes:
        """Return a file; raises StagedChunkError when it is missing."""
        data: bytes | None = self._unless_wrong_type(None, "GET", self._prefix + name)
        if data is None:
            raise missing(name, _WHERE)
        return data

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is missing."""
        size: int | None = self._unless_wrong_type(None, "STRLEN", self._prefix + name)
        if size == 0 and not self._exists(name):
            return None
        return size

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; missing ones are no error."""
        for name in names:
            # The count goes last: a file that is not counted would outgrow the limits unseen.
            self._session.command("UNLINK", self._prefix + name)
            self._unless_wrong_type(0, "HDEL", self._sizes, name)

    def names(self, prefix: str) -> list[str]:
        """Return the names of stored files under a prefix, in order.

        It scans every key of the server: when a stage starts and when files are collected, not for every
        chunk.
        """
        keys = self._session.keys(self._prefix + prefix, kind="string")
        return sorted({key.removeprefix(self._prefix) for key in keys})

    def close(self) -> None:
        """Close the client, if there is one."""
        self._session.close()

    def _exists(self, name: str) -> bool:
        return bool(self._session.command("EXISTS", self._prefix + name))

    def _counted(self) -> dict[str, float]:
        """Return the name of every counted file, and when it was counted (seconds since 1970)."""
        counts: dict[bytes, bytes] = self._unless_wrong_type({}, "HGETALL", self._sizes)
        return {
            name.decode(errors="replace"): float(count.rpartition(b"@")[2] or 0)
            for name, count in counts.items()
        }

    def _unless_wrong_type(self, otherwise: Any, *words: Argument) -> Any:
        """Run one command; ``otherwise`` when its key holds a value of another type, not ours."""
        try:
            return self._session.command(*words)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            return otherwise

    def _reserve(self, name: str, size: int) -> None:
        limits = (str(size), str(self._total_cap), str(self._max_files))
        answer, *rest = self._session.run(_RESERVE, self._sizes, name, *limits)
        if answer == b"full" and self._drop_empty_counts(before=float(rest[2]) - PUT_SECONDS):
            answer, *rest = self._session.run(_RESERVE, self._sizes, name, *limits)
        if answer == b"full":
            message = (
                f"staged file {name} ({size:,} bytes) does not fit into Redis: {int(rest[0]):,} of at "
                f"most {self._total_cap:,} bytes and {int(rest[1]):,} of at most "
                f"{self._max_files:,} files are staged; nothing was stored; let loads catch up, or "
                f"{OBJECT_STORAGE}"
            )
            raise StagedChunkError(message)

    def _drop_empty_counts(self, before: float) -> bool:
        """Drop the older counts of files that never came or were lost; whether there were any."""
        gone = [
            name
            for name, counted_at in self._counted().items()
            if counted_at < before and not self._exists(name)
        ]
        for name in gone:
            self._session.command("HDEL", self._sizes, name)
        return bool(gone)

    def _translated(self, name: str, size: int, error: redis.ResponseError) -> Exception:
        if not is_out_of_memory(error):
            return error
        return StagedChunkError(
            f"staged file {name} ({size:,} bytes) does not fit into Redis: it is out of memory "
            f"(at maxmemory); nothing was stored; give it more, or {OBJECT_STORAGE}"
        )
