"""One piece of work ahead: bounded, in order, and without consequence when nobody asks for it."""

from __future__ import annotations

import threading

import pytest

from airflow_checkpoint_etl.ahead import Ahead, one_ahead


class Work:
    """Counts how much of it is under way at once, and ends when it is told to."""

    def __init__(self):
        self.calls, self.running, self.most = 0, 0, 0
        self.go, self.begun = threading.Event(), threading.Event()

    def __call__(self):
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        assert self.go.wait(10)
        self.running -= 1
        return self.calls


def fail():
    message = "the source is gone"
    raise ConnectionError(message)


def test_work_is_done_while_the_caller_is_busy_and_taken_once():
    work = Work()
    with Ahead("test") as ahead:
        ahead.start(1, work)
        assert work.begun.wait(10)  # nobody has asked for it yet
        work.go.set()
        assert ahead.take(1, fail) == 1
        assert ahead.take(1, lambda: "again") == "again"
    assert work.calls == 1


def test_without_a_start_the_work_is_done_in_the_callers_thread():
    with Ahead("test") as ahead:
        assert ahead.take(1, threading.current_thread) is threading.current_thread()


def test_an_error_comes_out_where_its_result_would_have():
    with Ahead("test") as ahead:
        ahead.start(2, fail)
        assert ahead.take(1, lambda: "the first") == "the first"
        ahead.start(2, fail)
        with pytest.raises(ConnectionError, match="the source is gone"):
            ahead.take(2, lambda: "never asked")
        assert ahead.take(2, lambda: "tried again") == "tried again"


def test_work_for_something_else_is_dropped_with_its_error():
    with Ahead("test") as ahead:
        ahead.start("the old cut", fail)
        assert ahead.take("the new cut", lambda: "read anew") == "read anew"


def test_there_is_never_more_than_one_piece_under_way():
    work = Work()
    work.go.set()
    with Ahead("test") as ahead:
        for key in range(20):
            ahead.start(key, work)
        assert ahead.take(19, fail) <= 20
    assert work.most == 1


def test_leaving_the_block_waits_for_what_is_under_way():
    work = Work()
    with Ahead("test") as ahead:
        ahead.start(1, work)
        assert work.begun.wait(10)
        work.go.set()
    assert work.running == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test")]


def test_an_exception_interrupts_what_is_under_way_and_is_the_one_that_is_raised():
    work = Work()

    def leave():
        with Ahead("test", interrupt=work.go.set) as ahead:
            ahead.start(1, work)
            assert work.begun.wait(10)
            fail()

    with pytest.raises(ConnectionError, match="the source is gone"):
        leave()
    assert work.running == 0


def test_items_made_ahead_come_in_order_with_the_error_at_its_place():
    def items():
        yield from range(5)
        message = "at the sixth"
        raise ValueError(message)

    made = one_ahead(items(), "test")
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="at the sixth"):
        next(made)


def test_items_are_made_one_ahead_and_no_further():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    taking = one_ahead(items(), "test")
    assert next(taking) == 0
    taking.close()  # waits for the one that is being made
    assert made in ([0], [0, 1])
