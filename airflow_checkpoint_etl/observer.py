"""What a running stage tells whoever watches it: events, the interface of a watcher, and its safety.

The runner tells of every step through one :class:`Observer`; metrics, spans, lineage and the progress
that people see in Airflow are observers of their own. Watching is best effort: an observer that raises
is left out from then on, and one that is slow runs beside the load and loses events, never the load time.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_checkpoint_etl.progress import Summary
    from airflow_checkpoint_etl.protocol import Chunk, Lane, Stage

log = logging.getLogger(__name__)

_BACKLOG: Final = 1000
_CLOSE_SECONDS: Final = 2.0


# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in an attempt.

    Attributes:
        lane: the lane at work.
        stage: the stage at work.
        at: when it happened, in nanoseconds since 1970 (UTC).
    """

    lane: Lane
    stage: Stage
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Began(Event):
    """The attempt knows where it starts and how far it has to go.

    Attributes:
        first: where it starts (canonical cursor text, exclusive).
        target: where the DAG run ends.
        kept: chunks of earlier tries that it found done and kept.
        generation: which life of the lane it works in.
        bound_age: seconds since the run's bound was taken; None where it promises nothing new.
    """

    first: str
    target: str
    kept: int
    generation: int
    bound_age: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDone(Event):
    """A chunk is done: staged and in the manifest, or committed to the warehouse.

    Attributes:
        chunk: the chunk.
        rows: rows that went out.
        rejected: records that went to quarantine.
        seconds: since the chunk before, or since the attempt began or went on after a wait.
        share: how much of the way to the run's target is done, 0 to 1; None where that is unknown.
    """

    chunk: Chunk
    rows: int
    rejected: int
    seconds: float
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """The attempt waits: for late transactions (``"settle"``), or for what else ``on`` says."""

    on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited(Event):
    """A wait is over, for better or worse, after so many seconds."""

    on: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy(Event):
    """Somebody else works on the stage: this attempt did nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The attempt has reached the run's target."""

    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The attempt ended before the run's target; what it committed counts.

    Attributes:
        error: the type of what it raised, never its text.
        fenced: whether a newer attempt had taken its stage.
    """

    error: str
    fenced: bool


# --- observers -----------------------------------------------------------------------------------


class Observer(Protocol):
    """Whoever watches an attempt."""

    def notice(self, event: Event) -> None:
        """Take note of an event. Called in order; from one thread at a time."""
        ...

    def close(self) -> None:
        """Let go of what is held: no event comes after this."""
        ...


class Silent:
    """Nobody watches."""

    def notice(self, event: Event) -> None:
        """Take no note."""

    def close(self) -> None:
        """Hold nothing."""


SILENT: Final = Silent()


class Observers:
    """Several observers as one, in which none harms the load or the others.

    One that raises is named in the log, by the type of its error alone, and hears nothing more.

    Args:
        observers: who watches.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)

    def notice(self, event: Event) -> None:
        """Tell everyone who still listens."""
        for observer in tuple(self._observers):
            try:
                observer.notice(event)
            except Exception as error:  # noqa: BLE001  whatever watches, the load goes on
                _leave_out(observer, error)
                self._observers.remove(observer)

    def close(self) -> None:
        """Close everyone."""
        for observer in self._observers:
            with contextlib.suppress(Exception):
                observer.close()


class Background:
    """An observer in a thread of its own, for one that may be slow.

    Events wait in line; when the line is full, the newest are dropped and counted. Closing waits a
    moment for the line to empty, and then leaves the thread to itself: it ends with the process.

    Args:
        observer: who watches.
        backlog: how many events may wait.
        close_seconds: how long closing waits.
    """

    def __init__(
        self, observer: Observer, backlog: int = _BACKLOG, close_seconds: float = _CLOSE_SECONDS
    ) -> None:
        self._observer, self._close_seconds = observer, close_seconds
        self._line: queue.Queue[Event | None] = queue.Queue(backlog)
        self.dropped = 0
        self._thread = threading.Thread(
            target=self._run, name=f"observer-{type(observer).__name__}", daemon=True
        )
        self._thread.start()

    def notice(self, event: Event) -> None:
        """Put an event in line; never waits."""
        try:
            self._line.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Wait a moment for what is in line."""
        with contextlib.suppress(queue.Full):
            self._line.put(None, timeout=self._close_seconds)
        self._thread.join(self._close_seconds)
        if self.dropped or self._thread.is_alive():
            log.warning(
                "%s could not follow the load and missed events (%s dropped); the load is not affected",
                type(self._observer).__name__,
                self.dropped,
            )

    def _run(self) -> None:
        failed = False
        while (event := self._line.get()) is not None:
            if failed:
                continue
            try:
                self._observer.notice(event)
            except Exception as error:  # noqa: BLE001  as above
                _leave_out(self._observer, error)
                failed = True
        with contextlib.suppress(Exception):
            self._observer.close()


def _leave_out(observer: Observer, error: Exception) -> None:
    log.warning(
        "%s failed (%s) and is left out of this attempt; the load is not affected",
        type(observer).__name__,
        type(error).__name__,
    )
