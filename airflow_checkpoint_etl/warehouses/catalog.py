"""What the warehouse's catalogs say about a target table, and about the place of one to be made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from airflow_checkpoint_etl.errors import (
    ConfigurationError,
    MissingPrivilegeError,
    PreflightError,
)
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.warehouses.wire import TargetColumn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_checkpoint_etl.errors import (
        CheckpointEtlError,
    )
    from airflow_checkpoint_etl.postgres import Row

LINEAGE_COLUMN: Final = "_ck_chunk"
"""The one lineage column: the id of the ledger row of the chunk that brought the row."""

_SQL: Final = read_statements("airflow_checkpoint_etl.warehouses", "target.sql")
_FACTS: Final = ("relation", "columns", "unique_keys")
"""The statements that tell the facts about a table."""

_TABLES: Final = ("r", "p")
_KINDS: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "I": "an index",
    "S": "a sequence",
    "c": "a composite type",
}
_LONGEST_IDENTIFIER: Final = 63
_NAME_PARTS: Final = 2


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """The target table as the catalogs have it.

    Attributes:
        oid: which table this is; a table that is dropped and made again has another one.
        schema: its schema.
        name: its name.
        columns: its columns, in order.
        unique_keys: the column sets that a unique index keeps unique at once, for every row.
        row_security: whether row-level security applies to the role.
        privileges: which of insert, select, update the role has on the table, and ``temporary`` on
            the database.
        is_unlogged: whether a crash of the server empties it, or a partition of it.
        is_remote: whether a partition is a foreign table, which commits by itself.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[TargetColumn, ...]
    unique_keys: frozenset[frozenset[str]] = field(default_factory=frozenset)
    row_security: bool = False
    privileges: frozenset[str] = field(default_factory=frozenset)
    is_unlogged: bool = False
    is_remote: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name, quoted, for composing SQL."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        return quoted(self.schema, self.name)

    def column(self, name: str) -> TargetColumn | None:
        """Return a column by name, None when there is none."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a missing target would be created.

    Attributes:
        schema: the schema's name; None when the name has none and the search path neither.
        name: the table's name.
        exists: whether the schema does.
        may_create: whether the role may create tables in the schema.
        may_create_temporary: whether it may create temporary tables in the database.
    """

    schema: str | None
    name: str
    exists: bool
    may_create: bool
    may_create_temporary: bool

    def __str__(self) -> str:
        return quoted(self.schema, self.name) if self.schema else quoted(self.name)


def quoted(*names: str) -> str:
    """Return a name as SQL writes it, every part in quotes."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def too_long(name: str) -> bool:
    """Whether PostgreSQL would cut this name off, in silence."""
    return len(name.encode()) > _LONGEST_IDENTIFIER


def rows(
    connection: psycopg.Connection[Any],
    statement: LiteralString | sql.SQL | sql.Composed,
    parameters: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Execute one statement and return its rows as tuples, whatever the connection's row factory."""
    with connection.cursor(row_factory=tuple_row) as command:
        command.execute(statement, parameters, prepare=False)
        return command.fetchall() if command.description else []


def describe(connection: psycopg.Connection[Any], table: str) -> TargetFacts | None:
    """Read the facts about a table; None when it does not exist.

    Raises:
        ConfigurationError: the name is not a name.
        MissingPrivilegeError: the role may not look into its schema.
        PreflightError: it is something else than a table.
    """
    try:
        found, columns, keys = _in_one_trip(
            connection, [(_SQL[name], {"name": table}) for name in _FACTS]
        )
    except psycopg.Error as error:
        problem = _about_name(connection, error, table)
        if problem is None:
            raise
        raise problem from None
    return _facts(found, columns, keys)


def hold(connection: psycopg.Connection[Any], facts: TargetFacts, table: str) -> TargetFacts | None:
    """Hold a table's definition still until the commit, and read its facts again; None: it is gone.

    Takes the row-exclusive lock that every INSERT takes, and has every constraint checked by the statement
    that breaks it: one that is deferred would refuse at the commit, with the row in its message.
    """
    lock = sql.SQL("lock table only {} in row exclusive mode").format(facts.identifier)
    *_, found, columns, keys = _in_one_trip(
        connection,
        [
            (lock, None),
            ("set constraints all immediate", None),
            *((_SQL[name], {"name": table}) for name in _FACTS),
        ],
    )
    return _facts(found, columns, keys)


