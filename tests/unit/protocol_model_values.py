"""What a world of the protocol's model is made of: values, and what can be left out of the protocol.

A state is what is shared (the warehouse, the checkpoint store, the staging area, the source) and what
each attempt knows by itself. All of it is values; the moves are in ``protocol_model_stages.py`` and
``protocol_model_misfortunes.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.protocol import NO_STATE, Chunk, misfit, reconcile, rewind

if TYPE_CHECKING:
    from airflow_checkpoint_etl.protocol import Frontier

EVERYTHING: Final = frozenset({"incarnation", "seq", "cursor", "state"})
CONDITIONS: Final = frozenset({"done", "clear number", "range"})
START: Final = cursors.BEGIN


@dataclass(frozen=True)
class Protocol:
    """Which of the protocol's safeguards are in force; all of them, unless told otherwise.

    Attributes:
        fenced: the load transaction compares its fence with the lane's newest one.
        compare_and_set: the load transaction compares where the lane stands with its chunk.
        compares: what "where the lane stands" is made of, in the transaction and before it.
        one_transaction: the comparisons are in the transaction that writes the rows.
        incarnation: what a new life of the lane is called. "kept": a rewind begins none.
        pinned: when an attempt is bound to the lane's life.
        state_from: where the transform gets the state it starts from.
        reads_first: which of store and warehouse is read first when a stage reconciles.
        targets_in: where a run's target is kept.
        green_when: when a load succeeds.
        finish_compares: finishing a run compares lane and target in its own transaction.
        settles: a bound is settled before it is read up to.
        appends_compare: the append to the manifest compares where the record stands.
        looks_for_files: reconciling keeps only chunks whose file is there.
        fence_in_name: the writer's fence is part of a staged file's name.
        collects: whose chunks are collected.
        reprocess_if: what a cleared extract compares before it rewinds its run.
        reprocess_to: the target of a run that is loaded again.
        watches_source: extract compares the source's identity and timeline with the lane's.
        stops_when_restored: a store ahead of the warehouse stops the attempt.
    """

    fenced: bool = True
    compare_and_set: bool = True
    compares: frozenset[str] = EVERYTHING
    one_transaction: bool = True
    incarnation: Literal["random", "generation", "kept"] = "random"
    pinned: Literal["at acquire", "when it reads", "never"] = "at acquire"
    state_from: Literal["warehouse", "store"] = "warehouse"
    reads_first: Literal["store", "warehouse"] = "store"
    targets_in: Literal["warehouse", "store"] = "warehouse"
    green_when: Literal["target reached", "manifest empty"] = "target reached"
    finish_compares: bool = True
    settles: bool = True
    appends_compare: bool = True
    looks_for_files: bool = True
    fence_in_name: bool = True
    collects: Literal["durable", "loaded"] = "durable"
    reprocess_if: frozenset[str] = CONDITIONS
    reprocess_to: Literal["lane cursor", "own target"] = "lane cursor"
    watches_source: bool = True
    stops_when_restored: bool = True


@dataclass(frozen=True)
class World:
    """How large the explored world is, and what can happen in it, how often.

    Attributes:
        rows: rows in the source.
        chunk_rows: how many rows a chunk may hold.
        stateful: whether the transform keeps a state from chunk to chunk.
        stages: with two, the first extracts and transforms in one.
        attempts: overlapping attempts of each stage: of all alike, or one number for each.
        runs: DAG runs, each with its own attempts.
        sequential: a run begins only when the one before it is green (max_active_runs=1).
        restarts: attempts that are killed and started again, beside those that just stop.
        losses: times the checkpoint store falls back to an earlier state, or to nothing.
        rewinds: times the lane is rewound.
        failovers: times the warehouse falls back to an earlier state.
        resyncs: times an extract follows a warehouse that was restored.
        clears: times a person clears a green run.
        clears_early: whether a run may be cleared that is not green yet.
        reprocesses: whether a cleared extract loads its finished run again.
        deletions: staged files that vanish.
        collections: times the collector passes.
        arrivals: rows, the last ones, that appear while everything runs.
        late: whether the first row is drawn but not committed when everything begins.
        replacements: times the source is replaced by another with the same ids.
        lost_answers: whether an append may succeed unheard; a load always may.
        notes: whether a load notes its frontier in the store; with failovers it always does.
    """

    rows: int = 2
    chunk_rows: tuple[int, ...] = (1,)
    stateful: bool = True
    stages: tuple[str, ...] = ("extract", "transform", "load")
    attempts: int | tuple[int, ...] = 1
    runs: int = 1
    sequential: bool = False
    restarts: int = 0
    losses: int = 0
    rewinds: int = 0
    failovers: int = 0
    resyncs: int = 0
    clears: int = 0
    clears_early: bool = False
    reprocesses: bool = False
    deletions: int = 0
    collections: int = 0
    arrivals: int = 0
    late: bool = False
    replacements: int = 0
    lost_answers: bool = False
    notes: bool = False


# --- attempts ------------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """One attempt of a stage: what it does next, and what it knows.

    ``life``, ``source`` and ``clear`` are what was true when it began: which life of the lane, which
    source, and how often its run had been cleared.
    """

    stage: str
    run: int
    doing: str = "waiting"
    clear: int = 0
    fence: int = 0
    incarnation: str = ""
    life: int = 0
    source: int = 0
    target: int = -1
    seen: tuple[tuple[Chunk, ...], ...] = ()
    noted: Frontier | None = None
    lane: Frontier | None = None
    frontier: Frontier | None = None
    chunks: tuple[Chunk, ...] = ()
    names: frozenset[str] = frozenset()

    def ends(self, how: str = "ended") -> Attempt:
        """All that is remembered of an attempt that does nothing any more."""
        return Attempt(self.stage, self.run, how, self.clear)

    def __str__(self) -> str:
        return f"{self.stage} {self.fence}" if self.fence else f"{self.stage} (run {self.run + 1})"


# --- what is shared ------------------------------------------------------------------------------


class Run(NamedTuple):
    """A DAG run's goal."""

    incarnation: str
    low: int
    target: int
    clear: int
    done: bool = False


