"""Taking loaded rows out of the target again, all of them or none.

Rows that a delete leaves behind would be loaded a second time. PostgreSQL leaves some in silence: a
policy hides them, a trigger or a rule keeps them. So policies are switched off, which makes a delete they
would filter fail, and where fewer rows went than were loaded, the target is looked through for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from airflow_checkpoint_etl.errors import MissingPrivilegeError, RewindError
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.warehouses.catalog import LINEAGE_COLUMN
from airflow_checkpoint_etl.warehouses.refusals import ROW_CLASSES

if TYPE_CHECKING:
    from airflow_checkpoint_etl.postgres import Session
    from airflow_checkpoint_etl.protocol import Lane

SQL: Final = read_statements("airflow_checkpoint_etl.warehouses", "rewind.sql")


def take_back_rows(session: Session, lane: Lane, table: str, seq: int, expected: int) -> int:
    """Delete the rows of a lane's chunks above one; return how many went.

    Args:
        session: with the rewind's transaction.
        lane: the lane.
        table: the target, as it may be written in a statement.
        seq: the chunk to go back to.
        expected: rows that the chunks above it have loaded.

    Raises:
        RewindError: rows stay: something refers to them, or a trigger or rule keeps them.
        MissingPrivilegeError: the role may not delete them, or not see all of them.
    """
    key = {"pipeline": lane.pipeline, "part": lane.part, "seq": seq}
    rows = sql.SQL("from {} where {} in ({})").format(
        sql.SQL(table), sql.Identifier(LINEAGE_COLUMN), sql.SQL(SQL["ledger_ids"].rstrip(";"))
    )
    session.rows("select set_config('row_security', 'off', true)")
    try:
        with session.connection.cursor() as command:
            command.execute(sql.SQL("delete ") + rows, key)
            deleted = command.rowcount
            left = False
            # Of an upsert, later chunks have taken rows over; of an append, people may have deleted some.
            if deleted < expected:
                command.execute(sql.SQL("select exists (select {})").format(rows), key)
                left = command.fetchall() == [(True,)]
    except psycopg.errors.InsufficientPrivilege:
        message = (
            f"{lane}: the role may not delete rows of {table}, or row-level security would hide some "
            "from it; nothing was changed. Grant it select and delete on the table (and bypassrls), or "
            "run this as the table's owner"
        )
        raise MissingPrivilegeError(message) from None
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith(ROW_CLASSES):
            raise
        raise RewindError(_refused(lane, table, error.diag)) from None
    if left:
        message = (
            f"{lane}: {expected:,} rows of {table} were to be taken back and {deleted:,} went; a trigger "
            "or rule on it keeps rows, which would be loaded a second time. Nothing was changed; disable "
            "it for the rewind"
        )
        raise RewindError(message)
    return deleted


def _refused(lane: Lane, table: str, found: Any) -> str:
    """Say what keeps the rows, without the values in the server's words."""
    name = f', constraint "{found.constraint_name}"' if found.constraint_name else ""
    return (
        f"{lane}: rows of {table} cannot be deleted (SQLSTATE {found.sqlstate}{name}): other rows refer "
        "to them, or a trigger forbids it; nothing was changed. Remove what refers to them first"
    )
