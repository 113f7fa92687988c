"""Named points at which a test can make the product fail; free when none is set.

Set ``CHECKPOINT_ETL_FAILPOINTS`` to ``name=action`` pairs joined by ``;``. Actions: ``kill`` (SIGKILL
to this process), ``raise``, ``stop`` (SIGSTOP), ``sleep:SECONDS``. ``name@3=kill`` acts at the third
pass only. A set point acts once per process. The points are listed in docs/failpoints.md.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import Final

ENVIRONMENT: Final = "CHECKPOINT_ETL_FAILPOINTS"


class FailpointError(RuntimeError):
    """A failpoint raised, as it was told to."""


_passes: Counter[str] = Counter()


def reset() -> None:
    """Forget how often each point was passed; for tests that set points in their own process."""
    _passes.clear()


def failpoint(name: str) -> None:
    """Act here when the environment says so; otherwise return at once."""
    configured = os.environ.get(ENVIRONMENT)
    if not configured:
        return
    _passes[name] += 1
    for setting in configured.split(";"):
        point, _, action = setting.strip().partition("=")
        wanted, _, turn = point.partition("@")
        if wanted == name and _passes[name] == int(turn or 1):
            _act(name, action)


def _act(name: str, action: str) -> None:
    verb, _, argument = action.partition(":")
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif verb == "sleep":
        time.sleep(float(argument))
    elif verb == "raise":
        message = f"failpoint {name}"
        raise FailpointError(message)
    else:
        message = (
            f"failpoint {name} has the unknown action {action!r}; use kill, stop, sleep:S, raise"
        )
        raise ValueError(message)
