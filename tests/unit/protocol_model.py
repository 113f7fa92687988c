"""A model of the whole protocol, small enough that every history of it can be walked through.

Rows 1..n wait in a source. *Extract* cuts them into chunks up to its run's target, *transform* makes
other chunks of these, and *load* loads them into the warehouse. Several attempts of each overlap at
will, and everything that can go wrong does:

* an attempt may stop anywhere for good. Nothing has to be done for that: among all histories are those
  in which it is never its turn again. While restarts are left it is killed and starts anew;
* a commit may land while its acknowledgement is lost;
* the checkpoint store may lose any suffix of its writes, or everything;
* the lane may be rewound to any chunk boundary, after which rows made before are stale;
* the warehouse may fail over to an earlier state of itself, rewinds and fences included;
* staged files may vanish, and a collector deletes what it takes for dead;
* a green run may be cleared, rows may appear or commit late, the source may be replaced;
* the transform is as bad as can be: what it keeps as its state differs with every attempt.

No harm is done when every row up to the load frontier is in the warehouse once, made in the lane's
present life and from the state before it; when a run that turns green has what it promised; and when
from every state there is, new attempts of the three stages bring the run to its end
(:class:`Healing`).

States and attempts are numbered, and what an attempt can do is worked out once for each pair of the
two: what makes a history long is who goes when, not what they do.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

from protocol_model_harm import broken
from protocol_model_lives import put
from protocol_model_misfortunes import Collector, Misfortunes, attempts_of
from protocol_model_stages import Stages
from protocol_model_values import (
    CONDITIONS,
    EVERYTHING,
    START,
    Attempt,
    Left,
    Promise,
    Protocol,
    Record,
    Shared,
    Source,
    Store,
    Warehouse,
    World,
)
from protocol_model_walk import Exploration, walk

from airflow_checkpoint_etl.protocol import Frontier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocol_model_values import Move

__all__ = ["CONDITIONS", "EVERYTHING", "Exploration", "Protocol", "World", "explore"]

Value = TypeVar("Value")
Numbered = tuple[int, tuple[int, ...]]


class Numbers(Generic[Value]):
    """Gives every value a number, from 0."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self._of: dict[Value, int] = {}

    def __call__(self, value: Value) -> int:
        number = self._of.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


def beginning(protocol: Protocol, world: World) -> tuple[Shared, tuple[Attempt, ...]]:
    """Return what is there before anything happens."""
    life = "generation 1" if protocol.incarnation == "generation" else "life 1"
    makers = len(world.stages) - 1
    left = Left(*(getattr(world, name) for name in Left._fields))
    shared = Shared(
        warehouse=Warehouse(
            lane=Frontier(life, 1, 0, START),
            load_fence=0,
            fences=(0,) * len(world.stages),
            runs=(None,) * world.runs,
            ledger=(),
            life=1,
            rewound_to=0,
        ),
        store=Store((Record(),) * makers, targets=(-1,) * world.runs),
        source=Source(world.rows - world.arrivals, world.late),
        left=left,
        promises=(Promise(),) * world.runs,
        staged=frozenset() if world.deletions or world.collections else None,
    )
    attempts = [
        Attempt(stage, run)
        for run in range(world.runs)
        for stage, count in zip(world.stages, attempts_of(world), strict=True)
        for _ in range(count)
    ]
    attempts += [Attempt("collector", 0)] if world.collections else []
    return shared, tuple(attempts)


