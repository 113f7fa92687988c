"""A model of the chunk protocol, small enough that every history of it can be walked through.

Rows 1..n wait in a source. *Producers* (the stages before load) cut them into chunks and append these
to the manifest in the checkpoint store; *loaders* load the chunks into the warehouse. There are two
attempts of each, overlapping at will, and everything that can go wrong does:

* an attempt may stop anywhere for good. Nothing has to be done for that: among all histories are those
  in which it is never its turn again. While restarts are left it is killed and starts anew;
* a commit may land while its acknowledgement is lost;
* the checkpoint store may lose any suffix of its writes;
* the lane may be rewound to any chunk boundary, after which rows made before are stale;
* the transform is as bad as can be: what it keeps as its state differs with every attempt.

The moves are made by the package's own functions (``reconcile``, ``rewind``, ``Frontier.advance``); what
the warehouse's load transaction and the checkpoint store compare is written out here, and a
:class:`Protocol` can leave any of it out. :func:`explore` walks breadth first, so the history it finds is
a shortest one.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.protocol import (
    NO_STATE,
    Chunk,
    Frontier,
    digest_of_state,
    misfit,
    reconcile,
    rewind,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERYTHING: Final = frozenset({"incarnation", "seq", "cursor", "state"})


@dataclass(frozen=True)
class Protocol:
    """Which of the protocol's safeguards are in force; all of them, unless told otherwise.

    Attributes:
        fenced: the load transaction compares its fence with the lane's newest one.
        compare_and_set: the load transaction compares where the lane stands with its chunk.
        compares: what "where the lane stands" is made of, in the transaction and before it.
        one_transaction: the comparisons are in the transaction that writes the rows.
        new_incarnation: a rewind draws a new incarnation.
        pinned: an attempt works only in the incarnation it acquired its stage in.
        state_from: where the transform gets the state it starts from.
        arbiter: who decides what was loaded. "store": the loader trusts the checkpoint store.
        store_first: with the store as arbiter, it is written before the rows are.
    """

    fenced: bool = True
    compare_and_set: bool = True
    compares: frozenset[str] = EVERYTHING
    one_transaction: bool = True
    new_incarnation: bool = True
    pinned: bool = True
    state_from: Literal["warehouse", "store"] = "warehouse"
    arbiter: Literal["warehouse", "store"] = "warehouse"
    store_first: bool = False


@dataclass(frozen=True)
class World:
    """How large the explored world is.

    Attributes:
        rows: rows in the source.
        restarts: attempts that may be killed and started again.
        losses: times the checkpoint store loses writes.
        rewinds: times the lane is rewound.
        chunk_rows: how many rows a chunk may hold.
        stateful: whether the transform keeps a state from chunk to chunk.
        attempts: overlapping attempts of each stage.
    """

    rows: int = 2
    restarts: int = 1
    losses: int = 1
    rewinds: int = 1
    chunk_rows: tuple[int, ...] = (1, 2)
    stateful: bool = True
    attempts: int = 2


class Attempt(NamedTuple):
    """One attempt of a stage: what it does next, and what it knows."""

    doing: str = "nothing yet"
    fence: int = 0
    incarnation: str = ""
    epoch: int = 0
    frontier: Frontier | None = None
    chunks: tuple[Chunk, ...] = ()


class Record(NamedTuple):
    """What the checkpoint store holds of the stage before load."""

    fence: int
    frontier: Frontier | None
    entries: tuple[Chunk, ...]


class State(NamedTuple):
    """The whole world at one moment."""

    # the warehouse
    lane: Frontier
    load_fence: int
    stage_fence: int
    loaded: tuple[Chunk, ...]
    # the checkpoint store: every value it has had and may fall back to; the last one is in force
    history: tuple[Record, ...]
    # the attempts
    producers: tuple[Attempt, ...]
    loaders: tuple[Attempt, ...]
    # what can still happen
    restarts: int
    losses: int
    rewinds: int
    # bookkeeping for the invariants
    epoch: int
    rewound_to: str

    @property
    def record(self) -> Record:
        return self.history[-1]


class Step(NamedTuple):
    """A move: its kind, for counting; its words, for a trace; the state it leads to."""

    kind: str
    words: str
    state: State


@dataclass(frozen=True)
class Exploration:
    """What :func:`explore` found."""

    states: int
    steps: Counter[str]
    violation: str | None
    trace: tuple[str, ...]

    def __str__(self) -> str:
        numbered = (f"{number:>4}. {words}" for number, words in enumerate(self.trace, 1))
        return "\n".join([f"{self.violation or 'no violation'} ({self.states} states)", *numbered])


START: Final = cursors.BEGIN
ENDED: Final = Attempt("ended")


@cache
def at(row: int) -> str:
    return cursors.encode(("i8",), (row,)) if row else START


@cache
def row_of(text: str) -> int:
    return 0 if text == START else int(str(cursors.decode(text)[0][1]))


@cache
def make_chunk(frontier: Frontier, rows: int, attempt: Attempt, stateful: bool) -> Chunk:
    """Cut and transform the next chunk; its state and digest are this attempt's own."""
    low, seq, fence = row_of(frontier.cursor), frontier.seq + 1, attempt.fence
    state = f'"state of producer {fence} after chunk {seq}"' if stateful else None
    return Chunk(
        incarnation=frontier.incarnation,
        seq=seq,
        low=at(low),
        high=at(low + rows),
        rows_in=rows,
        rows=rows,
        name=f"epoch {attempt.epoch}",
        size=rows,
        digest=f"chunk {seq} {low}..{low + rows} by producer {fence}",
        fence=fence,
        state_in=frontier.state_digest,
        state=state,
    )


