"""Runs one DAG run after the other, as a schedule would, while things go wrong around it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

import psycopg

from tests.chaos.harness_points import RUN
from tests.chaos.harness_traffic import Background

if TYPE_CHECKING:
    from tests.chaos.harness_case import Case
    from tests.chaos.harness_processes import Attempts, Outcome
    from tests.chaos.harness_turmoil import Turmoil

TRIES = 60
CLEARS = 30
LONGEST_TRY = 600.0
MOST_BEHIND = 200


class Schedule(Background):
    """DAG runs without a pause between them.

    A run whose staged chunks were lost with the checkpoint store fails as *upstream lost*, and is
    cleared from extract on, as its message says.

    Args:
        attempts: what forks the tries.
        case: the pipeline.
        turmoil: what kills the tries; it is told which one is running.
    """

    def __init__(self, attempts: Attempts, case: Case, turmoil: Turmoil) -> None:
        super().__init__("schedule")
        self._attempts, self._case, self._turmoil = attempts, case, turmoil
        self.runs = self.tries = self.clears = 0
        self.errors: Counter[str] = Counter()

    def run(self) -> None:
        while not self.ending.is_set():
            self.run_once()

    def catch_up(self) -> None:
        """DAG runs until every row of the source is loaded; nothing inserts any more."""
        source, target = self._case.source_table, self._case.target_table
        newest = self._case.fetch(f"select max(id) from {source}", at="source")
        for _ in range(MOST_BEHIND):
            self.run_once()
            if self._case.fetch(f"select max(id) from {target}") == newest:
                return
        message = f"the target has not caught up after {MOST_BEHIND} more runs"
        raise AssertionError(message)

    def run_once(self) -> None:
        """One DAG run, to its end."""
        self.runs += 1
        run = f"run_{self.runs}"
        numbers: Counter[str] = Counter()
        for _ in range(CLEARS):
            if all(self._succeeds(step, run, numbers) for step in RUN):
                return
            self.clears += 1
        message = f"{run} was cleared {CLEARS} times and is not done"
        raise AssertionError(message)

    def _succeeds(self, step: str, run: str, numbers: Counter[str]) -> bool:
        """Run one step with retries; False when the run has to be cleared from extract on."""
        for _ in range(TRIES):
            numbers[step] += 1
            outcome = self._try(step, run, numbers[step])
            if outcome.succeeded:
                return True
            self.errors[outcome.error or "killed"] += 1
            if outcome.error == "UpstreamLostError":
                return False
            if outcome.signal is None and not outcome.retryable:
                message = f"{step} of {run}: no retry can mend {outcome.explain()}"
                raise AssertionError(message)
            if outcome.error == "StageBusyError":
                self._wait_for_lease(step)
            assert self._turmoil.servers_are_up.wait(120), "the servers did not come back"
        message = f"{step} of {run} gave up after {TRIES} tries: {outcome.explain()}"
        raise AssertionError(message)

    def _wait_for_lease(self, step: str) -> None:
        """Wait as a deferred task does: the run before lost its connection and released nothing."""
        free = (
            "select coalesce(lease_until < clock_timestamp(), true) from checkpoint_etl.stage "
            f"where pipeline = '{self._case.name}' and stage = '{step}'"
        )
        until = time.monotonic() + 10 * self._case.lease
        while time.monotonic() < until:
            with contextlib.suppress(psycopg.OperationalError):
                if self._case.fetch(free) == [(True,)]:
                    return
            time.sleep(0.05)
        message = f"the lease of {step} does not run out"
        raise AssertionError(message)

    def _try(self, step: str, run: str, number: int) -> Outcome:
        self.tries += 1
        attempt = self._attempts.start(self._case, step, run, number)
        self._turmoil.attempt = attempt
        try:
            return attempt.wait(LONGEST_TRY)
        finally:
            self._turmoil.attempt = None
