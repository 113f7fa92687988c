"""Stages that run at once: when a stage takes, waits, gives up or is done.

A stage that *follows* works on what the stage before it has staged while that one still works. The
protocol is the same as for stages that run one after the other: a frontier moves from exactly
``chunk.low`` to ``chunk.high``, and only when the stage before has passed ``chunk.high``. What is
different is when a stage looks again, and when it gives up:

    take         there is a chunk that continues the frontier, whatever has become of the stage before
    wait         there is none, and the stage before can still make one
    done         the target is reached *and* the stage before has succeeded: until then it may still be
                 tried again and move the target, and a green load must not hide a failed extract
    fail, skip   as the stage before did, once nothing is left to take
    lost         the stage before has succeeded and left no chunk that continues the frontier

PURE: no IO, no clock, no logging. The looking is in :mod:`airflow_checkpoint_etl.upcoming`, the holding
back in :mod:`airflow_checkpoint_etl.backlog`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_checkpoint_etl.ports import LaneState, Run
    from airflow_checkpoint_etl.protocol import Chunk


class Upstream(Enum):
    """What has become of the stage before, in this DAG run."""

    WORKING = auto()
    """It works, waits, or will be tried again."""
    SUCCEEDED = auto()
    FAILED = auto()
    """For good: no retry is left."""
    SKIPPED = auto()


_ENDED: Final = {
    "success": Upstream.SUCCEEDED,
    "failed": Upstream.FAILED,
    "upstream_failed": Upstream.FAILED,
    "removed": Upstream.FAILED,
    "skipped": Upstream.SKIPPED,
}


def upstream_of(state: str | None) -> Upstream:
    """Return what a task instance's state, as Airflow names it, means for the stage that follows.

    Everything that is not an end is work: not yet scheduled, queued, running, deferred, up for retry,
    restarting after a clear. None is "not yet scheduled".
    """
    return _ENDED.get(state or "", Upstream.WORKING)


class Move(Enum):
    """What a following stage does next."""

    TAKE = auto()
    WAIT = auto()
    DONE = auto()
    FAIL = auto()
    SKIP = auto()
    RECONCILE = auto()
    """Look at the warehouse and the whole manifest once more, now that the stage before has ended."""
    LOST = auto()


@dataclass(frozen=True, slots=True)
class Sight:
    """What a following stage sees. The state of the stage before was read first, the rest after it: so
    what is not there although it has succeeded will not come.

    Attributes:
        upstream: the stage before.
        answered: whether extract has said how far this run goes, since the DAG run was last cleared.
        reached: whether the frontier is at or past the run's target.
        next: whether a staged chunk continues the frontier.
        reconciled: whether the stage has reconciled since the stage before had succeeded.
    """

    upstream: Upstream
    answered: bool
    reached: bool = False
    next: bool = False
    reconciled: bool = False


def decide(sight: Sight) -> Move:
    """Say what to do next; see the module's docstring for the rules."""
    if sight.answered and sight.next and not sight.reached:
        return Move.TAKE
    if sight.upstream is Upstream.WORKING:
        return Move.WAIT
    if sight.upstream is Upstream.FAILED:
        return Move.FAIL
    if sight.upstream is Upstream.SKIPPED:
        return Move.SKIP
    if sight.answered and sight.reached:
        return Move.DONE
    return Move.LOST if sight.reconciled or not sight.answered else Move.RECONCILE


def is_answered(
    upstream: Upstream, run: Run | None, lane: LaneState | None, clear_number: int
) -> bool:
    """Whether a stored goal is this DAG run's own, as it runs now, and not one of an earlier clear.

    The clear number is one counter per DAG run and grows for any of its tasks. If the stage before has
    succeeded, it was not cleared (a clear takes its success away), and the goal is what it worked for.

    Args:
        upstream: the stage before.
        run: the DAG run's stored goal.
        lane: the lane.
        clear_number: how often the DAG run had been cleared when the following stage started.
    """
    if run is None or lane is None or run.incarnation != lane.frontier.incarnation:
        return False
    return upstream is Upstream.SUCCEEDED or run.clear_number >= clear_number


@dataclass(frozen=True, slots=True)
class Following:
    """How one attempt works beside the other stages of its DAG run.

    Attributes:
        upstream: asks what has become of the stage before; for an extract, which has none, unused.
        upstream_name: what to call it in an error.
        is_followed: asks whether the stages after it still follow. While they do, staged bytes are
            bounded; when one has ended, nobody would ever load them, and nothing is held back.
        staged_bytes: bytes that extract and transform together may have staged and not yet loaded,
            before they hold back.
        patience: seconds to wait in this process before giving the worker slot back.
        poll: seconds between two looks.
    """

    upstream: Callable[[], Upstream]
    upstream_name: str = "the stage before"
    is_followed: Callable[[], bool] = lambda: True
    staged_bytes: int = 1 << 30
    patience: float = 5.0
    poll: float = 0.25

    @property
    def share(self) -> int:
        """The bytes that each of extract and transform may have waiting; see :func:`is_held`."""
        return share_of(self.staged_bytes)


def share_of(staged_bytes: int) -> int:
    """Return the share of each of the two stages that stage chunks."""
    return max(staged_bytes // 2, 1)


def waiting_bytes(staged: Iterable[Chunk], loaded: int) -> int:
    """Return the bytes of one stage's files that are not loaded yet.

    Files of loaded chunks stay for the grace period; they wait for nobody and do not count.

    Args:
        staged: the stage's chunks.
        loaded: the number of the last loaded chunk.
    """
    return sum(chunk.size for chunk in staged if chunk.seq > loaded)


def is_held(waiting: int, share: int) -> bool:
    """Whether a stage holds back before it stages one more chunk.

    Each stage compares its *own* bytes with a share of its own. So whoever holds back has a chunk staged
    that is not loaded, and somebody can go on: a held extract's chunk is there for the transform; a held
    transform's is there for the load; and the load never holds back. With one sum for both, extract could
    fill it alone, and transform would go on only chunk by chunk. A chunk larger than the share passes: it
    is held only until nothing waits.
    """
    return waiting >= share


def is_let_go(waiting: int, share: int) -> bool:
    """Whether a stage that gave its worker slot back is worth resuming: half of its share is free."""
    return waiting <= share // 2


WORTHWHILE: Final = 4
"""New chunks for which a deferred stage is woken at once: starting a task costs some seconds."""
PATIENT_SECONDS: Final = 15.0
"""After so long one new chunk is enough: the stage before may itself be waiting for it to be loaded."""


def is_worth_waking(new_chunks: int, seconds: float) -> bool:
    """Whether a deferred stage is worth resuming.

    Args:
        new_chunks: chunks of the stage before that it has not done.
        seconds: for how long there has been one.
    """
    return new_chunks >= WORTHWHILE or (new_chunks > 0 and seconds >= PATIENT_SECONDS)
