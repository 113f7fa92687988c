"""What a stage needs to run beside the others, or after the one before: chosen once, by the attempt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.backlog import Backlog
from airflow_checkpoint_etl.upcoming import Followed, Left, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.goals import Goals
    from airflow_checkpoint_etl.ports import Claim, Ports
    from airflow_checkpoint_etl.protocol import Chunk, Stage
    from airflow_checkpoint_etl.upcoming import Upcoming


class Beside:
    """An attempt's way to work beside the other stages of its DAG run.

    Args:
        ports: the pipeline's ports.
        attempt: who works on what; without ``following`` the stages run one after the other.
        goals: where the run ends.
        pause: waits some seconds, and raises when the attempt is to end.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        ports: Ports,
        attempt: Attempt,
        goals: Goals,
        pause: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports, self._attempt, self._goals = ports, attempt, goals
        self._pause, self._clock = pause, clock

    def await_goal(self, stage: Stage) -> None:
        """Wait, before a stage is acquired, until extract has said how far the run goes."""
        watch = self._watch(stage)
        if watch is not None:
            watch.await_goal()

    def upcoming(self, claim: Claim) -> Upcoming:
        """Return what the stage takes from the one before."""
        watch = self._watch(claim.stage)
        return Left(claim, self._goals) if watch is None else Followed(watch, claim, self._goals)

    def backlog(self, claim: Claim, kept: Iterable[Chunk]) -> Backlog:
        """Return what holds the stage back, beginning with the chunks that are kept."""
        following = self._attempt.following
        backlog = Backlog(self._ports.warehouse, claim, following, self._pause, self._clock)
        backlog.restart(kept)
        return backlog

    def _watch(self, stage: Stage) -> Watch | None:
        following = self._attempt.following
        if following is None:
            return None
        return Watch(self._ports, self._attempt, stage, following, self._pause, self._clock)
