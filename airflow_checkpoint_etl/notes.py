"""What an attempt leaves for people who look at its stage: what it waits for, and why it failed.

Best effort and bounded: one row per stage, overwritten (and one in the lane's history for an attempt that
was fenced); an attempt that cannot leave a note goes on
without. No decision rests on it. Never a row value, a password or a URI: only this package's own errors
are quoted, which hold none; of others the kind and the code are told.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.errors import (
    CancelledError,
    CheckpointEtlError,
    FencedError,
    StageBusyError,
    StageWaitingError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import Failure, Note
from airflow_checkpoint_etl.protocol import IllegalMove

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.ports import Claim, Warehouse
    from airflow_checkpoint_etl.progress import Progress
    from airflow_checkpoint_etl.protocol import Stage

log = logging.getLogger(__name__)

LONGEST: Final = 500
"""Characters of a message that are kept."""

_SILENT: Final = (StageBusyError, StageWaitingError, CancelledError)
"""Ends of an attempt that are no failure of its stage."""
_CREDENTIALS: Final = re.compile(r"//[^/\s@]*@")
_CONNECTION_ERRORS: Final = frozenset({"ConnectionError", "TimeoutError", "ConnectionRefusedError"})


def told(error: BaseException) -> str:
    """Return what may be said of an error: no row value, no password, no URI's credentials."""
    kind = type(error).__name__
    if isinstance(error, (CheckpointEtlError, IllegalMove)):
        text = str(error)
    elif getattr(error, "sqlstate", None):  # PostgreSQL's own message may quote the row
        text = f"{kind} (SQLSTATE {error.sqlstate}); the task's log has the details"  # type: ignore[attr-defined]
    elif hasattr(error, "sqlstate") or kind in _CONNECTION_ERRORS:
        text = f"{kind}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
    else:
        text = f"{kind}; the task's log has the details"
    text = _CREDENTIALS.sub("//", " ".join(text.split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


class Notes:
    """The notes of one attempt.

    Args:
        warehouse: where they are left.
        attempt: who works on what.
    """

    def __init__(self, warehouse: Warehouse, attempt: Attempt) -> None:
        self._warehouse, self._attempt = warehouse, attempt
        self._claim: Claim | None = None
        self._progress: Progress | None = None
        self._has_moved = False

    def begin(self, claim: Claim, progress: Progress) -> None:
        """From here on the notes are under the claim's fence."""
        self._claim, self._progress = claim, progress

    def waits(self, text: str) -> None:
        """Say what the attempt waits for; empty: for nothing any more."""
        if self._claim is not None:
            self._leave(self._claim.stage, Note(waiting=text[:LONGEST]))

    def moved(self) -> None:
        """Once the attempt has done a chunk, what failed before is over."""
        if self._progress is not None and self._progress.chunks:
            self.done()

    def done(self) -> None:
        """The stage moved, or reached its end: what failed before is over; told once per attempt."""
        if self._claim is not None and not self._has_moved:
            self._has_moved = True
            self._leave(self._claim.stage, Note(moved=True))

    def failed(self, stage: Stage, error: Exception) -> None:
        """Say why the attempt failed."""
        if isinstance(error, _SILENT):
            return
        if isinstance(error, FencedError):
            self._leave(stage, Note(fenced=True))
            return
        progress = self._progress
        at = progress.last if progress is not None else BEGIN
        failure = Failure(
            type(error).__name__,
            told(error),
            "" if at == BEGIN else at,
            retryable=not isinstance(error, IllegalMove) and getattr(error, "retryable", True),
        )
        moved = progress is not None and progress.chunks > 0
        self._leave(stage, Note(failure=failure, moved=moved))

    def _leave(self, stage: Stage, note: Note) -> None:
        fence = self._claim.fence if self._claim is not None else None
        attempt = self._attempt
        # Twice, because a connection that broke unnoticed is replaced only after a statement failed on it.
        for _ in range(2):
            with contextlib.suppress(Exception):
                failpoint("note.before_leave")
                self._warehouse.note(attempt.lane, stage, attempt.owner, note, fence)
                failpoint("note.after_leave")
                return
        log.debug("%s of %s could not leave a note in the warehouse", stage, attempt.lane)


class _Noting(Protocol):
    _notes: Notes


P = ParamSpec("P")
R = TypeVar("R")
N = TypeVar("N", bound=_Noting)


def noted(
    stage: Stage,
) -> Callable[[Callable[Concatenate[N, P], R]], Callable[Concatenate[N, P], R]]:
    """Have a runner's stage leave a note of why it failed."""

    def decorate(run: Callable[Concatenate[N, P], R]) -> Callable[Concatenate[N, P], R]:
        @functools.wraps(run)
        def attempt(self: N, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                result = run(self, *args, **kwargs)
            except Exception as error:
                self._notes.failed(stage, error)
                raise
            return result

        return attempt

    return decorate


def as_json(failure: Failure) -> dict[str, Any]:
    """Return a failure as JSON values."""
    return {name: getattr(failure, name) for name in failure.__slots__}
