"""Progress in the Storage tab of the task, on an Airflow that has one (3.3): a mirror, never read back."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final, Protocol

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.observer import (
    Began,
    ChunkDone,
    Failed,
    Finished,
    Waited,
    Waiting,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_checkpoint_etl.observer import (
        Event,
    )

KEY: Final = "checkpoint"
"""The key in the task's store."""


class TaskStateStore(Protocol):
    """What is used of Airflow's ``task_state_store``."""

    def set(self, key: str, value: Any) -> None:
        """Write or overwrite a value."""
        ...


class StorageObserver:
    """Keeps one small JSON value up to date: where the stage is, and what it does.

    Args:
        store: Airflow's ``task_state_store`` of the task.
        every: seconds between two writes; each takes about 20 ms and two hops. Beginnings and ends are
            written at once.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, store: TaskStateStore, every: float, clock: Callable[[], float]) -> None:
        self._store, self._every, self._clock = store, every, clock
        self._value: dict[str, Any] = {"doing": "starting", "chunks": 0, "rows": 0}
        self._wrote: float | None = None

    def notice(self, event: Event) -> None:
        """Fold an event into the value, and write it when it is time."""
        self._value |= {
            "pipeline": event.lane.pipeline,
            "part": event.lane.part,
            "stage": event.stage.value,
            "at": dt.datetime.fromtimestamp(event.at / 1e9, dt.UTC).isoformat(timespec="seconds"),
        }
        if not isinstance(event, ChunkDone):
            self._value |= _told(event)
            self._write()
            return
        self._value |= {
            "doing": "working",
            "chunk": event.chunk.seq,
            "last": cursors.display(event.chunk.high),
            "chunks": self._value["chunks"] + 1,
            "rows": self._value["rows"] + event.rows,
        }
        if event.share is not None:
            self._value["progress"] = round(event.share, 4)
        if self._wrote is None or self._clock() - self._wrote >= self._every:
            self._write()

    def close(self) -> None:
        """Hold nothing."""

    def _write(self) -> None:
        self._wrote = self._clock()
        self._store.set(KEY, dict(self._value))


def _told(event: Event) -> dict[str, Any]:
    match event:
        case Began():
            return {
                "doing": "working",
                "last": cursors.display(event.first),
                "target": cursors.display(event.target),
                "kept_chunks": event.kept,
                "generation": event.generation,
            }
        case Waiting():
            return {"doing": f"waiting ({event.on})"}
        case Waited():
            return {"doing": "working"}
        case Finished():
            return {"doing": "finished", "last": cursors.display(event.summary.last)}
        case Failed():
            return {"doing": "taken over" if event.fenced else "failed", "error": event.error}
    return {"doing": "busy"}
