"""A model of range plans: planned by two at once, loaded in parts, closed, rewound, abandoned.

Rows 1..n wait in a source that may grow. Planners look at the main lane, settle and make a plan, each
step for itself, so that one may sleep through everything the other does; a planner that was cleared is the
second of them. A load of the main lane or of a part takes a chunk of one row at the lane's frontier (it
is then *in flight*) and lands any time later, or never. Closing, rewinding and abandoning are one
transaction each, as making a plan is: a kill in one of them leaves what was there, or what it commits.

Fences and the checkpoint store are left out; the other models have them. No harm is done when no row is in
the target twice and every row up to the main lane's cursor is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from protocol_model_walk import Step, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol_model_walk import Exploration

MAIN = -1
"""The main lane's number; parts are numbered from 0."""
FLIGHTS = 2
"""Chunks that are in flight at once."""
MOST_PLANS = 2


@dataclass(frozen=True)
class Plans:
    """Which rules are in force; all of them, unless told otherwise.

    Attributes:
        one_open: a planner that finds an open plan is given it.
        compares: making a plan compares the main lane with what the planner looked at.
        sealed_by: what keeps the main lane from loading while a plan is open.
        verifies: closing looks whether every part is at its end.
        takes_parts: a rewind takes back what the parts of a closed plan have loaded.
        waits: the main lane is not rewound while a plan is open.
        buries: abandoning a plan gives its parts a new life.
    """

    one_open: bool = True
    compares: bool = True
    sealed_by: Literal["the compare-and-set", "acquire", "nothing"] = "the compare-and-set"
    verifies: bool = True
    takes_parts: bool = True
    waits: bool = True
    buries: bool = True


class Lane(NamedTuple):
    """A lane: where it stands, where it ends (0: nowhere), its life, and whether it may load."""

    cursor: int
    ends: int = 0
    life: int = 1
    sealed: bool = False


class Plan(NamedTuple):
    """A plan: its range, its first part's number, the main lane's life, how it ended."""

    low: int
    target: int
    first: int
    life: int
    outcome: str = "open"


class Planner(NamedTuple):
    """A planner: what it does next, and what it has seen of the main lane and of the source."""

    does: str = "look"
    low: int = 0
    life: int = 0
    target: int = 0


class Flight(NamedTuple):
    """A chunk of one row that is on its way into a lane."""

    lane: int
    low: int
    life: int


class State(NamedTuple):
    """Everything there is; ``rows`` holds, for each row, the lanes that loaded it."""

    source: int
    main: Lane
    parts: tuple[Lane, ...]
    plans: tuple[Plan, ...]
    rows: tuple[tuple[int, ...], ...]
    planners: tuple[Planner, ...]
    flights: tuple[Flight, ...]
    arrivals: int
    rewinds: int
    abandons: int

    @property
    def open_plan(self) -> int | None:
        numbers = [number for number, plan in enumerate(self.plans) if plan.outcome == "open"]
        return numbers[-1] if numbers else None

    def lane(self, number: int) -> Lane:
        return self.main if number == MAIN else self.parts[number]

    def with_lane(self, number: int, lane: Lane) -> State:
        if number == MAIN:
            return self._replace(main=lane)
        return self._replace(parts=_put(self.parts, number, lane))

    def without_rows_of(self, lanes: set[int]) -> State:
        kept = tuple(tuple(one for one in row if one not in lanes) for row in self.rows)
        return self._replace(rows=kept)


def explore_plans(rules: Plans = Plans(), *, rows: int = 3, arrivals: int = 0) -> Exploration:
    """Walk through every history."""
    start = State(
        source=rows - arrivals,
        main=Lane(0),
        parts=(),
        plans=(),
        rows=((),) * rows,
        planners=(Planner(), Planner()),
        flights=(),
        arrivals=arrivals,
        rewinds=1,
        abandons=1,
    )

    def steps(state: State) -> Iterator[Step]:
        for kind, words, reached in moves(state, rules):
            yield Step(kind, words, reached, harm(reached))

    return walk(start, steps)


def harm(state: State) -> str | None:
    """Say what is wrong with a state; None when nothing is."""
    for number, loaded_by in enumerate(state.rows, 1):
        if len(loaded_by) > 1:
            return f"row {number} is loaded twice"
        if number <= state.main.cursor and not loaded_by:
            return f"row {number} is lost below the main lane's cursor"
    return None


def moves(state: State, rules: Plans) -> Iterator[tuple[str, str, State]]:
    """Everything that can happen next: its kind, its words, and what is then."""
    if state.arrivals:
        yield (
            "arrive",
            "a row arrives",
            state._replace(source=state.source + 1, arrivals=state.arrivals - 1),
        )
    for number, planner in enumerate(state.planners):
        yield from _planning(state, rules, number, planner)
    yield from _flying(state, rules)
    yield from _closing(state, rules)
    yield from _going_back(state, rules)


