"""The checks on a source before anything is written: nothing that would lose rows may pass.

A keyset read loses rows silently where the cursor has ties (a chunk may end between two equals) or NULLs
(no comparison selects them), and is hopeless where no index serves its order. Each check names the
parameter, its value, the rule and the next move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import CancelledError, CheckpointEtlError, PreflightError
from airflow_checkpoint_etl.ports import SourceFacts
from airflow_checkpoint_etl.sources import catalog, positions
from airflow_checkpoint_etl.sources.failures import LostConnectionError, refuse
from airflow_checkpoint_etl.sources.keyset import start_after_texts

if TYPE_CHECKING:
    from airflow_checkpoint_etl.endpoints import PostgresSource
    from airflow_checkpoint_etl.sources.modes import Settling
    from airflow_checkpoint_etl.sources.planning import Plan
    from airflow_checkpoint_etl.sources.session import Session

_NO_SHORTCUTS = ("enable_seqscan", "enable_bitmapscan", "enable_sort")


def check(session: Session, config: PostgresSource, plan: Plan) -> None:
    """Check that reading by this cursor loses nothing and needs no sort.

    Raises:
        PreflightError: it might; the message says how.
    """
    _check_null(session, config, plan)
    indexes = (
        catalog.indexes(session, plan.relation.oid)
        if plan.relation is not None and plan.relation.indexable
        else []
    )
    key = config.cursor_columns
    if not config.unique and not any(index.proves_unique(key) for index in indexes):
        raise refuse(
            config,
            "cursor",
            "no unique index proves that it has no ties, and a chunk that ends between two equal "
            "values would lose one of them",
            'add a unique column at the end, such as cursor=("updated_at", "id"), or pass unique=True '
            "if you know that it is unique",
        )
    if config.allow_sort or any(index.serves(key) for index in indexes):
        return
    if _sorts(session, plan, config.chunk_rows):
        raise refuse(
            config,
            "cursor",
            "no index serves this order, so every chunk would sort all rows",
            f"create a btree index on ({', '.join(key)}), or pass allow_sort=True for a small table",
        )


def _check_null(session: Session, config: PostgresSource, plan: Plan) -> None:
    key = config.cursor_columns
    relation = plan.relation
    if relation is None or relation.kind in {"v", "m"}:
        # Nothing is declared NOT NULL here, so the rows are asked.
        if session.fetch(plan.keyset.null_keys())[0][0]:
            raise refuse(
                config,
                "cursor",
                "some rows have NULL in it, which are never read",
                "leave them out in the query or with where=, or choose another cursor",
            )
        return
    nullable = catalog.nullable(session, catalog.family(session, [relation.oid]), key)
    if nullable:
        listed = ", ".join(name for name in key if name in nullable)
        raise refuse(
            config,
            "cursor",
            f"{listed} may be NULL, and rows with a NULL cursor are never read",
            "alter the column to NOT NULL, or choose another cursor",
        )


def _sorts(session: Session, plan: Plan, chunk_rows: int) -> bool:
    """Whether PostgreSQL has no way around a full sort.

    The planner prefers a sort for a small table; with its other ways switched off, only a plan that
    has no index to use still contains one. An incremental sort is fine: it holds one group at a time.
    """
    statement = plan.keyset.explained(chunk_rows)
    ((document,),) = session.fetch_planned(_NO_SHORTCUTS, statement)
    return any(_has_sort(entry["Plan"]) for entry in document)


def _has_sort(node: dict[str, Any]) -> bool:
    return node["Node Type"] == "Sort" or any(_has_sort(child) for child in node.get("Plans", ()))


def encode_start(session: Session, plan: Plan, start_after: tuple[str, ...] | None) -> str:
    """Return the cursor to start after, cast by PostgreSQL from the text that was given.

    Raises:
        PreflightError: it is no value of the cursor's types.
    """
    if start_after is None:
        return cursors.BEGIN
    key = plan.keyset.key
    if len(start_after) != len(key):
        rule = f"the cursor has {len(key)} column(s)"
        message = f"start_after={start_after!r}: {rule}; pass one value per cursor column"
        raise PreflightError(message)
    try:
        texts = session.fetch(start_after_texts(plan.tags, start_after))[0]
        return positions.from_texts(key, plan.tags, texts)
    except CheckpointEtlError as error:
        if isinstance(error, LostConnectionError | CancelledError):
            raise
        types = ", ".join(cursors.KINDS[tag].sql_type for tag in plan.tags)
        rule = f"is no cursor value of type ({types})"
        message = f"start_after={start_after!r}: {rule}; pass text that PostgreSQL can cast to it"
        raise PreflightError(message) from None


def facts(
    session: Session,
    writers: Session,
    config: PostgresSource,
    plan: Plan,
    settling: Settling,
    start: str,
) -> SourceFacts:
    """Return what preflight learnt."""
    identity = catalog.server_identity(session)
    if writers is not session:
        # The primary changes its timeline at once; a standby's control file lags behind.
        identity |= catalog.server_identity(writers)
    if plan.relation is not None:
        identity["relation"] = f"{plan.relation.schema}.{plan.relation.name}"
        identity["relation_oid"] = str(plan.relation.oid)
    return SourceFacts(
        identity=identity,
        promise=settling.promise,
        start=start,
        accepts_reset=config.on_source_reset == "continue",
    )
