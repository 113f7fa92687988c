"""What transform and load take next: from what the stage before has left, or leaves while it works."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn, Protocol

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import (
    ManifestConflictError,
    StageWaitingError,
    UpstreamFailedError,
    UpstreamLostError,
    UpstreamSkippedError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.following import Move, Sight, decide, is_answered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.following import Following, Upstream
    from airflow_checkpoint_etl.goals import Goals
    from airflow_checkpoint_etl.ports import Claim, Ports, Run
    from airflow_checkpoint_etl.protocol import Chunk, Frontier, Stage

log = logging.getLogger(__name__)


class Upcoming(Protocol):
    """The chunks of the stage before, up to the run's target.

    Attributes:
        run: the run's goal.
    """

    run: Run

    def restart(self, sources: Mapping[int, Chunk]) -> None:
        """Go on with what reconciling has found of the stage before, by number."""
        ...

    def is_done(self, frontier: Frontier) -> bool:
        """Whether a frontier has reached the run's target."""
        ...

    def next(self, frontier: Frontier) -> Chunk | None:
        """Return the chunk that continues the frontier; None when the stage is done.

        Raises:
            UpstreamLostError: the stage before has left no such chunk.
        """
        ...

    def after(self, chunk: Chunk) -> Chunk | None:
        """Return the chunk that comes after one, if it is known already."""
        ...


class _Known:
    """Chunks of the stage before, by number, as far as they are known."""

    _sources: Mapping[int, Chunk] = MappingProxyType({})

    def after(self, chunk: Chunk) -> Chunk | None:
        """Return the chunk that comes after one, if it is known already: its file can be fetched ahead."""
        return self._sources.get(chunk.seq + 1)


class Left(_Known):
    """What the stage before has left: it has ended, and all of its chunks are there or lost.

    Args:
        claim: the stage's claim.
        goals: where the run ends.
    """

    def __init__(self, claim: Claim, goals: Goals) -> None:
        self._claim, self._goals = claim, goals
        self.run = goals.given(claim)

    def restart(self, sources: Mapping[int, Chunk]) -> None:
        """Go on with what reconciling has found."""
        self._sources = sources

    def is_done(self, frontier: Frontier) -> bool:
        """Whether a frontier has reached the run's target."""
        return self._goals.is_reached(frontier, self.run)

    def next(self, frontier: Frontier) -> Chunk | None:
        """Return the chunk that continues the frontier; None when the target is reached."""
        if self.is_done(frontier):
            return None
        chunk = continuing(self._sources, frontier)
        if chunk is None:
            raise lost(self._claim, frontier, self.run)
        return chunk


def continuing(sources: Mapping[int, Chunk], frontier: Frontier) -> Chunk | None:
    """Return the chunk that continues a frontier, None when there is none."""
    chunk = sources.get(frontier.seq + 1)
    if (
        chunk is not None
        and chunk.incarnation == frontier.incarnation
        and chunk.low == frontier.cursor
        and (not chunk.swept or chunk.swept_in == frontier.swept)
    ):
        return chunk
    return None


def lost(claim: Claim, frontier: Frontier, run: Run) -> UpstreamLostError:
    """Build the error for a stage before that has ended and left a gap."""
    return UpstreamLostError(
        f"{claim.stage} of {claim.lane} is at {cursors.display(frontier.cursor)} and this run ends "
        f"at {cursors.display(run.target)}, but {claim.stage.before} has no staged chunk that continues "
        "there (the checkpoint store or the staging area lost it). Clear extract with Downstream; a new "
        "DAG run heals by itself. Rows already loaded stay and are not loaded again"
    )


@dataclass(frozen=True, slots=True)
class Watch:
    """What a following stage looks with.

    Attributes:
        ports: checkpoint store and warehouse.
        attempt: who works on what.
        stage: the stage that follows.
        following: how it follows.
        pause: waits some seconds, and raises when the attempt is to end.
        clock: a monotonic clock, in seconds.
    """

    ports: Ports
    attempt: Attempt
    stage: Stage
    following: Following
    pause: Callable[[float], None]
    clock: Callable[[], float] = time.monotonic

    def goal(self) -> tuple[Upstream, Run | None]:
        """Return what has become of the stage before, and this run's goal if extract has set it."""
        # In this order: a goal that is stale although the stage before has succeeded will not change.
        upstream = self.following.upstream()
        lane, owner = self.attempt.lane, self.attempt.owner
        run, state = self.ports.warehouse.run(lane, owner), self.ports.warehouse.lane(lane)
        answered = is_answered(upstream, run, state, owner.clear_number)
        return upstream, run if answered else None

    def await_goal(self) -> None:
        """Wait, before anything is acquired, until extract has said how far this run goes.

        Raises:
            StageWaitingError: it has not for a while.
            UpstreamFailedError: it, or the stage between, failed.
            UpstreamSkippedError: the same, skipped.
        """
        started = self.clock()
        while True:
            upstream, run = self.goal()
            if run is not None:
                return
            move = decide(Sight(upstream, answered=False))
            if move is not Move.WAIT:
                if move is Move.LOST:
                    return  # the goal is asked for once more, and says what is wrong with it
                self.refuse(move)
            self.wait(started, "has not settled how far this run goes")

    def wait(self, started: float, why: str) -> None:
        """Wait a moment, or give the worker slot back when the patience is at its end."""
        stage = self.stage
        failpoint(f"{stage}.before_wait")
        if self.clock() - started >= self.following.patience:
            message = (
                f"{stage} of {self.attempt.lane}: {self.following.upstream_name} {why}; going on "
                "when it has"
            )
            raise StageWaitingError(message)
        self.pause(self.following.poll)

    def refuse(self, move: Move) -> NoReturn:
        """End as the stage before did."""
        name = self.following.upstream_name
        if move is Move.SKIP:
            message = f"{self.stage} of {self.attempt.lane} follows {name}, which was skipped"
            raise UpstreamSkippedError(message)
        message = (
            f"{self.stage} of {self.attempt.lane} follows {name}, which failed; what it had staged is "
            f"done. See its log; then clear it with Downstream"
        )
        raise UpstreamFailedError(message)


