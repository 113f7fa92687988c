"""Checkpoint store and staging area in this process, with the contracts of the real ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.checkpoints.rules import (
    Head,
    appended,
    check_pair,
    moves,
    refuse_older,
)
from airflow_checkpoint_etl.ports import StageRecord
from airflow_checkpoint_etl.staging.checks import check_cap, check_name, check_same, missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Lane, Stage

_CAP = 64 << 20


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage's record."""

    head: Head
    checkpoint: Checkpoint
    entries: Mapping[int, Chunk] = field(default_factory=dict)


class InMemoryCheckpointStore:
    """Checkpoints and manifests in this process; safe between threads."""

    def __init__(self) -> None:
        self._stages: dict[tuple[Lane, Stage], _Stage] = {}
        self._lock = threading.Lock()

    def preflight(self) -> list[str]:
        """There is nothing to prepare and nothing to warn about."""
        return []

    def read(self, lane: Lane, stage: Stage) -> StageRecord:
        """Return what is stored; an empty record when nothing is."""
        with self._lock:
            stored = self._stages.get((lane, stage))
        if stored is None:
            return StageRecord()
        entries = tuple(stored.entries[seq] for seq in sorted(stored.entries))
        return StageRecord(stored.checkpoint, stored.head.fence, entries)

    def begin(self, lane: Lane, fence: int, checkpoint: Checkpoint) -> None:
        """Take over one stage's record; raises FencedError when a newer fence wrote here."""
        frontier = checkpoint.frontier
        with self._lock:
            stored = self._stages.get((lane, checkpoint.stage))
            if stored is not None:
                refuse_older(lane, checkpoint.stage, fence, stored.head.fence)
            kept = {
                seq: entry
                for seq, entry in (stored.entries if stored else {}).items()
                if entry.incarnation == frontier.incarnation and seq <= frontier.seq
            }
            self._stages[lane, checkpoint.stage] = _Stage(
                Head.at(frontier, fence), checkpoint, kept
            )

    def append(self, lane: Lane, fence: int, chunk: Chunk, checkpoint: Checkpoint) -> None:
        """Add one manifest entry and move the checkpoint; succeeds again when it did before.

        Raises:
            FencedError: a newer fence wrote here.
            ManifestConflictError: the record is gone or stands elsewhere.
        """
        check_pair(chunk, checkpoint)
        key = (lane, checkpoint.stage)
        with self._lock:
            stored = self._stages.get(key)
            head = stored.head if stored else None
            if appended(lane, checkpoint.stage, fence, chunk, head) or stored is None:
                return
            self._stages[key] = _Stage(
                Head.at(checkpoint.frontier, fence, chunk.digest),
                checkpoint,
                {**stored.entries, chunk.seq: chunk},
            )

    def note_loaded(self, lane: Lane, checkpoint: Checkpoint) -> None:
        """Record the load frontier; never backwards."""
        key = (lane, checkpoint.stage)
        with self._lock:
            stored = self._stages.get(key)
            if moves(stored.head if stored else None, checkpoint):
                fence = stored.head.fence if stored else 0
                entries = stored.entries if stored else {}
                self._stages[key] = _Stage(Head.at(checkpoint.frontier, fence), checkpoint, entries)

    def forget(self, lane: Lane, stage: Stage, seqs: Sequence[int], incarnation: str) -> None:
        """Drop manifest entries whose chunks were loaded and collected."""
        gone = set(seqs)
        with self._lock:
            stored = self._stages.get((lane, stage))
            if stored is None:
                return
            kept = {
                seq: entry
                for seq, entry in stored.entries.items()
                if seq not in gone or entry.incarnation != incarnation
            }
            self._stages[lane, stage] = replace(stored, entries=kept)

    def close(self) -> None:
        """There is no connection; what is stored stays."""


class InMemoryStagingArea:
    """Staged files in this process; safe between threads.

    Args:
        cap: bytes one file may have.
    """

    def __init__(self, cap: int = _CAP) -> None:
        self._cap = cap
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def preflight(self) -> None:
        """There is nothing to prepare."""

    def put(self, name: str, data: bytes) -> None:
        """Store a file; raises ChunkTooLargeError above the cap."""
        check_name(name)
        check_cap(name, len(data), self._cap, "memory")
        with self._lock:
            check_same(name, same=self._files.setdefault(name, data) == data)

    def get(self, name: str) -> bytes:
        """Return a file; raises StagedChunkError when it is missing."""
        with self._lock:
            data = self._files.get(name)
        if data is None:
            raise missing(name, "memory")
        return data

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is missing."""
        with self._lock:
            data = self._files.get(name)
        return None if data is None else len(data)

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; missing ones are no error."""
        with self._lock:
            for name in names:
                self._files.pop(name, None)

    def names(self, prefix: str) -> list[str]:
        """Return the names of stored files under a prefix, in order."""
        with self._lock:
            return sorted(name for name in self._files if name.startswith(prefix))

    def close(self) -> None:
        """There is no connection; what is stored stays."""
