"""Drives the steps of a scenario with retries, as Airflow would, and keeps what every try did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests import figures
from tests.chaos.harness_points import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.chaos.harness_case import Case
    from tests.chaos.harness_processes import Attempts, Outcome, Try

TRIES = 8

TOLD = {"kill": "SIGKILL", "raise": "exceptions", "drop": "all connections dropped"}
"""What is injected, as the figures at the end of a run have it."""

WORK = {
    "extract": "extract.after_read",
    "transform": "transform.after_apply",
    "load": "load.before_rows",
}
"""The point that says that one chunk's work of a step was done, or redone."""


@dataclass(frozen=True)
class Injection:
    """What goes wrong in one try.

    Attributes:
        point: the failpoint, with ``@n`` for its n-th pass.
        how: ``kill``, ``raise`` or ``drop`` (end the try's connections from the servers' side).
    """

    point: str
    how: str = "kill"

    @property
    def setting(self) -> str:
        return f"{self.point}={'stop' if self.how == 'drop' else self.how}"

    @property
    def name(self) -> str:
        return self.point.partition("@")[0]

    def landed(self, outcome: Outcome) -> bool:
        """Whether the try really met it: it was the n-th pass, and it ended so if that is certain."""
        turn = int(self.point.partition("@")[2] or 1)
        passes = outcome.trace.count(self.name)
        if self.how != "kill":
            return passes >= turn
        # The last point in the trace may be another: a thread that reads ahead passes its own meanwhile.
        return outcome.killed and passes == turn


@dataclass
class History:
    """Every try of every step of one scenario, in order, and what was injected into it."""

    case: Case
    tries: list[tuple[str, Injection | None, Outcome]] = field(default_factory=list)

    def of(self, step: str) -> list[Outcome]:
        return [outcome for name, _, outcome in self.tries if name == step]

    def injections(self, step: str) -> int:
        return sum(1 for name, injection, _ in self.tries if name == step and injection)

    @property
    def all_landed(self) -> bool:
        return all(not wrong or wrong.landed(outcome) for _, wrong, outcome in self.tries)

    def passes(self) -> Counter[str]:
        """How often each point was passed, by the try that passed it most often."""
        most: Counter[str] = Counter()
        for _, _, outcome in self.tries:
            most |= Counter(outcome.trace)
        return most

    def work(self, step: str) -> int:
        """How many chunks' work was done in a step, over all tries."""
        return sum(outcome.trace.count(WORK[step]) for outcome in self.of(step))

    def __str__(self) -> str:
        lines = [f"{self.case.label or self.case.name}:"]
        for step, injection, outcome in self.tries:
            wrong = f"{injection.point} {injection.how}" if injection else "nothing injected"
            lines.append(f"  {step}: {wrong} -> {outcome.error or outcome.signal or 'done'}")
        return "\n".join(lines)


def run_one(attempts: Attempts, case: Case, started: Try, injection: Injection | None) -> Outcome:
    """Wait for a try's end; where its connections are to be dropped, do that when it stops."""
    if injection is not None and injection.how == "drop" and started.wait_stopped():
        started.drop_connections(case)
        started.resume()
    return started.wait()


def drive(
    attempts: Attempts,
    case: Case,
    wrong: Mapping[str, Sequence[Injection]] | None = None,
    *,
    run: str = "run_1",
    steps: Sequence[str] = RUN,
    first_try: int = 1,
) -> History:
    """Run the steps in order; a try that dies or may be retried is tried again.

    Args:
        attempts: what forks the tries.
        case: the pipeline.
        wrong: per step, what to inject into its first, second, ... try.
        run: the DAG run's id.
        steps: the steps.
        first_try: the number of the first step's first try.
    """
    history = History(case)
    left = {step: list(injections) for step, injections in (wrong or {}).items()}
    for step in steps:
        injections = left.get(step, [])
        first = first_try if step == steps[0] else 1
        for number in range(first, first + TRIES):
            injection = injections.pop(0) if injections else None
            setting = injection.setting if injection else ""
            started = attempts.start(case, step, run, number, setting)
            outcome = run_one(attempts, case, started, injection)
            if injection is not None and injection.landed(outcome):
                figures.injected(TOLD[injection.how], point=injection.name)
            history.tries.append((step, injection, outcome))
            if outcome.succeeded:
                break
            if outcome.signal is None and not outcome.retryable:
                message = f"{history}\nwhich no retry can mend: {outcome.explain()}"
                raise AssertionError(message)
        else:
            message = f"{history}\ngave up after {TRIES} tries: {outcome.explain()}"
            raise AssertionError(message)
    return history