class Followed(_Known):
    """What the stage before leaves while it works.

    Args:
        watch: what to look with.
        claim: the stage's claim.
        goals: where the run ends.
    """

    def __init__(self, watch: Watch, claim: Claim, goals: Goals) -> None:
        self._watch, self._claim, self._goals = watch, claim, goals
        self.run = goals.given(claim)
        self._is_fresh = True
        self._misfit = ""
        self._reconciled = False

    def restart(self, sources: Mapping[int, Chunk]) -> None:
        """Go on with what reconciling has found."""
        self._sources, self._is_fresh = sources, True

    def is_done(self, frontier: Frontier) -> bool:
        """Whether a frontier has reached the run's target; another question than whether it will stay."""
        return self._goals.is_reached(frontier, self.run)

    def next(self, frontier: Frontier) -> Chunk | None:
        """Return the chunk that continues the frontier; None when the stage before is done as well.

        Raises:
            ManifestConflictError: the stage before cut its chunks anew; reconcile.
            StageWaitingError: nothing new for a while; the attempt gives its worker slot back.
            UpstreamFailedError: the stage before failed, and nothing is left to take.
            UpstreamSkippedError: the same, skipped.
            UpstreamLostError: the stage before has ended and left no such chunk.
        """
        started = self._watch.clock()
        while True:
            chunk = self._in_stock(frontier)
            if chunk is not None:
                return chunk
            # In this order: what is not there although the stage before has succeeded will not come.
            upstream, run = self._watch.goal()
            self._sources, self.run = self._staged(), run or self.run
            chunk, reached = continuing(self._sources, frontier), self.is_done(frontier)
            sight = Sight(upstream, run is not None, reached, chunk is not None, self._reconciled)
            move = decide(sight)
            if move is Move.TAKE:
                return chunk
            if move is Move.DONE:
                return None
            if not reached:
                self._check_cut(frontier)
            if move is Move.RECONCILE:
                self._reconciled = True
                raise ManifestConflictError(self._says(frontier, "has ended and left no chunk"))
            if move is Move.LOST:
                self._goals.given(self._claim)  # says it better where the goal itself is gone
                raise lost(self._claim, frontier, self.run)
            if move is not Move.WAIT:
                self._watch.refuse(move)
            self._watch.wait(
                started, "is not done yet" if reached else "has not staged the next chunk"
            )

    def _in_stock(self, frontier: Frontier) -> Chunk | None:
        """Look into the manifest alone: while there is something to do, Airflow is not asked.

        Anew for every chunk, so that one that was cut meanwhile is hardly ever taken.
        """
        if self.is_done(frontier):
            return None
        if not self._is_fresh:
            self._sources = self._staged()
        self._is_fresh = False
        return continuing(self._sources, frontier)

    def _says(self, frontier: Frontier, what: str) -> str:
        return (
            f"{self._claim.stage} of {self._claim.lane}: {self._watch.following.upstream_name} {what} at "
            f"{cursors.display(frontier.cursor)}"
        )

    def _staged(self) -> dict[int, Chunk]:
        before = self._claim.stage.before
        assert before is not None  # noqa: S101  an extract follows nobody
        record = self._watch.ports.checkpoints.read(self._claim.lane, before)
        return {
            entry.seq: entry
            for entry in record.entries
            if entry.incarnation == self._claim.incarnation
        }

    def _check_cut(self, frontier: Frontier) -> None:
        """Reconcile, once, when the stage before has other chunks here than those we went by."""
        at, after = self._sources.get(frontier.seq), self._sources.get(frontier.seq + 1)
        if after is not None:
            misfit = after.name
        elif at is not None and at.high != frontier.cursor:
            misfit = at.name
        else:
            return
        if misfit == self._misfit:
            return  # reconciling did not help: the stage before has to cut anew
        self._misfit = misfit
        raise ManifestConflictError(self._says(frontier, "has cut its chunks anew"))
