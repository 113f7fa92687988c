"""Who watches a task, and what they are told of ends that the runner does not see."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_checkpoint_etl.errors import PreflightError, StageBusyError
from airflow_checkpoint_etl.observability.watching import watching
from airflow_checkpoint_etl.observer import Busy, Failed
from airflow_checkpoint_etl.protocol import Stage
from tests.observers import LANE, Recorder, began, failed, finished


class Store:
    def __init__(self):
        self.values = []

    def set(self, key, value):
        self.values.append(value)


def context(**more):
    return {"ti": SimpleNamespace(stats_tags={"dag_id": "d"})} | more


def attempt(recorder, work, **more):
    with watching(context(**more), LANE, Stage.LOAD, 5.0, recorder) as observer:
        work(observer)


def raising(error):
    def work(observer):
        raise error

    return work


def test_an_error_before_the_runner_worked_is_told():
    recorder = Recorder()
    with pytest.raises(PreflightError):
        attempt(recorder, raising(PreflightError("no such table")))
    (event,) = recorder.of(Failed)
    assert (event.error, event.fenced, event.stage) == ("PreflightError", False, Stage.LOAD)
    assert recorder.closed


def test_an_error_that_the_runner_told_is_not_told_twice():
    def work(observer):
        observer.notice(failed("TransformError"))
        raise ValueError

    recorder = Recorder()
    with pytest.raises(ValueError, match=r"^$"):
        attempt(recorder, work)
    assert [event.error for event in recorder.of(Failed)] == ["TransformError"]


def test_a_busy_stage_is_no_failure():
    recorder = Recorder()
    with pytest.raises(StageBusyError):
        attempt(recorder, raising(StageBusyError("another run works on it")))
    assert len(recorder.of(Busy)) == 1
    assert recorder.of(Failed) == []


def test_a_task_that_is_ended_by_a_timeout_is_a_failure():
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        attempt(recorder, raising(KeyboardInterrupt()))
    assert [event.error for event in recorder.of(Failed)] == ["KeyboardInterrupt"]


def test_the_storage_tab_is_written_where_there_is_one():
    store = Store()

    def work(observer):
        observer.notice(began())
        observer.notice(finished())

    attempt(Recorder(), work, task_state_store=store)
    assert store.values[-1]["doing"] == "finished"
    attempt(Recorder(), work)  # an older Airflow: nothing there to write to


def test_a_storage_tab_that_cannot_be_written_harms_nothing():
    class Broken(Store):
        def set(self, key, value):
            raise ConnectionError

    recorder = Recorder()
    attempt(recorder, lambda observer: observer.notice(finished()), task_state_store=Broken())
    assert len(recorder.events) == 1
