"""Metrics through Airflow's own statistics: statsd, Datadog or OpenTelemetry, as the deployment has it.

Every metric carries the task's tags (``ti.stats_tags``) and pipeline, part and stage. Plain statsd has no
tags: there the names stand for all pipelines together.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow.providers.common.compat.sdk import Stats

from airflow_checkpoint_etl.observer import Began, Busy, ChunkDone, Failed, Finished, Waited
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_checkpoint_etl.observer import Event

PREFIX: Final = "checkpoint_etl"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what docs/observability.md lists and the dashboard draws.

    Attributes:
        name: its name, without Airflow's prefix.
        kind: how it is sent.
        meaning: what it says, with its unit.
        tags: tags beside the task's, pipeline, part and stage.
    """

    name: str
    kind: Literal["counter", "gauge", "timer"]
    meaning: str
    tags: tuple[str, ...] = ()


def _metric(
    name: str, kind: Literal["counter", "gauge", "timer"], meaning: str, *tags: str
) -> Metric:
    return Metric(f"{PREFIX}.{name}", kind, meaning, tags)


CHUNKS: Final = _metric("chunks", "counter", "Chunks done.")
ROWS_IN: Final = _metric("rows_in", "counter", "Rows that came into the stage.")
ROWS: Final = _metric(
    "rows", "counter", "Rows that left the stage; for the load, rows in the target."
)
BYTES: Final = _metric("bytes", "counter", "Bytes of the chunks' staged files.")
CHUNK_DURATION: Final = _metric(
    "chunk.duration", "timer", "Milliseconds a chunk took; waiting is not counted."
)
PROGRESS: Final = _metric(
    "progress",
    "gauge",
    "How much of the way to the run's target is done, 0 to 1; not sent where it cannot be told.",
)
LAG: Final = _metric(
    "lag",
    "gauge",
    "Seconds since the bound was taken that the run loads up to. Its last value in a run says how old "
    "the newest row can be that was not loaded. Sent by the load.",
)
RESUMED_CHUNKS: Final = _metric(
    "resumed_chunks", "counter", "Chunks of earlier tries that an attempt found done and kept."
)
WAITED: Final = _metric(
    "waited", "timer", "Milliseconds waited, e.g. for transactions that commit late.", "on"
)
BUSY: Final = _metric("busy", "counter", "Attempts that found their stage taken by another run.")
FINISHED: Final = _metric("finished", "counter", "Attempts that reached their run's target.")
FAILED: Final = _metric(
    "failed", "counter", "Attempts that failed, by the type of their error.", "error"
)
FENCED: Final = _metric("fenced", "counter", "Attempts that a newer attempt took the stage from.")
QUARANTINED: Final = _metric("quarantined", "counter", "Records that went to quarantine.")

METRICS: Final = (
    CHUNKS,
    ROWS_IN,
    ROWS,
    BYTES,
    CHUNK_DURATION,
    PROGRESS,
    LAG,
    RESUMED_CHUNKS,
    WAITED,
    BUSY,
    FINISHED,
    FAILED,
    FENCED,
    QUARANTINED,
)
"""Every metric that is sent."""


class MetricsObserver:
    """Sends an attempt's events as metrics.

    Args:
        tags: the task's own tags.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._tags = dict(tags)
        self._bound_taken: float | None = None

    def notice(self, event: Event) -> None:
        """Send what an event says."""
        tags = self._tags | {
            "pipeline": event.lane.pipeline,
            "part": event.lane.part,
            "stage": event.stage.value,
        }
        match event:
            case Began():
                if event.bound_age is not None:
                    self._bound_taken = event.at / 1e9 - event.bound_age
                _count(RESUMED_CHUNKS, event.kept, tags)
            case ChunkDone():
                self._chunk(event, tags)
            case Waited():
                Stats.timing(WAITED.name, event.seconds * 1000, tags=tags | {"on": event.on})
            case Busy():
                _count(BUSY, 1, tags)
            case Finished():
                _count(FINISHED, 1, tags)
                self._lag(event, tags)
            case Failed():
                _count(FAILED, 1, tags | {"error": event.error})
                _count(FENCED, int(event.fenced), tags)

    def close(self) -> None:
        """Hold nothing."""

    def _chunk(self, event: ChunkDone, tags: dict[str, Any]) -> None:
        _count(CHUNKS, 1, tags)
        _count(ROWS_IN, event.chunk.rows_in, tags)
        _count(ROWS, event.rows, tags)
        _count(BYTES, event.chunk.size, tags)
        _count(QUARANTINED, event.rejected, tags)
        Stats.timing(CHUNK_DURATION.name, event.seconds * 1000, tags=tags)
        if event.share is not None:
            Stats.gauge(PROGRESS.name, event.share, tags=tags)
        self._lag(event, tags)

    def _lag(self, event: Event, tags: dict[str, Any]) -> None:
        if event.stage is Stage.LOAD and self._bound_taken is not None:
            Stats.gauge(LAG.name, max(0.0, time.time() - self._bound_taken), tags=tags)


def _count(metric: Metric, count: int, tags: dict[str, Any]) -> None:
    if count:
        Stats.incr(metric.name, count, tags=tags)
