"""A model of leases: who should be working, and whom a new load attempt may end.

No row depends on any of it; the fence and the compare-and-set keep the rows right (the other models
show that). What a lease is for is that a load that works is left alone, that a retry need not wait, and
that nobody's backend is ended who has nothing to do with it. These are the harms looked for here.

Two runs want to load one lane. A load holds the lane's row in a transaction that lasts longer than a
lease, while a thread of its own keeps the lease alive at every tick of the clock. Its process may
freeze, with the transaction open; its retry may begin; behind a pooler, its backend is somebody
else's once its transaction has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from protocol_model_walk import Step, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol_model_walk import Exploration

LEASE = 2
"""Ticks that a lease lasts."""
COPY = 4
"""Ticks that a load transaction lasts."""


@dataclass(frozen=True)
class Leases:
    """Which rules are in force; all of them, unless told otherwise.

    Attributes:
        stage_row: who writes the stage's row, beside acquire, heartbeat and release.
        same_task: what makes a retry the same task.
        live_lease: what another run does that finds one.
        release_compares: an attempt ends only its own lease.
        ends: which backend a new load attempt ends that finds the lane's row locked.
    """

    stage_row: Literal["nobody", "the load transaction"] = "nobody"
    same_task: Literal["run", "run and try"] = "run"
    live_lease: Literal["waits", "steals"] = "waits"
    release_compares: bool = True
    ends: Literal["the holder", "a stored pid"] = "the holder"


class Load(NamedTuple):
    """One attempt: its run, its fence, the ticks its transaction still takes (0: none), its process."""

    run: int
    attempt: int
    fence: int = 0
    copy: int = 0
    doing: str = "waiting"
    frozen: bool = False
    froze: bool = False


class State(NamedTuple):
    """The stage's row, the attempts, and what can still happen."""

    fence: int
    owner: tuple[int, int]
    left: int
    loads: tuple[Load, ...]
    stored_pid: int = -1
    freezes: int = 1


START = State(0, (-1, -1), 0, (Load(0, 1), Load(0, 2), Load(1, 1)))


def explore_leases(rules: Leases | None = None) -> Exploration:
    """Walk through every state."""
    rules = rules or Leases()
    return walk(START, lambda state: _steps(rules, state))


def _steps(rules: Leases, state: State) -> Iterator[Step]:
    yield from _ticks(rules, state)
    for slot, load in enumerate(state.loads):
        who = f"try {load.attempt} of run {load.run + 1}"
        if load.frozen:
            woken = _with(state, slot, load._replace(frozen=False))
            yield Step("wake", f"{who} wakes up", woken)
            continue
        if load.doing == "waiting":
            yield from _acquires(rules, state, slot, who)
        elif load.doing == "acquired":
            yield from _begins(rules, state, slot, who)
        elif load.doing == "loaded":
            yield from _releases(rules, state, slot, who)
        if state.freezes and load.doing in {"acquired", "copying"}:
            frozen = _with(state, slot, load._replace(frozen=True, froze=True))
            yield Step("freeze", f"{who} freezes", frozen._replace(freezes=state.freezes - 1))


def _with(state: State, slot: int, load: Load) -> State:
    return state._replace(loads=(*state.loads[:slot], load, *state.loads[slot + 1 :]))


def _ticks(rules: Leases, state: State) -> Iterator[Step]:
    """Time passes: rows are copied, and every thread whose statement is not blocked extends its lease."""
    left, loads = max(0, state.left - 1), []
    blocked = rules.stage_row == "the load transaction" and any(load.copy for load in state.loads)
    for load in state.loads:
        works = load.doing in {"acquired", "copying"} and not load.frozen
        if works and load.fence == state.fence and not blocked:
            left = LEASE
        if works and load.copy:
            load = load._replace(copy=load.copy - 1, doing="copying" if load.copy > 1 else "loaded")  # noqa: PLW2901
        loads.append(load)
    after = state._replace(left=left, loads=tuple(loads))
    if after != state:
        yield Step("tick", "time passes", after)


def _acquires(rules: Leases, state: State, slot: int, who: str) -> Iterator[Step]:
    load = state.loads[slot]
    task = (load.run, load.attempt if rules.same_task == "run and try" else 0)
    if load.attempt > 1 and not any(
        each.run == load.run and each.doing != "waiting" for each in state.loads[:slot]
    ):
        return  # there is nothing to try again yet
    free = state.left == 0 or state.owner == task
    if not free and rules.live_lease == "waits":
        fault = None
        if state.owner[0] == load.run and load.attempt > 1:
            fault = f"{who} has to wait for the lease of its own task"
        yield Step("busy", f"{who} finds the stage busy", state, fault)
        return
    newest = next((each for each in state.loads if each.fence and each.fence == state.fence), None)
    healthy = newest and not newest.froze and newest.doing in {"acquired", "copying"}
    fault = None
    if healthy and newest.run != load.run:
        fault = f"{who} takes the stage from a load that works"
    fence = state.fence + 1
    taken = _with(state, slot, load._replace(doing="acquired", fence=fence))
    taken = taken._replace(fence=fence, owner=task, left=LEASE)
    yield Step("acquire", f"{who} takes the stage, with fence {fence}", taken, fault)


def _begins(rules: Leases, state: State, slot: int, who: str) -> Iterator[Step]:
    """Raise the lane's load fence, ending whoever holds the lane's row, and begin to load."""
    load = state.loads[slot]
    if load.fence != state.fence:
        yield Step("fenced", f"{who} is fenced", _with(state, slot, load._replace(doing="ended")))
        return
    holder = next((n for n, each in enumerate(state.loads) if each.copy), None)
    if rules.ends == "a stored pid":
        victim = state.stored_pid if state.stored_pid not in {-1, slot} else None
    else:
        victim = holder
    if victim is not None:
        fault = None
        if not state.loads[victim].copy:
            fault = f"{who} ends a backend that is somebody else's by now"
        ended = state.loads[victim]._replace(doing="ended", copy=0, frozen=False)
        after = _with(state, victim, ended)._replace(stored_pid=-1)
        yield Step("end", f"{who} ends the backend of an older load", after, fault)
    elif holder is None:
        begun = _with(state, slot, load._replace(doing="copying", copy=COPY))
        yield Step("begin", f"{who} begins its transaction", begun._replace(stored_pid=slot))


def _releases(rules: Leases, state: State, slot: int, who: str) -> Iterator[Step]:
    load = state.loads[slot]
    after = _with(state, slot, load._replace(doing="ended"))
    if load.fence == state.fence or not rules.release_compares:
        after = after._replace(left=0)
    yield Step("release", f"{who} is done and releases the stage", after)
