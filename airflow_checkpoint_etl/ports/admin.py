"""What is done to a lane beside loading: rewind, reset, resync, release, replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from airflow_checkpoint_etl.ports.lane import Floor
    from airflow_checkpoint_etl.protocol import Frontier, Lane, Stage
    from airflow_checkpoint_etl.transform import Transformer


@dataclass(frozen=True, slots=True)
class RewindRequest:
    """What to rewind a lane to, and who wants it.

    Attributes:
        to: the cursor, a chunk boundary of the current chain; None for the lane's start.
        actor: who asks, for the audit.
        reason: why, for the audit.
        delete_rows: take the rows loaded above the point out of the target (needs lineage). None:
            do so for an append, leave them to be replaced for an upsert.
        allow_duplicates: accept that an append without lineage loads those rows a second time.
        forget: also forget what the lane was made with (a reset): the next extract takes cursor,
            source, target and filter as they then are.
        incarnation: the lane's life that was looked at before; in another one nothing is done. None:
            whichever it is.
    """

    to: str | None
    actor: str
    reason: str
    delete_rows: bool | None = None
    allow_duplicates: bool = False
    forget: bool = False
    incarnation: str | None = None


@dataclass(frozen=True, slots=True)
class Rewound:
    """What a rewind did, or would do.

    Attributes:
        before: the load frontier before.
        after: the load frontier after.
        chunks: chunks taken back.
        rows: rows these chunks had loaded.
        deleted: rows deleted from the target; None when they are left there.
        quarantined: quarantined records dropped with their chunks.
    """

    before: Frontier
    after: Frontier
    chunks: int
    rows: int
    deleted: int | None
    quarantined: int


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What of a lane's quarantine to replay, and who wants it.

    Attributes:
        actor: who asks, for the audit.
        reason: why, for the audit.
        transformer: the mended transform, for what the transform had rejected; it rejects what fails
            again. None: only what the load had rejected is replayed.
    """

    actor: str
    reason: str
    transformer: Transformer | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did, or would do.

    Attributes:
        records: quarantined records that were tried.
        released: those that left the quarantine.
        rows: rows they brought into the target.
        left: records in quarantine afterwards, the untried ones included.
    """

    records: int
    released: int
    rows: int
    left: int


class WarehouseAdmin(Protocol):
    """What people do to a lane beside loading; each is one transaction with an audit row."""

    def rewind(self, lane: Lane, request: RewindRequest, *, dry_run: bool) -> Rewound:
        """Go back to a chunk boundary; with ``dry_run`` everything is counted and nothing kept.

        Raises:
            RewindError: the point is no boundary, or the rows above it cannot be taken back.
        """
        ...

    def boundary(self, lane: Lane, at_or_below: str) -> str:
        """Return the highest chunk boundary of the current chain at or below a cursor."""
        ...

    def begin_anew(self, lane: Lane, actor: str, reason: str, floor: Floor) -> Frontier:
        """Resync: a new life at the warehouse's own frontier, with source and target as they are."""
        ...

    def free(self, lane: Lane, stage: Stage, actor: str, reason: str) -> str:
        """Release: end a stage's lease and fence its owner; returns who that was, in words."""
        ...

    def replay(self, lane: Lane, request: ReplayRequest, *, dry_run: bool) -> Replayed:
        """Try quarantined records again, under the chunks they came from; what fails again stays.

        Raises:
            ReplayError: the transform has state, or the target is another one.
        """
        ...
