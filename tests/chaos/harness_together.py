"""Drives the three stages of one run at once, with retries and deferrals, as Airflow would."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from tests.chaos.harness_drive import TRIES, WORK, History
from tests.chaos.harness_points import RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.chaos.harness_case import Case
    from tests.chaos.harness_drive import Injection
    from tests.chaos.harness_processes import Attempts, Outcome, Try

PATIENCE = 60.0
WAKE_AFTER = 0.05
"""Seconds after which a deferred or failed try is ready again."""

STATES = "create table if not exists task_state (name text, step text, state text, primary key (name, step))"


class Together:
    """One run whose stages work at once, on a limited number of worker slots.

    Args:
        attempts: what forks the tries.
        case: the pipeline; its ``together`` says how the stages follow each other.
        wrong: per step, what to inject into its first, second, ... try.
        run: the DAG run's id.
        slots: how many tries run at the same time.
        on_stop: asked, again and again, whether a step's try that has stopped itself is to go on.
        on_look: called at every look, with what runs.
    """

    def __init__(
        self,
        attempts: Attempts,
        case: Case,
        wrong: Mapping[str, Sequence[Injection]] | None = None,
        *,
        run: str = "run_1",
        steps: Sequence[str] = RUN,
        slots: int = 3,
        on_stop: Callable[[str, Try], bool] | None = None,
        on_look: Callable[[dict[str, Try]], None] | None = None,
    ) -> None:
        self._attempts, self._case, self._run, self._slots = attempts, case, run, slots
        self._on_stop, self._on_look = on_stop, on_look
        self._wrong = {step: deque(injections) for step, injections in (wrong or {}).items()}
        self._numbers = dict.fromkeys(RUN, 1)
        self._ready: deque[tuple[float, str]] = deque((0.0, step) for step in steps)
        self._running: dict[str, tuple[Try, Injection | None]] = {}
        self.history = History(case)
        self.most_at_once = self.deferrals = 0
        self.failed: dict[str, Outcome] = {}
        case.fetch(STATES)
        for step in steps:
            case.note_state(step, "scheduled")

    def drive(self) -> History:
        """Run every stage to its end, and return what the tries did."""
        deadline = time.monotonic() + PATIENCE
        try:
            while self._ready or self._running:
                assert time.monotonic() < deadline, f"a deadlock, or too slow:\n{self.history}"
                self._start()
                self._look()
                time.sleep(0.005)
        finally:
            for attempt, _ in self._running.values():
                attempt.kill()
        return self.history

    def _start(self) -> None:
        for _ in range(len(self._ready)):
            if len(self._running) == self._slots:
                return
            at, step = self._ready.popleft()
            if at > time.monotonic():
                self._ready.append((at, step))
                continue
            queue = self._wrong.get(step)
            injection = queue.popleft() if queue else None
            setting = injection.setting if injection else ""
            self._case.note_state(step, "running")
            attempt = self._attempts.start(
                self._case, step, self._run, self._numbers[step], setting
            )
            self._running[step] = (attempt, injection)
            self.most_at_once = max(self.most_at_once, len(self._running))

    def _look(self) -> None:
        if self._on_look is not None:
            self._on_look({step: attempt for step, (attempt, _) in self._running.items()})
        for step, (attempt, injection) in list(self._running.items()):
            if attempt.ended.is_set():
                del self._running[step]
                self._ended(step, injection, attempt.wait())
            elif attempt.stopped.is_set() and (
                self._on_stop is None or self._on_stop(step, attempt)
            ):
                attempt.stopped.clear()  # before its continuing is heard of, or it is met twice
                attempt.resume()

    def _ended(self, step: str, injection: Injection | None, outcome: Outcome) -> None:
        self.history.tries.append((step, injection, outcome))
        if outcome.succeeded:
            self._case.note_state(step, "success")
            return
        again = (time.monotonic() + WAKE_AFTER, step)
        if outcome.error == "StageWaitingError":
            self.deferrals += 1
            self._case.note_state(step, "deferred")
            self._ready.append(again)
            if injection and not injection.landed(outcome):  # it deferred before it came to that
                self.history.tries[-1] = (step, None, outcome)
                self._wrong[step].appendleft(injection)
            return
        if not outcome.retryable and outcome.signal is None:
            skipped = outcome.error == "UpstreamSkippedError"
            self._case.note_state(step, "skipped" if skipped else "failed")
            self.failed[step] = outcome
            return
        self._numbers[step] += 1
        assert self._numbers[step] <= TRIES, f"{self.history}\ngave up: {outcome.explain()}"
        self._case.note_state(step, "up_for_retry")
        self._ready.append(again)


def assert_little_rework(history: History) -> None:
    """Each thing that went wrong in a step costs it at most the chunk at hand, and others nothing."""
    chunks = len(history.case.ledger())
    for step in WORK:
        done, most = history.work(step), chunks + history.injections(step)
        assert done <= most, f"{step} worked on {done} chunks, {most} would do\n{history}"