class Healing:
    """Whether new attempts of the three stages, one after another, bring a run to its end."""

    def __init__(self, protocol: Protocol, world: World, empty: Store) -> None:
        self._stages = Stages(protocol, replace(world, sequential=False))
        self._empty = empty
        self._known: set[tuple] = set()

    def fault(self, shared: Shared) -> str | None:
        """Say why no attempt could ever finish; None when a run can be brought to its end."""
        alone = shared._replace(
            left=Left(*(0 for _ in shared.left)),
            source=shared.source._replace(late=False),
            saved_warehouse=None,
            saved_store=None,
        )
        key = (alone.warehouse, alone.store, alone.source, alone.staged)
        if key in self._known:
            return None
        self._known.add(key)
        stopped = self._runs(alone)
        if stopped == "restored" and shared.failed_over:
            stopped = self._runs(alone._replace(store=self._empty))  # as the person is told
        return stopped and f"no attempt can ever finish: {stopped}"

    def _runs(self, shared: Shared) -> str | None:
        run = len(shared.promises) - 1
        promise = shared.promises[run]  # the person clears extract with Downstream
        cleared = promise._replace(clear=promise.clear + 1, asked=1, green=False)
        shared = shared._replace(promises=put(shared.promises, run, cleared))
        for stage in self._stages.world.stages:
            attempt, words = Attempt(stage, run, clear=shared.promises[run].clear), "nothing"
            for _ in range(100):
                move = next(self._stages.moves(shared, attempt), None)
                if move is None:
                    break
                if move.fault:
                    return move.fault
                shared, attempt, words = move.shared, move.attempt, move.words
            if attempt.doing == "restored":
                return "restored"
            if attempt.doing != "done":
                return f"{stage} does not get beyond: {words}"
        return None


class Model:
    """One protocol in one world, as numbered states."""

    def __init__(self, protocol: Protocol, world: World, *, heals: bool = False) -> None:
        self.shared, self.attempts = Numbers[Shared](), Numbers[Attempt]()
        first, attempts = beginning(protocol, world)
        self._stages = Stages(protocol, world)
        self._collector = Collector(protocol, world)
        self._misfortunes = Misfortunes(protocol, world, first.store)
        self._healing = Healing(protocol, world, first.store) if heals else None
        self._broken = cache(broken)
        self._of_attempt: dict[tuple[int, int], list[tuple]] = {}
        self._of_world: dict[int, list[tuple]] = {}
        self.start = (self.shared(first), self._ordered(map(self.attempts, attempts)))

    @staticmethod
    def _ordered(attempts: Iterable[int]) -> tuple[int, ...]:
        """Which of two equal attempts is which makes no difference."""
        return tuple(sorted(attempts))

    def steps(self, state: Numbered) -> list[tuple]:
        """Every step from a state."""
        shared, attempts = state
        in_world = self._of_world.get(shared)
        if in_world is None:
            moves = self._misfortunes.moves(self.shared.values[shared])
            in_world = self._of_world[shared] = [self._numbered(move) for move in moves]
        steps = [
            (kind, words, (after, self._ordered(attempts + more) if more else attempts), fault)
            for kind, words, after, _, more, fault in in_world
        ]
        before = -1
        for position, number in enumerate(attempts):
            if number == before:  # of two equal attempts, it is enough that one goes on
                continue
            before = number
            moves = self._of_attempt.get((shared, number))
            if moves is None:
                moves = self._of_attempt[shared, number] = self._made(shared, number)
            for kind, words, after, becomes, _, fault in moves:
                there = list(attempts)
                there[position] = becomes
                there.sort()
                steps.append((kind, words, (after, tuple(there)), fault))
        return steps

    def _made(self, shared: int, number: int) -> list[tuple]:
        attempt = self.attempts.values[number]
        by = self._collector if attempt.stage == "collector" else self._stages
        return [self._numbered(move) for move in by.moves(self.shared.values[shared], attempt)]

    def _numbered(self, move: Move) -> tuple:
        fault = move.fault or self._broken(move.shared.warehouse)
        if fault is None and self._healing is not None:
            fault = self._healing.fault(move.shared)
        attempt = -1 if move.attempt is None else self.attempts(move.attempt)
        more = tuple(map(self.attempts, move.more))
        return move.kind, move.words, self.shared(move.shared), attempt, more, fault


def explore(
    protocol: Protocol | None = None,
    world: World | None = None,
    *,
    heals: bool = False,
    limit: int = 5_000_000,
) -> Exploration:
    """Walk through every state of a world.

    Args:
        protocol: what is left of the protocol; all of it unless told otherwise.
        world: what there is and what can happen.
        heals: whether to look in every state if new attempts could still finish.
        limit: states after which it gives up.
    """
    model = Model(protocol or Protocol(), world or World(), heals=heals)
    return walk(model.start, model.steps, limit)
