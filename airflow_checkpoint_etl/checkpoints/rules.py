"""The comparisons every checkpoint store makes, and the errors they end in.

PURE: no IO, no clock, no logging. A store compares and sets under its own lock or in one statement;
the Redis scripts make the same comparisons in Lua. What they come to is said here once:

    begin        refused to an older fence
    append       by the stored fence only, from exactly where the record stands
    note_loaded  forwards only; to another incarnation only with a higher generation
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.errors import FencedError, ManifestConflictError
from airflow_checkpoint_etl.protocol import IllegalMove

if TYPE_CHECKING:
    from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Frontier, Lane, Stage


@dataclass(frozen=True, slots=True)
class Head:
    """Where one stage's record stands.

    Attributes:
        fence: the newest fence that wrote there.
        incarnation: the lane's life the record belongs to.
        generation: its number, for people.
        seq: the newest chunk's number.
        cursor: the newest chunk's upper end.
        digest: content digest of the chunk that was appended last; empty after a begin.
    """

    fence: int
    incarnation: str
    generation: int
    seq: int
    cursor: str
    digest: str = ""

    @classmethod
    def at(cls, frontier: Frontier, fence: int, digest: str = "") -> Head:
        """Return the head of a record whose checkpoint stands at ``frontier``."""
        return cls(
            fence, frontier.incarnation, frontier.generation, frontier.seq, frontier.cursor, digest
        )


def refuse_older(lane: Lane, stage: Stage, fence: int, stored: int) -> None:
    """Raise FencedError when ``stored`` is a newer fence than ``fence``."""
    if stored > fence:
        message = (
            f"{stage} of {lane}: fence {fence} is older than fence {stored}, which has written to "
            f"the checkpoint store; a newer attempt owns the stage and this one stops"
        )
        raise FencedError(message)


def check_pair(chunk: Chunk, checkpoint: Checkpoint) -> None:
    """Raise IllegalMove when ``checkpoint`` is not the one after ``chunk``."""
    frontier = checkpoint.frontier
    if (frontier.incarnation, frontier.seq, frontier.cursor) != (
        chunk.incarnation,
        chunk.seq,
        chunk.high,
    ):
        message = f"the checkpoint at {frontier.seq} is not the one after chunk {chunk.seq}"
        raise IllegalMove(message)


def appended(lane: Lane, stage: Stage, fence: int, chunk: Chunk, head: Head | None) -> bool:
    """Whether ``chunk`` is there already: its first append succeeded and nobody heard of it.

    Args:
        lane: the lane, for the message.
        stage: the stage, for the message.
        fence: the fence of the attempt that appends.
        chunk: the chunk it appends.
        head: where the record stands; None when there is none, or it is unreadable.

    Raises:
        FencedError: a newer fence wrote there.
        ManifestConflictError: the chunk is not the next one there.
    """
    if head is not None:
        refuse_older(lane, stage, fence, head.fence)
        mine = head.fence == fence and head.incarnation == chunk.incarnation
        if mine and (head.seq, head.cursor, head.digest) == (chunk.seq, chunk.high, chunk.digest):
            return True
        if mine and (head.seq + 1, head.cursor) == (chunk.seq, chunk.low):
            return False
    raise conflict(lane, stage, fence, chunk, head)


def conflict(
    lane: Lane, stage: Stage, fence: int, chunk: Chunk, head: Head | None
) -> ManifestConflictError:
    """Build the error for a chunk that is not the next one."""
    if head is None:
        fact = "the checkpoint store has no readable record"
    elif head.fence != fence:
        fact = f"the record was begun by fence {head.fence}, this attempt has fence {fence}"
    elif head.incarnation != chunk.incarnation:
        fact = "the record belongs to another life of the lane"
    else:
        fact = f"the record stands at chunk {head.seq}, at {head.cursor}"
    return ManifestConflictError(
        f"{stage} of {lane}: cannot append chunk {chunk.seq}, ({chunk.low}, {chunk.high}]: {fact}; "
        f"the stage reconciles with the warehouse and goes on"
    )


def moves(head: Head | None, checkpoint: Checkpoint) -> bool:
    """Whether the load frontier of ``checkpoint`` is ahead of where the record stands."""
    frontier = checkpoint.frontier
    if head is None:
        return True
    if head.incarnation == frontier.incarnation:
        return head.seq < frontier.seq
    return head.generation < frontier.generation
