"""Stages on real servers, watched: what is told at a takeover, by a retry, and to a watcher that breaks."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl.errors import FencedError
from airflow_checkpoint_etl.observer import (
    Began,
    ChunkDone,
    Failed,
    Finished,
    Waited,
    Waiting,
)
from tests.observers import Recorder


def test_a_stage_tells_every_step_in_order(world):
    recorder = Recorder()
    world.attempt = {"observer": recorder}
    world.run()
    extract = [type(event) for event in recorder.events if event.stage == "extract"]
    assert extract == [Waiting, Waited, Began, *[ChunkDone] * 10, Finished]
    load = [event for event in recorder.events if event.stage == "load"]
    assert [type(event) for event in load] == [Began, *[ChunkDone] * 10, Finished]
    assert [event.chunk.seq for event in load[1:-1]] == list(range(1, 11))
    assert load[-1].summary.rows == 1000
    assert load[-1].summary.size == sum(event.chunk.size for event in load[1:-1])
    assert 0 <= load[0].bound_age < 60
    assert load[0].generation == 1


def test_an_attempt_that_is_taken_over_is_told_as_fenced(world):
    def take_over(event):
        if isinstance(event, ChunkDone) and event.chunk.seq == 2:
            world.attempt = {}
            world.stage("extract", try_number=2)

    recorder = Recorder(take_over)
    world.attempt = {"observer": recorder}
    with pytest.raises(FencedError):
        world.stage("extract")
    (event,) = recorder.of(Failed)
    assert event.fenced
    assert event.error == "FencedError"
    assert recorder.of(Finished) == []
    world.attempt = {}
    world.stage("transform")
    world.stage("load")
    world.assert_exact()


def test_a_retry_tells_what_it_kept(world):
    def fail(record):
        if record["id"] == 350:
            raise ValueError
        return record

    first = Recorder()
    world.stage("extract")
    world.attempt = {"observer": first}
    with pytest.raises(Exception, match="350"):
        world.stage("transform", function=fail)
    assert [event.error for event in first.of(Failed)] == ["TransformError"]
    second = Recorder()
    world.attempt = {"observer": second}
    world.stage("transform", try_number=2)
    (began,) = second.of(Began)
    assert began.kept == 3
    assert [event.chunk.seq for event in second.of(ChunkDone)] == list(range(4, 11))


def test_a_watcher_that_breaks_at_any_event_changes_nothing(world):
    def broken(_event):
        raise OSError

    recorder = Recorder(broken)
    world.attempt = {"observer": recorder}
    world.run()
    assert len(recorder.events) == 3, "each attempt told it once"
    world.assert_exact()


def test_the_bound_of_a_budgeted_run_promises_nothing(world):
    world.attempt = {"max_rows": 300}
    world.stage("extract")
    recorder = Recorder()
    world.attempt = {"observer": recorder}
    world.stage("transform")
    world.stage("load")
    assert [event.bound_age for event in recorder.of(Began)] == [None, None]