def epoch_of(chunk: Chunk) -> int:
    return int(chunk.name.removeprefix("epoch "))


@cache
def stands_at(lane: Frontier, chunk: Chunk, compares: frozenset[str]) -> bool:
    """The WHERE clause of the load's compare-and-set, as far as ``compares`` has it."""
    found = {
        "incarnation": lane.incarnation == chunk.incarnation,
        "seq": lane.seq == chunk.seq - 1,
        "cursor": lane.cursor == chunk.low,
        "state": lane.state_digest == chunk.state_in,
    }
    return all(found[name] for name in compares)


@cache
def moved(lane: Frontier, chunk: Chunk) -> Frontier:
    """The SET clause: by the package's own rule when that allows it, blindly otherwise."""
    if misfit(lane, chunk) is None:
        return lane.advance(chunk)
    return replace(lane, seq=chunk.seq, cursor=chunk.high, state_digest=chunk.state_digest)


@cache
def chain(
    lane: Frontier, entries: tuple[Chunk, ...], compares: frozenset[str]
) -> tuple[Chunk, ...]:
    """The manifest's chunks that a loader believes continue the lane."""
    if compares == EVERYTHING:
        return reconcile(lane, entries, stateful=True).kept
    kept: list[Chunk] = []
    for entry in sorted(entries, key=lambda entry: entry.seq):
        if stands_at(lane, entry, compares):
            kept.append(entry)
            lane = moved(lane, entry)
    return tuple(kept)


@cache
def misplaced(loaded: tuple[Chunk, ...], position: int) -> str | None:
    """Say which row is in the warehouse twice, or missing up to ``position``."""
    count = Counter(
        row for chunk in loaded for row in range(row_of(chunk.low) + 1, row_of(chunk.high) + 1)
    )
    for row, times in sorted(count.items()):
        if times > 1:
            return f"row {row} is in the warehouse {times} times"
    for row in range(1, position + 1):
        if not count[row]:
            return f"row {row} is missing below the load frontier {at(position)}"
    return None


