"""Where a stage keeps how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Lane, Stage


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage as the store remembers it.

    Attributes:
        checkpoint: the stored checkpoint, None when there is none.
        fence: the newest fence that wrote here.
        entries: the stage's manifest entries, in order of seq.
        faults: what was unreadable and left out, in words; the stage rebuilds it and warns.
    """

    checkpoint: Checkpoint | None = None
    fence: int = 0
    entries: tuple[Chunk, ...] = ()
    faults: tuple[str, ...] = ()


class CheckpointStore(Protocol):
    """The fast, rebuildable record: checkpoints and manifest. No correctness decision rests on it."""

    def preflight(self) -> list[str]:
        """Connect, create or migrate the schema, and return warnings (e.g. an evicting Redis)."""
        ...

    def read(self, lane: Lane, stage: Stage) -> StageRecord:
        """Return what is stored; an empty record when nothing is."""
        ...

    def begin(self, lane: Lane, fence: int, checkpoint: Checkpoint) -> None:
        """Take over one stage's record: set its checkpoint, drop entries of other incarnations and
        entries above the checkpoint's seq, and remember the fence.

        Raises FencedError when a newer fence wrote here.
        """
        ...

    def append(self, lane: Lane, fence: int, chunk: Chunk, checkpoint: Checkpoint) -> None:
        """Add one manifest entry and move the checkpoint, atomically, by compare-and-set.

        The stored record must have this fence and the chunk's incarnation, and stand at
        ``(chunk.seq - 1, chunk.low)``. ``checkpoint`` is the one after the chunk.

        Raises:
            FencedError: a newer fence wrote here.
            ManifestConflictError: the record is gone or stands elsewhere.
        """
        ...

    def note_loaded(self, lane: Lane, checkpoint: Checkpoint) -> None:
        """Record the load frontier; only within its incarnation (or a new one) and never backwards."""
        ...

    def forget(self, lane: Lane, stage: Stage, seqs: Sequence[int], incarnation: str) -> None:
        """Drop manifest entries whose chunks were loaded and collected."""
        ...

    def close(self) -> None:
        """Close the connection, if one is open."""
        ...
