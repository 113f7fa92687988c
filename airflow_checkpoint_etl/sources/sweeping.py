"""Reading the rows that appeared late, below where a run begins.

A run's goal is a token taken before it read anything: the transaction before which all had ended. What
an earlier run missed was written by its own token's transaction or by a later one, so the rows of those
are read again, all that have become visible since among them; an upsert makes no difference of the rest.
A version of a row that an update wrote late has a late transaction as well.

The rows are asked in the order of the cursor and in bounded chunks, each of which says in the lane's
token how far it came (sweep.py). An attempt that ends on the way goes on there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import CorruptRecordError
from airflow_checkpoint_etl.sources import queries
from airflow_checkpoint_etl.sweep import SweepError, Swept, parse

if TYPE_CHECKING:
    from psycopg import sql

    from airflow_checkpoint_etl.sources.planning import Plan
    from airflow_checkpoint_etl.sources.session import Session

_TELLABLE: Final = 2_000_000_000
"""How many transactions back a row's 32 bits are told from a later turn's: 2^31, less a reserve."""


def underway(swept: str, goal: str) -> Swept:
    """Return the sweep that goes on: the one a token has begun, or a new one to the goal.

    One that was begun is finished first, and only then is there another one to the run's own goal.

    Raises:
        CorruptRecordError: a token is none.
    """
    try:
        token, wanted = parse(swept), parse(goal)
    except SweepError as error:
        message = f"{error}: the lane's record is damaged; rewind the lane to sweep anew"
        raise CorruptRecordError(message) from None
    return token if token.goal is not None else Swept(token.done, wanted.done, cursors.BEGIN)


def is_first(sweep: Swept, upto: str) -> bool:
    """Whether nothing below the frontier can have been missed: no run has read anything yet."""
    return sweep.done is None or upto == cursors.BEGIN


def statement(session: Session, plan: Plan, sweep: Swept, upto: str, limit: int) -> sql.Composed:
    """Return the SELECT of the sweep's next rows."""
    since = sweep.done
    ahead = session.fetch(queries.load("settle.sql")["next_transaction"])[0][0]
    if since == 0 or (since is not None and ahead - since > _TELLABLE):
        # Another server's numbers, or they came round since the last sweep: every row is read again.
        since = None
    return plan.keyset.late(sweep.at, upto, limit, since)


def done_with(sweep: Swept) -> str:
    """Return the token of a sweep that is finished."""
    return str(Swept(sweep.goal))


def come_to(sweep: Swept, at: str) -> str:
    """Return the token of a sweep that has looked at the rows up to a cursor."""
    return str(sweep._replace(at=at))