@cache
def mislinked(loaded: tuple[Chunk, ...]) -> str | None:
    """Say where the ledger's numbers are not dense, or the transform's states do not link."""
    state = NO_STATE
    for position, chunk in enumerate(loaded, 1):
        if chunk.state_in != state:
            return f"chunk {chunk.seq} was made from a state that is not the one before it"
        if chunk.seq != position:
            return f"the ledger's chunk {position} has number {chunk.seq}"
        state = chunk.state_digest
    return None


@cache
def stale(loaded: tuple[Chunk, ...], epoch: int, rewound_to: str) -> str | None:
    """Say which rows above the point of the rewind were made before it."""
    for chunk in loaded:
        if epoch_of(chunk) < epoch and row_of(chunk.low) >= row_of(rewound_to):
            return f"stale rows ({chunk.low}, {chunk.high}], made before the rewind"
    return None


class Model:
    """The moves of one protocol in one world."""

    def __init__(self, protocol: Protocol, world: World) -> None:
        self.protocol, self.world = protocol, world
        self.end = at(world.rows)

    def start(self) -> State:
        producers = self.world.attempts if self.protocol.arbiter == "warehouse" else 0
        return State(
            lane=Frontier("life 1", 1, 0, START),
            load_fence=0,
            stage_fence=0,
            loaded=(),
            history=(Record(0, None, ()),),
            producers=(Attempt(),) * producers,
            loaders=(Attempt(),) * self.world.attempts,
            restarts=self.world.restarts,
            losses=self.world.losses,
            rewinds=self.world.rewinds,
            epoch=1,
            rewound_to=START,
        )

    def broken(self, state: State) -> str | None:
        """Say which invariant this state breaks."""
        decides = self.protocol.arbiter == "warehouse"  # else its frontier means nothing
        fault = misplaced(state.loaded, row_of(state.lane.cursor) if decides else 0)
        if not fault and decides:
            fault = stale(state.loaded, state.epoch, state.rewound_to) or mislinked(state.loaded)
        if fault:
            return fault
        if any(
            attempt.doing == "done" and attempt.incarnation == state.lane.incarnation
            for attempt in state.loaders
        ):
            there = sum(row_of(chunk.high) - row_of(chunk.low) for chunk in state.loaded)
            if there < self.world.rows:
                return f"the load is done but only {there} of {self.world.rows} rows are loaded"
        return None

    def steps(self, state: State) -> Iterator[Step]:
        """Every move that can be made now."""
        yield from self._misfortunes(state)
        for slot, attempt in enumerate(state.producers):
            yield from self._starts(state, "producer", slot, attempt)
            yield from self._produces(state, slot, attempt)
        for slot, attempt in enumerate(state.loaders):
            yield from self._starts(state, "loader", slot, attempt)
            yield from self._loads(state, slot, attempt)

    # --- what happens to the world ---------------------------------------------------------------

    def _misfortunes(self, state: State) -> Iterator[Step]:
        if state.losses:
            for kept in range(1, len(state.history)):
                lost = len(state.history) - kept
                after = state._replace(history=state.history[:kept], losses=state.losses - 1)
                yield Step(
                    "loss", f"the store loses its last {lost} write(s)", self._settled(after)
                )
        if state.rewinds:
            yield from self._rewinds(state)

    def _rewinds(self, state: State) -> Iterator[Step]:
        lane = state.lane
        boundaries = [Frontier(lane.incarnation, lane.generation, 0, START)]
        boundaries += [
            Frontier(lane.incarnation, lane.generation, chunk.seq, chunk.high, chunk.state_digest)
            for chunk in state.loaded
        ]
        for boundary in boundaries:
            to = boundary.cursor
            lane = rewind(state.lane, boundaries, to, f"life {state.epoch + 1}")
            if not self.protocol.new_incarnation:
                lane = replace(lane, incarnation=state.lane.incarnation)
            after = state._replace(
                lane=lane,
                load_fence=state.load_fence + 1,
                stage_fence=state.stage_fence + 1,
                loaded=tuple(chunk for chunk in state.loaded if chunk.seq <= lane.seq),
                rewinds=state.rewinds - 1,
                epoch=state.epoch + 1,
                rewound_to=to,
            )
            yield Step("rewind", f"the lane is rewound to {to}", after)

    def _starts(self, state: State, role: str, slot: int, attempt: Attempt) -> Iterator[Step]:
        """A: a new attempt takes the stage, beside the other one or in place of this one."""
        if attempt.doing == "nothing yet":
            kind, words, restarts = "start", "starts", state.restarts
        elif attempt.doing != "done" and state.restarts:
            kind, words, restarts = "kill", "is killed and starts again", state.restarts - 1
        else:
            return
        fence = (state.stage_fence if role == "producer" else state.load_fence) + 1
        began = Attempt("reading", fence, state.lane.incarnation, state.epoch)
        after = state._replace(restarts=restarts)
        if role == "producer":
            after = after._replace(stage_fence=fence, producers=_with(state.producers, slot, began))
        else:
            after = after._replace(load_fence=fence, loaders=_with(state.loaders, slot, began))
        who = f"{role} {attempt.fence} " if attempt.fence else f"a {role} "
        yield Step(kind, f"{who}{words}, with fence {fence}", self._settled(after))

    def _settled(self, state: State) -> State:
        """Forget what can make no difference any more, so that equal futures are equal states."""
        if not state.losses and len(state.history) > 1:
            state = state._replace(history=state.history[-1:])
        return state

    # --- producers ---------------------------------------------------------------------------------

    def _produces(self, state: State, slot: int, attempt: Attempt) -> Iterator[Step]:
        who = f"producer {attempt.fence}"

        def becomes(attempt: Attempt, state: State = state) -> State:
            return state._replace(producers=_with(state.producers, slot, self._over(attempt)))

        if attempt.doing == "reading":  # R: the store first, the warehouse second
            if self.protocol.pinned and state.lane.incarnation != attempt.incarnation:
                yield Step("rewound", f"{who} notices the rewind and stops", becomes(ENDED))
                return
            found = reconcile(state.lane, state.record.entries, stateful=True)
            frontier = found.frontier
            if self.protocol.state_from == "store" and not found.kept:
                frontier = replace(frontier, state_digest=digest_of_state(None))
            yield Step(
                "reconcile",
                f"{who} reconciles: {len(found.kept)} chunk(s) kept, goes on at {frontier.cursor}",
                becomes(attempt._replace(doing="beginning", frontier=frontier)),
            )
        elif attempt.doing == "beginning":
            yield from self._begins(state, attempt, who, becomes)
        elif attempt.doing == "appending":
            yield from self._appends(state, attempt, who, becomes)

    def _begins(self, state, attempt, who, becomes) -> Iterator[Step]:
        """The store takes over the attempt's fence and where it goes on, and drops the rest."""
        if state.record.fence > attempt.fence:
            yield Step("fenced", f"{who} is fenced by the store", becomes(ENDED))
            return
        frontier = attempt.frontier
        kept = tuple(
            entry
            for entry in state.record.entries
            if entry.incarnation == frontier.incarnation and entry.seq <= frontier.seq
        )
        after = self._written(state, Record(attempt.fence, frontier, kept))
        for next_attempt in self._next_chunks(attempt):
            yield Step("begin", f"{who} begins at {frontier.cursor}", becomes(next_attempt, after))

    def _appends(self, state, attempt, who, becomes) -> Iterator[Step]:
        """E3: the compare-and-set append to the manifest."""
        record, (chunk,) = state.record, attempt.chunks
        words = f"{who} appends chunk {chunk.seq} ({chunk.low}, {chunk.high}]"
        if record.fence > attempt.fence:
            yield Step("fenced", f"{words}: fenced by the store", becomes(ENDED))
        elif (
            record.fence == attempt.fence
            and record.frontier.incarnation == chunk.incarnation
            and (record.frontier.seq, record.frontier.cursor) == (chunk.seq - 1, chunk.low)
        ):
            frontier = attempt.frontier.advance(chunk)
            entries = (*record.entries, chunk)
            after = self._written(state, Record(attempt.fence, frontier, entries))
            for next_attempt in self._next_chunks(attempt._replace(frontier=frontier)):
                yield Step("append", words, becomes(next_attempt, after))
        else:
            again = attempt._replace(doing="reading", frontier=None, chunks=())
            yield Step("conflict", f"{words}: the store stands elsewhere", becomes(again))

    def _next_chunks(self, attempt: Attempt) -> Iterator[Attempt]:
        """Choosing and staging the next chunk touches nothing that others see: no step of its own."""
        left = self.world.rows - row_of(attempt.frontier.cursor)
        if not left:
            yield attempt._replace(doing="done", chunks=())
        for rows in self.world.chunk_rows:
            if rows <= left:
                chunk = self._chunk(attempt.frontier, rows, attempt)
                yield attempt._replace(doing="appending", chunks=(chunk,))

    def _chunk(self, frontier: Frontier, rows: int, attempt: Attempt) -> Chunk:
        maker = Attempt(fence=attempt.fence, epoch=attempt.epoch)  # all that makes a difference
        return make_chunk(frontier, rows, maker, self.world.stateful)

    def _written(self, state: State, record: Record) -> State:
        return self._settled(state._replace(history=(*state.history, record)))

    # --- loaders -----------------------------------------------------------------------------------

    def _loads(self, state: State, slot: int, attempt: Attempt) -> Iterator[Step]:
        who = f"loader {attempt.fence}"

        def becomes(attempt: Attempt, state: State = state) -> State:
            return state._replace(loaders=_with(state.loaders, slot, self._over(attempt)))

        if self.protocol.arbiter == "store":
            yield from self._loads_as_the_store_says(state, attempt, who, becomes)
        elif attempt.doing == "reading":
            chunks = chain(state.lane, state.record.entries, self.protocol.compares)
            if state.lane.cursor == self.end:
                finished = attempt._replace(doing="done", incarnation=state.lane.incarnation)
                yield Step("done", f"{who} has reached the target", becomes(finished))
            elif chunks:
                words = f"{who} reads {len(chunks)} chunk(s) to load"
                yield Step("read", words, becomes(attempt._replace(doing="loading", chunks=chunks)))
        elif attempt.doing == "loading":
            yield from self._transacts(state, attempt, who, becomes)
        elif attempt.doing == "writing":
            chunk = attempt.chunks[0]
            after = self._committed(state, chunk)
            words = f"{who} writes the rows of ({chunk.low}, {chunk.high}]"
            yield Step("load", words, becomes(self._further(attempt), after))

    def _transacts(self, state, attempt, who, becomes) -> Iterator[Step]:
        """L1-L5: compare and set, ledger row and rows, in one transaction."""
        chunk, protocol = attempt.chunks[0], self.protocol
        words = f"{who} loads chunk {chunk.seq} ({chunk.low}, {chunk.high}]"
        newest = not protocol.fenced or state.load_fence == attempt.fence
        stands = not protocol.compare_and_set or stands_at(state.lane, chunk, protocol.compares)
        if newest and stands and not protocol.one_transaction:
            checked = attempt._replace(doing="writing")
            yield Step("check", f"{who} checks fence and lane", becomes(checked))
        elif newest and stands:
            after = self._committed(state, chunk)
            yield Step("load", words, becomes(self._further(attempt), after))
            lost = f"{words}, and the acknowledgement is lost"
            yield Step("in doubt", lost, becomes(attempt, after))
        elif state.lane.incarnation != chunk.incarnation and "incarnation" in protocol.compares:
            yield Step("rewound", f"{words}: rewound", becomes(ENDED))
        elif not newest:
            yield Step("fenced", f"{words}: fenced", becomes(ENDED))
        elif chunk in state.loaded:
            there = f"{words}: it was loaded already"
            yield Step("already", there, becomes(self._further(attempt)))
        else:
            again = attempt._replace(doing="reading", chunks=())
            yield Step("conflict", f"{words}: the lane stands elsewhere", becomes(again))

    def _committed(self, state: State, chunk: Chunk) -> State:
        return state._replace(lane=moved(state.lane, chunk), loaded=(*state.loaded, chunk))

    @staticmethod
    def _further(attempt: Attempt) -> Attempt:
        rest = attempt.chunks[1:]
        return attempt._replace(doing="loading" if rest else "reading", chunks=rest)

    def _loads_as_the_store_says(self, state, attempt, who, becomes) -> Iterator[Step]:
        """What people write by hand: the last ID is in the store, the rows are in the warehouse."""
        if attempt.doing == "reading":
            position = state.record.frontier or Frontier("life 1", 1, 0, START)
            if position.cursor == self.end:
                finished = attempt._replace(doing="done")
                yield Step("done", f"{who} has reached the target", becomes(finished))
            for rows in self.world.chunk_rows:
                if rows <= self.world.rows - row_of(position.cursor):
                    chunk = self._chunk(position, rows, Attempt(epoch=1))
                    doing = "noting" if self.protocol.store_first else "loading"
                    chosen = attempt._replace(doing=doing, frontier=position, chunks=(chunk,))
                    words = f"{who} reads the last ID {position.cursor} from the store"
                    yield Step("read", words, becomes(chosen))
            return
        if attempt.doing not in {"loading", "noting"}:
            return
        chunk, store_first = attempt.chunks[0], self.protocol.store_first
        again = Attempt("reading", attempt.fence, attempt.incarnation, attempt.epoch)
        if attempt.doing == "loading":
            after = state._replace(loaded=(*state.loaded, chunk))
            following = again if store_first else attempt._replace(doing="noting")
            yield Step(
                "load", f"{who} loads ({chunk.low}, {chunk.high}]", becomes(following, after)
            )
        else:
            record = Record(0, attempt.frontier.advance(chunk), ())
            following = attempt._replace(doing="loading") if store_first else again
            words = f"{who} writes the last ID {chunk.high} to the store"
            yield Step("note", words, becomes(following, self._written(state, record)))

    # --- keeping the number of states small --------------------------------------------------------

    @staticmethod
    def _over(attempt: Attempt) -> Attempt:
        """An attempt that is done is remembered only by what an invariant needs."""
        if attempt.doing == "done":
            return Attempt("done", incarnation=attempt.incarnation)
        return attempt


