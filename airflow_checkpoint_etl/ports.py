"""The interfaces between the runner and the world: source, staging area, checkpoint store, warehouse.

Adapters take connection *factories*, never Airflow: the hook is the composition root. pyarrow appears
in annotations only, so that importing this module (as parsing a DAG does) does not import pyarrow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from airflow_checkpoint_etl.frames import Columns, Form, Frames
    from airflow_checkpoint_etl.guarantee import Promise
    from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Frontier, Lane, Owner, Stage
    from airflow_checkpoint_etl.quarantine import Policy, Rejects, Tally
    from airflow_checkpoint_etl.range_plans import Plans
    from airflow_checkpoint_etl.transform import Transformer

    Rows: TypeAlias = pa.Table | Frames
    """A chunk's rows, in arrow form or in copy form."""


# --- source --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as its database names it, for lineage.

    Attributes:
        schema: its schema; empty where it has none.
        name: its name.
        columns: PostgreSQL types by column, in order.
    """

    schema: str
    name: str
    columns: Mapping[str, str]


@runtime_checkable
class Described(Protocol):
    """A source or warehouse that can say which table it works on."""

    def table_facts(self) -> TableFacts | None:
        """Return what was learnt about the table so far, without asking anybody; None when nothing."""
        ...


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What preflight learnt about the source.

    Attributes:
        identity: which database and relation this is, for noticing that it was replaced.
        promise: what reading it can promise, and on what grounds.
        start: the cursor to start at: BEGIN, or the encoded ``start_after``.
        accepts_reset: whether to go on when the source has gone back (a new timeline, say).
    """

    identity: Mapping[str, str]
    promise: Promise
    start: str
    accepts_reset: bool = False

    @property
    def settle(self) -> str:
        """The settle mode in force (``auto`` resolved)."""
        return self.promise.settle


@dataclass(frozen=True, slots=True)
class Read:
    """One chunk's rows as read from the source.

    Attributes:
        table: the rows in cursor order. In arrow form every field's metadata names its PostgreSQL
            type under ``b"pg_type"``.
        high: the cursor the read reached; the target itself when nothing is left below it.
    """

    table: Rows
    high: str


@dataclass(frozen=True, slots=True)
class Bound:
    """Where one run ends.

    Attributes:
        target: the highest cursor below which no more rows can appear.
        swept: how far late rows are to be swept in this run; empty where the source is not swept.
        settled: False when late transactions did not end in time and the run ends, as configured,
            at the last settled bound: it has caught up with nothing.
        behind: how many seconds before it was taken what the bound promises ends: rows that were
            committed since then may be above it.
    """

    target: str
    swept: str = ""
    settled: bool = True
    behind: float = 0.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rows from below the frontier that appeared late, as far as one chunk holds them.

    Attributes:
        table: the rows.
        swept: how far late rows are swept when they are loaded (a token of ``sweep.py``).
    """

    table: pa.Table
    swept: str


class Sink(Protocol):
    """What rows are copied into; whatever it raises ends the copying."""

    def begin(self, high: str, columns: Columns) -> None:
        """Hear of a chunk, before its first block: where it ends, and its columns."""
        ...

    def write(self, block: bytes, rows: int) -> None:
        """Take the next bytes of the binary COPY; ``rows`` is about how many have come so far."""
        ...

    def check(self) -> None:
        """Called while nothing comes."""
        ...


class Source(Protocol):
    """Rows in the order of a cursor, readable again by ``(low, high]``."""

    def preflight(self) -> SourceFacts:
        """Check names, types, order and privileges; raise PreflightError before anything is written."""
        ...

    def settle(self, after: str, waiting: Callable[[str], None] | None = None) -> Bound:
        """Return the bound for one run, whose target is ``after`` when there is nothing new.

        Args:
            after: where the run begins.
            waiting: is told in words what is waited for, and an empty text when that is over.

        Raises:
            SettleTimeoutError: late transactions did not end in time; names them.
            SourceResetError: the source has gone back behind ``after``: ids would be issued again.
        """
        ...

    def sweep(self, swept: str, goal: str, upto: str) -> Sweep:
        """Read late rows at or below ``upto``, from the token ``swept`` on the way to ``goal``."""
        ...

    def copied_columns(self) -> Columns | None:
        """Return the columns that a chunk in copy form has now; None when there is no such form."""
        ...

    def read(self, low: str, target: str, form: Form = "arrow") -> Read:
        """Read the next chunk of ``(low, target]``, bounded by rows and bytes."""
        ...

    def read_again(self, low: str, high: str, form: Form = "arrow") -> Read:
        """Read exactly ``(low, high]``."""
        ...

    def copy_out(self, low: str, target: str, sink: Sink) -> tuple[str, int]:
        """Copy the next chunk of ``(low, target]`` into a sink; return where it ended, and its rows.

        It is bounded by rows, and about by bytes.
        """
        ...

    def at_or_past(self, position: str, target: str) -> bool:
        """Whether ``position`` is at or past ``target``, in the source's own order."""
        ...

    def rows_after(self, low: str) -> int:
        """Estimate, without counting, how many rows are above ``low``."""
        ...

    def split(self, low: str, target: str, parts: int) -> tuple[str, ...]:
        """Cut ``(low, target]`` into at most ``parts`` ranges of about equal rows, without counting.

        Returns the cuts: fewer than ``parts`` cursors strictly between the ends, ascending in the
        source's own order; none where the source cannot tell.
        """
        ...

    def cancel(self) -> None:
        """Interrupt the running statement; safe from another thread."""
        ...

    def close(self) -> None:
        """Close the connection, if one is open."""
        ...


