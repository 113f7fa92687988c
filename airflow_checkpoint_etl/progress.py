"""What a running stage tells: the task log a line every few seconds and a summary, observers every step."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import FencedError
from airflow_checkpoint_etl.observer import (
    SILENT,
    Began,
    ChunkDone,
    Failed,
    Finished,
    Observers,
    Waited,
    Waiting,
)
from airflow_checkpoint_etl.sweep import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_checkpoint_etl.observer import Observer
    from airflow_checkpoint_etl.ports import Run
    from airflow_checkpoint_etl.protocol import Chunk, Frontier, Lane, Stage

log = logging.getLogger("airflow_checkpoint_etl.progress")


@dataclass(frozen=True, slots=True)
class Summary:
    """What one attempt of a stage did; small and JSON-ready, for XCom and the asset event.

    Attributes:
        pipeline: the pipeline's id.
        part: the part's key.
        stage: the stage.
        chunks: chunks this attempt did.
        rows_in: rows that came in.
        rows: rows that went out.
        first: where this attempt began (canonical cursor text, exclusive).
        last: where it ended (inclusive).
        target: where the DAG run ends.
        kept: chunks of earlier attempts that this one found done and kept.
        seconds: how long the attempt took.
        rejected: records this attempt's chunks sent to quarantine.
        generation: which life of the lane the attempt worked in.
        first_chunk: number of the attempt's first chunk; 0 when it did none.
        last_chunk: number of its last chunk; 0 when it did none.
        size: bytes of its chunks' staged files.
    """

    pipeline: str
    part: str
    stage: str
    chunks: int
    rows_in: int
    rows: int
    first: str
    last: str
    target: str
    kept: int
    seconds: float
    rejected: int = 0
    generation: int = 0
    first_chunk: int = 0
    last_chunk: int = 0
    size: int = 0

    def as_xcom(self) -> dict[str, Any]:
        """Return the summary as a dict of JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


