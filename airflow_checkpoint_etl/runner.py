"""One loop per stage: read, effect, advance.

Nobody but this module, and ``transfer`` for all stages at once, advances a frontier. It knows the ports
and the protocol and nothing of Airflow; its steps carry the letters of docs/protocol.md (E, T and L).
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl import forms
from airflow_checkpoint_etl.ahead import Ahead
from airflow_checkpoint_etl.attempt_runner import AttemptRunner
from airflow_checkpoint_etl.beside import Beside
from airflow_checkpoint_etl.chunk_files import ChunkFiles
from airflow_checkpoint_etl.errors import (
    CopiedChunkError,
    ManifestConflictError,
    PreflightError,
    StagedChunkError,
    TooManyRejectedError,
    ValueNotCarriedError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.frames import Frames
from airflow_checkpoint_etl.notes import noted
from airflow_checkpoint_etl.ports import Read
from airflow_checkpoint_etl.protocol import Chunk, Stage
from airflow_checkpoint_etl.quarantine import Tally
from airflow_checkpoint_etl.recovery import now
from airflow_checkpoint_etl.sweep import is_swept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.frames import Form
    from airflow_checkpoint_etl.ports import Claim, Ports, Run
    from airflow_checkpoint_etl.progress import Progress, Summary
    from airflow_checkpoint_etl.protocol import Checkpoint, Frontier
    from airflow_checkpoint_etl.staging.codec import StagedFile
    from airflow_checkpoint_etl.transform import Transformer

log = logging.getLogger(__name__)

_COLLECT_SECONDS: Final = 60.0


class StageRunner(AttemptRunner):
    """Runs one attempt of a stage to the run's target.

    Args:
        ports: source, staging area, checkpoint store and warehouse.
        attempt: who works on what.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, ports: Ports, attempt: Attempt, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(ports, attempt, clock)
        self._beside = Beside(ports, attempt, self._goals, self._pause, clock)
        self._files = ChunkFiles(ports.staging, attempt.lane)
        self._transformer: Transformer | None = None
        self._form: Form = "arrow"
        self._reading: Ahead[Read]

    def stop(self) -> None:
        """Ask the attempt to end: sets the flags; running statements are interrupted."""
        super().stop()
        if self._transformer is not None:
            self._transformer.cancel()

    # --- the three stages ----------------------------------------------------------------------

    @noted(Stage.EXTRACT)
    def extract(self) -> Summary:
        """Read the source up to a settled bound and stage it, chunk by chunk."""
        spec = self._survey()
        self._form = forms.choose(self._ports, self._attempt)
        with (
            self._working(Stage.EXTRACT, spec, self._goals.reopen) as (claim, progress),
            Ahead[Read](f"read-{self._lane}", self._ports.source.cancel) as self._reading,
        ):
            resumed = self._recovery.extract(claim)
            checkpoint = resumed.checkpoint
            with progress.waiting("settle"):
                run = self._goals.settle(claim, checkpoint.frontier)
            self._begin(progress, checkpoint.frontier, run, len(resumed.kept))
            started, conflicts, furthest = self._clock(), 0, checkpoint.frontier.seq
            backlog = self._beside.backlog(claim, resumed.kept)
            while not self._goals.is_reached(checkpoint.frontier, run):
                self._check()
                swept = is_swept(checkpoint.frontier.swept, run.swept)
                if swept and self._budget_is_spent(progress, started):
                    run = self._shorten(claim, progress, checkpoint.frontier)
                    break
                backlog.wait()
                try:
                    most = self._attempt.max_rows
                    left = None if most is None else most - progress.rows_in
                    chunk = self._extract_chunk(claim, checkpoint.frontier, run, left)
                    checkpoint = self._append(claim, checkpoint, chunk)
                except ManifestConflictError as conflict:
                    conflicts = self._conflict(conflict, conflicts)
                    self._reading.discard()
                    resumed = self._recovery.extract(claim)
                    checkpoint = resumed.checkpoint
                    backlog.restart(resumed.kept)
                    continue
                backlog.add(chunk)
                if chunk.seq > furthest:  # a chunk made again is no progress
                    furthest, conflicts = chunk.seq, 0
                progress.chunk(chunk)
            self._confirm(claim)
            self._confirm_staged(claim, checkpoint.frontier)
            return progress.summary()

    @noted(Stage.TRANSFORM)
    def transform(self, transformer: Transformer | None) -> Summary:
        """Transform the staged chunks up to the run's target; None passes them on as they are."""
        if transformer is None:
            return self._transform(None)
        if self._attempt.policy.quarantines:
            transformer = transformer.rejecting()
        self._transformer = transformer
        if self._stop.is_set():  # before there was one to cancel
            transformer.cancel()
        with transformer.at_work():
            return self._transform(transformer)

    def _transform(self, transformer: Transformer | None) -> Summary:
        self._preflight()
        self._beside.await_goal(Stage.TRANSFORM)
        with (
            self._working(Stage.TRANSFORM, self._spec()) as (claim, progress),
            self._files.reading_ahead(),
        ):
            upcoming = self._beside.upcoming(claim)
            resumed = self._recovery.transform(claim, upcoming.is_done)
            upcoming.restart(resumed.sources)
            checkpoint, conflicts = resumed.checkpoint, 0
            furthest = checkpoint.frontier.seq
            tally = self._tally(claim, resumed.kept)
            backlog = self._beside.backlog(claim, resumed.kept)
            self._begin(progress, checkpoint.frontier, upcoming.run, len(resumed.kept))
            while True:
                self._check()
                try:
                    source = upcoming.next(checkpoint.frontier)
                    if source is None:
                        break
                    backlog.wait()
                    then = upcoming.after(source)
                    chunk = self._transform_chunk(
                        claim, checkpoint, source, then, transformer, tally
                    )
                    checkpoint = self._append(claim, checkpoint, chunk)
                except ManifestConflictError as conflict:
                    conflicts = self._conflict(conflict, conflicts)
                    self._files.forget()
                    resumed = self._recovery.transform(claim, upcoming.is_done)
                    upcoming.restart(resumed.sources)
                    checkpoint = resumed.checkpoint
                    tally = self._tally(claim, resumed.kept)
                    backlog.restart(resumed.kept)
                    continue
                backlog.add(chunk)
                if chunk.seq > furthest:  # a chunk made again is no progress
                    furthest, conflicts = chunk.seq, 0
                tally += Tally(chunk.rows_in, chunk.rejected)
                progress.chunk(chunk)
            progress.target = upcoming.run.target
            self._confirm(claim)
            self._confirm_staged(claim, checkpoint.frontier)
            return progress.summary()

    @noted(Stage.LOAD)
    def load(self) -> Summary:
        """Load the transformed chunks up to the run's target, each in one transaction."""
        self._preflight()
        self._beside.await_goal(Stage.LOAD)
        with (
            self._working(Stage.LOAD, self._spec()) as (claim, progress),
            self._files.reading_ahead(),
        ):
            upcoming = self._beside.upcoming(claim)
            resumed = self._recovery.load(claim)
            upcoming.restart(resumed.sources)
            checkpoint = resumed.checkpoint
            self._note_loaded(checkpoint)
            kept = self._ports.warehouse.loaded_in_run(claim)
            self._begin(progress, checkpoint.frontier, upcoming.run, kept)
            conflicts, collected = 0, self._clock()
            while True:
                self._check()
                try:
                    chunk = upcoming.next(checkpoint.frontier)
                    if chunk is None:
                        break
                    then = upcoming.after(chunk)
                    checkpoint = self._load_chunk(claim, checkpoint, chunk, then, progress)
                except ManifestConflictError as conflict:
                    conflicts = self._conflict(conflict, conflicts)
                    self._files.forget()
                    resumed = self._recovery.load(claim)
                    upcoming.restart(resumed.sources)
                    checkpoint = resumed.checkpoint
                    continue
                conflicts = 0
                self._note_loaded(checkpoint)
                if self._clock() - collected >= _COLLECT_SECONDS:
                    collected = self._clock()
                    self._collect()
            progress.target = upcoming.run.target
            failpoint("load.before_finish")
            self._ports.warehouse.finish(claim, upcoming.run, checkpoint.frontier)
            self._collect()
            return progress.summary()

    def _confirm_staged(self, claim: Claim, frontier: Frontier) -> None:
        """With followers, green also says that they find a chain: after it nobody would mend one."""
        if self._attempt.following is None or self._recovery.continues(claim, frontier):
            return
        message = (
            f"{claim.stage} of {self._lane} has come to {cursors.display(frontier.cursor)}, but what is "
            "stored of it does not continue what is loaded (the checkpoint store lost it, or chunks were "
            "cut anew); trying again mends it"
        )
        raise ManifestConflictError(message)

    # --- E1-E3, T1-T3: making chunks -----------------------------------------------------------

    def _extract_chunk(self, claim: Claim, frontier: Frontier, run: Run, left: int | None) -> Chunk:
        """E1, E2: read the next rows, late ones from below the frontier first, and stage them."""
        failpoint("extract.before_read")
        chunk = Chunk(
            incarnation=frontier.incarnation,
            seq=frontier.seq + 1,
            low=frontier.cursor,
            high=frontier.cursor,
            rows_in=0,
            rows=0,
            name="",
            size=0,
            digest="",
            fence=claim.fence,
        )
        if is_swept(frontier.swept, run.swept):
            read = self._read(frontier.cursor, run.target, left)
            table, chunk = read.table, replace(chunk, high=read.high)
        else:
            sweep = self._ports.source.sweep(frontier.swept, run.swept, frontier.cursor)
            table = sweep.table  # in arrow form always
            chunk = replace(chunk, swept_in=frontier.swept, swept=sweep.swept)
        failpoint("extract.after_read")
        return self._files.put(
            claim, table, replace(chunk, rows_in=table.num_rows, rows=table.num_rows)
        )

    def _read(self, low: str, target: str, left: int | None) -> Read:
        """Return the next rows, and begin to read those after them while these are staged.

        Unless they are the last ones that the run's budget has ``left``.
        """

        def reading(low: str) -> Callable[[], Read]:
            return partial(self._ports.source.read, low, target, self._form)

        read = self._reading.take((low, target), reading(low))
        is_last = read.high in {low, target} or (left is not None and read.table.num_rows >= left)
        if not is_last:
            self._reading.start((read.high, target), reading(read.high))
        return read

    def _tally(self, claim: Claim, kept: Iterable[Chunk]) -> Tally:
        """What this run has read and rejected: loaded by an earlier try, or staged and kept."""
        if not self._attempt.policy.quarantines:
            return Tally()
        tally = self._ports.warehouse.tally(claim)
        for chunk in kept:
            tally += Tally(chunk.rows_in, chunk.rejected)
        return tally

    def _transform_chunk(
        self,
        claim: Claim,
        checkpoint: Checkpoint,
        source: Chunk,
        then: Chunk | None,
        transformer: Transformer | None,
        tally: Tally,
    ) -> Chunk:
        frontier = checkpoint.frontier
        chunk = replace(
            source,
            rows_in=source.rows,
            fence=claim.fence,
            input_digest=source.digest,
            state_in=frontier.state_digest,
            state=checkpoint.state,
            staged_at=now(),
        )
        if transformer is None:
            return chunk  # passes the frontier; the extracted file is the transformed one
        table = self._fetch(claim, source, then).table
        if isinstance(table, Frames):
            self._files.mark_unfit(source)
            message = (
                f"chunk {source.seq} of {self._lane} was staged in copy form, which no transform can "
                "read; clear extract with Downstream: it stages the chunk again, in arrow form"
            )
            raise CopiedChunkError(message)
        failpoint("transform.before_apply")
        made = transformer.apply(table, checkpoint.state, source)
        failpoint("transform.after_apply")
        if made.rejects is not None:
            where = f"transform of {self._lane}, chunk {chunk.seq}"
            tally += Tally(chunk.rows_in, len(made.rejects))
            self._attempt.policy.check(tally, made.rejects.cursors, where)
        chunk = replace(
            chunk,
            rows=made.table.num_rows,
            rejected=len(made.rejects) if made.rejects is not None else 0,
            state=made.state,
        )
        return self._files.put(claim, made.table, chunk, made.rejects)

    def _append(self, claim: Claim, checkpoint: Checkpoint, chunk: Chunk) -> Checkpoint:
        """E3: the compare-and-set append to the manifest; only then does the frontier move."""
        advanced = checkpoint.advance(chunk, at=now())
        self._check()
        failpoint(f"{claim.stage}.before_append")
        self._ports.checkpoints.append(self._lane, claim.fence, chunk, advanced)
        failpoint(f"{claim.stage}.after_append")
        return advanced

    def _fetch(self, claim: Claim, chunk: Chunk, then: Chunk | None) -> StagedFile:
        try:
            return self._files.get(chunk, then)
        except StagedChunkError:
            # A successor may have loaded and collected it: then the file is not what is wrong.
            self._confirm(claim)
            self._files.mark_unfit(chunk)
            raise

    # --- L ----------------------------------------------------------------------------------

    def _load_chunk(
        self,
        claim: Claim,
        checkpoint: Checkpoint,
        chunk: Chunk,
        then: Chunk | None,
        progress: Progress,
    ) -> Checkpoint:
        """L1-L5: one chunk, one transaction; a chunk that an earlier attempt loaded is skipped."""
        advanced = checkpoint.advance(chunk, at=now())
        staged = self._fetch(claim, chunk, then)
        failpoint("load.before_load")
        try:
            loaded = self._ports.warehouse.load(
                claim, chunk, staged.table, staged.rejects, self._attempt.policy
            )
        except (PreflightError, TooManyRejectedError, ValueNotCarriedError):
            # The rows may be what has to change: a corrected transform must not keep them.
            self._files.mark_unfit(chunk)
            raise
        if loaded.already:
            log.info("load %s: chunk %s was loaded by an earlier try", self._lane, chunk.seq)
        else:
            progress.chunk(chunk, loaded.rows, loaded.rejected)
        return advanced
