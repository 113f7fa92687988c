"""What a configuration promises, in words, with its grounds and with what it takes for granted.

PURE: no IO, no clock, no logging. A source says what reading it can promise; how the rows are written
decides what is left of that:

    exactly-once       every row that was committed is in the target once
    effectively-once   rows may be loaded again, and a key makes the second time change nothing
    at-least-once      nothing is missed, and rows may be there twice
    at-most-once       nothing is there twice, and rows that commit late may be missed
    best-effort        both may happen

A mode that the user names is taken at their word where the catalog cannot prove it, and the guarantee
says that it is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How often a committed source row ends up in the target."""

    EXACTLY_ONCE = "exactly-once"
    EFFECTIVELY_ONCE = "effectively-once"
    AT_LEAST_ONCE = "at-least-once"
    AT_MOST_ONCE = "at-most-once"
    BEST_EFFORT = "best-effort"


@dataclass(frozen=True, slots=True)
class Promise:
    """What reading a source can promise.

    Attributes:
        settle: the settle mode in force.
        cursor: the cursor's columns.
        changing: whether an update gives a row a new cursor, so that its versions are read.
        doubt: why the catalog does not prove that the mode fits; None when it does.
        filtered: whether a row filter decides which rows are read.
        lag: seconds waited, for ``lag``.
        on_primary: whether late transactions are waited for on a standby's primary.
    """

    settle: str
    cursor: tuple[str, ...]
    changing: bool = False
    doubt: str | None = None
    filtered: bool = False
    lag: float | None = None
    on_primary: bool = False


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A level, why it holds, and what it assumes.

    Attributes:
        level: how often a row ends up in the target.
        reasons: why, each a clause.
        assumptions: what it takes for granted, each a clause after "that".
        unless: what the user vouches for without proof; None when everything is proven.
    """

    level: Level
    reasons: tuple[str, ...]
    assumptions: tuple[str, ...] = ()
    unless: str | None = None

    def __str__(self) -> str:
        said = f"{self.level}"
        if self.unless is not None:
            said += f" only if {self.unless}"
        said += f": {'; '.join(self.reasons)}"
        if self.assumptions:
            said += f". Assumes that {_listed(self.assumptions)}"
        return said


_WITHOUT_TRANSACTIONS: Final = {
    Level.EXACTLY_ONCE: Level.AT_LEAST_ONCE,
    Level.AT_MOST_ONCE: Level.BEST_EFFORT,
}
_ON_ERROR: Final = {
    "quarantine": "records that are rejected stand in quarantine, not in the target",
}


def of(
    promise: Promise, *, write: str, transactional: bool = True, on_error: str = "fail"
) -> Guarantee:
    """Return what a pipeline promises.

    Args:
        promise: what its source promises.
        write: ``append`` or ``upsert``.
        transactional: whether the warehouse commits rows and ledger in one transaction.
        on_error: what becomes of rejected records: ``fail`` or ``quarantine``.
    """
    level, reasons, assumptions = _READ[promise.settle](promise)
    unless = None
    if promise.doubt is not None and promise.settle in {"locks", "transactions"}:
        unless = f"settle={promise.settle!r} fits all writers, as declared"
        reasons = (f"not proven, because {promise.doubt}", *reasons)
    if promise.filtered:
        assumptions = (*assumptions, "the row filter never changes its mind about a row")
    if write == "upsert":
        written = "rows are merged by key"
        if promise.changing:
            written += ", of which the newest version wins"
        if not transactional:
            level = Level.EFFECTIVELY_ONCE if level is Level.EXACTLY_ONCE else level
    else:
        written = "rows are appended"
        if promise.changing:
            written += (
                f", and a row is appended once more whenever an update moves its {promise.cursor[0]}: "
                "the target holds row versions"
            )
        if promise.settle == "sweep":
            level = Level.AT_LEAST_ONCE
        if not transactional:
            level = _WITHOUT_TRANSACTIONS.get(level, level)
    written += (
        ", in one transaction with the ledger"
        if transactional
        else ", and the warehouse has no transaction for rows and ledger"
    )
    rejected = (_ON_ERROR[on_error],) if on_error in _ON_ERROR else ()
    return Guarantee(level, (*reasons, written, *rejected), assumptions, unless)


Reading = tuple[Level, tuple[str, ...], tuple[str, ...]]


def _locks(promise: Promise) -> Reading:
    key = ", ".join(promise.cursor)
    comes = (
        f"{key} comes from a sequence"
        if promise.doubt is None
        else f"rows are read in order of {key}"
    )
    reason = f"{comes} and everyone who writes the table or draws an id is waited for"
    return (
        Level.EXACTLY_ONCE,
        (reason + _where(promise),),
        ("ids are drawn in the inserting transaction",),
    )


def _transactions(promise: Promise) -> Reading:
    key = ", ".join(promise.cursor)
    reason = f"rows are read in order of {key} and every transaction of the database is waited for"
    return (
        Level.EXACTLY_ONCE,
        (reason + _where(promise),),
        (
            f"writers set {promise.cursor[0]} to the time they write at",
            "the source's clock does not step back",
        ),
    )


def _where(promise: Promise) -> str:
    if not promise.on_primary:
        return ""
    return " on the primary, and then the standby's replay of them"


def _sweep(promise: Promise) -> Reading:
    key = ", ".join(promise.cursor)
    reason = (
        f"rows that appear late, wherever {key} puts them, are swept up by a later run, at the latest "
        "once every older transaction has ended"
    )
    return (
        Level.EFFECTIVELY_ONCE,
        (reason,),
        ("the key names the same row at every load", "a transform with state may see a row again"),
    )


def _lag(promise: Promise) -> Reading:
    lag = f"{promise.lag or 0:g}"
    return (
        Level.AT_MOST_ONCE,
        (f"rows of transactions that stay open for more than settle_lag={lag} s are missed",),
        (),
    )


def _none(_: Promise) -> Reading:
    return (
        Level.AT_MOST_ONCE,
        ('rows that commit late are missed: settle="none" waits for nobody',),
        (),
    )


def _memory(_: Promise) -> Reading:
    return Level.EXACTLY_ONCE, ("rows in memory are there at once",), ()


_READ: Final = {
    "locks": _locks,
    "transactions": _transactions,
    "sweep": _sweep,
    "lag": _lag,
    "none": _none,
    "memory": _memory,
}


def _listed(clauses: tuple[str, ...]) -> str:
    *rest, last = clauses
    return f"{', that '.join(rest)} and that {last}" if rest else last
