"""Watching never harms a load: observers that raise, hang or fall behind."""

from __future__ import annotations

import logging
import threading

from airflow_checkpoint_etl.errors import CancelledError, FencedError
from airflow_checkpoint_etl.observer import (
    Background,
    Began,
    ChunkDone,
    Failed,
    Finished,
    Observers,
    Waited,
    Waiting,
)
from airflow_checkpoint_etl.ports import Run
from airflow_checkpoint_etl.progress import Progress
from airflow_checkpoint_etl.protocol import Frontier, Lane, Stage
from tests.observers import Recorder, began, chunk, chunk_done, finished


def broken(event):
    message = "its text may hold a value"
    raise ValueError(message)


def test_an_observer_that_raises_is_left_out_and_the_others_go_on(caplog):
    first, second = Recorder(broken), Recorder()
    observers = Observers([first, second])
    with caplog.at_level(logging.WARNING):
        observers.notice(began())
        observers.notice(finished())
    assert len(first.events) == 1
    assert len(second.events) == 2
    assert "Recorder failed (ValueError) and is left out" in caplog.text
    assert "value in it" not in caplog.text
    assert "may hold" not in caplog.text


def test_closing_closes_everyone_although_one_raises():
    first, second = Recorder(), Recorder()
    first.close = lambda: broken(None)
    Observers([first, second]).close()
    assert second.closed


def test_a_background_observer_hears_everything_in_order():
    recorder = Recorder()
    background = Background(recorder)
    for seq in range(1, 51):
        background.notice(chunk_done(seq=seq))
    background.close()
    assert [event.chunk.seq for event in recorder.events] == list(range(1, 51))
    assert recorder.closed
    assert background.dropped == 0


def test_a_background_observer_that_raises_hears_nothing_more(caplog):
    recorder = Recorder(broken)
    background = Background(recorder)
    with caplog.at_level(logging.WARNING):
        background.notice(began())
        background.notice(finished())
        background.close()
    assert len(recorder.events) == 1
    assert "left out" in caplog.text


def test_a_hanging_observer_costs_the_load_nothing_but_a_moment_at_the_end(caplog):
    release = threading.Event()
    background = Background(Recorder(lambda _: release.wait(60)), backlog=2, close_seconds=0.05)
    try:
        for seq in range(1, 101):  # returns, although nobody takes them
            background.notice(chunk_done(seq=seq))
        with caplog.at_level(logging.WARNING):
            background.close()
    finally:
        release.set()
    assert background.dropped >= 97
    assert "could not follow the load" in caplog.text


# --- what a stage tells --------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def progress(clock, recorder):
    return Progress(Lane("orders"), Stage.EXTRACT, 5.0, clock, recorder)


FRONTIER = Frontier("life", 3, 0, "i8:0")
RUN = Run("i8:0", "i8:200", "life", settled_ago=7.0)


def test_a_stage_tells_where_it_begins_and_how_old_its_bound_is():
    recorder = Recorder()
    progress(Clock(), recorder).begin(FRONTIER, RUN, 4)
    (event,) = recorder.of(Began)
    assert (event.first, event.target, event.kept, event.generation, event.bound_age) == (
        "i8:0",
        "i8:200",
        4,
        3,
        7.0,
    )


def test_a_chunk_takes_the_time_since_the_one_before_and_waiting_does_not_count():
    clock, recorder = Clock(), Recorder()
    told = progress(clock, recorder)
    told.begin(FRONTIER, RUN, 0)
    clock.now = 2.0
    told.chunk(chunk(high="i8:100", low="i8:0"))
    with told.waiting("upstream"):
        clock.now = 12.0
    clock.now = 13.0
    told.chunk(chunk(seq=2, low="i8:100", high="i8:200"), 90, 10)
    first, second = recorder.of(ChunkDone)
    assert (first.seconds, first.share, first.rows, first.rejected) == (2.0, 0.5, 100, 0)
    assert (second.seconds, second.share, second.rows, second.rejected) == (1.0, 1.0, 90, 10)
    assert [type(event) for event in recorder.events[2:4]] == [Waiting, Waited]
    assert recorder.of(Waited)[0].seconds == 10.0


def test_the_summary_says_which_chunks_and_how_many_bytes():
    recorder = Recorder()
    told = progress(Clock(), recorder)
    told.begin(FRONTIER, RUN, 0)
    for seq in (5, 6):
        told.chunk(chunk(seq=seq, size=700))
    summary = told.summary()
    assert (summary.first_chunk, summary.last_chunk, summary.size) == (5, 6, 1400)
    assert summary.generation == 3
    assert recorder.of(Finished)[0].summary == summary


def test_a_failure_is_told_by_its_type_and_a_takeover_as_such():
    recorder = Recorder()
    told = progress(Clock(), recorder)
    told.failed(FencedError())
    told.failed(CancelledError())
    assert [(event.error, event.fenced) for event in recorder.of(Failed)] == [
        ("FencedError", True),
        ("CancelledError", False),
    ]
