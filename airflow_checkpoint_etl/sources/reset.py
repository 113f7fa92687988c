"""Noticing that a source has gone back behind the checkpoint.

A source that was restored, or truncated together with its sequence, issues ids again that the frontier
has passed. ``id > frontier`` then reads nothing, for weeks, without an error. The sequence says so where
there is one: a table whose old rows were purged has a sequence that is ahead. Elsewhere the largest
cursor in the table has to do.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import SourceResetError
from airflow_checkpoint_etl.sources import queries

if TYPE_CHECKING:
    from airflow_checkpoint_etl.endpoints import PostgresSource
    from airflow_checkpoint_etl.sources.modes import Settling
    from airflow_checkpoint_etl.sources.planning import Plan
    from airflow_checkpoint_etl.sources.session import Session

log = logging.getLogger(__name__)


def check_reset(
    session: Session, config: PostgresSource, plan: Plan, settling: Settling, after: str
) -> None:
    """Stop, or warn where that is accepted, when the source is behind a frontier.

    Args:
        session: the server that writes the source (the primary of a standby).
        config: what is read.
        plan: how it is read.
        settling: how it is settled.
        after: the frontier.

    Raises:
        SourceResetError: it is behind.
    """
    if after != cursors.BEGIN and (fact := _behind(session, plan, settling, after)):
        gone_back(config, fact)


def gone_back(config: PostgresSource, fact: str) -> None:
    """Raise SourceResetError for a fact, or warn where the user accepts it."""
    if config.on_source_reset == "continue":
        log.warning('%s; going on above it, as on_source_reset="continue" says', fact)
        return
    message = (
        f"{fact}: the source was restored, truncated or renumbered, and rows it makes now would never "
        "be read. Rewind or reset the lane to read it anew, or pass "
        'on_source_reset="continue" to go on above the checkpoint (rows were purged, say)'
    )
    raise SourceResetError(message)


def _behind(session: Session, plan: Plan, settling: Settling, after: str) -> str | None:
    at, unreadable = cursors.display(after), ""
    if settling.sequence is not None:
        readable, last = session.fetch(
            queries.load("settle.sql")["sequence_position"], {"sequence": settling.sequence.oid}
        )[0]
        frontier = int(cursors.bounds(after)[0].text)
        if last is not None:
            if last >= frontier:
                return None
            return f"sequence {settling.sequence.name} is at {last}, behind the checkpoint at {at}"
        if not readable:
            unreadable = (
                f" (grant the role SELECT on sequence {settling.sequence.name}, which would tell a "
                "purge from a reset)"
            )
    if session.fetch(plan.keyset.reaches(after))[0][0]:
        return None
    return f"the source has no row at or above the checkpoint at {at}{unreadable}"
