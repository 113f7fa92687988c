"""Waiting until no row can appear below a bound any more.

Ids are drawn before rows commit, and commit in another order: whoever reads up to the largest id sees
rows appear below it later. Settling finds a bound that nothing can appear below:

1. take the bound,
2. *then* list the transactions that may still write below it (settle.sql),
3. wait until that first set has ended; transactions that start later are above the bound,
4. read in new snapshots, which see everything the set committed.

Any other order leaves a hole: a bound taken after the listing, or rows read in a snapshot from before
the wait.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl.errors import SettleTimeoutError
from airflow_checkpoint_etl.sources import positions, queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.sources.interrupt import Interruptible
    from airflow_checkpoint_etl.sources.planning import Plan
    from airflow_checkpoint_etl.sources.session import Session

log = logging.getLogger(__name__)

MARGIN_SECONDS: Final = 1.0
"""How long a backend may take from setting now() to showing its transaction, with much to spare."""

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.25
_BACK_OFF: Final = 1.5
_NAMED_BLOCKERS: Final = 5


class Settler:
    """Finds settled bounds of one source.

    Args:
        session: the source's connections.
        interruptible: what makes waiting cancellable.
        plan: what is read.
        mode: ``locks``, ``transactions`` or ``none``.
        roots: oids of the tables whose writers are waited for, in mode ``locks``.
        timeout: seconds to wait at most.
    """

    def __init__(
        self,
        *,
        session: Session,
        interruptible: Interruptible,
        plan: Plan,
        mode: str,
        roots: Sequence[int],
        timeout: float,
    ) -> None:
        self._session = session
        self._interruptible = interruptible
        self._plan = plan
        self._mode = mode
        self._roots = list(roots)
        self._timeout = timeout
        self._statements = queries.load("settle.sql")

    def settle(self, after: str) -> str:
        """Return the settled bound beyond ``after``, or ``after`` when nothing is new.

        Raises:
            SettleTimeoutError: transactions did not end in time; names them.
            ValueNotCarriedError: the largest key has no place in a cursor.
        """
        if self._mode == "transactions" and self._plan.tags[0] == "tz":
            return self._settle_by_clock(after)
        if self._mode == "transactions" and self._plan.tags[0] == "ts":
            return self._settle_by_local_clock(after)
        bound = self._newest(after)
        if bound is None:
            return after
        if self._mode == "locks":
            self._wait("writers", roots=self._roots)
        elif self._mode == "transactions":
            self._wait("transactions")
        return bound

    def _settle_by_clock(self, after: str) -> str:
        clock = self._one("bound", margin=MARGIN_SECONDS)
        if self._newest(after, clock=clock) is None:
            return after
        self._wait("transactions")
        # What the waited-for transactions wrote below the clock may be the new maximum.
        return self._newest(after, clock=clock) or after

    def _settle_by_local_clock(self, after: str) -> str:
        # A timestamp without time zone cannot be compared with the clock: the writers' zone is
        # unknown. The largest value there is stands for the clock, and the margin is slept instead.
        clock = self._one("local_bound", zone=self._session.time_zone)
        bound = self._newest(after, clock=clock)
        if bound is None:
            return after
        self._interruptible.sleep(MARGIN_SECONDS)
        self._wait("transactions")
        return self._newest(after, until=bound) or after

    def _newest(
        self, after: str, *, until: str | None = None, clock: str | None = None
    ) -> str | None:
        statement = self._plan.keyset.newest(after, until, clock)
        rows = self._session.fetch(statement)
        return (
            positions.from_texts(self._plan.keyset.key, self._plan.tags, rows[0]) if rows else None
        )

    def _one(self, name: str, **parameters: float | str) -> str:
        return str(self._session.fetch(self._statements[name], parameters)[0][0])

    def _wait(self, listing: str, **parameters: list[int]) -> None:
        """Wait until the transactions that one listing finds now have ended."""
        rows = self._session.fetch(self._statements[listing], parameters)
        waiting = [str(row[0]) for row in rows]
        if not waiting:
            return
        log.info("waiting for %d transaction(s) that may still write", len(waiting))
        deadline = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0:
                raise SettleTimeoutError(self._timeout_message(waiting))
            self._interruptible.sleep(min(pause, left))
            pause = min(pause * _BACK_OFF, _LONGEST_PAUSE)
            alive = self._session.fetch(self._statements["alive"], {"transactions": waiting})
            waiting = [str(row[0]) for row in alive]

    def _timeout_message(self, waiting: Sequence[str]) -> str:
        rows = self._session.fetch(self._statements["blockers"], {"transactions": list(waiting)})
        named = [_blocker(*row[1:]) for row in rows[:_NAMED_BLOCKERS]]
        if len(rows) > _NAMED_BLOCKERS:
            named.append(f"{len(rows) - _NAMED_BLOCKERS} more")
        return (
            f"{len(waiting)} transaction(s) that may still write below the bound did not end within "
            f"settle_timeout={self._timeout:g} s: {'; '.join(named) or 'they ended just now'}; end "
            "them (pg_terminate_backend, rollback prepared) or raise settle_timeout"
        )


def _blocker(
    pid: int | None, role: str | None, application: str | None, age: int | None, gid: str | None
) -> str:
    since = "of unknown age" if age is None else f"{age} s old"
    if pid is None:
        return f"prepared transaction {gid!r}, {since}"
    return f"pid {pid} ({role or 'unknown role'}, {application or 'no application name'}), {since}"