def _in_one_trip(
    connection: psycopg.Connection[Any],
    statements: Sequence[tuple[LiteralString | sql.Composed, Mapping[str, Any] | None]],
) -> list[list[Row]]:
    """Execute statements one after the other, sent at once, and return the rows of each."""
    with connection.pipeline():
        commands = []
        for statement, parameters in statements:
            command = connection.cursor(row_factory=tuple_row)
            command.execute(statement, parameters, prepare=False)
            commands.append(command)
    return [command.fetchall() if command.description else [] for command in commands]


def _facts(found: Sequence[Row], columns: Sequence[Row], keys: Sequence[Row]) -> TargetFacts | None:
    if not found:
        return None
    oid, schema, name, kind, row_security, insert, select, update, temporary, *odd = found[0]
    if kind not in _TABLES:
        message = (
            f"target {quoted(schema, name)} is {_KINDS.get(kind, 'no table')}; "
            "name an ordinary or partitioned table to load into"
        )
        raise PreflightError(message)
    granted = {"insert": insert, "select": select, "update": update, "temporary": temporary}
    return TargetFacts(
        oid=oid,
        schema=schema,
        name=name,
        columns=tuple(TargetColumn(*row) for row in columns),
        unique_keys=frozenset(frozenset(row[0]) for row in keys),
        row_security=row_security,
        privileges=frozenset(name for name, has in granted.items() if has),
        is_unlogged=odd[0],
        is_remote=odd[1],
    )


def place_of(connection: psycopg.Connection[Any], table: str) -> Place:
    """Find out where a missing table would be created.

    Raises:
        ConfigurationError: the name is not a name, or longer than PostgreSQL keeps.
    """
    try:
        ((parts, schema, exists, may_create, may_create_temporary),) = rows(
            connection, _SQL["place"], {"name": table}
        )
    except psycopg.Error as error:
        problem = _about_name(connection, error, table)
        if problem is None:
            raise
        raise problem from None
    if len(parts) > _NAME_PARTS:
        raise _no_name(table)
    if too_long(parts[-1]):
        message = f"table={table!r}: PostgreSQL keeps 63 bytes of a name; shorten it"
        raise ConfigurationError(message)
    return Place(schema, parts[-1], exists, may_create, may_create_temporary)


def unknown_types(connection: psycopg.Connection[Any], types: Sequence[str]) -> list[str]:
    """Return those of the types that this database does not have, or that are no type names."""
    missing: list[str] = []
    for name in dict.fromkeys(types):
        try:
            with connection.transaction():
                missing += [
                    row[0] for row in rows(connection, _SQL["unknown_types"], {"types": [name]})
                ]
        except (psycopg.ProgrammingError, psycopg.DataError):
            missing.append(name)
    return missing


def lock_creation(connection: psycopg.Connection[Any], name: str) -> None:
    """Wait until no other task is creating this table, and keep others waiting."""
    rows(connection, _SQL["creation_lock"], {"name": name})


def role_and_database(connection: psycopg.Connection[Any]) -> tuple[str, str]:
    """Return the role that the connection acts as, and the database it is connected to."""
    ((role, database),) = rows(connection, _SQL["role"])
    return role, database


def _about_name(
    connection: psycopg.Connection[Any], error: psycopg.Error, table: str
) -> CheckpointEtlError | None:
    """Translate what resolving a name may raise; None when the error is about something else."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        message = (
            f"the role {connection.info.user} may not look into the schema of {table}; "
            "grant it: grant usage on schema ... to ..."
        )
        return MissingPrivilegeError(message)
    if isinstance(
        error,
        psycopg.errors.SyntaxError
        | psycopg.errors.InvalidName
        | psycopg.errors.InvalidParameterValue
        | psycopg.errors.FeatureNotSupported,
    ):
        return _no_name(table)
    return None


def _no_name(table: str) -> ConfigurationError:
    message = (
        f'table={table!r}: not a table name; write "table" or "schema.table", and put a part with '
        "capitals or other characters in double quotes"
    )
    return ConfigurationError(message)
