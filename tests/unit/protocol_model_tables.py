"""A model of what several lanes share in one warehouse: the target, its quarantine, a plan of parts.

Two lanes load one row per chunk into one target table. A chunk's record may be rejected and wait in
quarantine; replaying puts it into the target. A lane may be rewound, in one transaction that takes the
rows above the point out of the target. For an upsert, both lanes bring versions of one key. A range may
be planned in parts, which load side by side, and whose plan is then closed.

Every step is one transaction; what a transaction locks is what no other step may touch until it ends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from protocol_model_walk import Step, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol_model_walk import Exploration

LANES = ("a", "b")


# --- append: lineage and quarantine --------------------------------------------------------------


@dataclass(frozen=True)
class Tables:
    """Which rules are in force for an append; all of them, unless told otherwise.

    Attributes:
        deletes_by: what a rewind knows the rows by that it deletes.
        quarantine_key: what a rejected record is kept under.
        rewind_drops_rejects: a rewind deletes the rejects of the chunks it takes back.
        replay_locks_lane: a replay holds the lane's row until it has inserted.
    """

    deletes_by: Literal["ledger id", "seq"] = "ledger id"
    quarantine_key: Literal["ledger id", "seq"] = "ledger id"
    rewind_drops_rejects: bool = True
    replay_locks_lane: bool = True


class Row(NamedTuple):
    """A row (its lane and number there), and the chunk that brought it."""

    lane: int
    number: int
    chunk: int


class Target(NamedTuple):
    """Chunks of each lane by ledger id, rows in the target, in quarantine, and in a replay's hand."""

    chains: tuple[tuple[int, ...], ...] = ((), ())
    loaded: tuple[Row, ...] = ()
    rejected: tuple[tuple[object, Row], ...] = ()
    replaying: tuple[Row, ...] = ()
    chunks: int = 0
    rewinds: int = 1
    rejects: int = 1


def explore_tables(rules: Tables | None = None, rows: int = 2) -> Exploration:
    """Walk through every state of two lanes that append ``rows`` rows each to one table."""
    rules = rules or Tables()
    return walk(Target(), lambda state: _judged(_append_steps(rules, state, rows)))


def _judged(steps: Iterator[Step]) -> Iterator[Step]:
    for step in steps:
        yield step._replace(fault=step.fault or _miscounted(step.state))


def _miscounted(state: Target) -> str | None:
    """Say which row is not there once, in the target, in quarantine or in a replay's hand."""
    rows = [*state.loaded, *(row for _, row in state.rejected), *state.replaying]
    count = Counter((row.lane, row.number) for row in rows)
    for lane, chain in enumerate(state.chains):
        for number in range(1, len(chain) + 1):
            if count[lane, number] != 1:
                times = (
                    "missing" if not count[lane, number] else f"there {count[lane, number]} times"
                )
                return f"row {number} of lane {LANES[lane]} is {times}"
    for lane, number in count:
        if number > len(state.chains[lane]):
            return f"row {number} of lane {LANES[lane]}, which was rewound, is there"
    return None


def _append_steps(rules: Tables, state: Target, rows: int) -> Iterator[Step]:
    locked = {row.lane for row in state.replaying} if rules.replay_locks_lane else set()
    for lane, chain in enumerate(state.chains):
        if lane in locked:
            continue
        if len(chain) < rows:
            yield from _loads(rules, state, lane)
        if state.rewinds:
            for to in range(len(chain)):
                yield Step(
                    "rewind",
                    f"lane {LANES[lane]} is rewound to chunk {to}",
                    _rewound(rules, state, lane, to),
                )
    if state.replaying:
        after = state._replace(loaded=tuple(sorted(state.loaded + state.replaying)), replaying=())
        yield Step("insert", "the replay inserts what it took, and commits", after)
    else:
        for key, row in state.rejected:
            left = tuple(each for each in state.rejected if each != (key, row))
            after = state._replace(rejected=left, replaying=(row,))
            yield Step(
                "replay", f"a replay takes row {row.number} of lane {LANES[row.lane]}", after
            )


def _loads(rules: Tables, state: Target, lane: int) -> Iterator[Step]:
    chunk, number = state.chunks + 1, len(state.chains[lane]) + 1
    row = Row(lane, number, chunk)
    chains = _put(state.chains, lane, (*state.chains[lane], chunk))
    begun = state._replace(chains=chains, chunks=chunk)
    what = f"chunk {number} of lane {LANES[lane]} is loaded"
    yield Step("load", what, begun._replace(loaded=tuple(sorted((*state.loaded, row)))))
    if state.rejects:
        key = chunk if rules.quarantine_key == "ledger id" else number
        if any(each == key for each, _ in state.rejected):
            fault = f"the reject of row {number} of lane {LANES[lane]} finds its place taken"
            yield Step("reject", f"{what}, its record rejected", begun, fault)
            return
        rejected = tuple(sorted((*state.rejected, (key, row))))
        after = begun._replace(rejected=rejected, rejects=state.rejects - 1)
        yield Step("reject", f"{what}, its record rejected", after)


def _put(values: tuple, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])


def _rewound(rules: Tables, state: Target, lane: int, to: int) -> Target:
    chain = state.chains[lane]
    gone = set(chain[to:])
    if rules.deletes_by == "ledger id":
        loaded = tuple(row for row in state.loaded if row.chunk not in gone)
    else:
        loaded = tuple(row for row in state.loaded if row.number <= to)
    rejected = state.rejected
    if rules.rewind_drops_rejects:
        keys = gone if rules.quarantine_key == "ledger id" else set(range(to + 1, len(chain) + 1))
        rejected = tuple(each for each in rejected if each[0] not in keys)
    return state._replace(
        chains=_put(state.chains, lane, chain[:to]),
        loaded=loaded,
        rejected=rejected,
        rewinds=state.rewinds - 1,
    )


