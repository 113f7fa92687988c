"""What the warehouse refused, in words that name the place and never a value.

PostgreSQL's DETAIL and CONTEXT hold row values, so only the SQLSTATE and the names of table, column
and constraint are taken from its diagnostics. Errors that trying again may cure (a lost connection, a
deadlock, a timeout, a full disk) keep their class and lose the server's words.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from airflow_checkpoint_etl.errors import (
    MissingPrivilegeError,
    PreflightError,
    ValueNotCarriedError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from airflow_checkpoint_etl.errors import (
        CheckpointEtlError,
    )

_COPY_COLUMN: Final = re.compile(r"^COPY .*, line \d+, column (.+)$", re.MULTILINE)
_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")

_CONSTRAINTS: Final = {
    "23001": ("a row is still referred to", "keep the row, or drop the reference"),
    "23502": (
        "a row has NULL where the target allows none",
        "give the column a value in the transform, or drop its NOT NULL",
    ),
    "23503": (
        "a row refers to another one that is not there yet",
        "load the table it refers to first, then clear this task",
    ),
    "23505": (
        "a row with the same key is in the target already, or twice in the chunk",
        "remove the rows that others have written, or load by key with write='upsert'",
    ),
    "23514": ("a row breaks a check", "correct the rows in the transform, or change the check"),
    "23P01": ("a row breaks an exclusion constraint", "correct the rows in the transform"),
    "44000": ("a row breaks a check option", "correct the rows in the transform"),
}
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_FOREIGN_KEY: Final = "23503"
_VALUE_CLASSES: Final = ("21", "22", "23", "44", "54")
_TRIGGER_CLASSES: Final = ("09", "0L", "0P", "20", "27", "2F", "38", "39", "P0")
_STATEMENT_CLASSES: Final = ("0A", "42")

ROW_CLASSES: Final = (*_VALUE_CLASSES, *_TRIGGER_CLASSES)
"""The SQLSTATE classes that say something about a row, and nothing about the server or the table."""


class MissingParentError(ValueNotCarriedError):
    """A row refers to another one that is not in the warehouse yet; nothing of its chunk was written."""

    retryable = True


@contextmanager
def translated(target: str, columns: Collection[str]) -> Iterator[None]:
    """Raise what PostgreSQL refuses inside as an error of this package, free of row values.

    Args:
        target: the target table, for the message.
        columns: the columns written, among which a COPY's failing one is looked up.
    """
    try:
        yield
    except psycopg.Error as error:
        raise refusal(error, target, columns) or _silenced(error, target, columns) from None


def _silenced(error: psycopg.Error, target: str, columns: Collection[str]) -> psycopg.Error:
    """Return the same error without the server's words; libpq's own (no SQLSTATE) say nothing of rows.

    A trigger may raise any SQLSTATE with a row in its message, and the CONTEXT of a timeout quotes
    the statement that a function was running.
    """
    if error.sqlstate is None:
        return error
    column = error.diag.column_name or _copied_column(error, columns)
    place = _place(error.sqlstate, column, error.diag.constraint_name)
    return type(error)(
        f"target {target}: the server reported {_name(error.sqlstate)} ({place}); its log has the details. "
        "Nothing of this chunk was written"
    )


def refusal(
    error: psycopg.Error, target: str, columns: Collection[str]
) -> CheckpointEtlError | None:
    """Translate one database error; None when it says nothing about rows or the target."""
    column = error.diag.column_name or _copied_column(error, columns)
    return explained(error.sqlstate or "", target, column, error.diag.constraint_name)


def explained(
    sqlstate: str, target: str, column: str | None, constraint: str | None
) -> CheckpointEtlError | None:
    """Translate an error by its SQLSTATE and what it names; None as for :func:`refusal`."""
    place = _place(sqlstate, column, constraint)
    if sqlstate in _CONSTRAINTS:
        fact, move = _CONSTRAINTS[sqlstate]
        kind = MissingParentError if sqlstate == _FOREIGN_KEY else ValueNotCarriedError
        return kind(f"target {target}: {fact} ({place}); {move}. Nothing of this chunk was written")
    if sqlstate.startswith(_VALUE_CLASSES):
        return ValueNotCarriedError(
            f"target {target}: a value was refused: {_name(sqlstate)} ({place}); correct it in the "
            "transform, or change the column's type. Nothing of this chunk was written"
        )
    if sqlstate.startswith(_TRIGGER_CLASSES):
        return ValueNotCarriedError(
            f"target {target}: a trigger or function of the table raised {_name(sqlstate)} ({place}); "
            "its message is in the server's log. Nothing of this chunk was written"
        )
    if sqlstate == _INSUFFICIENT_PRIVILEGE:
        return MissingPrivilegeError(
            f"target {target}: the role may not do what the load needs ({place}); grant insert on the "
            "table (for an upsert also select and update), and what its triggers need"
        )
    if sqlstate.startswith(_STATEMENT_CLASSES):
        return PreflightError(
            f"target {target}: the statement was refused: {_name(sqlstate)} ({place}); the table was "
            "changed or has something a load cannot work with. Nothing of this chunk was written"
        )
    return None


def _name(sqlstate: str) -> str:
    """Return the condition's name in words: ``numeric value out of range``."""
    try:
        name = psycopg.errors.lookup(sqlstate).__name__
    except KeyError:  # of a function's own making
        return "an error of its own"
    return _CAPITAL.sub(" ", name).lower()


def described(error: psycopg.Error) -> str:
    """Say in words what the server refused, without its own, which may hold values."""
    state = error.sqlstate or ""
    return f"{_name(state)}, SQLSTATE {state}"


def _place(sqlstate: str, column: str | None, constraint: str | None) -> str:
    parts = [
        f'column "{column}"' if column else "",
        f'constraint "{constraint}"' if constraint else "",
        f"SQLSTATE {sqlstate}",
    ]
    return ", ".join(part for part in parts if part)


def _copied_column(error: psycopg.Error, columns: Collection[str]) -> str | None:
    """Return the column a COPY failed at, if its context names one that is known."""
    for found in _COPY_COLUMN.finditer(error.diag.context or ""):
        if found[1] in columns:
            return found[1]
    return None
