"""What a running stage tells the task log: a line every few seconds, and a summary at the end."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.sweep import parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

    from airflow_checkpoint_etl.protocol import Chunk, Lane

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

    def as_xcom(self) -> dict[str, Any]:
        """Return the summary as a dict of JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


class Progress:
    """Counts what an attempt does and logs it, at most once per ``every`` seconds.

    Args:
        lane: the lane at work.
        stage: the stage at work, or what else is at work.
        every: seconds between two lines.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, lane: Lane, stage: StrEnum, every: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lane, self._stage, self._every, self._clock = lane, stage, every, clock
        self._started = clock()
        self._spoke = self._started
        self.chunks = self.rows_in = self.rows = self.kept = self.rejected = 0
        self.first = self.last = self.target = cursors.BEGIN

    def begin(self, at: str, target: str, kept: int, *, sweeping: bool = False) -> None:
        """Say where this attempt starts and how far it has to go.

        Args:
            at: where it starts.
            target: where the run ends.
            kept: chunks of earlier attempts that are kept.
            sweeping: whether rows that appeared late below ``at`` come first.
        """
        self.first = self.last = at
        self.target, self.kept = target, kept
        resumed = f"; {kept:,} chunk(s) of earlier tries are kept" if kept else ""
        if sweeping:
            log.info(
                "%s %s: sweeping rows that appeared late at or below %s, then on to %s%s",
                self._stage,
                self._lane,
                self._at(at),
                self._at(target),
                resumed,
            )
            return
        if at == target:
            log.info("%s %s: nothing to do at %s%s", self._stage, self._lane, self._at(at), resumed)
            return
        log.info(
            "%s %s: from %s to %s%s",
            self._stage,
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
        self.rejected += chunk.rejected if rejected is None else rejected
        self.chunks += 1
        self.rows_in += chunk.rows_in
        self.rows += chunk.rows if rows is None else rows
        self.last = chunk.high
        now = self._clock()
        if now - self._spoke >= self._every:
            self._spoke = now
            log.info("%s %s: %s", self._stage, self._lane, self._line(chunk, now))

    def _line(self, chunk: Chunk, now: float) -> str:
        seconds = max(now - self._started, 1e-6)
        speed = f"{self.rows:,} rows, {self.rows_in / seconds:,.0f} rows/s"
        if chunk.swept:
            at = parse(chunk.swept).at
            way = f", sweeping at {self._at(at)}" if at else ", swept"
            return f"chunk {chunk.seq:,}, {speed}{way} of {self._at(self.last)}"
        share = cursors.share(self.first, self.last, self.target)
        way = f", {share:.0%} of the way to {self._at(self.target)}" if share is not None else ""
        return f"chunk {chunk.seq:,}, {speed}, last {self._at(self.last)}{way}"

    def _at(self, text: str) -> str:
        return cursors.display(text)

    def summary(self) -> Summary:
        """Log the attempt's last line and return its summary."""
        seconds = self._clock() - self._started
        if self.chunks:
            log.info(
                "%s %s: done at %s: %s chunk(s), %s rows in %.1f s, %s rows/s",
                self._stage,
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
                self._stage,
                self._lane,
                f"{self.rejected:,}",
            )
        return Summary(
            pipeline=self._lane.pipeline,
            part=self._lane.part,
            stage=self._stage.value,
            chunks=self.chunks,
            rows_in=self.rows_in,
            rows=self.rows,
            first=self.first,
            last=self.last,
            target=self.target,
            kept=self.kept,
            seconds=round(seconds, 3),
            rejected=self.rejected,
        )