class Progress:
    """Counts what an attempt does, logs it at most once per ``every`` seconds, and tells observers.

    Args:
        lane: the lane at work.
        stage: the stage at work.
        every: seconds between two lines.
        clock: a monotonic clock, in seconds.
        observer: who is told of every step.

    Attributes:
        label: how logs and the summary name what is at work: the stage.
    """

    def __init__(
        self,
        lane: Lane,
        stage: Stage,
        every: float,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer = SILENT,
    ) -> None:
        self._lane, self._stage, self._every, self._clock = lane, stage, every, clock
        self.label = stage.value
        self._observer = Observers([observer])  # whoever watches, and however badly
        self._started = clock()
        self._spoke = self._marked = self._started
        self.chunks = self.rows_in = self.rows = self.kept = self.rejected = self.size = 0
        self.first_chunk = self.last_chunk = self.generation = 0
        self.first = self.last = self.target = cursors.BEGIN

    def begin(self, frontier: Frontier, run: Run, kept: int, *, sweeping: bool = False) -> None:
        """Say where this attempt starts and how far it has to go.

        Args:
            frontier: where it starts.
            run: where it ends.
            kept: chunks of earlier attempts that are kept.
            sweeping: whether rows that appeared late below the frontier come first.
        """
        at, target = frontier.cursor, run.target
        self.first = self.last = at
        self.target, self.kept, self.generation = target, kept, frontier.generation
        self._marked = self._clock()
        self._observer.notice(
            Began(
                **self._now(),
                first=at,
                target=target,
                kept=kept,
                generation=frontier.generation,
                bound_age=run.settled_ago,
            )
        )
        resumed = f"; {kept:,} chunk(s) of earlier tries are kept" if kept else ""
        if sweeping:
            log.info(
                "%s %s: sweeping rows that appeared late at or below %s, then on to %s%s",
                self.label,
                self._lane,
                self._at(at),
                self._at(target),
                resumed,
            )
            return
        if at == target:
            log.info("%s %s: nothing to do at %s%s", self.label, self._lane, self._at(at), resumed)
            return
        log.info(
            "%s %s: from %s to %s%s",
            self.label,
            self._lane,
            self._at(at),
            self._at(target),
            resumed,
        )

    def chunk(self, chunk: Chunk, rows: int | None = None, rejected: int | None = None) -> None:
        """Count one chunk that is done.

        Args:
            chunk: the chunk.
            rows: rows that went out, where that is not what is staged.
            rejected: records that were rejected, where that is not what is staged.
        """
        rejected = chunk.rejected if rejected is None else rejected
        rows = chunk.rows if rows is None else rows
        self.rejected += rejected
        self.chunks += 1
        self.rows_in += chunk.rows_in
        self.rows += rows
        self.size += chunk.size
        self.last, self.last_chunk = chunk.high, chunk.seq
        self.first_chunk = self.first_chunk or chunk.seq
        now = self._clock()
        seconds, self._marked = now - self._marked, now
        self._observer.notice(
            ChunkDone(
                **self._now(),
                chunk=chunk,
                rows=rows,
                rejected=rejected,
                seconds=seconds,
                share=self._share(),
            )
        )
        if now - self._spoke >= self._every:
            self._spoke = now
            log.info("%s %s: %s", self.label, self._lane, self._line(chunk, now))

    @contextlib.contextmanager
    def waiting(self, on: str) -> Iterator[None]:
        """Tell that the attempt waits until the block ends; no chunk's time counts it.

        Args:
            on: what it waits for, in a word.
        """
        began = self._clock()
        self._observer.notice(Waiting(**self._now(), on=on))
        try:
            yield
        finally:
            ended = self._clock()
            self._marked += ended - began
            self._observer.notice(Waited(**self._now(), on=on, seconds=ended - began))

    def failed(self, error: BaseException) -> None:
        """Tell that the attempt ends here."""
        fenced = isinstance(error, FencedError)
        self._observer.notice(Failed(**self._now(), error=type(error).__name__, fenced=fenced))

    def _now(self) -> dict[str, Any]:
        return {"lane": self._lane, "stage": self._stage, "at": time.time_ns()}

    def _line(self, chunk: Chunk, now: float) -> str:
        seconds = max(now - self._started, 1e-6)
        speed = f"{self.rows:,} rows, {self.rows_in / seconds:,.0f} rows/s"
        if chunk.swept:
            at = parse(chunk.swept).at
            way = f", sweeping at {self._at(at)}" if at else ", swept"
            return f"chunk {chunk.seq:,}, {speed}{way} of {self._at(self.last)}"
        share = self._share()
        way = f", {share:.0%} of the way to {self._at(self.target)}" if share is not None else ""
        return f"chunk {chunk.seq:,}, {speed}, last {self._at(self.last)}{way}"

    def _share(self) -> float | None:
        try:
            return cursors.share(self.first, self.last, self.target)
        except cursors.CursorError:  # it is for people alone: no load fails of it
            return None

    def _at(self, text: str) -> str:
        return cursors.display(text)

    def summary(self) -> Summary:
        """Log the attempt's last line and return its summary."""
        seconds = self._clock() - self._started
        if self.chunks:
            log.info(
                "%s %s: done at %s: %s chunk(s), %s rows in %.1f s, %s rows/s",
                self.label,
                self._lane,
                self._at(self.last),
                f"{self.chunks:,}",
                f"{self.rows:,}",
                seconds,
                f"{self.rows_in / max(seconds, 1e-6):,.0f}",
            )
        if self.rejected:
            log.warning(
                "%s %s: %s record(s) are in quarantine; see checkpoint_etl.quarantine in the warehouse",
                self.label,
                self._lane,
                f"{self.rejected:,}",
            )
        summary = Summary(
            pipeline=self._lane.pipeline,
            part=self._lane.part,
            stage=self.label,
            chunks=self.chunks,
            rows_in=self.rows_in,
            rows=self.rows,
            first=self.first,
            last=self.last,
            target=self.target,
            kept=self.kept,
            seconds=round(seconds, 3),
            rejected=self.rejected,
            generation=self.generation,
            first_chunk=self.first_chunk,
            last_chunk=self.last_chunk,
            size=self.size,
        )
        self._observer.notice(Finished(**self._now(), summary=summary))
        return summary
