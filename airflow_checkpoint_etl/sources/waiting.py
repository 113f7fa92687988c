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
