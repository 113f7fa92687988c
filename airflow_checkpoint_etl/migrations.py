"""Creates and migrates this package's tables in PostgreSQL, one component at a time.

A component (``ledger``, ``checkpoints``, ``staging``) is a list of DDL scripts; script number *n*
takes its tables from version *n - 1* to version *n*. What was applied stands in
``checkpoint_etl.schema_version``. The rule:

    No DDL without the migration lock, and no lock without need.

``if not exists`` alone is no protection: two sessions that create the same table at the same moment
both find it missing, and one of them fails. So the lock comes first, and the version is read again
under it. Where the tables are right already, one SELECT is all that happens: a role that may only
read and write the tables, but not create any, works.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq, sql
from psycopg.rows import tuple_row

from airflow_checkpoint_etl.errors import MissingPrivilegeError, SchemaVersionError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA: Final = "checkpoint_etl"
"""The PostgreSQL schema that holds every table of this package."""

LOCK: Final = int.from_bytes(b"ck_etl", "big")
"""Key of the transaction-level advisory lock under which all DDL runs, for every component."""

LOCK_SECONDS: Final = 60
"""How long a session waits for another one's migration, or for a lock its own DDL needs."""


def read_script(package: str, name: str) -> str:
    """Return a script that is shipped inside ``package``, such as ``"postgres.sql"``."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def migrate(connection: psycopg.Connection[Any], component: str, scripts: Sequence[str]) -> None:
    """Bring one component's tables to version ``len(scripts)``; safe from many sessions at once.

    On an idle connection everything missing is applied and committed in one transaction. Inside an
    open transaction it becomes part of that one, and the migration lock is held until its end.

    Args:
        connection: any psycopg connection; its row factory and cursor factory do not matter.
        component: the component's name in ``checkpoint_etl.schema_version``.
        scripts: every version's DDL, oldest first; names in it carry their schema.

    Raises:
        SchemaVersionError: a newer version of this package made the tables.
        MissingPrivilegeError: the role may not create them; the message has the DDL to hand on.
    """
    if _settled(_version_without_lock(connection, component), component, scripts):
        return
    version = 0
    try:
        idle = connection.info.transaction_status == pq.TransactionStatus.IDLE
        with connection.transaction(), psycopg.Cursor(connection, row_factory=tuple_row) as session:
            if idle:
                # A snapshot older than the lock would hide what its last holder has done.
                session.execute("set transaction isolation level read committed, read write")
            session.execute(sql.SQL("set local lock_timeout = {}").format(f"{LOCK_SECONDS}s"))
            session.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
            session.execute("select to_regclass('checkpoint_etl.schema_version') is null")
            if session.fetchone() == (True,):
                _run(session, _foundation())
            version = _stored_version(session, component)
            if _settled(version, component, scripts):
                return
            for script in scripts[version:]:
                _run(session, script)
            session.execute(_applied(component, len(scripts)))
    except psycopg.errors.InsufficientPrivilege as error:
        role = connection.info.user
        message = (
            f'the role "{role}" may not create the tables of {component} (version {len(scripts)}) '
            f"in the schema {SCHEMA}; have a database administrator run this, then run the task "
            f"again:\n\n{ddl_for_administrator(component, scripts, version, role)}"
        )
        raise MissingPrivilegeError(message) from error


def ddl_for_administrator(component: str, scripts: Sequence[str], version: int, role: str) -> str:
    """Return everything somebody else must run so that ``role`` finds ``component`` in place.

    Args:
        component: the component's name.
        scripts: every version's DDL, oldest first.
        version: the version its tables have now; 0 when there are none.
        role: the role that will use the tables.
    """
    return "\n".join(
        (
            "begin;",
            f"select pg_advisory_xact_lock({LOCK});",
            _foundation(),
            *scripts[version:],
            "-- What was applied.",
            _applied(component, len(scripts)).as_string(),
            grants(role),
            "commit;",
        )
    )


def grants(role: str) -> str:
    """Return the GRANT statements that let ``role`` use, but not change, the tables."""
    name = '"' + role.replace('"', '""') + '"'
    return (
        "-- What the role needs: the use of the tables, not the right to change them.\n"
        f"grant usage on schema {SCHEMA} to {name};\n"
        f"grant select, insert, update, delete on all tables in schema {SCHEMA} to {name};\n"
        f"grant usage, select on all sequences in schema {SCHEMA} to {name};"
    )


def missing_grants(role: str) -> MissingPrivilegeError:
    """Build the error for a role that may not use tables which are there."""
    return MissingPrivilegeError(
        f'the role "{role}" may not read or write the tables in the schema {SCHEMA}; have their '
        f"owner run this, then run the task again:\n\n{grants(role)}"
    )


def _foundation() -> str:
    return read_script("airflow_checkpoint_etl", "migrations.sql")


def _applied(component: str, version: int) -> sql.Composed:
    """The statement that records what was applied."""
    return sql.SQL(
        "insert into checkpoint_etl.schema_version (component, version) values ({}, {})\n"
        "on conflict (component) do update set version = excluded.version, migrated_at = now();"
    ).format(component, version)


def _settled(version: int, component: str, scripts: Sequence[str]) -> bool:
    """Whether nothing is missing; raises where the tables are newer than this package."""
    if version > len(scripts):
        message = (
            f"the tables of {component} in the schema {SCHEMA} have version {version}, but this "
            f"package knows versions up to {len(scripts)}; upgrade airflow-checkpoint-etl"
        )
        raise SchemaVersionError(message)
    return version == len(scripts)


def _version_without_lock(connection: psycopg.Connection[Any], component: str) -> int:
    """Return the stored version, 0 where there is none; fails where the role may not even look."""
    try:
        # A savepoint, or a transaction of its own: a missing table must not end the caller's.
        with connection.transaction(), psycopg.Cursor(connection, row_factory=tuple_row) as session:
            return _stored_version(session, component)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return 0
    except psycopg.errors.InsufficientPrivilege as error:
        raise missing_grants(connection.info.user) from error


def _stored_version(session: psycopg.Cursor[tuple[Any, ...]], component: str) -> int:
    session.execute(
        "select version from checkpoint_etl.schema_version where component = %s", (component,)
    )
    row = session.fetchone()
    return int(row[0]) if row else 0


def _run(session: psycopg.Cursor[tuple[Any, ...]], script: str) -> None:
    # Bytes are passed through as they are: a script may hold several statements and any "%".
    session.execute(script.encode())