# --- upsert: versions of one key -----------------------------------------------------------------


@dataclass(frozen=True)
class Upserts:
    """Which rules are in force for an upsert.

    Attributes:
        guards_version: an older version never overwrites a newer one.
        deduplicates: a chunk that holds a key twice keeps its newest version only.
    """

    guards_version: bool = True
    deduplicates: bool = True


UPSERT_CHUNKS = (((1, 2), (4,)), ((3,),))
"""For each lane its chunks, each with the versions of the one key that it holds."""


class Versions(NamedTuple):
    """How far each lane is, which version the target has, and the newest that was ever loaded."""

    seqs: tuple[int, ...] = (0, 0)
    there: int = 0
    newest: int = 0
    rewinds: int = 1


def explore_upserts(rules: Upserts | None = None) -> Exploration:
    """Walk through every state of two lanes that bring versions of one key."""
    rules = rules or Upserts()
    return walk(Versions(), lambda state: _upsert_steps(rules, state))


def _upsert_steps(rules: Upserts, state: Versions) -> Iterator[Step]:
    for lane, chunks in enumerate(UPSERT_CHUNKS):
        seq = state.seqs[lane]
        if seq < len(chunks):
            versions = chunks[seq]
            words = f"lane {LANES[lane]} upserts version(s) {versions}"
            if len(versions) > 1 and not rules.deduplicates:
                fault = "no attempt can ever load a chunk that holds a key twice"
                yield Step("upsert", words, state, fault)
                continue
            brought = max(versions)
            there = max(brought, state.there) if rules.guards_version else brought
            newest = max(brought, state.newest)
            after = state._replace(seqs=_put(state.seqs, lane, seq + 1), there=there, newest=newest)
            fault = None
            if there < newest:
                fault = f"version {there} has overwritten version {newest}"
            yield Step("upsert", words, after, fault)
        if seq and state.rewinds:
            after = state._replace(seqs=_put(state.seqs, lane, 0), rewinds=state.rewinds - 1)
            yield Step("rewind", f"lane {LANES[lane]} is rewound; its rows are left there", after)


# --- a plan of parts -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Plans:
    """Which rules are in force for a range that is loaded in parts.

    Attributes:
        one_open: a planner that is cleared gets the open plan back.
        main_waits: the main lane cannot be acquired while a plan is open.
        planner_fences: planning fences the attempts that had acquired the main lane before.
        closes_when_done: a plan is closed only when every part is at its end.
        closing_compares: closing compares the main cursor with the plan's low.
    """

    one_open: bool = True
    main_waits: bool = True
    planner_fences: bool = True
    closes_when_done: bool = True
    closing_compares: bool = True


class Planned(NamedTuple):
    """The main cursor, the rows that are there, the open plan's bounds and how far each part is."""

    rows: int = 2
    cursor: int = 0
    loaded: tuple[int, ...] = ()
    plan: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    main: int = -1
    arrivals: int = 1


def explore_plans(rules: Plans | None = None) -> Exploration:
    """Walk through every state of a range planned in two parts beside the main lane's own load."""
    rules = rules or Plans()
    return walk(Planned(), lambda state: _planned(_plan_steps(rules, state)))


def _planned(steps: Iterator[Step]) -> Iterator[Step]:
    for step in steps:
        state, fault = step.state, None
        count = Counter(state.loaded)
        for row in range(1, state.rows + 1):
            if count[row] > 1:
                fault = f"row {row} is in the target {count[row]} times"
            elif row <= state.cursor and not count[row]:
                fault = f"row {row} is missing below the main cursor {state.cursor}"
        yield step._replace(fault=fault)


def _plan_steps(rules: Plans, state: Planned) -> Iterator[Step]:
    if state.arrivals:
        after = state._replace(rows=state.rows + 1, arrivals=0)
        yield Step("arrival", f"row {state.rows + 1} appears", after)
    may_plan = not state.plan or not rules.one_open
    if may_plan and state.rows - state.cursor >= len(LANES):
        bounds = (state.cursor, state.cursor + 1, state.rows)
        after = state._replace(plan=bounds, parts=bounds[:-1])
        if rules.planner_fences:
            after = after._replace(main=-1)
        yield Step("plan", f"the planner plans parts at {bounds}", after)
    for part, reached in enumerate(state.parts):
        if reached < state.plan[part + 1]:
            after = state._replace(
                parts=_put(state.parts, part, reached + 1),
                loaded=tuple(sorted((*state.loaded, reached + 1))),
            )
            yield Step("part", f"part {part + 1} loads row {reached + 1}", after)
    yield from _main_steps(rules, state)
    if state.plan:
        done = state.parts == state.plan[1:]
        stands = state.cursor == state.plan[0]
        if (done or not rules.closes_when_done) and (stands or not rules.closing_compares):
            after = state._replace(cursor=state.plan[-1], plan=(), parts=())
            yield Step("close", f"the plan is closed, the main cursor is {after.cursor}", after)


def _main_steps(rules: Plans, state: Planned) -> Iterator[Step]:
    """The main lane: acquire, then load the next row by compare-and-set of its cursor."""
    if state.main < 0:
        if state.cursor < state.rows and (not state.plan or not rules.main_waits):
            words = f"the main lane is acquired, at {state.cursor}"
            yield Step("acquire", words, state._replace(main=state.cursor))
        return
    if state.main == state.cursor:
        row = state.cursor + 1
        after = state._replace(cursor=row, main=-1, loaded=tuple(sorted((*state.loaded, row))))
        yield Step("main", f"the main lane loads row {row}", after)
    else:
        yield Step("conflict", "the main lane stands elsewhere", state._replace(main=-1))
