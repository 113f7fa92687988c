"""Walks through every state of a small world, breadth first: the first harm found is a shortest one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable


class Step(NamedTuple):
    """A step: its kind, for counting; its words, for a trace; where it leads; the harm it does."""

    kind: str
    words: str
    state: Any
    fault: str | None = None


@dataclass(frozen=True)
class Exploration:
    """What :func:`walk` found.

    Attributes:
        states: states that can be reached, as far as it went.
        steps: how often each kind of step was taken.
        violation: the harm; None when there is none.
        trace: the steps that lead to the harm, in words.
    """

    states: int
    steps: Counter[str]
    violation: str | None
    trace: tuple[str, ...]

    def __str__(self) -> str:
        numbered = (f"{number:>4}. {words}" for number, words in enumerate(self.trace, 1))
        return "\n".join([f"{self.violation or 'no violation'} ({self.states} states)", *numbered])


def walk(
    start: Hashable, steps: Callable[[Hashable], Iterable[Step]], limit: int = 5_000_000
) -> Exploration:
    """Walk until a step does harm or no new state is left."""
    came_from: dict[Hashable, tuple[Hashable, str] | None] = {start: None}
    kinds = Counter[str]()
    waiting, following = [start], []
    while waiting:
        for state in waiting:
            for kind, words, reached, fault in steps(state):
                kinds[kind] += 1
                if fault:
                    trace = (*_trace(came_from, state), words)
                    return Exploration(len(came_from), kinds, fault, trace)
                if reached not in came_from:
                    came_from[reached] = (state, words)
                    following.append(reached)
        if len(came_from) > limit:
            message = f"more than {limit} states"
            raise RuntimeError(message)
        waiting, following = following, []
    return Exploration(len(came_from), kinds, None, ())


def _trace(
    came_from: dict[Hashable, tuple[Hashable, str] | None], state: Hashable
) -> tuple[str, ...]:
    words: list[str] = []
    while (origin := came_from[state]) is not None:
        state, said = origin
        words.append(said)
    return tuple(reversed(words))
