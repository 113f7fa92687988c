"""Loading one range in parts: planning it, and closing the plan.

A large gap between the main lane and the source is settled once, cut into ranges of about equal rows and
handed out, a lane per range; a small one is loaded by the main lane as ever. So the same tasks serve the
first load and the hourly increment. What is planned stands in the warehouse: whoever plans again, the
next DAG run included, is given the open plan and goes on with it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl import guarantee
from airflow_checkpoint_etl.collect import collect
from airflow_checkpoint_etl.errors import ManifestConflictError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import LaneSpec
from airflow_checkpoint_etl.protocol import Lane
from airflow_checkpoint_etl.range_plans import MAIN_PART, PlanRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.ports import LaneState, Ports
    from airflow_checkpoint_etl.range_plans import ClosedPlan, Plans, RangePlan

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 5
"""How often a range is planned anew because the main lane moved meanwhile."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a range is cut.

    Attributes:
        parts: how many parts at most.
        rows_per_part: about how many rows a part has at least; a gap without two such parts is left to
            the main lane.
    """

    parts: int = 8
    rows_per_part: int = 250_000

    def count(self, rows: int) -> int:
        """Return into how many parts a range of about this many rows is cut."""
        return max(1, min(self.parts, rows // self.rows_per_part))


class Planner:
    """One attempt of planning a pipeline's range, or of closing its plan.

    Args:
        ports: source and warehouse. Where the warehouse makes no plans, the main lane loads everything.
        attempt: who works, on the main lane.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, ports: Ports, attempt: Attempt, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ports, self._attempt, self._clock = ports, attempt, clock
        self._main, self._plans = attempt.lane, ports.warehouse.plans

    def stop(self) -> None:
        """Interrupt the source's running statement, or the wait for late transactions."""
        self._ports.source.cancel()

    # --- planning ------------------------------------------------------------------------------

    def plan(self, cutting: Cutting) -> list[str]:
        """Return the keys of the parts to load: an open plan's, a new one's, or the main lane's.

        Raises:
            StageBusyError: another DAG run works on the main lane.
            SettleTimeoutError: late transactions did not end in time; names them.
            ManifestConflictError: the main lane kept moving.
        """
        self._ports.warehouse.preflight()
        if self._plans is None:
            return [MAIN_PART]
        self._collect(self._plans)
        failpoint("plan.before_look")
        for _ in range(_ATTEMPTS):
            plan = self._plans.current(self._main.pipeline)
            if plan is not None:
                log.info("%s is open; going on with its %s parts", plan, len(plan.parts))
                return plan.keys
            try:
                plan = self._make(self._plans, cutting)
            except ManifestConflictError as moved:
                log.info("%s", moved)
                continue
            return [MAIN_PART] if plan is None else plan.keys
        message = f"{self._main} moved {_ATTEMPTS} times while a range of it was planned; try again"
        raise ManifestConflictError(message)

    def _make(self, plans: Plans, cutting: Cutting) -> RangePlan | None:
        """Settle, cut and make a plan; None when the gap is the main lane's to load."""
        state = self._prepare()
        low = state.frontier.cursor
        rows = self._ports.source.rows_after(low)
        count = cutting.count(rows)
        if count == 1:
            log.info("%s: about %s rows to load; the main lane loads them", self._main, f"{rows:,}")
            return None
        failpoint("plan.before_settle")
        started = self._clock()
        bound = self._ports.source.settle(low)
        failpoint("plan.after_settle")
        cuts = self._ports.source.split(low, bound.target, count) if bound.target != low else ()
        failpoint("plan.after_split")
        if not cuts:
            log.info("%s: the range is not cut; the main lane loads it", self._main)
            return None
        # Late rows from below a lane that was swept before are its next run's to find.
        says_what_is_new = bound.settled and not state.frontier.swept
        request = PlanRequest(
            frontier=state.frontier,
            target=bound.target,
            bounds=cuts,
            swept=bound.swept,
            settled_ago=self._clock() - started + bound.behind if says_what_is_new else None,
            owner=self._attempt.owner,
        )
        plan = plans.make(self._main.pipeline, request)
        log.info(
            "%s: about %s rows from %s to %s in %s parts",
            plan,
            f"{rows:,}",
            cursors.display(plan.low),
            cursors.display(plan.target),
            len(plan.parts),
        )
        return plan

    def _prepare(self) -> LaneState:
        """Check source, stores and target as an extract does, and create the main lane if it is new."""
        facts = self._ports.source.preflight()
        for warning in self._ports.checkpoints.preflight():
            log.warning("%s", warning)
        self._ports.staging.preflight()
        settings = self._attempt.settings
        promised = guarantee.of(
            facts.promise,
            write=settings.get("write", "append"),
            on_error=self._attempt.policy.on_error,
        )
        log.info("plan %s: settle=%s; %s", self._main, facts.settle, promised)
        return self._ports.warehouse.prepare(
            LaneSpec(
                self._main,
                self._attempt.fingerprint,
                facts.start,
                facts.identity,
                {**settings, "settle": facts.settle, "guarantee": str(promised)},
                facts.accepts_reset,
            )
        )

    def _collect(self, plans: Plans) -> None:
        """Delete what parts of ended plans have left staged: no later load of theirs does it."""
        try:
            for plan in plans.uncollected(self._main.pipeline, self._attempt.grace):
                for part in plan.parts:
                    lane = Lane(self._main.pipeline, part.key)
                    collect(self._ports, lane, self._attempt.grace)
                plans.note_collected(plan)
        except Exception as error:  # noqa: BLE001  the next planning collects what this one left
            log.warning("collecting staged chunks failed (%s); the next run does it", error)

    # --- closing -------------------------------------------------------------------------------

    def close(self) -> ClosedPlan | None:
        """Close the open plan; None when none is open and this DAG run has closed none.

        Raises:
            PlanNotDoneError: parts are not at their end; names them.
            PipelineChangedError: parts were loaded into different tables.
        """
        self._ports.warehouse.preflight()
        failpoint("close.before_lock")
        closed = (
            self._plans.close(self._main.pipeline, self._attempt.owner) if self._plans else None
        )
        if closed is None:
            log.info("%s: no plan is open; the main lane has loaded by itself", self._main)
            return None
        log.info(
            "plan %s of %s is closed: from %s to %s, %s rows in %s chunks",
            closed.number,
            self._main,
            cursors.display(closed.low),
            cursors.display(closed.target),
            f"{closed.rows:,}",
            f"{closed.chunks:,}",
        )
        return closed
