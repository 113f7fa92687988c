"""What failing and waiting attempts leave in the warehouse, and how it reads."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from airflow_checkpoint_etl.errors import CheckpointEtlError, FencedError, StageBusyError
from airflow_checkpoint_etl.insights import Condition, Insights
from airflow_checkpoint_etl.notes import LONGEST
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Lane, Stage
from airflow_checkpoint_etl.warehouses.insights import LedgerInsights
from tests.support import connector

ORDERS = Lane("orders")


@pytest.fixture
def insights(world):
    session = Session(connector(world.warehouse_dsn), "checkpoint_etl read")
    yield Insights(
        LedgerInsights(session), "dwh", lambda settings: world.ports().checkpoints, lambda _: ""
    )
    session.close()


def fail_transform(world, times=1, first_try=1):
    def bad(record):
        if record["id"] == 234:
            raise ValueError("O'Brien 42")  # noqa: EM101, TRY003
        return record

    for number in range(times):
        with contextlib.suppress(CheckpointEtlError):
            world.stage("transform", function=bad, try_number=first_try + number)


def test_a_failed_attempt_says_why_and_where_without_the_rows_content(world, insights):
    world.stage("extract")
    fail_transform(world)
    seen = insights.lane(ORDERS)
    failure = seen.stage(Stage.TRANSFORM).failure
    assert (failure.kind, failure.count, failure.cursor) == ("TransformError", 1, "i8:200")
    assert "234" in failure.message
    assert "O'Brien" not in failure.message
    state = seen.summary.state
    assert state.condition is Condition.FAILED
    assert state.words.startswith("transform failed once at id 200, 0 s ago: ")


def test_failures_without_a_chunk_between_them_add_up_and_make_a_lane_stuck(world, insights):
    world.stage("extract")
    fail_transform(world, times=3)
    state = insights.pipelines()[0].state
    assert state.condition is Condition.STUCK
    assert state.words.startswith("stuck: transform failed 3 times at id 200, ")
    diagnosis = insights.explain(ORDERS)
    assert diagnosis.next_moves[0].startswith("mend the transform")


def test_a_failure_after_a_chunk_counts_anew(world, insights):
    world.source = {"chunk_rows": 50}
    world.stage("extract")
    fail_transform(world, times=2)  # the first of them did four chunks
    assert insights.lane(ORDERS).stage(Stage.TRANSFORM).failure.count == 2


def test_a_stage_that_reaches_its_end_forgets_what_failed(world, insights):
    world.stage("extract")
    fail_transform(world, times=3)
    world.stage("transform", try_number=4)
    seen = insights.lane(ORDERS)
    assert seen.stage(Stage.TRANSFORM).failure is None
    assert seen.summary.state.condition is Condition.WAITING


def test_a_stage_that_moves_again_is_not_stuck_any_more(world, insights):
    world.stage("extract")
    fail_transform(world, times=3)
    runner, ports = world.runner("transform", try_number=4)
    append = ports.checkpoints.append
    states = []

    def watched(*args, **kwargs):
        states.append(insights.pipelines()[0].state.condition)
        return append(*args, **kwargs)

    object.__setattr__(ports.checkpoints, "append", watched)
    try:
        runner.transform(None)
    finally:
        ports.close()
    assert states[0] is Condition.STUCK
    assert set(states[1:]) == {Condition.WORKING}


def test_a_rewind_forgets_what_failed(world, insights):
    world.run()
    world.insert(100)
    world.stage("extract", "run_2")
    with pytest.raises(ZeroDivisionError):
        _interrupted(world, ZeroDivisionError)
    assert insights.lane(ORDERS).stage(Stage.LOAD).failure.kind == "ZeroDivisionError"
    with world.admin() as admin:
        admin.rewind("i8:500", dry_run=False)
    assert insights.lane(ORDERS).stage(Stage.LOAD).failure is None


def _interrupted(world, error):
    """A load that fails with an error of somebody else's."""
    world.stage("transform", "run_2")
    runner, ports = world.runner("load", "run_2")

    def broken(*args, **kwargs):
        raise error

    object.__setattr__(ports.warehouse, "load", broken)
    try:
        runner.load()
    finally:
        ports.close()


