"""Where rows are loaded, and who decides what is loaded: target, ledger and lanes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from airflow_checkpoint_etl.frames import Columns
    from airflow_checkpoint_etl.ports.lane import Claim, Floor, LaneSpec, LaneState, Note, Run
    from airflow_checkpoint_etl.ports.rows import Rows
    from airflow_checkpoint_etl.protocol import Chunk, Frontier, Lane, Owner, Stage
    from airflow_checkpoint_etl.quarantine import Policy, Rejects, Tally
    from airflow_checkpoint_etl.range_plans import Plans


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one load transaction did.

    Attributes:
        already: the chunk was loaded before (by an attempt whose acknowledgement was lost).
        rows: rows written to the target.
        ledger_id: the ledger row's id.
        rejected: records of the chunk in quarantine, the transform's and the load's.
    """

    frontier: Frontier
    rows: int
    ledger_id: int
    already: bool = False
    rejected: int = 0


class Passage(Protocol):
    """A chunk whose rows come straight from the source, while they are loaded.

    Attributes:
        high: where it ends.
        columns: its rows' columns, from the transaction that reads them.
        rows: its rows, known when the blocks have ended.
    """

    high: str
    columns: Columns
    rows: int

    def blocks(self) -> Iterator[bytes]:
        """Yield the binary COPY; raises what went wrong where it is read."""
        ...


class Warehouse(Protocol):
    """The target table, the ledger and the lanes: authority for "loaded", issuer of fences."""

    @property
    def plans(self) -> Plans | None:
        """Range plans; None where the warehouse makes none."""
        ...

    def preflight(self) -> None:
        """Create or migrate the ledger schema; check the target and the role's privileges."""
        ...

    def prepare(self, spec: LaneSpec) -> LaneState:
        """Create the lane if new, compare it with the pipeline, and return it.

        Raises:
            PipelineChangedError: the fingerprint, source or target changed.
            SourceResetError: the source was failed over or restored.
            PreflightError: a new lane would load into a table that already holds rows.
        """
        ...

    def acquire(self, spec: LaneSpec, stage: Stage, owner: Owner, lease: dt.timedelta) -> Claim:
        """Take a stage: create the lane if new, bump the fence, set the lease.

        Raises:
            StageBusyError: another task holds a live lease.
            PlanOpenError: a range plan is open over the lane.
            PlanEndedError: the lane is a part of a range plan that has ended.
            PipelineChangedError: the fingerprint, source or target changed.
            SourceResetError: the source was failed over or restored.
            PreflightError: a new lane would load into a table that already holds rows.
        """
        ...

    def heartbeat(self, claim: Claim, lease: dt.timedelta) -> bool:
        """Extend the lease over a second connection; False when a newer fence has taken the stage."""
        ...

    def release(self, claim: Claim) -> None:
        """End the lease, if this claim still holds it."""
        ...

    def note(self, lane: Lane, stage: Stage, owner: Owner, note: Note, fence: int | None) -> None:
        """Leave a note on a stage; nothing happens unless the fence is still the newest.

        Without a fence (the attempt failed before it acquired the stage) only where nobody else works.
        That an attempt was fenced is an event of the lane, kept where the fence is not the newest any more.
        """
        ...

    def lane(self, lane: Lane) -> LaneState | None:
        """Read a lane; None when it does not exist."""
        ...

    def run(self, lane: Lane, owner: Owner) -> Run | None:
        """Read the run row of this owner's DAG run; None when there is none."""
        ...

    def set_target(self, claim: Claim, run: Run) -> Run:
        """Store this DAG run's target, keeping one that is already there; returns the stored one."""
        ...

    def shorten(self, claim: Claim, target: str) -> None:
        """Lower this DAG run's target to where a budgeted extract stopped."""
        ...

    def finish(self, claim: Claim, run: Run, frontier: Frontier) -> None:
        """Mark this DAG run's row done: the load has reached its target.

        Raises:
            FencedError: a newer attempt has the load.
            ManifestConflictError: the lane does not stand at ``frontier`` any more, or the run has
                another target: the warehouse was failed over.
        """
        ...

    def reprocess(self, claim: Claim, run: Run) -> Claim:
        """Rewind the lane to the run's low and make the old load frontier the run's target.

        One transaction; returns the claim in the lane's new life.

        Raises:
            StageBusyError: another run works on the lane.
            RewindError: the rows loaded since cannot be taken back.
        """
        ...

    def resync(self, claim: Claim, floor: Floor) -> Claim:
        """Begin a new life at the warehouse's frontier: it was restored, and what it says is true.

        Returns the claim in the new life, whose fence and generation are above the floor.
        """
        ...

    def copy_faults(self, columns: Columns) -> list[str]:
        """Say why rows with these columns cannot be copied into the target as they are."""
        ...

    def load(
        self,
        claim: Claim,
        chunk: Chunk,
        table: Rows,
        rejects: Rejects | None = None,
        policy: Policy | None = None,
    ) -> Loaded:
        """Load one chunk: compare-and-set, ledger row, rows and rejected records in one transaction.

        Args:
            claim: the load's claim.
            chunk: the chunk.
            table: its rows.
            rejects: what the transform rejected, from the staged file.
            policy: what becomes of rows that the target refuses; None: the chunk fails.

        Raises:
            TooManyRejectedError: the run's rejected records pass the policy's limits; nothing was
                written.
            FencedError: a newer load attempt owns the lane; nothing was written.
            RewoundError: the lane was rewound; nothing was written.
            ManifestConflictError: the lane stands elsewhere; nothing was written.
        """
        ...

    def receive(
        self, claim: Claim, chunk: Chunk, passage: Passage, preoperator: Sequence[str] = ()
    ) -> Loaded:
        """Load one chunk while it is read, in one transaction that begins with its compare-and-set.

        Args:
            claim: the load's claim.
            chunk: the chunk; its rows are counted as they come.
            passage: its rows.
            preoperator: statements to run in the transaction of the lane's first chunk, before its
                rows; they must leave the target empty.

        Raises:
            FencedError: a newer load attempt owns the lane; nothing was written.
            RewoundError: the lane was rewound; nothing was written.
            ManifestConflictError: the lane stands elsewhere; nothing was written.
            PreflightError: the preoperator left rows, or another lane's rows are in the target.
        """
        ...

    def loaded_in_run(self, claim: Claim) -> int:
        """Return how many chunks this DAG run has loaded so far, over all its tries."""
        ...

    def tally(self, claim: Claim) -> Tally:
        """Return what this DAG run's loaded chunks have read and rejected, over all its tries."""
        ...

    def loaded_before(self, lane: Lane, incarnation: str, grace: dt.timedelta) -> int:
        """Return the newest chunk whose ledger row is older than the grace period; 0 for none."""
        ...

    def cancel(self) -> None:
        """Interrupt the running statement; safe from another thread."""
        ...

    def close(self) -> None:
        """Close the connections, if open."""
        ...
