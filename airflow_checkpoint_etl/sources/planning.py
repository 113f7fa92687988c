"""From a PostgresSource to what exactly is read: names resolved, types known, statements composed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from airflow_checkpoint_etl import columns as carrying
from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import MissingPrivilegeError, PreflightError
from airflow_checkpoint_etl.sources import catalog
from airflow_checkpoint_etl.sources.failures import refuse
from airflow_checkpoint_etl.sources.keyset import Column, Keyset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.endpoints import PostgresSource
    from airflow_checkpoint_etl.sources.session import ResultColumn, Session

CURSOR_TYPES: Final = {
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "numeric": "numeric",
    "text": "text",
    "character varying": "varchar",
    "uuid": "uuid",
    "date": "date",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}
"""The types a cursor column may have, as ``format_type`` spells them, and their cursor kinds' names."""

_READABLE_KINDS: Final = frozenset("rpvmf")
_PADDED_TEXT: Final = "bpchar"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one reader reads.

    Attributes:
        relation: the table or view; None for a query.
        keyset: the statements.
        tags: the cursor columns' type tags.
        key_origins: per cursor column, the table's column it is unchanged; None when computed.
    """

    relation: catalog.Relation | None
    keyset: Keyset
    tags: tuple[str, ...]
    key_origins: tuple[catalog.Origin | None, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is selected, in order."""
        return self.keyset.columns


def make_plan(session: Session, config: PostgresSource) -> Plan:
    """Resolve every name of a source and choose how each column travels.

    Raises:
        PreflightError: a name or a type does not work; names parameter, value, rule and next move.
        MissingPrivilegeError: the role may not read a column.
    """
    relation = (
        None if config.table is None else find_relation(session, config, "table", config.table)
    )
    keyset = Keyset(
        schema=relation.schema if relation else None,
        table=relation.name if relation else None,
        query=config.query,
        key=config.cursor_columns,
        where=config.where,
    )
    names = _chosen(session, config, keyset, relation)
    described = session.describe(keyset.shape(names))
    columns = _columns(session, config, described)
    types = {column.name: column.pg_type for column in columns}
    by_name = {column.name: column for column in described}
    return Plan(
        relation=relation,
        keyset=replace(keyset, columns=columns),
        tags=tuple(_tag(config, name, types[name]) for name in config.cursor_columns),
        key_origins=tuple(catalog.origin(session, by_name[name]) for name in config.cursor_columns),
    )


def find_relation(
    session: Session, config: PostgresSource, parameter: str, name: str
) -> catalog.Relation:
    """Return the relation a parameter names.

    Raises:
        PreflightError: there is none, it holds no rows, or its rows are filtered for this role.
    """
    relation = catalog.relation(session, name)
    if relation is None:
        raise _unknown(session, config, parameter, name)
    if relation.kind not in _READABLE_KINDS:
        raise refuse(config, parameter, f"{name} is no table or view", "name a table or a view")
    if relation.row_security:
        raise refuse(
            config,
            parameter,
            "row-level security would hide rows from this role, and hidden rows would be lost",
            "give the role BYPASSRLS or use another role",
        )
    return relation


def _unknown(session: Session, config: PostgresSource, parameter: str, name: str) -> PreflightError:
    similar = catalog.similar(session, name)
    named = " or ".join(quoted for quoted, _ in similar)
    if similar and not any(usable for _, usable in similar):
        next_move = f"{named} exists; grant the role USAGE on its schema"
    elif similar:
        next_move = f"did you mean {named}?"
    else:
        next_move = "check the name and the connection's database"
    return refuse(config, parameter, f"this role sees no table {name}", next_move)


def _chosen(
    session: Session, config: PostgresSource, keyset: Keyset, relation: catalog.Relation | None
) -> list[str]:
    """Return the names to select: the wanted ones, and the cursor's in any case."""
    if relation is None:
        available = [column.name for column in session.describe(keyset.everything())]
        unreadable: set[str] = set()
    else:
        attributes = catalog.attributes(session, relation.oid)
        available = [attribute.name for attribute in attributes]
        unreadable = {attribute.name for attribute in attributes if not attribute.readable}
    doubled = sorted({name for name in available if available.count(name) > 1})
    if doubled:
        rule = f"returns several columns named {', '.join(doubled)}"
        raise refuse(config, "query", rule, "give each an alias of its own")
    for parameter, wanted in (
        ("cursor", config.cursor_columns),
        ("columns", config.columns or ()),
        ("text_columns", config.text_columns),
    ):
        for name in wanted:
            if name not in available:
                rule = f"the source has no column {name!r}"
                raise refuse(config, parameter, rule, f"it has {', '.join(available)}")
    chosen = list(config.columns if config.columns is not None else available)
    chosen += [name for name in config.cursor_columns if name not in chosen]
    refused = [name for name in chosen if name in unreadable]
    if refused:
        listed = ", ".join(refused)
        message = (
            f"table={config.table!r}: the role has no SELECT privilege on {listed}; grant it, or name "
            "the columns to read with columns="
        )
        raise MissingPrivilegeError(message)
    return chosen


def _columns(
    session: Session, config: PostgresSource, described: Sequence[ResultColumn]
) -> tuple[Column, ...]:
    columns = []
    for column, (pg_type, pseudo) in zip(described, catalog.types(session, described), strict=True):
        element = carrying.base_name(pg_type).removesuffix("[]")
        if pseudo or (element in carrying.NOT_CARRIED and not _is_users_own(pg_type)):
            rule = f"its type {pg_type} means something else, or nothing, in another database"
            message = (
                f"column {column.name}: {rule}; leave it out with columns=, or cast it in a query"
            )
            raise PreflightError(message)
        as_text = column.name in config.text_columns
        carried = carrying.arrow_type(pg_type)
        # Text stays as it is: casting bpchar to text would strip its blanks.
        textual = carrying.base_name(pg_type) == _PADDED_TEXT or (
            carried is not None and pa.types.is_string(carried)
        )
        cast = (as_text or carried is None) and not textual
        columns.append(Column(column.name, pg_type, as_text=as_text, cast=cast))
    return tuple(columns)


def _is_users_own(pg_type: str) -> bool:
    """Whether a type is qualified by a schema: it may be named like a built-in one and is none."""
    return "." in pg_type.partition("(")[0]


def _tag(config: PostgresSource, name: str, pg_type: str) -> str:
    known = None if _is_users_own(pg_type) else CURSOR_TYPES.get(carrying.base_name(pg_type))
    if known is None:
        allowed = ", ".join(CURSOR_TYPES)
        why = (
            "has no exact order (NaN, rounding)"
            if pg_type in {"real", "double precision"}
            else "is not one a cursor can have"
        )
        rule = f"column {name!r} is {pg_type}, which {why}"
        raise refuse(config, "cursor", rule, f"choose a column of type {allowed}")
    return cursors.KIND_BY_SQL_TYPE[known].tag
