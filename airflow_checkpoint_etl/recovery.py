"""R, reconcile: where a stage goes on, after any crash and whatever the checkpoint store still knows.

The anchor is always the warehouse. The checkpoint store is read first and the warehouse second (I6 in
docs/protocol.md): read the other way round, a load that commits in between would make the store look
ahead of the warehouse. A stage cuts only its own list, under its own fence.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.collect import staged_prefix, unfit_mark
from airflow_checkpoint_etl.errors import (
    CorruptRecordError,
    FencedError,
    RewoundError,
    WarehouseRestoredError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import Floor
from airflow_checkpoint_etl.protocol import (
    NO_STATE,
    Checkpoint,
    Stage,
    digest_of_state,
    reconcile,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_checkpoint_etl.ports import Claim, LaneState, Ports, StageRecord
    from airflow_checkpoint_etl.protocol import Chunk, Frontier, Lane

log = logging.getLogger(__name__)

_RESTORED: Final = (
    "If that is meant, resync the lane (admin, or on_warehouse_restored='resync' on the extract) and "
    "clear extract with Downstream: all that came after loads again"
)


def now() -> str:
    """Return the time, ISO 8601 in UTC, for records that people read."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a stage goes on.

    Attributes:
        checkpoint: the stage's checkpoint, already stored under its fence.
        kept: chunks of earlier attempts that are done, staged and not yet loaded.
        lane: the lane as the warehouse had it.
        sources: for transform and load, the chunks of the stage before, by number.
    """

    checkpoint: Checkpoint
    kept: tuple[Chunk, ...]
    lane: LaneState
    sources: dict[int, Chunk]


class Recovery:
    """Reconciles one lane's stages with the warehouse.

    Args:
        ports: the pipeline's ports.
        lane: the lane.
        lease: how long a stage is kept without a heartbeat.
    """

    def __init__(self, ports: Ports, lane: Lane, lease: dt.timedelta) -> None:
        self._ports, self._lane, self._lease = ports, lane, lease

    def resync(self, claim: Claim) -> Claim:
        """Begin a new life if the checkpoint store is ahead of a warehouse that was restored.

        Returns the claim to go on with: the same one when the warehouse was not restored.
        """
        noted = self._read(Stage.LOAD).checkpoint
        stored = {stage.value: self._read(stage).fence for stage in Stage}
        state = self._ports.warehouse.lane(self._lane)
        if state is None:
            return claim
        # A stage that the warehouse has not handed out since it was restored is behind its own record.
        handed = {claim.stage.value: claim.fence} | dict(state.fences)
        is_fenced = any(stored[stage] > fence for stage, fence in handed.items())
        if not (_is_ahead(noted, state.frontier) or is_fenced):
            return claim
        log.warning(
            "%s: the checkpoint store is ahead of the warehouse, which was restored to chunk %s, %s; "
            "going on from there, as on_warehouse_restored says: all that came after loads again",
            self._lane,
            state.frontier.seq,
            cursors.display(state.frontier.cursor),
        )
        return self._ports.warehouse.resync(claim, floor_of(self._ports, self._lane))

    def extract(self, claim: Claim) -> Resumed:
        """Keep the extracted chunks that chain from the warehouse and are still staged."""
        record = self._read(Stage.EXTRACT)
        after = self._read(Stage.TRANSFORM).entries
        state = self._lane_state(claim)
        failpoint("extract.after_read_state")
        kept = self._chain(Stage.EXTRACT, state, record)
        # A chunk's file is needed until what was made from it is staged; passed on, that is itself.
        transformed = reconcile(state.frontier, after, stateful=True).kept
        transformed = transformed[: self._staged_of(state, transformed)]
        consumed = state.frontier.seq
        for result, source in zip(transformed, kept, strict=False):
            if not _was_made_from(result, source):
                break
            consumed = source.seq
        kept = self._still_staged(state, kept, needed_after=consumed)
        return self._begin(claim, state, record, kept)

    def transform(self, claim: Claim, is_done: Callable[[Frontier], bool]) -> Resumed:
        """Keep the transformed chunks, stepping back to where the extracted ones continue them.

        Args:
            claim: the stage's claim.
            is_done: whether a frontier is at or past the run's target.
        """
        sources = {entry.seq: entry for entry in self._read(Stage.EXTRACT).entries}
        record = self._read(Stage.TRANSFORM)
        state = self._lane_state(claim)
        failpoint("transform.after_read_state")
        kept = self._chain(Stage.TRANSFORM, state, record)
        kept = self._still_staged(state, kept, needed_after=state.frontier.seq)
        sources = {
            seq: entry
            for seq, entry in sources.items()
            if entry.incarnation == state.frontier.incarnation
        }
        for length in range(_up_to_date(kept, sources), -1, -1):
            at = _after(state.frontier, kept[:length])
            if is_done(at) or _meets(sources, at):
                if length < len(kept):
                    log.warning(
                        "transform %s: extract cut its chunks anew; going back to %s",
                        self._lane,
                        cursors.display(at.cursor),
                    )
                kept = kept[:length]
                break
        return replace(self._begin(claim, state, record, kept), sources=sources)

    def load(self, claim: Claim) -> Resumed:
        """The warehouse is the frontier; the manifest only says what comes next."""
        record = self._read(Stage.TRANSFORM)
        state = self._lane_state(claim)
        failpoint("load.after_read_state")
        chain = self._chain(Stage.TRANSFORM, state, record)
        checkpoint = Checkpoint(
            Stage.LOAD, state.frontier, state.rows_total, state.rows_total, now(), state.state
        )
        return Resumed(checkpoint, (), state, {chunk.seq: chunk for chunk in chain})

    def transfer(self, extract: Claim, transform: Claim, load: Claim) -> Resumed:
        """Set the records of extract and transform to where the warehouse is.

        What they have staged is not used: the rows are read anew, and the files are collected.
        """
        resumed = self.load(load)
        for claim in (extract, transform):
            self._begin(claim, resumed.lane, self._read(claim.stage), ())
        return replace(resumed, sources={})

    def stand(self, checkpoint: Checkpoint, *claims: Claim) -> None:
        """Note in the store that these stages stand where the load does; best effort."""
        for claim in claims:
            stateful = claim.stage is Stage.TRANSFORM
            digest = checkpoint.frontier.state_digest if stateful else NO_STATE
            noted = replace(
                checkpoint,
                stage=claim.stage,
                frontier=replace(checkpoint.frontier, state_digest=digest),
                state=checkpoint.state if stateful else None,
            )
            try:
                self._ports.checkpoints.begin(self._lane, claim.fence, noted)
            except Exception as error:  # noqa: BLE001  the warehouse has it; the next attempt sets it
                log.warning(
                    "%s: the checkpoint store did not take where %s stands (%s)",
                    self._lane,
                    claim.stage,
                    type(error).__name__,
                )

    def continues(self, claim: Claim, frontier: Frontier) -> bool:
        """Whether the stage's stored chunks, up to its frontier, still continue the warehouse.

        Asked by a stage that is about to be green while others follow it: the store may have lost what
        it had appended, or the load may have taken a chunk of an earlier attempt that was cut otherwise.
        """
        record = self._read(claim.stage)
        state = self._lane_state(claim)
        if state.frontier.seq >= frontier.seq:
            return True
        stateful = claim.stage is Stage.TRANSFORM
        chain = reconcile(state.frontier, record.entries, stateful=stateful).frontier
        return (chain.seq, chain.cursor) == (frontier.seq, frontier.cursor)

    # --- steps ---------------------------------------------------------------------------------

    def _read(self, stage: Stage) -> StageRecord:
        record = self._ports.checkpoints.read(self._lane, stage)
        for fault in record.faults:
            log.warning("%s %s: %s; it is rebuilt from the warehouse", stage, self._lane, fault)
        return record

    def _lane_state(self, claim: Claim) -> LaneState:
        """Read the lane, now that the store was read; a store ahead of it means a restored warehouse."""
        noted = self._read(Stage.LOAD).checkpoint
        state = self._ports.warehouse.lane(self._lane)
        if state is None or state.frontier.incarnation != claim.incarnation:
            message = (
                f"{self._lane} was rewound, reset or removed while {claim.stage} ran (fence "
                f"{claim.fence}); this attempt has written nothing since. Clear extract with Downstream"
            )
            raise RewoundError(message)
        frontier = state.frontier
        if digest_of_state(state.state) != frontier.state_digest:
            message = (
                f"{self._lane}: the transform's state at chunk {frontier.seq} is not in the ledger; "
                "was its row deleted? Restore it: going on would start the state anew"
            )
            raise CorruptRecordError(message)
        if noted is not None and _is_ahead(noted, frontier):
            message = (
                f"{self._lane}: the checkpoint store has seen chunk {noted.frontier.seq} loaded "
                f"({cursors.display(noted.frontier.cursor)}), but the warehouse is at chunk "
                f"{frontier.seq} ({cursors.display(frontier.cursor)}): the warehouse was restored to "
                f"an older state. {_RESTORED}"
            )
            raise WarehouseRestoredError(message)
        return state

    def _chain(self, stage: Stage, state: LaneState, record: StageRecord) -> tuple[Chunk, ...]:
        chain = reconcile(state.frontier, record.entries, stateful=stage is Stage.TRANSFORM)
        if chain.reason:
            log.warning(
                "%s %s: %s staged chunk(s) do not continue the warehouse: %s",
                stage,
                self._lane,
                len(chain.cut),
                chain.reason,
            )
        return chain.kept

    def _still_staged(
        self, state: LaneState, chunks: tuple[Chunk, ...], needed_after: int
    ) -> tuple[Chunk, ...]:
        """Keep the chunks before the first whose staged file is gone or unfit though still needed."""
        before = tuple(chunk for chunk in chunks if chunk.seq <= needed_after)
        length = len(before) + self._staged_of(state, chunks[len(before) :])
        if length < len(chunks):
            log.warning(
                "%s: the staged file of chunk %s is gone or unfit; going back to %s",
                self._lane,
                chunks[length].seq,
                cursors.display(chunks[length].low),
            )
        return chunks[:length]

    def _staged_of(self, state: LaneState, chunks: tuple[Chunk, ...]) -> int:
        """Return how many of the chunks, from the first, have their file and no mark against it."""
        if not chunks:
            return 0
        prefix = staged_prefix(self._lane, state.frontier.incarnation)
        staged = set(self._ports.staging.names(prefix))
        for position, chunk in enumerate(chunks):
            if chunk.name not in staged or unfit_mark(chunk.name) in staged:
                return position
        return len(chunks)

    def _begin(
        self, claim: Claim, state: LaneState, record: StageRecord, kept: tuple[Chunk, ...]
    ) -> Resumed:
        """Store where we go on, under our fence; older attempts can append nothing from here."""
        stateful = claim.stage is Stage.TRANSFORM
        frontier: Frontier = (
            state.frontier if stateful else replace(state.frontier, state_digest=NO_STATE)
        )
        frontier = _after(frontier, kept)
        rows_in, rows = _totals(state, record, kept)
        checkpoint = Checkpoint(
            claim.stage,
            frontier,
            rows_in,
            rows,
            updated_at=now(),
            state=(kept[-1].state if kept else state.state) if stateful else None,
        )
        failpoint(f"{claim.stage}.before_begin")
        try:
            self._ports.checkpoints.begin(self._lane, claim.fence, checkpoint)
        except FencedError:
            if not self._ports.warehouse.heartbeat(claim, self._lease):
                raise
            message = (
                f"{claim.stage} of {self._lane}: the checkpoint store was written with a newer fence "
                f"than {claim.fence}, which is the newest the warehouse has handed out: the warehouse "
                "was restored to an older state or created anew, or two warehouses share this store. "
                f"{_RESTORED}"
            )
            raise WarehouseRestoredError(message) from None
        failpoint(f"{claim.stage}.after_begin")
        return Resumed(checkpoint, kept, state, {})


def floor_of(ports: Ports, lane: Lane) -> Floor:
    """Return the newest fence and generation that a checkpoint store has seen of a lane."""
    records = [ports.checkpoints.read(lane, stage) for stage in Stage]
    stored = [record.checkpoint for record in records if record.checkpoint is not None]
    return Floor(
        fence=max(record.fence for record in records),
        generation=max((checkpoint.frontier.generation for checkpoint in stored), default=0),
    )


def _is_ahead(noted: Checkpoint | None, frontier: Frontier) -> bool:
    """Whether the store has seen more loaded, or a later life, than the warehouse knows of."""
    if noted is None:
        return False
    seen = noted.frontier
    if seen.incarnation == frontier.incarnation:
        return seen.seq > frontier.seq
    return seen.generation > frontier.generation


def _after(frontier: Frontier, chunks: Iterable[Chunk]) -> Frontier:
    for chunk in chunks:
        frontier = frontier.advance(chunk)
    return frontier


def _was_made_from(result: Chunk, source: Chunk) -> bool:
    """Whether a transformed chunk is the outcome of an extracted one; two empty files are equal."""
    return result.input_digest == source.digest and (result.swept_in, result.swept) == (
        source.swept_in,
        source.swept,
    )


def _meets(sources: dict[int, Chunk], at: Frontier) -> bool:
    """Whether the extracted chunks go on exactly here, or have come exactly so far yet."""
    after, before = sources.get(at.seq + 1), sources.get(at.seq)
    if after is not None:
        return after.low == at.cursor
    return before is not None and before.high == at.cursor


def _up_to_date(kept: tuple[Chunk, ...], sources: dict[int, Chunk]) -> int:
    """Return how many transformed chunks, from the first, no sweep that was cut anew replaces.

    Chunks of rows tile the cursor, so what was made from an older cut of them stays good. A sweep's
    chunks all stand at one cursor: only those of the same cut continue each other.
    """
    for position, result in enumerate(kept):
        source = sources.get(result.seq)
        sweeps = result.swept or (source is not None and source.swept)
        if source is not None and sweeps and not _was_made_from(result, source):
            return position
    return len(kept)


def _totals(state: LaneState, record: StageRecord, kept: tuple[Chunk, ...]) -> tuple[int, int]:
    """Rows in and out up to the kept chunks: what is stored less what is cut, else from the ledger."""
    stored = record.checkpoint
    if stored is not None and stored.frontier.incarnation == state.frontier.incarnation:
        last = kept[-1].seq if kept else state.frontier.seq
        cut = [entry for entry in record.entries if entry.seq > last]
        return (
            stored.rows_in - sum(entry.rows_in for entry in cut),
            stored.rows - sum(entry.rows for entry in cut),
        )
    return (
        state.rows_total + sum(chunk.rows_in for chunk in kept),
        state.rows_total + sum(chunk.rows for chunk in kept),
    )
