"""Blocking calls that can be stopped from another thread, or from a signal handler.

Drivers block in C, where neither a flag nor an exception reaches them. So the call runs on a helper
thread while the caller waits, watches a plain flag and, once it is set, asks the driver to cancel. It
asks again and again: a cancel request that arrives an instant before its statement starts does nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from airflow_checkpoint_etl.errors import CancelledError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_WATCH_SECONDS: Final = 0.05
_ABANDON_SECONDS: Final = 5.0


class _Call(Generic[T]):
    """One call on its own daemon thread, which cannot hold up the end of the process."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.done = threading.Event()
        threading.Thread(target=self._run, name="checkpoint-etl-source", daemon=True).start()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            self._error = error
        finally:
            self.done.set()

    def result(self) -> T:
        """Return what the call returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]


class Interruptible:
    """Runs calls until it is cancelled; from then on every call raises CancelledError.

    The flag is a plain attribute on purpose: setting a ``threading.Event`` from a signal handler can
    deadlock with the main thread that is waiting for it.
    """

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        """Stop the running call and every later one; safe from any thread and any signal handler."""
        self.cancelled = True

    def check(self) -> None:
        """Raise CancelledError when cancelled."""
        if self.cancelled:
            raise CancelledError

    def sleep(self, seconds: float) -> None:
        """Sleep, but raise CancelledError soon after a cancel."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _WATCH_SECONDS))
        self.check()

    def run(self, work: Callable[[], T], interrupt: Callable[[], object]) -> T:
        """Return ``work()``, run on a helper thread.

        Args:
            work: the blocking call.
            interrupt: asks the driver to cancel it; may be called several times, errors are ignored.

        Raises:
            CancelledError: cancelled before or while it ran. A driver that does not react within
                five seconds (its server is unreachable) is left behind on its thread.
        """
        self.check()
        call = _Call(work)
        try:
            abandon_at = None
            while not call.done.wait(_WATCH_SECONDS):
                if not self.cancelled:
                    continue
                abandon_at = abandon_at or time.monotonic() + _ABANDON_SECONDS
                if time.monotonic() > abandon_at:
                    break
                with contextlib.suppress(Exception):
                    interrupt()
        except BaseException:
            # A signal handler raised while we waited: the statement must not go on without us.
            with contextlib.suppress(Exception):
                interrupt()
            call.done.wait(_ABANDON_SECONDS)
            raise
        self.check()
        return call.result()
