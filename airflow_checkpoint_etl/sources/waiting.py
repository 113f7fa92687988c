"""Asking again and again until something has happened, ever more seldom."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_checkpoint_etl.sources.interrupt import Interruptible

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.25
_BACK_OFF: Final = 1.5
_FIRST_TOLD: Final = 1.0
_TOLD_EVERY: Final = 15.0


class Telling:
    """Tells somebody what is waited for: after a moment, and then seldom.

    Args:
        listener: is told in words, and an empty text when it is over; None: nobody listens.
    """

    def __init__(self, listener: Callable[[str], None] | None) -> None:
        self._listener = listener
        self._next = time.monotonic() + _FIRST_TOLD
        self._has_told = False

    def __call__(self, words: Callable[[], str]) -> None:
        """Tell what is waited for, if it is time to; only then the words are made."""
        if self._listener is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _TOLD_EVERY
            self._has_told = True
            self._listener(words())

    def over(self) -> None:
        """Nothing is waited for any more."""
        if self._listener is not None and self._has_told:
            self._has_told = False
            self._listener("")


def wait_until(happened: Callable[[], bool], interruptible: Interruptible, deadline: float) -> bool:
    """Wait until it has happened; False when the deadline, a monotonic time, has passed before.

    Raises:
        CancelledError: cancelled meanwhile.
    """
    pause = _FIRST_PAUSE
    while not happened():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        interruptible.sleep(min(pause, left))
        pause = min(pause * _BACK_OFF, _LONGEST_PAUSE)
    return True
