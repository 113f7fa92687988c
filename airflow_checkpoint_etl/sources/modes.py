"""Which settle mode is in force, and what can be promised with it.

``auto`` promises exactly-once only where the catalog proves that the mode fits: an integer drawn from
one sequence in its own order, or a timestamp with everything waited for. Elsewhere it refuses and says
why; a mode that the user names is taken at their word, and the guarantee says that it is theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl.guarantee import Promise
from airflow_checkpoint_etl.sources import catalog
from airflow_checkpoint_etl.sources.failures import refuse
from airflow_checkpoint_etl.sources.planning import find_relation
from airflow_checkpoint_etl.sources.standby import check_primary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_checkpoint_etl.endpoints import PostgresSource
    from airflow_checkpoint_etl.errors import PreflightError
    from airflow_checkpoint_etl.sources.planning import Plan
    from airflow_checkpoint_etl.sources.session import Session

_INTEGERS: Final = frozenset({"i2", "i4", "i8"})
_TIMESTAMPS: Final = frozenset({"ts", "tz"})
_NEXTVAL: Final = re.compile(r"\(?nextval\(E?'(?:[^']|'')+'::regclass\)\)?(::\w+)?")
_TABLE_KINDS: Final = frozenset("rp")
WAITING: Final = frozenset({"auto", "locks", "transactions"})
"""The modes that wait for transactions, which a standby does not show."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """The one sequence that a cursor's values are drawn from."""

    oid: int
    name: str


@dataclass(frozen=True, slots=True)
class Settling:
    """How one source is settled.

    Attributes:
        mode: ``locks``, ``transactions``, ``sweep``, ``lag`` or ``none``.
        roots: oids of the tables whose writers are waited for.
        promise: what reading the source can promise.
        sequence: what the cursor's first column is drawn from, upwards; None where that is unknown.
    """

    mode: str
    roots: tuple[int, ...]
    promise: Promise
    sequence: Sequence | None = None


def choose(
    session: Session, primary: Session | None, config: PostgresSource, plan: Plan
) -> Settling:
    """Return how a source is settled.

    Args:
        session: the source's connections.
        primary: a connection to its primary, where one is configured.
        config: what is read.
        plan: how it is read.

    Raises:
        PreflightError: ``auto`` cannot promise exactly-once, or the named mode cannot work here.
    """
    on_standby = catalog.is_standby(session)
    on_primary = on_standby and primary is not None and config.settle in WAITING
    if on_primary and primary is not None:
        check_primary(session, primary, config)
    if config.settle == "sweep":
        _check_sweep(session, config, plan, on_standby=on_standby)
    if config.settle not in WAITING:
        return Settling(config.settle, (), _promise(config, plan), _sequence(session, plan))
    if on_standby and not on_primary:
        raise standby_refused(config)
    roots = _roots(session, config, plan)
    members = catalog.family(session, roots)
    if any(member.kind == "f" for member in members):
        raise refuse(
            config,
            "settle",
            "a foreign table is written on another server, whose transactions cannot be seen here",
            'read it at its own server, or pass settle="lag" or "none" and accept missed rows',
        )
    mode = config.settle
    if mode == "auto":
        mode = "locks" if plan.tags[0] in _INTEGERS else "transactions"
    if mode == "locks" and not roots:
        raise refuse(
            config, "settle", "no table is known whose writers to wait for", "pass settle_tables="
        )
    doubt = next(_doubts(session, config, plan, members, mode), None)
    if doubt is not None and config.settle == "auto":
        raise refuse(
            config,
            "settle",
            f"exactly-once cannot be promised, because {doubt}",
            'choose settle="sweep" with write="upsert", which finds late rows at a later run; '
            'settle="lag" with settle_lag= and write="upsert", which misses those that take longer; '
            'settle="locks" or "transactions" if you know that it fits all writers; or "none"',
        )
    promise = _promise(config, plan, mode, doubt, on_primary=on_primary)
    return Settling(mode, roots, promise, _sequence(session, plan))


def standby_refused(config: PostgresSource) -> PreflightError:
    """Build the error for a standby whose primary is not known."""
    return refuse(
        config,
        "settle",
        "the server is a standby, which does not see the primary's running transactions",
        "name the primary's connection with settle_conn_id=, read from the primary, or pass "
        'settle="lag" or "none" and accept missed rows',
    )


def _promise(
    config: PostgresSource,
    plan: Plan,
    mode: str | None = None,
    doubt: str | None = None,
    *,
    on_primary: bool = False,
) -> Promise:
    return Promise(
        settle=mode or config.settle,
        cursor=plan.keyset.key,
        changing=plan.tags[0] in _TIMESTAMPS,
        doubt=doubt,
        filtered=config.where is not None,
        lag=config.settle_lag,
        on_primary=on_primary,
    )