class Warehouse(NamedTuple):
    """The ledger's tables; what is loaded is what the ledger's chunks hold.

    ``life`` and ``rewound_to`` are bookkeeping for the invariants: which life this truly is, whatever
    its incarnation says, and where it began.
    """

    lane: Frontier
    load_fence: int
    fences: tuple[int, ...]
    runs: tuple[Run | None, ...]
    ledger: tuple[Chunk, ...]
    life: int
    rewound_to: int


class Record(NamedTuple):
    """What the checkpoint store holds of one stage."""

    fence: int = 0
    frontier: Frontier | None = None
    entries: tuple[Chunk, ...] = ()


class Store(NamedTuple):
    """The checkpoint store: the makers' records, the load's frontier, and what does not belong there."""

    records: tuple[Record, ...]
    noted: Frontier | None = None
    targets: tuple[int, ...] = ()
    state: str | None = None


class Source(NamedTuple):
    """How many rows there are, whether the first is yet to commit, and which source it is."""

    rows: int
    late: bool = False
    version: int = 1


class Left(NamedTuple):
    """What can still happen."""

    restarts: int
    losses: int
    rewinds: int
    failovers: int
    resyncs: int
    clears: int
    deletions: int
    collections: int
    arrivals: int
    replacements: int


class Promise(NamedTuple):
    """What a run has promised to whoever looks at Airflow: bookkeeping, the protocol reads it not."""

    target: int = -1
    source: int = 1
    green: bool = False
    asked: int = 0
    clear: int = 0


class Shared(NamedTuple):
    """Everything that more than one attempt sees, and the bookkeeping."""

    warehouse: Warehouse
    store: Store
    source: Source
    left: Left
    promises: tuple[Promise, ...]
    staged: frozenset[str] | None = None
    saved_warehouse: Warehouse | None = None
    saved_store: Store | None = None
    lives: int = 1
    failed_over: bool = False


