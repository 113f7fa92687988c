"""Taking chunks back: their rows out of the target, all of them or none, their rejects, their count.

Which chunks is a SELECT of ledger ids, run inside the caller's transaction: never a chunk's number, which
other parts and pipelines in the same table have as well.

Rows that a delete leaves behind would be loaded a second time. PostgreSQL leaves some in silence: a
policy hides them, a trigger or a rule keeps them. So policies are switched off, which makes a delete they
would filter fail, and where fewer rows went than were loaded, the target is looked through for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg
from psycopg import sql

from airflow_checkpoint_etl.errors import MissingPrivilegeError, RewindError
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.warehouses.catalog import LINEAGE_COLUMN
from airflow_checkpoint_etl.warehouses.ledger import SQL as LEDGER
from airflow_checkpoint_etl.warehouses.refusals import ROW_CLASSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_checkpoint_etl.ports import RewindRequest
    from airflow_checkpoint_etl.postgres import Session
    from airflow_checkpoint_etl.protocol import Lane
    from airflow_checkpoint_etl.warehouses.target import TargetTable

SQL: Final = read_statements("airflow_checkpoint_etl.warehouses", "rewind.sql")


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks to take back.

    Attributes:
        lane: whose they are, for messages.
        ids: a SELECT of their ledger ids.
        parameters: its parameters.
    """

    lane: Lane
    ids: LiteralString
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where the chunks' rows are.

    Attributes:
        target_oid: the table they were loaded into; None where that is not known.
        settings: the pipeline's, as its lane keeps them.
        target: the table the pipeline names; None where that is not known.
    """

    target_oid: int | None
    settings: Mapping[str, Any]
    target: TargetTable | None


def take_rows(
    session: Session, chunks: Chunks, loaded: Loaded, request: RewindRequest, expected: int
) -> int | None:
    """Take the chunks' rows out of the target, where that is wanted and can be done.

    Args:
        session: with the transaction.
        chunks: the chunks.
        loaded: where their rows are.
        request: what is wanted.
        expected: rows that the chunks which count have loaded.

    Returns:
        How many were deleted; None when they are left there.

    Raises:
        RewindError: they would be loaded twice, cannot be told from others, or stay: something refers
            to them, or a trigger or rule keeps them.
        MissingPrivilegeError: the role may not delete them, or not see all of them.
    """
    lane = chunks.lane
    upsert = loaded.settings.get("write") == "upsert"
    wanted = request.delete_rows if request.delete_rows is not None else not upsert
    if not wanted:
        if upsert or request.allow_duplicates:
            return None
        message = (
            f"{lane}: an append whose rows stay in the target loads them a second time; leave out "
            "delete_rows=False, or pass allow_duplicates=True"
        )
        raise RewindError(message)
    target_oid = loaded.target_oid
    if target_oid is None:  # a resync took the target as it is: that is where the rows are
        target_oid = _configured_target(session, lane, loaded.target)
    parameters = {"target_oid": target_oid, "column": LINEAGE_COLUMN}
    found = session.row(SQL["lineage_target"], parameters)
    if found is None:
        return 0  # the table is gone, and its rows with it
    table, has_lineage = found
    if not has_lineage:
        if request.allow_duplicates:
            return None
        message = (
            f"{lane}: its target {table} has no column {LINEAGE_COLUMN}, so the rows of the chunks "
            "above the point cannot be told from others; nothing was changed. Delete them by hand "
            "and pass allow_duplicates=True, or load by key with write='upsert'"
        )
        raise RewindError(message)
    return _delete(session, chunks, table, expected)


def _delete(session: Session, chunks: Chunks, table: str, expected: int) -> int:
    """Delete the rows of chunks; return how many went. ``table`` is as it may be written in SQL."""
    lane = chunks.lane
    rows = sql.SQL("from {} where {} in ({})").format(
        sql.SQL(table), sql.Identifier(LINEAGE_COLUMN), sql.SQL(chunks.ids)
    )
    session.rows("select set_config('row_security', 'off', true)")
    try:
        with session.connection.cursor() as command:
            command.execute(sql.SQL("delete ") + rows, chunks.parameters)
            deleted = command.rowcount
            left = False
            # Of an upsert, later chunks have taken rows over; of an append, people may have deleted some.
            if deleted < expected:
                command.execute(
                    sql.SQL("select exists (select {})").format(rows), chunks.parameters
                )
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


def take_chunks(session: Session, chunks: Chunks) -> None:
    """Drop the chunks' rejected records, which come again; the chunks count no more."""
    for name in ("drop_quarantined", "take_back"):
        session.rows(SQL[name].replace("{ids}", chunks.ids), chunks.parameters)


def _configured_target(session: Session, lane: Lane, target: TargetTable | None) -> int | None:
    """The oid of the table the pipeline names; None when there is no such table."""
    if target is None:
        message = (
            f"{lane}: it was resynced and has not loaded since, so the table its rows are in is not "
            "known here; nothing was changed. Let one run load, then try again"
        )
        raise RewindError(message)
    facts = target.describe(session.connection)
    return facts.oid if facts is not None else None


def check_known(session: Session, lane: Lane, target: TargetTable) -> None:
    """Check that a target holds no rows of chunks that the ledger has not given out yet.

    Raises:
        RewindError: it does: the ledger was restored without it.
    """
    newest = target.newest_lineage(session.connection)
    ((given,),) = session.rows(LEDGER["newest_ledger_id"])
    if newest > given:
        message = (
            f"{lane}: its target holds rows of chunks up to {LINEAGE_COLUMN} {newest}, and the ledger has "
            f"given out ids up to {given}: the schema checkpoint_etl was restored without the target, and "
            "those rows would be loaded a second time. Nothing was changed. Restore both to one moment, or "
            f"delete the rows whose {LINEAGE_COLUMN} is above {given}"
        )
        raise RewindError(message)


def _refused(lane: Lane, table: str, found: Any) -> str:
    """Say what keeps the rows, without the values in the server's words."""
    name = f', constraint "{found.constraint_name}"' if found.constraint_name else ""
    return (
        f"{lane}: rows of {table} cannot be deleted (SQLSTATE {found.sqlstate}{name}): other rows refer "
        "to them, or a trigger forbids it; nothing was changed. Remove what refers to them first"
    )
