"""Who watches a task: put together when it starts, let go when it ends."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl.errors import FencedError, StageBusyError, StageWaitingError
from airflow_checkpoint_etl.observability.metrics import MetricsObserver
from airflow_checkpoint_etl.observability.spans import SpanObserver
from airflow_checkpoint_etl.observability.storage import StorageObserver
from airflow_checkpoint_etl.observer import Background, Busy, Failed, Finished, Observers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_checkpoint_etl.observer import Event, Observer
    from airflow_checkpoint_etl.protocol import Lane, Stage


@contextlib.contextmanager
def watching(
    context: Mapping[str, Any], lane: Lane, stage: Stage, every: float, *more: Observer
) -> Iterator[Observer]:
    """Give the observer of one attempt, until the block ends.

    Errors that are raised before the runner tells of anything (a preflight, a busy stage) are told here.

    Args:
        context: Airflow's context of the task.
        lane: the lane to work on.
        stage: the stage.
        every: seconds between two writes into the Storage tab.
        more: further observers, which must be quick.
    """
    ending = _Ending()
    observers = Observers([ending, *more, *_observers(context, every)])
    where: dict[str, Any] = {"lane": lane, "stage": stage}
    try:
        yield observers
    except StageBusyError:
        observers.notice(Busy(**where, at=time.time_ns()))
        raise
    except StageWaitingError:
        raise  # deferred: its next attempt goes on
    except BaseException as error:
        if not ending.told:
            fenced = isinstance(error, FencedError)
            name = type(error).__name__
            observers.notice(Failed(**where, at=time.time_ns(), error=name, fenced=fenced))
        raise
    finally:
        observers.close()


class _Ending:
    """Whether the runner itself has told how the attempt ended."""

    def __init__(self) -> None:
        self.told = False

    def notice(self, event: Event) -> None:
        self.told = self.told or isinstance(event, (Failed, Finished))

    def close(self) -> None:
        pass


def _observers(context: Mapping[str, Any], every: float) -> Iterator[Observer]:
    """Those that are there on this Airflow. All talk to others, and may be slow."""
    yield Background(SpanObserver())
    tags = getattr(context["ti"], "stats_tags", None)
    yield Background(MetricsObserver(tags if isinstance(tags, dict) else {}))
    store = context.get("task_state_store")
    if store is not None:
        storage = StorageObserver(store, every, time.monotonic)
        yield storage if _is_in_process() else Background(storage)


def _is_in_process() -> bool:
    """Whether ``dag.test()`` runs the task: its channel to Airflow is not for two threads."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    comms = getattr(runner, "SUPERVISOR_COMMS", None)
    return type(comms).__name__ == "InProcessSupervisorComms"
