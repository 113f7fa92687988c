"""All three stages in one attempt: the source's COPY into the warehouse's COPY, chunk by chunk.

For a pipeline without a transform. Nothing is staged: a thread reads a few blocks ahead, and each
chunk's rows go into its load transaction while they come out of the source. The protocol is the one of
the three stages (docs/protocol.md): the attempt acquires all of them, so that no stage of another chain
works beside it; the bound is settled and stored as an extract does; and a chunk's compare-and-set is the
first statement of the transaction that its rows are in, because where the chunk ends is known before its
rows are read.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl import forms
from airflow_checkpoint_etl.attempt_runner import AttemptRunner
from airflow_checkpoint_etl.errors import ManifestConflictError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.notes import noted
from airflow_checkpoint_etl.observer import SILENT
from airflow_checkpoint_etl.protocol import Chunk, Stage
from airflow_checkpoint_etl.recovery import now

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.frames import Columns, Form
    from airflow_checkpoint_etl.ports import Claim, Loaded, Ports, Run, Source
    from airflow_checkpoint_etl.progress import Progress, Summary
    from airflow_checkpoint_etl.protocol import Checkpoint, Frontier

log = logging.getLogger(__name__)

_AHEAD: Final = 32
"""Blocks that may wait between the reading and the writing: 8 MiB."""

_WATCH_SECONDS: Final = 0.2
_END_SECONDS: Final = 15.0


class TransferRunner(AttemptRunner):
    """Runs one attempt of a transfer to the run's target.

    Args:
        ports: source, staging area, checkpoint store and warehouse; nothing is staged.
        attempt: who works on what.
        preoperator: statements to run in the transaction of the lane's very first chunk, before its rows;
            they must leave the target empty. A resumed transfer never runs them again.
        options: as for :class:`AttemptRunner`.
    """

    def __init__(
        self, ports: Ports, attempt: Attempt, preoperator: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__(ports, replace(attempt, form="copy"), **options)
        self._preoperator = tuple(preoperator)
        self._form: Form = "copy"

    @noted(Stage.LOAD)
    def transfer(self) -> Summary:
        """Copy the source up to a settled bound into the warehouse.

        Raises:
            TypeMismatchError: source and target columns are not of equal types; names them.
            StageBusyError: another task works on one of the lane's stages.
        """
        spec = replace(self._survey(), empties=bool(self._preoperator))
        self._form = forms.choose(self._ports, self._attempt)
        with (
            self._working(Stage.EXTRACT, spec, self._goals.reopen, SILENT) as (extract, _),
            self._working(Stage.TRANSFORM, self._spec(), None, SILENT) as (transform, _),
            self._working(Stage.LOAD, self._spec()) as (load, progress),
        ):
            progress.label = "transfer"
            claims = (extract, transform, load)
            checkpoint = self._recovery.transfer(*claims).checkpoint
            failpoint("transfer.after_begin")
            self._note_loaded(checkpoint)
            with progress.waiting("settle"):
                run = self._goals.settle(extract, checkpoint.frontier)
            self._begin(
                progress, checkpoint.frontier, run, self._ports.warehouse.loaded_in_run(load)
            )
            started, conflicts, furthest = self._clock(), 0, checkpoint.frontier.seq
            while not self._goals.is_reached(checkpoint.frontier, run):
                try:
                    moving = self._chunks(load, checkpoint, run, progress)
                    with contextlib.closing(moving) as chunks:
                        for loaded in chunks:
                            checkpoint = loaded
                            # Compared as text: the source is reading, and cannot be asked for its order.
                            is_last = checkpoint.frontier.cursor == run.target
                            if not is_last and self._budget_is_spent(progress, started):
                                run = self._shorten(extract, progress, checkpoint.frontier)
                                break
                except ManifestConflictError as conflict:
                    if checkpoint.frontier.seq > furthest:
                        furthest, conflicts = checkpoint.frontier.seq, 0
                    conflicts = self._conflict(conflict, conflicts)
                    checkpoint = self._recovery.transfer(*claims).checkpoint
            failpoint("load.before_finish")
            self._ports.warehouse.finish(load, run, checkpoint.frontier)
            failpoint("transfer.before_stand")
            self._recovery.stand(checkpoint, extract, transform)
            self._collect()
            return progress.summary()

    def _chunks(
        self, claim: Claim, checkpoint: Checkpoint, run: Run, progress: Progress
    ) -> Generator[Checkpoint]:
        """Load chunk after chunk, and yield the checkpoint after each."""
        source = self._ports.source
        if self._form != "copy":  # rows in memory, in a test of the user's
            yield from self._tables(claim, checkpoint, run, progress)
            return
        with _Reading(source, checkpoint.frontier.cursor, run.target, self._check) as reading:
            while checkpoint.frontier.cursor != run.target:
                self._check()
                passage = reading.open()
                chunk = self._chunk(claim, checkpoint, passage.high)
                failpoint("transfer.before_load")
                loaded = self._ports.warehouse.receive(claim, chunk, passage, self._preoperator)
                checkpoint = self._loaded(checkpoint, chunk, loaded, progress)
                yield checkpoint

    def _tables(
        self, claim: Claim, checkpoint: Checkpoint, run: Run, progress: Progress
    ) -> Iterator[Checkpoint]:
        while checkpoint.frontier.cursor != run.target:
            self._check()
            read = self._ports.source.read(checkpoint.frontier.cursor, run.target)
            rows = read.table.num_rows
            chunk = replace(self._chunk(claim, checkpoint, read.high), rows_in=rows, rows=rows)
            loaded = self._ports.warehouse.load(claim, chunk, read.table)
            checkpoint = self._loaded(checkpoint, chunk, loaded, progress)
            yield checkpoint

    def _loaded(
        self, checkpoint: Checkpoint, chunk: Chunk, loaded: Loaded, progress: Progress
    ) -> Checkpoint:
        chunk = replace(chunk, rows_in=loaded.rows, rows=loaded.rows)
        checkpoint = checkpoint.advance(chunk, at=now())
        progress.chunk(chunk)
        self._note_loaded(checkpoint)
        return checkpoint

    @staticmethod
    def _chunk(claim: Claim, checkpoint: Checkpoint, high: str) -> Chunk:
        frontier: Frontier = checkpoint.frontier
        return Chunk(
            incarnation=frontier.incarnation,
            seq=frontier.seq + 1,
            low=frontier.cursor,
            high=high,
            rows_in=0,
            rows=0,
            name="",
            size=0,
            digest="",
            fence=claim.fence,
            state_in=frontier.state_digest,
            state=checkpoint.state,
        )


# --- reading ahead --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Begin:
    high: str
    columns: Columns


@dataclass(frozen=True, slots=True)
class _End:
    rows: int


class _AbandonedError(Exception):
    """Nobody wants the rest."""


class _Passage:
    """One chunk on its way, for the warehouse; implements ``ports.Passage``."""

    def __init__(self, begin: _Begin, take: Callable[[], Any]) -> None:
        self.high, self.columns = begin.high, begin.columns
        self.rows = -1
        self._take = take

    def blocks(self) -> Iterator[bytes]:
        """Yield the chunk's binary COPY; then ``rows`` is known."""
        while not isinstance(item := self._take(), _End):
            yield item
            failpoint("transfer.after_block")
        self.rows = item.rows


