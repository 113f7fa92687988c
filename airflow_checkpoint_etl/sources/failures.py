"""What the source's errors mean, without the data they may quote.

PostgreSQL's messages about syntax, names and privileges quote identifiers only and are passed on. Those
about values (``invalid input syntax for type integer: "..."``) quote rows, so only their code is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg

from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    MissingPrivilegeError,
    PreflightError,
)

if TYPE_CHECKING:
    from airflow_checkpoint_etl.endpoints import PostgresSource

_SPEAKING_CLASSES: Final = frozenset({"08", "0A", "28", "3D", "3F", "42", "53", "55", "57", "58"})
_NOT_RETRYABLE_CLASSES: Final = frozenset({"0A", "3D", "3F", "42"})
_QUERY_CANCELED: Final = "57014"
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_GONE: Final = frozenset({"57P01", "57P02", "57P03", "57P05"})


class LostConnectionError(CheckpointEtlError):
    """The connection to the source was lost."""


def refuse(config: PostgresSource, parameter: str, rule: str, next_move: str) -> PreflightError:
    """Build the error for one parameter of a source: its name, its value, the rule, the next move."""
    value = config.cursor_columns if parameter == "cursor" else getattr(config, parameter)
    return PreflightError(f"{parameter}={value!r}: {rule}; {next_move}")


def is_lost(error: psycopg.Error) -> bool:
    """Whether the error says that the connection, and not the statement, has failed."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state.startswith("08") or state in _GONE


def describe(error: psycopg.Error) -> str:
    """Return the error's code and, where it can quote no row, its message."""
    state = error.sqlstate
    if state is None:
        return "the connection was lost"
    text = f"{state} {type(error).__name__}"
    primary = error.diag.message_primary
    return f"{text}: {primary}" if primary and state[:2] in _SPEAKING_CLASSES else text


def translate(error: psycopg.Error, source: str) -> CheckpointEtlError:
    """Return this package's error for one of psycopg's.

    Args:
        error: what psycopg raised.
        source: what was read, for the message.
    """
    said = describe(error)
    if is_lost(error):
        return LostConnectionError(f"lost the connection to {source} ({said}); try again")
    if error.sqlstate == _INSUFFICIENT_PRIVILEGE:
        return MissingPrivilegeError(
            f"{source} refuses the read ({said}); grant the role USAGE on the schema and SELECT, or "
            "BYPASSRLS where row-level security would hide rows"
        )
    if error.sqlstate == _QUERY_CANCELED:
        return CheckpointEtlError(
            f"{source} cancelled the statement ({said}); raise the role's statement_timeout, or make "
            "chunk_rows smaller"
        )
    if (error.sqlstate or "")[:2] in _NOT_RETRYABLE_CLASSES:
        return PreflightError(
            f"{source} refuses the statement ({said}); check table, query, columns, cursor and where"
        )
    return CheckpointEtlError(f"{source} failed ({said}); its server log has the details")
