"""What happened to a lane, as values: its runs, chunks, events, throughput and rejected records. PURE.

As in ``views``, no row value is in any of them unless it was asked for.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_checkpoint_etl import cursor as cursors


@dataclass(frozen=True, slots=True)
class Count:
    """A number that was counted up to a limit only: ``10,000+``."""

    number: int
    is_capped: bool = False

    @property
    def shown(self) -> str:
        """The number for people."""
        return f"{self.number:,}{'+' if self.is_capped else ''}"


@dataclass(frozen=True, slots=True)
class RunView:
    """One DAG run on the lane: where it goes, whether it is there, and what it loaded so far.

    Attributes:
        incarnation: the life of the lane it was settled in.
        stored_at: when its extract stored or confirmed its end.
        settled_at: when its bound was taken; None where the bound says nothing about what is new (a
            budget ended the run early, or late transactions did not end in time).
    """

    dag_id: str
    run_id: str
    low: str
    target: str
    done: bool
    chunks: int
    rows: int
    rejected: int
    stored_at: dt.datetime
    settled_at: dt.datetime | None
    finished_at: dt.datetime | None
    incarnation: str

    @property
    def low_shown(self) -> str:
        """Where it began, for people."""
        return cursors.display(self.low)

    @property
    def target_shown(self) -> str:
        """Where it goes, for people."""
        return cursors.display(self.target)


@dataclass(frozen=True, slots=True)
class TryView:
    """What one try of a load did in a DAG run, from the ledger.

    Attributes:
        try_number: which try.
        kept: chunks that earlier tries of the run had loaded.
        chunks: chunks it loaded.
        rows: rows it loaded.
        first: where it went on (exclusive), canonical cursor text.
        last: how far it came (inclusive).
        started_at: when it began with its first chunk.
        seconds: from then to its last commit.
    """

    try_number: int
    kept: int
    chunks: int
    rows: int
    first: str
    last: str
    started_at: dt.datetime
    seconds: float

    @property
    def first_shown(self) -> str:
        """Where it went on, for people."""
        return cursors.display(self.first)

    @property
    def last_shown(self) -> str:
        """How far it came, for people."""
        return cursors.display(self.last)


@dataclass(frozen=True, slots=True)
class EventView:
    """Something done to the lane beside loading: what, by whom, when, and its details."""

    id: int
    kind: str
    actor: str
    detail: Mapping[str, Any]
    created_at: dt.datetime

    @property
    def reason(self) -> str:
        """Why it was done."""
        return str(self.detail.get("reason", ""))


@dataclass(frozen=True, slots=True)
class QuarantineReason:
    """Quarantined records of one stage with one reason, without their values."""

    stage: str
    reason: str
    count: int
    newest_at: dt.datetime
    newest_cursor: str

    @property
    def newest_shown(self) -> str:
        """Where the newest of them is, for people."""
        return cursors.display(self.newest_cursor) if self.newest_cursor else ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A quarantined record, without its values: the stage that rejected it, where it is and why.

    Attributes:
        ledger_id: the ledger row it is kept under.
        ordinal: its number there.
        payload: the record; only where it was asked for.
    """

    stage: str
    cursor: str
    reason: str
    chunk: int
    created_at: dt.datetime
    ledger_id: int
    ordinal: int
    payload: Any = None

    @property
    def shown(self) -> str:
        """Where it is, for people."""
        return cursors.display(self.cursor) if self.cursor else ""


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """What of a lane is in quarantine.

    Attributes:
        total: records, counted up to 10,000.
        reasons: by stage and reason, the most frequent first, over the newest 10,000 records.
        records: the newest records, or a page of them.
        next_before: what to pass as ``before`` for the next page of records; None on the last one.
    """

    total: Count
    reasons: tuple[QuarantineReason, ...]
    records: tuple[Rejected, ...]
    next_before: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ChunkView:
    """A loaded chunk of the current chain, from the ledger.

    Attributes:
        seconds: how long its load transaction took.
        task_id: the task that loaded it.
        map_index: which of a mapped task's instances; -1 for a task that is not mapped.
    """

    seq: int
    low: str
    high: str
    rows_in: int
    rows: int
    rejected: int
    generation: int
    dag_id: str
    run_id: str
    try_number: int
    started_at: dt.datetime
    loaded_at: dt.datetime
    seconds: float
    ledger_id: int
    is_sweep: bool = False
    task_id: str = ""
    map_index: int = -1

    @property
    def low_shown(self) -> str:
        """Its exclusive lower end, for people."""
        return cursors.display(self.low)

    @property
    def high_shown(self) -> str:
        """Its inclusive upper end, for people."""
        return cursors.display(self.high)


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was loaded in a span of time that begins at ``start``."""

    start: dt.datetime
    rows: int
    chunks: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rows loaded over time.

    Attributes:
        bucket_seconds: how long each bucket is.
        buckets: from the oldest to the newest, empty ones included.
        is_cut: whether older chunks of the span were left out, because there are more than 10,000.
    """

    bucket_seconds: float
    buckets: tuple[Bucket, ...]
    is_cut: bool = False