class _Reading:
    """Copies chunk after chunk out of the source on a thread, a bounded number of blocks ahead.

    Args:
        source: the source; nothing else may use it meanwhile.
        low: where to begin.
        target: where to end.
        check: called by who waits for blocks; what it raises ends the waiting.
    """

    def __init__(self, source: Source, low: str, target: str, check: Callable[[], None]) -> None:
        self._source, self._low, self._target = source, low, target
        self._check = check
        self._items: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="transfer-read", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._abandoned = True
        self._thread.join(timeout=_END_SECONDS)

    def open(self) -> _Passage:
        """Wait for the next chunk to begin."""
        return _Passage(self._take(), self._take)

    def _take(self) -> Any:
        while True:
            try:
                item = self._items.get(timeout=_WATCH_SECONDS)
            except queue.Empty:
                self._check()
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    # --- on the reading thread; a sink to the source -----------------------------------------------

    def _run(self) -> None:
        low = self._low
        with contextlib.suppress(_AbandonedError):
            try:
                while low != self._target:
                    failpoint("transfer.before_read")
                    low, rows = self._source.copy_out(low, self._target, self)
                    self._put(_End(rows))
            except _AbandonedError:
                raise
            except BaseException as error:  # noqa: BLE001  it is raised where the blocks are taken
                self._put(error)

    def begin(self, high: str, columns: Columns) -> None:
        self._put(_Begin(high, columns))

    def write(self, block: bytes, rows: int) -> None:  # noqa: ARG002  the server's count is exact
        self._put(block)

    def check(self) -> None:
        if self._abandoned:
            raise _AbandonedError

    def _put(self, item: Any) -> None:
        while True:
            self.check()
            try:
                self._items.put(item, timeout=_WATCH_SECONDS)
            except queue.Full:
                continue
            return
