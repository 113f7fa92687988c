"""What every attempt does around its chunks: acquire, watch over the lease, give way, release.

It knows the ports and the protocol and nothing of Airflow. The steps carry the letters of
docs/protocol.md: here A acquire, L6 the load's note, G collection.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl import guarantee
from airflow_checkpoint_etl.collect import collect
from airflow_checkpoint_etl.errors import (
    CancelledError,
    FencedError,
    ManifestConflictError,
    StageWaitingError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.goals import Goals
from airflow_checkpoint_etl.lease import LeaseKeeper
from airflow_checkpoint_etl.notes import Notes
from airflow_checkpoint_etl.ports import LaneSpec, Run
from airflow_checkpoint_etl.progress import Progress
from airflow_checkpoint_etl.recovery import Recovery
from airflow_checkpoint_etl.sweep import is_swept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.observer import Observer
    from airflow_checkpoint_etl.ports import Claim, Ports
    from airflow_checkpoint_etl.protocol import Checkpoint, Frontier, Stage

log = logging.getLogger(__name__)

_CONFLICTS: Final = 5
"""Reconciliations without a chunk that is new between them before the attempt gives up."""
_INTERRUPT_SECONDS: Final = 0.2


class AttemptRunner:
    """The frame of one attempt; what it works on inside is a subclass's.

    Args:
        ports: source, staging area, checkpoint store and warehouse.
        attempt: who works on what.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, ports: Ports, attempt: Attempt, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ports, self._attempt, self._clock = ports, attempt, clock
        self._lane = attempt.lane
        self._recovery = Recovery(ports, attempt.lane, attempt.lease)
        self._notes = Notes(ports.warehouse, attempt)
        self._goals = Goals(ports, attempt, self._recovery, clock, self._notes.waits)
        self._stop = threading.Event()
        self._keeper: LeaseKeeper | None = None

    def stop(self) -> None:
        """Ask the attempt to end: sets the flags; running statements are interrupted."""
        self._stop.set()
        self._ports.source.cancel()

    # --- A: acquire ----------------------------------------------------------------------------

    def _preflight(self) -> None:
        """Everything that can be known to be wrong is found here, before anything is written."""
        for warning in self._ports.checkpoints.preflight():
            log.warning("%s", warning)
        self._ports.staging.preflight()
        self._ports.warehouse.preflight()

    def _survey(self) -> LaneSpec:
        """Look at the source, and return what its lane is made with and compared with."""
        facts = self._ports.source.preflight()
        self._preflight()
        settings = self._attempt.settings
        promised = guarantee.of(
            facts.promise,
            write=settings.get("write", "append"),
            on_error=self._attempt.policy.on_error,
        )
        log.info("extract %s: settle=%s; %s", self._lane, facts.settle, promised)
        return LaneSpec(
            self._lane,
            self._attempt.fingerprint,
            facts.start,
            facts.identity,
            {**settings, "settle": facts.settle, "guarantee": str(promised)},
            facts.accepts_reset,
        )

    def _spec(self) -> LaneSpec:
        return LaneSpec(self._lane, self._attempt.fingerprint, cursors.BEGIN)

    @contextlib.contextmanager
    def _working(
        self,
        stage: Stage,
        spec: LaneSpec,
        prepare: Callable[[Claim], Claim] | None = None,
        observer: Observer | None = None,
    ) -> Iterator[tuple[Claim, Progress]]:
        attempt = self._attempt
        observer = observer or attempt.observer
        progress = Progress(self._lane, stage, attempt.progress_seconds, self._clock, observer)
        claim = self._ports.warehouse.acquire(spec, stage, attempt.owner, attempt.lease)
        log.debug("%s %s: fence %s", stage, self._lane, claim.fence)
        self._notes.begin(claim, progress)
        try:
            if prepare is not None:
                # Taking rows back may outlast the lease.
                with LeaseKeeper(self._ports.warehouse, claim, attempt.lease):
                    claim = prepare(claim)
            with (
                LeaseKeeper(self._ports.warehouse, claim, attempt.lease) as self._keeper,
                self._interrupting(),
            ):
                yield claim, progress
            self._notes.done()
        except StageWaitingError:
            raise  # deferred, and no failure
        except Exception as error:
            progress.failed(CancelledError() if self._stop.is_set() else error)
            if self._stop.is_set():  # whatever the interrupted statement raised, this is the reason
                message = (
                    f"{stage} of {self._lane} was stopped; everything committed so far is kept"
                )
                raise CancelledError(message) from None
            raise
        finally:
            # Best effort: a lease that is not released runs out by itself. Twice, because a connection
            # that broke unnoticed is replaced only after a statement failed on it.
            for _ in range(2):
                with contextlib.suppress(Exception):
                    self._ports.warehouse.release(claim)
                    break

    @contextlib.contextmanager
    def _interrupting(self) -> Iterator[None]:
        """Once asked to stop, interrupt statements until the block ends.

        Again and again: an interrupt that arrives an instant before its statement does nothing. From a
        thread: the asking comes from a signal handler, which must not wait for a server.
        """
        ended = threading.Event()

        def interrupt() -> None:
            while not ended.wait(_INTERRUPT_SECONDS):
                if self._stop.is_set():
                    with contextlib.suppress(Exception):
                        self._ports.cancel()

        thread = threading.Thread(target=interrupt, name=f"stop-{self._lane}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=10.0)

    @staticmethod
    def _begin(progress: Progress, frontier: Frontier, run: Run, kept: int) -> None:
        sweeping = not is_swept(frontier.swept, run.swept)
        progress.begin(frontier, run, kept, sweeping=sweeping)

    # --- between two chunks ----------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        self._stop.wait(seconds)
        self._check()

    def _check(self) -> None:
        """Between two chunks: were we asked to stop, or taken over?"""
        self._notes.moved()
        if self._stop.is_set():
            raise CancelledError
        if self._keeper is not None and self._keeper.lost:
            raise FencedError

    def _confirm(self, claim: Claim) -> None:
        """A stage is green only if nobody took it over or rewound the lane while it worked.

        The load need not ask: its run is marked done under its fence.
        """
        if not self._ports.warehouse.heartbeat(claim, self._attempt.lease):
            message = (
                f"{claim.stage} of {self._lane} was taken over by a newer attempt, or the lane was "
                f"rewound, while this attempt (fence {claim.fence}) worked; what it committed before counts"
            )
            raise FencedError(message)

    def _conflict(self, conflict: ManifestConflictError, before: int) -> int:
        if before + 1 >= _CONFLICTS:
            message = (
                f"{self._lane}: the checkpoint store lost its record {_CONFLICTS} times while the stage "
                "made no progress; see to the store (does it evict keys? do others write to it?), then "
                "try again"
            )
            raise ManifestConflictError(message) from conflict
        log.warning("%s; reconciling with the warehouse", conflict)
        return before + 1

    def _budget_is_spent(self, progress: Progress, started: float) -> bool:
        rows, seconds = self._attempt.max_rows, self._attempt.max_seconds
        return progress.chunks > 0 and (
            (rows is not None and progress.rows_in >= rows)
            or (seconds is not None and self._clock() - started >= seconds)
        )

    def _shorten(self, claim: Claim, progress: Progress, frontier: Frontier) -> Run:
        self._ports.warehouse.shorten(claim, frontier.cursor)
        progress.target = frontier.cursor
        log.info(
            "extract %s: the budget of this run is spent at %s; the next run goes on from there",
            self._lane,
            cursors.display(frontier.cursor),
        )
        return Run(progress.first, frontier.cursor, frontier.incarnation, frontier.swept)

    # --- L6 and G ----------------------------------------------------------------------------------

    def _note_loaded(self, checkpoint: Checkpoint) -> None:
        """L6: the checkpoint store's copy of the load frontier, best effort."""
        failpoint("load.before_note")
        try:
            self._ports.checkpoints.note_loaded(self._lane, checkpoint)
        except Exception as error:  # noqa: BLE001  the warehouse has it; the store is rebuilt from there
            log.warning(
                "load %s: the checkpoint store did not take the load frontier (%s); the warehouse has it",
                self._lane,
                type(error).__name__,
            )

    def _collect(self) -> None:
        """G: best effort as well; the next run collects what this one left."""
        try:
            removed = collect(self._ports, self._lane, self._attempt.grace)
        except Exception as error:  # noqa: BLE001  collection must not fail a load that is done
            log.warning("collecting staged chunks failed (%s); the next run does it", error)
        else:
            if removed:
                log.info("load %s: removed %s staged file(s) of loaded chunks", self._lane, removed)