def test_of_an_error_of_somebody_else_only_its_kind_is_told(world, insights):
    world.run()
    world.insert(100)
    world.stage("extract", "run_2")
    with pytest.raises(RuntimeError):
        _interrupted(world, RuntimeError)
    failure = insights.lane(ORDERS).stage(Stage.LOAD).failure
    assert failure.message == "RuntimeError; the task's log has the details"


def test_an_attempt_that_fails_before_it_has_the_stage_leaves_a_note_where_nobody_works(
    world, insights
):
    world.run()
    world.source = {"table": "orders_that_is_not_there"}
    for _ in range(2):
        with pytest.raises(CheckpointEtlError):
            world.stage("extract", "run_2")
    failure = insights.lane(ORDERS).stage(Stage.EXTRACT).failure
    assert (failure.kind, failure.count, failure.retryable) == ("PreflightError", 2, False)
    assert insights.lane(ORDERS).summary.state.condition is Condition.STUCK


def test_a_busy_stage_is_no_failure(world, insights):
    world.run()
    runner, ports = world.runner("extract", "other")
    ports.warehouse.preflight()
    world.fetch("update checkpoint_etl.stage set lease_until = now() + interval '1 hour'")
    try:
        with pytest.raises(StageBusyError):
            runner.extract()
    finally:
        ports.close()
    extract = insights.lane(ORDERS).stage(Stage.EXTRACT)
    assert extract.failure is None
    assert 3500 < extract.lease_seconds <= 3600
    assert "is owned by dag.extract of run_1" in " ".join(insights.explain(ORDERS).facts)


def test_a_run_that_waits_for_transactions_says_for_which(world, insights):
    world.run()
    world.insert(10)
    with psycopg.connect(world.source_dsn, application_name="nightly") as blocker:
        blocker.execute("insert into orders (amount) values (1)")
        pid = blocker.info.backend_pid
        with ThreadPoolExecutor() as pool:
            attempt = pool.submit(world.stage, "extract", "run_2")
            deadline = time.monotonic() + 30
            while insights.pipelines()[0].state.condition is not Condition.WAITING:
                assert time.monotonic() < deadline
                assert not attempt.done()
                time.sleep(0.05)
            words = insights.pipelines()[0].state.words
            blocker.rollback()
            attempt.result()
    assert words.startswith("waiting for a transaction that may still write below the bound: pid ")
    assert f"pid {pid} " in words
    assert "nightly" in words
    assert insights.lane(ORDERS).stage(Stage.EXTRACT).note == ""


def test_a_fenced_attempt_is_no_failure_but_an_event_of_its_lane(world, insights):
    world.run()
    world.insert(100)
    world.stage("extract", "run_2")
    world.stage("transform", "run_2")
    runner, ports = world.runner("load", "run_2")
    load = ports.warehouse.load

    def taken_over(*args, **kwargs):
        world.stage("load", "run_2", try_number=2)
        load(*args, **kwargs)
        raise RuntimeError

    object.__setattr__(ports.warehouse, "load", taken_over)
    try:
        with pytest.raises(FencedError):
            runner.load()
    finally:
        ports.close()
    seen = insights.lane(ORDERS)
    assert seen.stage(Stage.LOAD).failure is None
    (fenced,) = seen.events
    assert fenced.kind == "fenced"
    assert fenced.actor.endswith("of run_2, try 1")
    assert fenced.detail["stage"] == "load"
    assert fenced.detail["fence"] < fenced.detail["newest_fence"]
    assert "taken over" in fenced.reason


def test_a_message_is_cut(world, insights):
    world.stage("extract")
    world.stage("transform")
    runner, ports = world.runner("load")

    def broken(*args, **kwargs):
        raise CheckpointEtlError("x" * 2000)

    object.__setattr__(ports.staging, "get", broken)
    try:
        with pytest.raises(CheckpointEtlError):
            runner.load()
    finally:
        ports.close()
    assert len(insights.lane(ORDERS).stage(Stage.LOAD).failure.message) == LONGEST
