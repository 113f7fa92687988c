"""Waiting until no row can appear below a bound any more.

Ids are drawn before rows commit, and commit in another order: whoever reads up to the largest id sees
rows appear below it later. Settling finds a bound that nothing can appear below:

1. take the bound,
2. *then* list the transactions that may still write below it (settle.sql),
3. wait until that first set has ended; transactions that start later are above the bound,
4. on a standby, wait until it has replayed what they wrote,
5. read in new snapshots, which see everything the set committed.

Any other order leaves a hole: a bound taken after the listing, or rows read in a snapshot from before
the wait.

Where nothing orders the ids, ``sweep`` waits for nobody: it takes a *token* before the bound, the
transaction before which all have ended. What a run misses was written by that transaction or a later
one, and the next run asks the rows below its beginning for those (``PostgresReader.sweep``).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import SettleTimeoutError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import Bound
from airflow_checkpoint_etl.sources import positions, queries, standby
from airflow_checkpoint_etl.sources.reset import check_reset, gone_back
from airflow_checkpoint_etl.sources.waiting import Telling, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_checkpoint_etl.endpoints import PostgresSource
    from airflow_checkpoint_etl.sources.interrupt import Interruptible
    from airflow_checkpoint_etl.sources.modes import Settling
    from airflow_checkpoint_etl.sources.planning import Plan
    from airflow_checkpoint_etl.sources.session import Session

log = logging.getLogger(__name__)

MARGIN_SECONDS: Final = 1.0
"""How long a backend may take from setting now() to showing its transaction, with much to spare."""

_NAMED_BLOCKERS: Final = 5


class Settler:
    """Finds the bound of one run.

    Args:
        session: the source's connections.
        writers: where the source is written: the same ones, or a connection to the primary.
        interruptible: what makes waiting cancellable.
        config: what is read.
        plan: how it is read.
        settling: how it is settled.
        waiting: is told in words what is waited for, and an empty text when that is over.
    """

    def __init__(
        self,
        *,
        session: Session,
        writers: Session,
        interruptible: Interruptible,
        config: PostgresSource,
        plan: Plan,
        settling: Settling,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        self._session = session
        self._writers = writers
        self._interruptible = interruptible
        self._config = config
        self._plan = plan
        self._settling = settling
        self._timeout = config.settle_timeout
        self._deadline = 0.0
        self._tell = Telling(waiting)
        self._statements = queries.load("settle.sql")

    def settle(self, after: str) -> Bound:
        """Return the bound beyond ``after``, or ``after`` when nothing is new.

        Raises:
            SettleTimeoutError: transactions did not end in time; names them.
            SourceResetError: the source has gone back behind ``after``.
            ValueNotCarriedError: the largest key has no place in a cursor.
        """
        # Before anything is read: what is missed from here on has this transaction or a later one.
        swept = self._one("oldest_running") if self._settling.mode == "sweep" else ""
        check_reset(self._writers, self._config, self._plan, self._settling, after)
        self._deadline = time.monotonic() + self._timeout
        try:
            by_clock = self._settling.mode == "transactions" and self._plan.tags[0] == "tz"
            behind = MARGIN_SECONDS if by_clock else 0.0
            return Bound(self._settle(after), swept, behind=behind)
        except SettleTimeoutError as error:
            if self._config.on_settle_timeout == "fail":
                raise
            log.warning(
                "%s. This run ends where the last one did, at %s, as on_settle_timeout says",
                error,
                cursors.display(after),
            )
            return Bound(after, settled=False)

    def _settle(self, after: str) -> str:
        mode, tag = self._settling.mode, self._plan.tags[0]
        if mode == "transactions" and tag == "tz":
            return self._settle_by_clock(after)
        if mode == "transactions" and tag == "ts":
            return self._settle_by_local_clock(after)
        bound = self._newest(after)
        if bound is None:
            return after
        if mode == "locks":
            self._wait("writers", roots=list(self._settling.roots))
        elif mode == "transactions":
            self._wait("transactions")
        elif mode == "lag":
            self._interruptible.sleep(self._config.settle_lag or 0.0)
        return bound

    def _settle_by_clock(self, after: str) -> str:
        clock = self._one("bound", margin=MARGIN_SECONDS)
        self._check_clock("clock_is_behind", clock, after)
        if self._newest(after, clock=clock) is None:
            return after
        self._wait("transactions")
        # What the waited-for transactions wrote below the clock may be the new maximum.
        return self._newest(after, clock=clock) or after

    def _settle_by_local_clock(self, after: str) -> str:
        # A timestamp without time zone cannot be compared with the clock: the writers' zone is
        # unknown. The largest value there is stands for the clock, and the margin is slept instead.
        clock = self._one("local_bound", zone=self._writers.time_zone)
        self._check_clock("local_clock_is_behind", clock, after)
        bound = self._newest(after, clock=clock)
        if bound is None:
            return after
        self._interruptible.sleep(MARGIN_SECONDS)
        self._wait("transactions")
        return self._newest(after, until=bound) or after

    def _check_clock(self, question: str, clock: str, after: str) -> None:
        """A clock behind the frontier gives new rows times that were already passed."""
        if after == cursors.BEGIN:
            return
        parameters = {"clock": clock, "after": cursors.bounds(after)[0].text}
        if self._writers.fetch(self._statements[question], parameters)[0][0]:
            at = cursors.display(after)
            gone_back(
                self._config,
                f"the source's clock is at {clock}, behind the checkpoint at {at}",
            )

    def _newest(
        self, after: str, *, until: str | None = None, clock: str | None = None
    ) -> str | None:
        statement = self._plan.keyset.newest(after, until, clock)
        rows = self._session.fetch(statement)
        return (
            positions.from_texts(self._plan.keyset.key, self._plan.tags, rows[0]) if rows else None
        )

    def _one(self, name: str, **parameters: float | str) -> str:
        return str(self._writers.fetch(self._statements[name], parameters)[0][0])

    # --- waiting -----------------------------------------------------------------------------------

    def _wait(self, listing: str, **parameters: list[int]) -> None:
        """Wait until what the transactions that one listing finds now have written can be read."""
        rows = self._writers.fetch(self._statements[listing], parameters)
        waiting = [str(row[0]) for row in rows]
        failpoint("settle.before_wait")
        if waiting:
            log.info("waiting for %d transaction(s) that may still write", len(waiting))

        def are_over() -> bool:
            alive = self._alive(waiting)
            if alive:
                self._tell(lambda: f"waiting for {self._in_words(alive)}")
            return not alive

        if not wait_until(are_over, self._interruptible, self._deadline):
            raise SettleTimeoutError(self._timeout_message(self._alive(waiting)))
        if self._writers is not self._session:
            standby.wait_for_replay(
                self._session, self._writers, self._interruptible, self._deadline
            )
        self._tell.over()
        failpoint("settle.after_wait")

    def _alive(self, transactions: list[str]) -> list[str]:
        if not transactions:
            return []
        rows = self._writers.fetch(self._statements["alive"], {"transactions": transactions})
        transactions[:] = [str(row[0]) for row in rows]
        return transactions

    def _timeout_message(self, waiting: Sequence[str]) -> str:
        return (
            f"{len(waiting)} transaction(s) that may still write below the bound did not end within "
            f"settle_timeout={self._timeout:g} s: {self._named(waiting)}; end "
            "them (pg_terminate_backend, rollback prepared) or raise settle_timeout"
        )

    def _in_words(self, waiting: Sequence[str]) -> str:
        what = "transactions that may" if len(waiting) > 1 else "a transaction that may"
        return f"{what} still write below the bound: {self._named(waiting)}"

    def _named(self, waiting: Sequence[str]) -> str:
        rows = self._writers.fetch(self._statements["blockers"], {"transactions": list(waiting)})
        named = [_blocker(*row[1:]) for row in rows[:_NAMED_BLOCKERS]]
        if len(rows) > _NAMED_BLOCKERS:
            named.append(f"{len(rows) - _NAMED_BLOCKERS} more")
        return "; ".join(named) or "they ended just now"


def _blocker(
    pid: int | None, role: str | None, application: str | None, age: int | None, gid: str | None
) -> str:
    since = "of unknown age" if age is None else f"{age} s old"
    if pid is None:
        return f"prepared transaction {gid!r}, {since}"
    return f"pid {pid} ({role or 'unknown role'}, {application or 'no application name'}), {since}"