# --- staging area --------------------------------------------------------------------------------


class StagingArea(Protocol):
    """Where chunks wait between stages: immutable named files."""

    def preflight(self) -> None:
        """Check that the area can be reached and written; raise PreflightError."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Store a file durably. Raises ChunkTooLargeError above the area's cap.

        Storing the same bytes under the same name again is allowed; other bytes are refused.
        """
        ...

    def get(self, name: str) -> bytes:
        """Return a file. Raises StagedChunkError when it is missing."""
        ...

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is missing."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; missing ones are no error."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Return the names of stored files under a prefix, for collecting orphans."""
        ...

    def close(self) -> None:
        """Close the connection, if one is open."""
        ...


# --- checkpoint store ----------------------------------------------------------------------------


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


# --- warehouse -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane as the warehouse, the arbiter, has it.

    Attributes:
        frontier: the load frontier, with the transform's state digest.
        state: the transform's state at that frontier (JSON text), from the ledger.
        rows_total: rows loaded in this generation.
        load_fence: the newest load attempt's fence.
        target_oid: the target table's oid at the last load; None before the first.
        updated_at: when the frontier last moved, ISO 8601.
        settings: what the pipeline looked like when its extract last ran, for people and admin.
        fences: the newest fence that each stage was handed, by the stage's name.
        is_reset: whether it was reset, and no extract has taken it up since.
        ends_at: where a part of a range plan ends; None for every other lane.
        sealed: no load moves it: a plan is open over it, or the plan it is a part of has ended.
    """

    frontier: Frontier
    state: str | None = field(default=None, repr=False)
    rows_total: int = 0
    load_fence: int = 0
    target_oid: int | None = None
    updated_at: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    fences: Mapping[str, int] = field(default_factory=dict)
    is_reset: bool = False
    ends_at: str | None = None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A stage acquired by one attempt, with the fence that the warehouse handed out.

    An attempt works only in the incarnation in which it acquired its stage: what it knows (its code,
    its run's goal) is older than any later life of the lane.
    """

    lane: Lane
    stage: Stage
    fence: int
    owner: Owner
    incarnation: str


@dataclass(frozen=True, slots=True)
class Run:
    """One DAG run's goal on a lane: from ``low`` to the settled bound ``target``.

    Attributes:
        low: where the run's extract began.
        target: where the run ends.
        incarnation: the lane's life it was settled in.
        swept: how far late rows are to be swept; empty where the source is not swept.
        done: whether a load has reached the target.
        clear_number: how often the DAG run had been cleared when the goal was stored.
        settled_ago: how many seconds before it is stored, or was read, the bound was taken; None for a
            bound that says nothing about what is new.
    """

    low: str
    target: str
    incarnation: str
    swept: str = ""
    done: bool = False
    clear_number: int = 0
    settled_ago: float | None = 0.0


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """What a new lane is created with, and what an existing one is compared with.

    Attributes:
        lane: the lane.
        fingerprint: of what must not change under the pipeline's id.
        start: the cursor a new lane starts at.
        source_identity: which source this is; empty where the stage does not know.
        settings: what the pipeline looks like, for people and for admin.
        accepts_reset: whether a source on another timeline is taken as it is.
        empties: whether the lane's first load empties the target itself, in its own transaction.
    """

    lane: Lane
    fingerprint: str
    start: str
    source_identity: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    accepts_reset: bool = False
    empties: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, for people; never a row value.

    Attributes:
        kind: the error's class.
        message: what may be said of it, at most 500 characters.
        cursor: where the stage stood; empty where it had not begun.
        retryable: whether trying again can help.
    """

    kind: str
    message: str
    cursor: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Note:
    """What an attempt leaves for people who look at its stage.

    Attributes:
        waiting: what it waits for; empty for nothing.
        failure: why it failed; None when it did not.
        moved: whether it has done a chunk or reached the end: earlier failures are over.
        fenced: whether a newer fence has ended it; that goes into the lane's history, not the stage.
    """

    waiting: str = ""
    failure: Failure | None = None
    moved: bool = False
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class Floor:
    """What a checkpoint store has seen, above which a restored warehouse has to go on."""

    fence: int = 0
    generation: int = 0


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

    def accept(self, schema: pa.Schema) -> None:
        """Check that rows of this schema fit the target exactly, creating it when asked to.

        Raises TypeMismatchError or PreflightError, with the DDL of a missing table.
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


@dataclass(frozen=True, slots=True)
class Ports:
    """The four ports of one pipeline, bound to one lane's connections."""

    source: Source
    staging: StagingArea
    checkpoints: CheckpointStore
    warehouse: Warehouse

    def close(self) -> None:
        """Close every connection; the first error is raised after all were tried."""
        errors: list[Exception] = []
        for port in (self.source, self.staging, self.checkpoints, self.warehouse):
            try:
                port.close()
            except Exception as error:  # noqa: BLE001  every port gets its chance to close
                errors.append(error)
        if errors:
            raise errors[0]

    def cancel(self) -> None:
        """Interrupt whatever statement is running, from another thread."""
        self.source.cancel()
        self.warehouse.cancel()