class Move(NamedTuple):
    """One thing that happens: its kind, its words, what it leads to, and the harm it does."""

    kind: str
    words: str
    shared: Shared
    attempt: Attempt | None = None
    more: tuple[Attempt, ...] = ()
    fault: str | None = None


# --- cursors and chunks --------------------------------------------------------------------------


@cache
def at(row: int) -> str:
    """Return a row's cursor."""
    return cursors.encode(("i8",), (row,)) if row else START


@cache
def row_of(text: str) -> int:
    """Return the row at a cursor; 0 for the beginning."""
    return 0 if text == START else int(str(cursors.decode(text)[0][1]))


def until(frontier: Frontier) -> int:
    """Return the row that a frontier has reached."""
    return row_of(frontier.cursor)


class Content(NamedTuple):
    """What is in a file: rows, each with its source; and the lane's life its maker began in."""

    rows: frozenset[tuple[int, int]]
    life: int


CONTENTS: Final[dict[str, Content]] = {}
"""What is in a staged file, by its digest."""


@cache
def version_of(row: int, rows: int, source: int) -> int:
    """Return which row has this id: a replaced source has another last row under the same id."""
    return source if row == rows else 1


def content_of(chunk: Chunk) -> Content:
    """Return what is in a chunk's file."""
    return CONTENTS[chunk.digest]


@cache
def make_chunk(
    stage: str, fence: int, frontier: Frontier, high: int, content: Content, state: str | None
) -> Chunk:
    """Make the chunk from a stage's frontier up to ``high``.

    The same rows give the same file; only a transform's state differs with every attempt.
    """
    seq, low = frontier.seq + 1, until(frontier)
    inside = " ".join(f"{row}@{version}" for row, version in sorted(content.rows))
    digest = f"{stage} ({low}, {high}] {inside} life {content.life} {state}"
    CONTENTS[digest] = content
    return Chunk(
        incarnation=frontier.incarnation,
        seq=seq,
        low=at(low),
        high=at(high),
        rows_in=len(content.rows),
        rows=len(content.rows),
        name=f"{frontier.incarnation}/{stage}/{seq}-f{fence}-{digest}",
        size=len(content.rows),
        digest=digest,
        fence=fence,
        state_in=frontier.state_digest,
        state=state,
    )


# --- the package's own rules, remembered ---------------------------------------------------------


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
    lane: Frontier, entries: tuple[Chunk, ...], compares: frozenset[str], stateful: bool
) -> tuple[Chunk, ...]:
    """The manifest's chunks that a stage believes continue the lane."""
    if compares == EVERYTHING:
        return reconcile(lane, entries, stateful=stateful).kept
    kept: list[Chunk] = []
    for entry in sorted(entries, key=lambda entry: entry.seq):
        if stands_at(lane, entry, compares):
            kept.append(entry)
            lane = moved(lane, entry)
    return tuple(kept)


@cache
def after(lane: Frontier, kept: tuple[Chunk, ...], stateful: bool) -> Frontier:
    """Where a stage stands that keeps these chunks."""
    frontier = lane if stateful else replace(lane, state_digest=NO_STATE)
    for chunk in kept:
        frontier = moved(frontier, chunk)
    return frontier


@cache
def boundaries(lane: Frontier, ledger: tuple[Chunk, ...]) -> tuple[Frontier, ...]:
    """The start of the lane's chain, and where each of its chunks ended."""
    start = replace(lane, seq=0, cursor=START, state_digest=NO_STATE)
    ends = (
        replace(lane, seq=each.seq, cursor=each.high, state_digest=each.state_digest)
        for each in ledger
    )
    return (start, *ends)


def rewound(warehouse: Warehouse, to: str, incarnation: str) -> Frontier:
    """Where the lane stands after a rewind, by the package's own rule."""
    return rewind(warehouse.lane, boundaries(warehouse.lane, warehouse.ledger), to, incarnation)
