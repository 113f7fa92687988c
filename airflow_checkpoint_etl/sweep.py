"""How far rows that commit late were swept up: a token that a lane carries beside its cursor.

PURE: no IO, no clock. Where nothing proves that a settled bound stays settled (client-made ids, cached
sequences), ``settle="sweep"`` reads up to a bound and later *sweeps* below it for rows that have
appeared since. A token says how far that went:

    "712"                  every row below the cursor that a transaction before 712 wrote is loaded
    "712>900@i8:5000"      on the way to 900: the rows up to cursor i8:5000 have been looked at
    ""                     nothing was swept yet

The numbers are PostgreSQL's 64-bit transaction ids (``pg_snapshot_xmin``), which only grow.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(r"(?P<done>[0-9]+)?(?:>(?P<goal>[0-9]+)@(?P<at>.+))?", re.DOTALL)


class SweepError(ValueError):
    """A sweep's token is not one."""


class Swept(NamedTuple):
    """A token, read.

    Attributes:
        done: the transaction id below which everything is swept; None before the first sweep.
        goal: the transaction id the sweep in progress goes to; None between sweeps.
        at: the cursor up to which that sweep has looked; empty between sweeps.
    """

    done: int | None = None
    goal: int | None = None
    at: str = ""

    @property
    def settled(self) -> Swept:
        """The same without the sweep in progress."""
        return Swept(self.done)

    def __str__(self) -> str:
        done = "" if self.done is None else str(self.done)
        return done if self.goal is None else f"{done}>{self.goal}@{self.at}"


def parse(token: str) -> Swept:
    """Read a token.

    Raises:
        SweepError: it is none.
    """
    found = _TOKEN.fullmatch(token)
    if found is None:
        message = f"{token!r} is no sweep token"
        raise SweepError(message)
    done, goal, at = found["done"], found["goal"], found["at"]
    return Swept(None if done is None else int(done), None if goal is None else int(goal), at or "")


def is_behind(goal: str, token: str) -> bool:
    """Whether a goal lies before what a token has swept: the source counts from lower again."""
    if not goal or not token:
        return False
    wanted, swept = parse(goal).done, parse(token)
    return wanted is not None and wanted < max(swept.done or 0, swept.goal or 0)


def anew(token: str) -> str:
    """Return the token of a lane whose source was replaced: every row is looked at again."""
    return "0" if token else ""


def is_swept(token: str, goal: str) -> bool:
    """Whether a lane at ``token`` has swept as far as a run's ``goal``; without a goal it has."""
    if not goal:
        return True
    done, wanted = parse(token).done, parse(goal).done
    return done is not None and wanted is not None and done >= wanted