def _with(attempts: tuple[Attempt, ...], slot: int, attempt: Attempt) -> tuple[Attempt, ...]:
    """Replace one attempt; the slots are kept in order, since which is which makes no difference."""
    changed = [*attempts[:slot], attempt, *attempts[slot + 1 :]]
    return tuple(sorted(changed, key=lambda each: (each.fence, each.doing, each.incarnation)))


def explore(
    protocol: Protocol | None = None, world: World | None = None, limit: int = 5_000_000
) -> Exploration:
    """Walk through every state, breadth first, until an invariant breaks or none is left."""
    model = Model(protocol or Protocol(), world or World())
    first = model.start()
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting, steps = deque([first]), Counter[str]()
    while waiting:
        state = waiting.popleft()
        for step in model.steps(state):
            steps[step.kind] += 1
            if step.state in came_from:
                continue
            came_from[step.state] = (state, step.words)
            fault = model.broken(step.state)
            if fault:
                return Exploration(len(came_from), steps, fault, _trace(came_from, step.state))
            waiting.append(step.state)
        if len(came_from) > limit:
            message = f"more than {limit} states"
            raise RuntimeError(message)
    return Exploration(len(came_from), steps, None, ())


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    words: list[str] = []
    while (origin := came_from[state]) is not None:
        state, said = origin
        words.append(said)
    return tuple(reversed(words))
