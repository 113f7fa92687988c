"""Which errors pass by themselves: a lost connection does, a missing column does not."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.errors import CheckpointEtlError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Verdict(Enum):
    """Whether trying again can help.

    Attributes:
        TRANSIENT: a server or the way to it failed: soon it may not.
        PERMANENT: it fails again until somebody changes something.
        UNKNOWN: neither can be told, e.g. of an error of the transform's own.
    """

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNKNOWN = "unknown"


_TRANSIENT_STATES: Final = {
    "40001": "serialization failure",
    "40P01": "deadlock",
    "53300": "too many connections",
    "55P03": "lock timeout",
    "57P01": "the server was shut down by its administrator",
    "57P02": "the server crashed",
    "57P03": "the server does not accept connections yet",
    "57P05": "the connection was idle too long",
    "25P03": "the transaction was idle too long",
    "25006": "the server is a standby or read-only: it was failed over",
}
_TRANSIENT_CLASSES: Final = {"08": "connection lost"}
_PERMANENT_CLASSES: Final = {
    "0A": "the server cannot do this",
    "28": "the server refuses the role or its password",
    "3D": "there is no such database",
    "3F": "there is no such schema",
    "42": "a name, a type or a privilege does not fit",
}


def judge(error: BaseException) -> tuple[Verdict, str]:
    """Return whether trying again can help, and why, in words without any value.

    The error itself and what it was raised from are asked, the outermost first; the first that knows
    decides.
    """
    for each in _chain(error):
        verdict, reason = _judge_one(each)
        if verdict is not Verdict.UNKNOWN:
            return verdict, reason
    return Verdict.UNKNOWN, type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (
            None if following.__suppress_context__ else following.__context__
        )


def _judge_one(error: BaseException) -> tuple[Verdict, str]:
    if isinstance(error, CheckpointEtlError):
        if not error.retryable:
            return Verdict.PERMANENT, type(error).__name__
        if type(error).__name__ == "LostConnectionError":
            return Verdict.TRANSIENT, "connection lost"
        return Verdict.UNKNOWN, ""
    # Without an import: where a driver was never imported, the error is none of its own.
    psycopg: Any = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(error, psycopg.Error):
        return _judge_postgres(error, psycopg)
    redis: Any = sys.modules.get("redis")
    if redis is not None and isinstance(error, redis.RedisError):
        return _judge_redis(error, redis.exceptions)
    return Verdict.UNKNOWN, ""


def _judge_postgres(error: Any, psycopg: Any) -> tuple[Verdict, str]:
    state = error.sqlstate
    if state is None:
        lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        return (Verdict.TRANSIENT, "connection lost") if lost else (Verdict.UNKNOWN, "")
    transient = _TRANSIENT_STATES.get(state) or _TRANSIENT_CLASSES.get(state[:2])
    if transient:
        return Verdict.TRANSIENT, f"{transient} ({state})"
    permanent = _PERMANENT_CLASSES.get(state[:2])
    if permanent:
        return Verdict.PERMANENT, f"{permanent} ({state})"
    return Verdict.UNKNOWN, ""


def _judge_redis(error: Any, exceptions: Any) -> tuple[Verdict, str]:
    # First: a refused password is a kind of connection error there.
    if isinstance(error, (exceptions.AuthenticationError, exceptions.NoPermissionError)):
        return Verdict.PERMANENT, "Redis refuses the user or the password"
    transient = (
        exceptions.ConnectionError,  # a server that is still loading is one of these
        exceptions.TimeoutError,
        exceptions.ReadOnlyError,
        exceptions.TryAgainError,
        exceptions.ClusterDownError,
    )
    if isinstance(error, transient):
        return Verdict.TRANSIENT, f"Redis: {type(error).__name__}"
    return Verdict.UNKNOWN, ""
