"""Facts about a source from PostgreSQL's catalogs; no judgement, that is preflight's job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl.errors import CheckpointEtlError
from airflow_checkpoint_etl.sources import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.sources.session import ResultColumn, Session

_DESCENDING_NULLS_FIRST = 3


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view or foreign table.

    Attributes:
        oid: its oid.
        schema: its schema.
        name: its name.
        kind: ``pg_class.relkind``: r table, p partitioned, v view, m materialized view, f foreign.
        has_children: whether other tables inherit from it (not as partitions).
        row_security: whether row-level security applies to this role.
    """

    oid: int
    schema: str
    name: str
    kind: str
    has_children: bool
    row_security: bool

    @property
    def indexable(self) -> bool:
        """Whether its own indexes say something about all of its rows."""
        return self.kind in {"r", "p", "m"} and not self.has_children


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column and whether the role may read it."""

    name: str
    readable: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """The column of a table or view that a result column is."""

    table_oid: int
    name: str


@dataclass(frozen=True, slots=True)
class Index:
    """A valid, complete btree index.

    Attributes:
        unique: it holds two equal keys at no time, by the columns' own equality.
        columns: its key columns, in order.
        flags: per column, 1 for descending plus 2 for nulls first.
        sorts_alike: per column, whether it sorts as ``order by column`` does.
    """

    unique: bool
    columns: tuple[str, ...]
    flags: tuple[int, ...]
    sorts_alike: tuple[bool, ...]

    def proves_unique(self, key: Sequence[str]) -> bool:
        """Whether the key can have no ties."""
        return self.unique and set(self.columns) <= set(key)

    def serves(self, key: Sequence[str]) -> bool:
        """Whether reading it forwards or backwards gives rows in the order of the key."""
        length = len(key)
        return (
            self.columns[:length] == tuple(key)
            and all(self.sorts_alike[:length])
            and set(self.flags[:length]) in ({0}, {_DESCENDING_NULLS_FIRST})
        )


@dataclass(frozen=True, slots=True)
class Member:
    """One table of an inheritance or partition tree; ``read`` when a SELECT from its root reads it."""

    oid: int
    kind: str
    read: bool


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one table's values of a column come from.

    Attributes:
        table: the table's name, for messages.
        identity: whether it is an identity column.
        default: its default or generation expression, None without one.
        sequence_oid: the sequence of its identity or default, None without one.
        sequence: that sequence's name.
        increment: the sequence's step.
        cache: how many values a session draws ahead.
        cycles: whether the sequence starts again.
    """

    table: str
    identity: bool
    default: str | None
    sequence_oid: int | None
    sequence: str | None
    increment: int | None
    cache: int | None
    cycles: bool | None


def _ask(session: Session, question: str, /, **parameters: Any) -> list[tuple[Any, ...]]:
    return session.fetch(queries.load("catalog.sql")[question], parameters or None)


def relation(session: Session, name: str) -> Relation | None:
    """Return the relation that a name means; None when there is none."""
    rows = _ask(session, "relation", name=name)
    return Relation(*rows[0]) if rows else None


def similar(session: Session, name: str) -> list[tuple[str, bool]]:
    """Return relations that look like a missing one: quoted name, and whether its schema is open."""
    return [(row[0], row[1]) for row in _ask(session, "similar", name=name)]


def attributes(session: Session, oid: int) -> list[Attribute]:
    """Return a relation's columns, in order."""
    return [Attribute(*row) for row in _ask(session, "attributes", relation=oid)]


def types(session: Session, columns: Sequence[ResultColumn]) -> list[tuple[str, bool]]:
    """Return each result column's type as ``format_type`` spells it, and whether it is a pseudo-type."""
    rows = _ask(
        session,
        "types",
        oids=[column.type_oid for column in columns],
        modifiers=[column.modifier for column in columns],
    )
    return [(name, kind == "p") for name, kind in rows]


def origin(session: Session, column: ResultColumn) -> Origin | None:
    """Return the table's column that a result column is; None when it is computed."""
    if not column.table_oid:
        return None
    rows = _ask(session, "column", relation=column.table_oid, number=column.table_column)
    return Origin(column.table_oid, rows[0][0]) if rows else None


def family(session: Session, roots: Sequence[int]) -> list[Member]:
    """Return tables with all their descendants and ancestors."""
    return [Member(*row) for row in _ask(session, "family", roots=list(roots))]


def nullable(session: Session, members: Sequence[Member], names: Sequence[str]) -> set[str]:
    """Return which columns may hold NULL in any table that is read."""
    read = [member.oid for member in members if member.read]
    return {row[0] for row in _ask(session, "nullable", family=read, columns=list(names))}


def indexes(session: Session, oid: int) -> list[Index]:
    """Return a relation's usable btree indexes."""
    return [
        Index(unique and equal, tuple(names), tuple(flags), tuple(alike))
        for unique, names, flags, alike, equal in _ask(session, "indexes", relation=oid)
    ]


def provenance(session: Session, members: Sequence[Member], column: str) -> list[Provenance]:
    """Return where a column's values come from, for every table of a family."""
    oids = [member.oid for member in members]
    return [Provenance(*row) for row in _ask(session, "sequences", family=oids, column=column)]


def view_tables(session: Session, oid: int) -> list[tuple[int, str]]:
    """Return (oid, kind) of the relations behind a view."""
    return [(row[0], row[1]) for row in _ask(session, "view_tables", relation=oid)]


def subscribed(session: Session, members: Sequence[Member]) -> bool:
    """Whether a logical subscription writes any of these tables."""
    oids = [member.oid for member in members]
    return bool(_ask(session, "subscribed", family=oids)[0][0])


def is_standby(session: Session) -> bool:
    """Whether the server is replaying another one's log."""
    return bool(_ask(session, "recovering")[0][0])


def server_identity(session: Session) -> dict[str, str]:
    """Return database, system identifier and timeline, as far as the role may read them."""
    found = {"database": str(_ask(session, "database")[0][0])}
    timeline = "standby_timeline" if is_standby(session) else "timeline"
    for name, query in (("system_identifier", "system_identifier"), ("timeline", timeline)):
        try:
            found[name] = str(_ask(session, query)[0][0])
        except CheckpointEtlError as error:
            if error.retryable:
                raise
            # Managed services forbid the control functions; the rest still identifies the source.
    return found
