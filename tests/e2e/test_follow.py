"""Three stages of a DAG run that work at once: killed, failed, cleared, and with one slot for all."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

CHUNK = 500
CHUNKS = ROWS // CHUNK
STAGES = ("extract", "transform", "load")


def test_stages_that_run_at_once_are_killed_one_by_one_and_the_run_is_cleared(stack):
    name = "follow_killed"
    table, api = stack.world(name), stack.api
    api.wait_parsed(name)
    api.unpause(name)
    run_id = api.trigger(name)

    # The load is at work while extract still is; then each is killed while the others go on.
    table.wait_for_chunks("load", 2)
    assert table.seq("extract") < CHUNKS
    for stage in STAGES:
        stack.airflow.kill_task(api.wait_running(name, run_id, f"etl.{stage}"))
    assert api.wait_run(name, run_id, 240) == "success"
    tries = [len(api.tries(name, run_id, f"etl.{stage}")) for stage in STAGES]
    assert tries == [2, 2, 2]
    assert [row[0] for row in table.ledger()] == list(range(1, CHUNKS + 1)), "every chunk once"
    table.assert_exact()

    # Cleared with Downstream: all three start at once, and nobody believes the goal of before.
    table.insert(CHUNK)
    api.clear(name, run_id, ["etl.extract"], downstream=True)
    assert api.wait_run(name, run_id, 240) == "success"
    assert [row[0] for row in table.ledger()] == list(range(1, CHUNKS + 2))
    table.assert_exact()


def test_a_failed_extract_is_not_hidden_by_a_green_load(stack):
    name = "follow_failed"
    table, api = stack.world(name), stack.api
    api.wait_parsed(name)
    api.unpause(name)
    run_id = api.trigger(name)
    assert api.wait_run(name, run_id, 240) == "failed"
    states = {one.task_id: one.state for one in api.tasks(name, run_id)}
    assert states == dict.fromkeys((f"etl.{stage}" for stage in STAGES), "failed")
    assert "follows etl.transform, which failed" in api.log(name, run_id, "etl.load")
    assert table.seq("load") == table.seq("extract") > 0, "what it had staged is loaded"


def test_one_slot_for_three_stages_is_no_deadlock(stack):
    name = "follow_one_slot"
    table, api = stack.world(name), stack.api
    api.wait_parsed(name)
    api.unpause(name)
    run_id = api.trigger(name)
    assert api.wait_run(name, run_id, 240) == "success"
    table.assert_exact()