def _check_sweep(session: Session, config: PostgresSource, plan: Plan, *, on_standby: bool) -> None:
    """A sweep asks every row which transaction wrote it: only a plain table's rows say."""
    rule = ""
    if on_standby:
        rule = "the server is a standby, whose snapshots do not say which transactions still run"
    elif plan.relation is None or plan.relation.kind not in _TABLE_KINDS:
        rule = "only the rows of a table say which transaction wrote them"
    elif any(
        member.kind not in _TABLE_KINDS
        for member in catalog.family(session, [plan.relation.oid])
        if member.read
    ):
        rule = "the rows of a foreign table do not say which transaction wrote them"
    if rule:
        raise refuse(config, "settle", rule, "read the table itself, on its primary")


def _roots(session: Session, config: PostgresSource, plan: Plan) -> tuple[int, ...]:
    """Return the tables whose writers can add rows to the source."""
    roots: list[int] = []
    for name in config.settle_tables:
        relation = find_relation(session, config, "settle_tables", name)
        if relation.kind not in _TABLE_KINDS:
            rule = f"{name!r} is no table, so nobody's writing locks it"
            raise refuse(config, "settle_tables", rule, "name the tables behind it")
        roots.append(relation.oid)
    if plan.relation is None:
        return tuple(roots)
    if plan.relation.kind == "v":
        return tuple(roots or (oid for oid, _ in catalog.view_tables(session, plan.relation.oid)))
    return (*roots, plan.relation.oid)


def _doubts(
    session: Session,
    config: PostgresSource,
    plan: Plan,
    members: list[catalog.Member],
    mode: str,
) -> Iterator[str]:
    """Say why a mode is not proven to lose nothing; nothing when it is. Only the first counts."""
    column, tag, relation = config.cursor_columns[0], plan.tags[0], plan.relation
    if catalog.subscribed(session, members):
        yield "a logical subscription writes the table, and its rows keep the ids of another server"
    if any(member.kind == "m" for member in members):
        yield "a materialized view shows rows only when it is refreshed, long after they were written"
    is_view = relation is not None and relation.kind == "v"
    if len(config.settle_tables) > 1 or (
        is_view and relation is not None and len(catalog.view_tables(session, relation.oid)) != 1
    ):
        yield "a row made of several tables appears when the last of its parts commits"
    if mode == "transactions" and tag in _TIMESTAMPS:
        return
    if tag not in _INTEGERS:
        yield f"values of {column!r} are made by its writers, in no order that the database knows"
    if relation is None or is_view:
        origin = plan.key_origins[0]
        if origin is None or origin.table_oid not in {member.oid for member in members}:
            yield f"{column!r} is not known to be an unchanged column of the table it comes from"
        else:
            column = origin.name
    yield from _sequence_doubts(catalog.provenance(session, members, column), column)


def _sequence_doubts(sources: list[catalog.Provenance], column: str) -> Iterator[str]:
    """Say why a column's values are not drawn from one sequence in its order; nothing when they are."""
    for source in sources:
        computed = source.default is not None and not source.identity
        if computed and not _NEXTVAL.fullmatch(source.default or ""):
            yield f"the default of {column!r} in {source.table} is more than nextval of a sequence"
    drawn = {source.sequence_oid: source for source in sources if source.sequence_oid is not None}
    if not drawn:
        yield f"no sequence is behind {column!r}, so its writers choose its values"
    if len(drawn) > 1:
        names = ", ".join(sorted(source.sequence or "" for source in drawn.values()))
        yield f"several sequences are behind {column!r}: {names}"
    for source in drawn.values():
        if source.cache != 1:
            yield f"sequence {source.sequence} has cache {source.cache}: sessions hold old ids back"
        if source.increment != 1:
            yield f"sequence {source.sequence} has increment {source.increment}, not 1"
        if source.cycles:
            yield f"sequence {source.sequence} cycles, and would start again below the frontier"


def _sequence(session: Session, plan: Plan) -> Sequence | None:
    """Return the ascending sequence whose position tells whether ids are issued again."""
    origin = plan.key_origins[0]
    if plan.tags[0] not in _INTEGERS or origin is None:
        return None
    members = catalog.family(session, [origin.table_oid])
    found = catalog.provenance(session, members, origin.name)
    drawn = {source.sequence_oid: source for source in found if source.sequence_oid is not None}
    if len(drawn) != 1:
        return None
    ((oid, source),) = drawn.items()
    plain = source.identity or bool(_NEXTVAL.fullmatch(source.default or ""))
    if oid is None or not plain or source.cycles or (source.increment or 0) < 0:
        return None
    return Sequence(oid, source.sequence or "")
