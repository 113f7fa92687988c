"""What a lane is up to, as the sentences people read."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from airflow_checkpoint_etl.insights.diagnosis import diagnose
from airflow_checkpoint_etl.insights.facts import (
    Goal,
    LaneFacts,
    Speed,
    Staged,
    StageFacts,
    ids_between,
    lag_of,
    settled,
)
from airflow_checkpoint_etl.insights.history import Count
from airflow_checkpoint_etl.insights.views import Condition, FailureView, OwnerView, Position
from airflow_checkpoint_etl.insights.words import lane_state, span, stage_state
from airflow_checkpoint_etl.protocol import Lane, Stage

NOW = dt.datetime(2026, 3, 1, 3, 0, tzinfo=dt.UTC)


def before(seconds):
    return NOW - dt.timedelta(seconds=seconds)


def owner(seconds=180, **changes):
    view = OwnerView("orders", "run_1", "load", -1, 1, "worker-1", before(seconds))
    return replace(view, **changes)


def goal(**changes):
    values = {
        "dag_id": "orders",
        "run_id": "run_1",
        "low": "begin",
        "target": "i8:12000",
        "done": False,
        "stored_at": before(600),
        "settled_at": before(600),
        "finished_at": None,
        "incarnation": "a1",
    }
    return Goal(**values | changes)


def lane(**changes):
    facts = LaneFacts(
        lane=Lane("orders"),
        now=NOW,
        generation=1,
        incarnation="a1",
        position=Position(40, "i8:4000", 4000, before(2)),
        run=goal(),
        speed=Speed(20, 2000, 45.0, "i8:2000"),
    )
    return replace(facts, **changes)


def stage(name=Stage.LOAD, **changes):
    return {name: StageFacts(name, **changes)}


def failure(count=1, **changes):
    values = {
        "kind": "StagedChunkError",
        "message": "the staged file is gone",
        "cursor": "i8:81442",
        "retryable": True,
        "count": count,
        "at": before(30),
    }
    return FailureView(**values | changes)


def words(facts):
    return lane_state(facts).words


def test_loading_says_which_chunk_of_about_how_many_and_how_long_it_takes():
    facts = lane(stages=stage(owner=owner(), lease_seconds=40))
    assert lane_state(facts).condition is Condition.WORKING
    assert words(facts) == "loading chunk 41 of ~120, 3 min left"


def test_where_the_stage_before_is_done_the_chunks_are_counted():
    extracted = Staged(Position(117, "i8:12000", 12000, before(60)))
    transformed = Staged(Position(117, "i8:12000", 12000, before(50)))
    facts = lane(
        stages=stage(owner=owner(), lease_seconds=40),
        staged={Stage.EXTRACT: extracted, Stage.TRANSFORM: transformed},
    )
    assert words(facts) == "loading chunk 41 of 117, 2 min left"


def test_without_a_measured_chunk_it_says_where_it_is():
    facts = lane(stages=stage(owner=owner(), lease_seconds=40), speed=Speed())
    assert words(facts) == "loading chunk 41, at 4,000 of 12,000"


def test_a_stage_whose_position_was_not_read_says_how_long_it_works():
    facts = lane(stages=stage(Stage.EXTRACT, owner=owner(), lease_seconds=40))
    assert words(facts) == "extracting for 3 min"


def test_extracting_counts_by_its_own_chunks():
    staged = Staged(
        Position(60, "i8:6000", 6000, before(1)), Speed(19, 1900, 19.0, "i8:4100"), 20, 2000, 1
    )
    facts = lane(
        stages=stage(Stage.EXTRACT, owner=owner(), lease_seconds=40),
        staged={Stage.EXTRACT: staged},
    )
    assert words(facts) == "extracting chunk 61 of ~120, 1 min left"


def test_work_after_failed_tries_says_so():
    facts = lane(stages=stage(owner=owner(), lease_seconds=40, failure=failure(2)), speed=Speed())
    assert words(facts) == "loading chunk 41, at 4,000 of 12,000 (after 2 failed tries)"


def test_an_attempt_that_waits_says_for_what():
    note = "waiting for transactions that may still write below the bound: pid 812; pid 815"
    facts = lane(stages=stage(Stage.EXTRACT, owner=owner(), lease_seconds=40, note=note))
    assert lane_state(facts).condition is Condition.WAITING
    assert words(facts) == note


def test_one_failure_is_left_to_airflows_retry():
    facts = lane(stages=stage(owner=owner(), failure=failure()))
    state = lane_state(facts)
    assert state.condition is Condition.FAILED
    assert state.words == "load failed once at id 81,442, 30 s ago: the staged file is gone"
    assert "retry goes on" in state.next_move


def test_three_failures_make_it_stuck():
    facts = lane(stages=stage(owner=owner(), failure=failure(3)))
    assert lane_state(facts).condition is Condition.STUCK
    assert words(facts) == (
        "stuck: load failed 3 times at id 81,442, 30 s ago: the staged file is gone"
    )


def test_a_failure_that_no_retry_can_mend_makes_it_stuck_at_once():
    facts = lane(stages=stage(owner=owner(), failure=failure(retryable=False)))
    assert words(facts).startswith("stuck: load failed at id 81,442, 30 s ago: ")


def test_it_stays_stuck_while_the_fourth_try_runs():
    facts = lane(stages=stage(owner=owner(), lease_seconds=50, failure=failure(3)))
    assert lane_state(facts).condition is Condition.STUCK


def test_the_next_try_after_a_failure_for_good_is_work():
    facts = lane(
        stages=stage(owner=owner(), lease_seconds=50, failure=failure(retryable=False)),
        speed=Speed(),
    )
    assert words(facts).endswith("(after 1 failed try)")


def test_a_stuck_stage_matters_more_than_one_that_works():
    facts = lane(
        stages=stage(owner=owner(), lease_seconds=40)
        | stage(Stage.EXTRACT, owner=owner(), failure=failure(5))
    )
    assert words(facts).startswith("stuck: extract failed 5 times")


def test_a_lost_worker_is_named():
    state = lane_state(lane(stages=stage(owner=owner(), lease_seconds=-40)))
    assert state.condition is Condition.WAITING
    assert state.words == (
        "load's worker (worker-1, try 1) stopped reporting; its lease ran out 40 s ago"
    )


def test_a_lost_worker_of_a_finished_run_is_no_news():
    facts = lane(
        run=goal(done=True, finished_at=before(240)),
        stages=stage(owner=owner(), lease_seconds=-40),
    )
    assert words(facts) == "caught up 4 min ago, at 4,000"


def test_a_run_that_ended_early_has_caught_up_with_nothing():
    facts = lane(run=goal(done=True, finished_at=before(240), settled_at=None, target="i8:4000"))
    assert words(facts).startswith(
        "the last run ended early at 4,000, 4 min ago; there may be more"
    )


def test_a_run_that_no_task_has_taken_waits_for_a_slot():
    state = lane_state(lane(position=Position(40, "i8:4000", 4000, before(65))))
    assert state.condition is Condition.WAITING
    assert state.words == (
        "waiting for a free slot: run run_1 is at 4,000 of 12,000, and no task has taken it for 1 min"
    )


def test_a_run_that_nobody_works_on_for_long_is_stuck():
    facts = lane(
        run=goal(stored_at=before(90000)), position=Position(40, "i8:4000", 4000, before(7500))
    )
    assert words(facts) == (
        "stuck: run run_1 is at 4,000 of 12,000, and nothing has worked on it for 2 h 5 min"
    )


def test_a_lane_without_a_run_has_loaded_nothing():
    facts = lane(run=None, position=Position(0, "begin", 0, before(5)))
    assert lane_state(facts).condition is Condition.IDLE
    assert words(facts) == "nothing loaded yet: no run has settled where it ends; at the beginning"


def test_a_rewound_lane_says_where_the_next_run_begins():
    facts = lane(incarnation="b2", generation=2, position=Position(5, "i8:500", 500, before(300)))
    assert words(facts) == (
        "rewound, reset or resynced to 500 (generation 2), 5 min ago; the next run loads on from there"
    )


def test_each_stage_says_where_it_is():
    facts = lane(
        staged={
            Stage.EXTRACT: Staged(Position(117, "i8:12000", 12000, before(60))),
            Stage.TRANSFORM: Staged(Position(50, "i8:5000", 5000, before(50))),
        }
    )
    assert stage_state(facts, Stage.EXTRACT).words == "done at 12,000, 1 min ago"
    assert stage_state(facts, Stage.TRANSFORM).words == "at 5,000 of 12,000; no task works on it"
    assert "clear transform" in stage_state(facts, Stage.TRANSFORM).next_move
    assert stage_state(lane(), Stage.EXTRACT).condition is Condition.IDLE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (-3, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_span_of_time_for_people(seconds, text):
    assert span(seconds) == text


# --- lag -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "count"),
    [
        ("i8:4000", "i8:12000", 8000),
        ("i4:4000", "i8:12000", 8000),
        ("begin", "i8:12000", 12000),
        ("begin", "begin", 0),
        ("i8:5", "begin", 0),
        ("i8:12000", "i8:4000", 0),
        ("d:2026-01-01", "d:2026-01-02", None),
        ('["tz:2026-01-01T00:00:00.000000Z","i8:42"]', "begin", None),
    ],
)
def test_ids_between_two_positions(low, high, count):
    assert ids_between(low, high) == count


def test_the_lag_is_what_the_warehouse_knows():
    lag = lag_of(lane(complete_as_of=before(3600)))
    assert (lag.seconds, lag.ids, lag.source_ids) == (3600.0, 8000, None)
    assert lag_of(lane(run=goal(done=True))).ids == 0
    asked = lag_of(lane(), "i8:12500")
    assert (asked.seconds, asked.source_ids, asked.source_shown) == (None, 8500, "12,500")


def test_a_bound_that_says_nothing_about_what_is_new_was_never_settled():
    assert settled(dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) is None
    assert settled(NOW) == NOW
    assert settled(None) is None


# --- diagnosis -----------------------------------------------------------------------------------


def test_a_diagnosis_has_the_facts_and_the_next_move():
    facts = lane(
        stages=stage(owner=owner(), lease_seconds=12)
        | stage(
            Stage.EXTRACT,
            owner=owner(task_id="extract"),
            failure=failure(3, kind="SettleTimeoutError", message="pid 812 did not end"),
        ),
        quarantined=Count(10_000, is_capped=True),
        complete_as_of=before(7200),
    )
    diagnosis = diagnose(facts, ["the checkpoint store did not answer: TimeoutError"])
    assert diagnosis.lane == "orders"
    assert diagnosis.state.condition is Condition.STUCK
    assert diagnosis.facts == (
        "the load is at chunk 40, 4,000, in generation 1; it moved last 2 s ago",
        "the newest run, run_1 of orders, goes to 12,000 and is not loaded to its end",
        "everything committed to the source until 2 h ago is loaded",
        "10,000+ record(s) are in quarantine",
        (
            "extract failed 3 times since it moved, last 30 s ago, with SettleTimeoutError: "
            "pid 812 did not end"
        ),
        "load is owned by orders.load of run_1 (try 1, host worker-1); its lease runs out in 12 s",
        "the checkpoint store did not answer: TimeoutError",
    )
    assert diagnosis.next_moves[0].startswith("end the transactions that the error names")


def test_a_diagnosis_of_a_lost_worker_offers_the_release():
    facts = lane(lane=Lane("orders", "eu"), stages=stage(owner=owner(), lease_seconds=-40))
    moves = diagnose(facts).next_moves
    assert "takes the stage over" in moves[0]
    assert "airflow checkpoints release orders --part eu --stage load" in moves[1]


def test_a_rewind_makes_the_newest_run_void():
    facts = lane(incarnation="b2", generation=2, position=Position(5, "i8:500", 500, before(300)))
    assert "made it void" in diagnose(facts).facts[1]
    assert lag_of(facts).ids == 0


def test_a_lane_that_is_caught_up_needs_nothing():
    facts = lane(run=goal(done=True, finished_at=before(240)))
    assert diagnose(facts).next_moves == ("nothing is to be done",)
