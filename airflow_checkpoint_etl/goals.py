"""Where a run ends: settled by its extract (E0), kept by its retries, reached by each stage (D)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import (
    PreflightError,
    RewoundError,
    SourceResetError,
    UpstreamLostError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import Run
from airflow_checkpoint_etl.sweep import is_behind, is_swept

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.ports import Claim, Ports
    from airflow_checkpoint_etl.protocol import Frontier
    from airflow_checkpoint_etl.recovery import Recovery


class Goals:
    """The target of a DAG run on a lane.

    Args:
        ports: source and warehouse.
        attempt: who works on what.
        recovery: follows a warehouse that was restored.
        clock: a monotonic clock, in seconds.
        waiting: is told in words what settling waits for.
    """

    def __init__(
        self,
        ports: Ports,
        attempt: Attempt,
        recovery: Recovery,
        clock: Callable[[], float] = time.monotonic,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        self._ports, self._attempt, self._recovery, self._clock = ports, attempt, recovery, clock
        self._waiting = waiting
        self._lane = attempt.lane

    def reopen(self, claim: Claim) -> Claim:
        """What an extract does first: follow a restored warehouse, and begin a cleared run again."""
        if self._attempt.on_warehouse_restored == "resync":
            claim = self._recovery.resync(claim)
        if self._attempt.on_clear == "resume":
            return claim
        run = self._ports.warehouse.run(self._lane, claim.owner)
        state = self._ports.warehouse.lane(self._lane)
        if (
            run is None
            or state is None
            or not run.done
            or run.clear_number >= claim.owner.clear_number
            or run.low == run.target
            or not self._was_passed(run.target, state.frontier.cursor)
        ):
            return claim
        if self._attempt.on_clear == "fail":
            message = (
                f"{self._lane}: DAG run {claim.owner.run_id} is loaded up to "
                f"{cursors.display(run.target)} and was cleared, and on_clear='fail'. Pass "
                "on_clear='resume' to do nothing, or 'reprocess' to load its rows again"
            )
            raise PreflightError(message)
        return self._ports.warehouse.reprocess(claim, run)

    def settle(self, claim: Claim, frontier: Frontier) -> Run:
        """E0: an unfinished run keeps its target, else settle and store a new one."""
        run = self._ports.warehouse.run(self._lane, claim.owner)
        if run is not None and not run.done and run.incarnation == frontier.incarnation:
            if run.clear_number == claim.owner.clear_number:
                return run
            # It keeps its target, and remembers that this clear is answered: it resumed.
            return self._ports.warehouse.set_target(claim, run)
        state = self._ports.warehouse.lane(self._lane)
        if state is not None and state.ends_at is not None:
            # A part of a plan ends where the plan says: that was settled when the plan was made.
            goal = Run(frontier.cursor, state.ends_at, frontier.incarnation, settled_ago=None)
            return self._ports.warehouse.set_target(claim, goal)
        failpoint("extract.before_settle")
        started = self._clock()
        bound = self._ports.source.settle(frontier.cursor, self._waiting)
        failpoint("extract.after_settle")
        if is_behind(bound.swept, frontier.swept):
            message = (
                f"{self._lane}: the source numbers its transactions from {bound.swept}, but late rows "
                f"were swept up to {frontier.swept}: it was restored, and rows that its next "
                "transactions commit late would never be found. Resync the lane (admin): the next run "
                "then looks at every row below the checkpoint once more"
            )
            raise SourceResetError(message)
        low = frontier.cursor
        if run is not None and self._was_passed(run.low, low):
            low = run.low  # a run that goes on after a clear began where it first did
        goal = Run(
            low,
            bound.target,
            frontier.incarnation,
            bound.swept,
            settled_ago=self._clock() - started + bound.behind if bound.settled else None,
        )
        return self._ports.warehouse.set_target(claim, goal)

    def given(self, claim: Claim) -> Run:
        """The target that this DAG run's extract has stored."""
        run = self._ports.warehouse.run(self._lane, claim.owner)
        if run is None:
            message = (
                f"{self._lane}: extract of DAG run {claim.owner.run_id} has not settled how far this "
                f"run goes, so {claim.stage} has no target; run (or clear) extract with Downstream"
            )
            raise UpstreamLostError(message)
        if claim.incarnation != run.incarnation:
            message = (
                f"{self._lane} was rewound or reset after extract of DAG run {claim.owner.run_id}; "
                "clear extract with Downstream"
            )
            raise RewoundError(message)
        return run

    def is_reached(self, frontier: Frontier, run: Run) -> bool:
        """Whether a stage has reached the run's target, and swept up late rows as far as it says."""
        return is_swept(frontier.swept, run.swept) and self._is_past(frontier.cursor, run.target)

    def _was_passed(self, earlier: str, now: str) -> bool:
        """Whether ``now`` is at or past a cursor of this run's past, which a reset may have outdated."""
        try:
            return self._is_past(now, earlier)
        except cursors.CursorError:
            return False  # of another cursor's type

    def _is_past(self, position: str, target: str) -> bool:
        if position == target:
            return True
        try:
            return cursors.compare(position, target) >= 0
        except cursors.IncomparableError:
            return self._ports.source.at_or_past(position, target)