def _planning(
    state: State, rules: Plans, number: int, planner: Planner
) -> Iterator[tuple[str, str, State]]:
    def now(next_: Planner) -> State:
        # Which of the two is which makes no difference.
        return state._replace(planners=tuple(sorted(_put(state.planners, number, next_))))

    who, is_given = f"planner {number}", state.open_plan is not None and rules.one_open
    if planner.does == "look":
        if not is_given:
            seen = Planner("settle", state.main.cursor, state.main.life)
            yield "look", f"{who} looks at the main lane", now(seen)
    elif planner.does == "settle":
        yield "settle", f"{who} settles", now(planner._replace(does="make", target=state.source))
    elif is_given:
        yield "given", f"{who} is given the open plan", now(Planner())
    elif rules.compares and (planner.low, planner.life) != (state.main.cursor, state.main.life):
        yield "moved", f"{who} finds the main lane moved", now(Planner())
    elif planner.target - planner.low < 2 or len(state.plans) == MOST_PLANS:
        yield "small", f"{who} leaves the gap to the main lane", now(Planner())
    else:
        middle = (planner.low + planner.target) // 2
        plan = Plan(planner.low, planner.target, len(state.parts), state.main.life)
        made = now(Planner())._replace(
            plans=(*state.plans, plan),
            parts=(*state.parts, Lane(planner.low, middle), Lane(middle, planner.target)),
            main=state.main._replace(sealed=True),
        )
        yield "make", f"{who} plans ({planner.low}, {planner.target}]", made


def _flying(state: State, rules: Plans) -> Iterator[tuple[str, str, State]]:
    for number in range(MAIN, len(state.parts)):
        lane = state.lane(number)
        refused = lane.sealed and (number != MAIN or rules.sealed_by != "nothing")
        is_there = lane.cursor == (lane.ends or state.source)
        if refused or is_there or len(state.flights) == FLIGHTS:
            continue
        flight = Flight(number, lane.cursor, lane.life)
        flying = tuple(sorted((*state.flights, flight)))
        yield (
            "acquire",
            f"lane {number} takes row {lane.cursor + 1}",
            state._replace(flights=flying),
        )
    for position, flight in enumerate(state.flights):
        left = state._replace(flights=state.flights[:position] + state.flights[position + 1 :])
        yield "killed", f"the load of lane {flight.lane} is killed", left
        lane = state.lane(flight.lane)
        held = lane.sealed and (flight.lane != MAIN or rules.sealed_by == "the compare-and-set")
        if held or (lane.cursor, lane.life) != (flight.low, flight.life):
            yield "refused", f"the load of lane {flight.lane} finds no row to update", left
            continue
        row = flight.low
        landed = left.with_lane(flight.lane, lane._replace(cursor=row + 1))
        landed = landed._replace(rows=_put(state.rows, row, (*state.rows[row], flight.lane)))
        yield "land", f"lane {flight.lane} loads row {row + 1}", landed


def _closing(state: State, rules: Plans) -> Iterator[tuple[str, str, State]]:
    if state.open_plan is None:
        return
    plan = state.plans[state.open_plan]
    parts = (plan.first, plan.first + 1)
    if any(state.parts[one].cursor != state.parts[one].ends for one in parts) and rules.verifies:
        yield "not done", "the closing names the parts that are not at their end", state
        return
    if (state.main.cursor, state.main.life) != (plan.low, plan.life):
        return
    closed = _end(state, state.open_plan, "loaded")
    main = state.main._replace(cursor=plan.target, sealed=False)
    yield "close", f"plan {state.open_plan} is closed", closed._replace(main=main)


def _going_back(state: State, rules: Plans) -> Iterator[tuple[str, str, State]]:
    plan = state.open_plan
    if state.rewinds and state.main.cursor and (plan is None or not rules.waits):
        gone = {MAIN}
        back = state
        for number, ended in enumerate(state.plans):
            if ended.outcome == "loaded" and rules.takes_parts:
                gone |= {ended.first, ended.first + 1}
            if ended.outcome in {"open", "loaded"}:
                plans = _put(back.plans, number, ended._replace(outcome="rewound"))
                back = back._replace(plans=plans)
        main = Lane(0, life=state.main.life + 1)
        back = back.without_rows_of(gone)._replace(main=main, rewinds=state.rewinds - 1)
        yield "rewind", "the main lane is rewound to its start", back
    if state.abandons and plan is not None:
        first = state.plans[plan].first
        back = state.without_rows_of({first, first + 1})
        if rules.buries:
            back = _end(back, plan, "abandoned")
            for number in (first, first + 1):
                lane = back.parts[number]
                back = back.with_lane(number, lane._replace(life=lane.life + 1))
        else:
            plans = _put(back.plans, plan, back.plans[plan]._replace(outcome="abandoned"))
            back = back._replace(plans=plans)
        back = back._replace(main=state.main._replace(sealed=False), abandons=state.abandons - 1)
        yield "abandon", f"plan {plan} is abandoned", back


def _end(state: State, number: int, outcome: str) -> State:
    plan = state.plans[number]
    for part in (plan.first, plan.first + 1):
        state = state.with_lane(part, state.parts[part]._replace(sealed=True))
    return state._replace(plans=_put(state.plans, number, plan._replace(outcome=outcome)))


def _put(values: tuple, position: int, value: object) -> tuple:
    return (*values[:position], value, *values[position + 1 :])
