"""The exactly-once protocol, pure: values, the one rule, and an error for every illegal move.

    A stage's frontier moves from exactly ``chunk.low`` to ``chunk.high``, and only when the stage
    before it has passed ``chunk.high``. The load frontier moves in the same warehouse transaction as
    the rows.

A frontier that only ever moves from exactly ``chunk.low`` tiles the cursor axis: nothing is missing
and nothing is there twice, with any number of workers, crashes and stale retries. This module keeps
the first sentence; the warehouse adapters keep the second, by doing the same comparison as the first
statement of the load's transaction.

Every other piece of state (the checkpoint store, staged files) is a fast record that may be lost and
is rebuilt from the warehouse by :func:`reconcile`. No IO, no clock and no logging happens here; an
illegal move raises :class:`IllegalMove` and changes nothing, because nothing here can be changed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors

if TYPE_CHECKING:
    from collections.abc import Iterable

NO_STATE: Final = ""
"""The digest of "no transform state": what a lane starts with."""


class IllegalMove(Exception):  # noqa: N818  it names the event, as h11's protocol errors do
    """A frontier was asked to move other than from exactly chunk.low to chunk.high."""


class Stage(StrEnum):
    """The three stages of a pipeline, in order."""

    EXTRACT = "extract"
    TRANSFORM = "transform"
    LOAD = "load"

    @property
    def before(self) -> Stage | None:
        """The stage whose frontier must have passed a chunk before this one may."""
        order = list(Stage)
        position = order.index(self)
        return order[position - 1] if position else None


@dataclass(frozen=True, slots=True)
class Lane:
    """One (pipeline, part): the unit that has one writer per stage and dense chunk numbers."""

    pipeline: str
    part: str = "default"

    def __str__(self) -> str:
        return self.pipeline if self.part == "default" else f"{self.pipeline}[{self.part}]"


def digest_of_state(state: str | None) -> str:
    """Return the digest that links a transform's states: SHA-256 of its JSON text, or NO_STATE."""
    return NO_STATE if state is None else hashlib.sha256(state.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The half-open interval ``(low, high]`` of the cursor, with its staged file.

    Attributes:
        incarnation: random id of the lane's current life; chunks of another one are dead.
        seq: dense chunk number, from 1.
        low: exclusive lower end, canonical cursor text.
        high: inclusive upper end, canonical cursor text.
        rows_in: rows that came in (read from the source, or from the stage before).
        rows: rows in the staged file.
        name: the staged file's name in its staging area.
        size: the staged file's size in bytes.
        digest: the staged file's content digest (SHA-256, hex).
        fence: fence of the attempt that wrote it.
        input_digest: digest of the file this one was made from; empty for an extracted chunk.
        state_in: digest of the transform's state before this chunk.
        state: the transform's state after this chunk (JSON text), or None.
        staged_at: when it was staged, ISO 8601 in UTC; only for people and for collection.
        rejected: records that the transform rejected; they travel in the staged file.
        swept_in: how far late rows were swept before this chunk; empty for an ordinary chunk.
        swept: how far they are after it; empty for an ordinary chunk. A sweep's chunk holds rows
            from below the frontier, so its low and high are both the frontier.
    """

    incarnation: str
    seq: int
    low: str
    high: str
    rows_in: int
    rows: int
    name: str
    size: int
    digest: str
    fence: int
    input_digest: str = ""
    state_in: str = NO_STATE
    state: str | None = field(default=None, repr=False)
    staged_at: str = ""
    rejected: int = 0
    swept_in: str = ""
    swept: str = ""

    @property
    def state_digest(self) -> str:
        """The digest of the state after this chunk."""
        return digest_of_state(self.state)


@dataclass(frozen=True, slots=True)
class Frontier:
    """A stage's position: every chunk up to ``seq``, ending at ``cursor``, is done.

    ``swept`` says how far rows that committed late, below the cursor, were swept up; it is empty
    where a pipeline does not sweep (see :mod:`airflow_checkpoint_etl.sweep`).
    """

    incarnation: str
    generation: int
    seq: int
    cursor: str
    state_digest: str = NO_STATE
    swept: str = ""

    def advance(self, chunk: Chunk, before: Frontier | None = None) -> Frontier:
        """Return the frontier after ``chunk``, by the one rule.

        Args:
            chunk: the chunk that was done.
            before: the frontier of the stage before this one; None for extract.

        Raises:
            IllegalMove: the chunk does not start exactly here, or runs ahead of the stage before.
        """
        fault = misfit(self, chunk)
        if fault:
            raise IllegalMove(fault)
        if before is not None and (
            before.incarnation != chunk.incarnation or before.seq < chunk.seq
        ):
            message = (
                f"chunk {chunk.seq} runs ahead of the stage before it, which is at {before.seq}"
            )
            raise IllegalMove(message)
        return replace(
            self,
            seq=chunk.seq,
            cursor=chunk.high,
            state_digest=chunk.state_digest,
            swept=chunk.swept or self.swept,
        )


def misfit(frontier: Frontier, chunk: Chunk) -> str | None:
    """Say why ``chunk`` is not the next one after ``frontier``; None when it is."""
    if chunk.incarnation != frontier.incarnation:
        return f"chunk {chunk.seq} belongs to another life of the lane (it was rewound or reset)"
    if chunk.seq != frontier.seq + 1:
        return f"the frontier is at chunk {frontier.seq}, so chunk {chunk.seq} is not the next one"
    if chunk.low != frontier.cursor:
        return (
            f"the frontier is at {frontier.cursor} but chunk {chunk.seq} is "
            f"({chunk.low}, {chunk.high}]"
        )
    if chunk.state_in != frontier.state_digest:
        return f"chunk {chunk.seq} was made from another transform state than the stored one"
    return _way_misfit(frontier, chunk)


def _way_misfit(frontier: Frontier, chunk: Chunk) -> str | None:
    """Say why a chunk goes nowhere: an ordinary one must ascend, a sweep's must sweep on."""
    if not chunk.swept:
        return (
            None
            if _ascends(chunk)
            else f"chunk {chunk.seq} does not ascend: ({chunk.low}, {chunk.high}]"
        )
    if chunk.swept_in != frontier.swept:
        return f"chunk {chunk.seq} sweeps on from another place than the stored one"
    if chunk.low != chunk.high:
        return f"chunk {chunk.seq} sweeps below the frontier and cannot move it"
    return None


def _ascends(chunk: Chunk) -> bool:
    """Whether the chunk's high is above its low, as far as that can be told without the database."""
    try:
        return cursors.compare(chunk.low, chunk.high) < 0
    except cursors.IncomparableError:
        return True
    except cursors.CursorError:
        return False  # of another type than its low


@dataclass(frozen=True, slots=True)
class Chain:
    """What reconciling found: the chunks that continue the warehouse's frontier, and where it broke."""

    kept: tuple[Chunk, ...]
    frontier: Frontier
    cut: tuple[Chunk, ...] = ()
    reason: str | None = None


def reconcile(anchor: Frontier, entries: Iterable[Chunk], *, stateful: bool) -> Chain:
    """Return the longest chain of manifest entries that starts at the warehouse's frontier.

    The anchor is always the warehouse, never the store's own head. Entries at or below the anchor
    are already loaded and are left out; the first entry that does not fit ends the chain, and it and
    all later ones are cut.

    Args:
        anchor: the lane's frontier, read from the warehouse *after* the entries were read.
        entries: one stage's manifest in any order.
        stateful: whether entries carry the transform's state (the transform's do, extract's do not).
    """
    frontier = anchor if stateful else replace(anchor, state_digest=NO_STATE)
    kept: list[Chunk] = []
    ahead = sorted(
        (entry for entry in entries if entry.incarnation == anchor.incarnation),
        key=lambda entry: entry.seq,
    )
    ahead = [entry for entry in ahead if entry.seq > anchor.seq]
    for position, entry in enumerate(ahead):
        fault = misfit(frontier, entry)
        if fault:
            return Chain(tuple(kept), frontier, tuple(ahead[position:]), fault)
        frontier = frontier.advance(entry)
        kept.append(entry)
    return Chain(tuple(kept), frontier)


def rewind(anchor: Frontier, boundaries: Iterable[Frontier], to: str, incarnation: str) -> Frontier:
    """Return the frontier after rewinding to a chunk boundary of the current chain.

    Several chunks end at one cursor where late rows were swept: the first of them is meant, so that
    what was swept after it is swept again.

    Args:
        anchor: the lane's frontier now.
        boundaries: the chain's start and where each of its loaded chunks ended, in order of seq.
        to: the cursor to go back to.
        incarnation: the new, freshly drawn incarnation.

    Raises:
        IllegalMove: ``to`` is not a boundary at or below the frontier, or the incarnation is not new.
    """
    if incarnation == anchor.incarnation:
        message = "a rewind needs a new incarnation, or dead chunks would form a valid chain again"
        raise IllegalMove(message)
    for boundary in boundaries:
        if boundary.cursor == to and boundary.seq <= anchor.seq:
            return replace(boundary, incarnation=incarnation, generation=anchor.generation + 1)
    message = f"{to} is no chunk boundary at or below the load frontier {anchor.cursor}"
    raise IllegalMove(message)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is stored per lane and stage.

    Attributes:
        stage: which stage.
        frontier: incarnation, generation, chunk number and last id.
        rows_in: rows that came into the stage in this incarnation.
        rows: rows that left it.
        updated_at: ISO 8601, UTC.
        state: the transform's intermediate state (JSON text), or None.
    """

    stage: Stage
    frontier: Frontier
    rows_in: int = 0
    rows: int = 0
    updated_at: str = ""
    state: str | None = field(default=None, repr=False)

    def advance(self, chunk: Chunk, *, at: str, before: Frontier | None = None) -> Checkpoint:
        """Return the checkpoint after ``chunk``; raises IllegalMove as Frontier.advance does."""
        return Checkpoint(
            stage=self.stage,
            frontier=self.frontier.advance(chunk, before),
            rows_in=self.rows_in + chunk.rows_in,
            rows=self.rows + chunk.rows,
            updated_at=at,
            state=chunk.state,
        )


@dataclass(frozen=True, slots=True)
class Owner:
    """Who works on a stage: for leases, takeover and audit. Only the first four make it the same task."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 1
    ti_id: str = ""
    host: str = ""
    clear_number: int = 0

    @property
    def task(self) -> tuple[str, str, str, int]:
        """What stays the same when Airflow tries a task again."""
        return (self.dag_id, self.run_id, self.task_id, self.map_index)

    def __str__(self) -> str:
        return f"{self.dag_id}.{self.task_id} of {self.run_id}, try {self.try_number}"
