"""Clears, empty runs, growing sources, runs at once and sensors, in a real Airflow."""

from __future__ import annotations

import psycopg
import pytest

from tests.e2e.conftest import ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

CHUNKS = ROWS // 500


def succeeded(api, dag_id, run_id):
    """Wait for a run, and show the logs of what failed."""
    state = api.wait_run(dag_id, run_id, 180)
    failed = [task for task in api.tasks(dag_id, run_id) if task.state == "failed"]
    logs = [api.log(dag_id, run_id, task.task_id, task.try_number)[-3000:] for task in failed]
    assert state == "success", "\n".join(logs)


def test_clearing_a_failed_task_resumes_it(stack):
    table, api = stack.world("clear_failed"), stack.api
    (stack.flags / "fail").touch()
    api.wait_parsed("clear_failed")
    api.unpause("clear_failed")
    run_id = api.trigger("clear_failed")
    assert api.wait_run("clear_failed", run_id, 120) == "failed"
    extracted = table.rows_read()
    assert "raised RuntimeError" in api.log("clear_failed", run_id, "etl.transform")
    (stack.flags / "fail").unlink()
    cleared = api.clear("clear_failed", run_id, ["etl.transform"], downstream=True)
    assert cleared == ["etl.load", "etl.transform"]
    assert api.wait_run("clear_failed", run_id, 120) == "success"
    assert len(table.ledger()) == CHUNKS
    table.assert_exact()
    assert table.rows_read() - extracted <= 2 * ROWS, "only the comparison read the source again"


def test_runs_after_the_first_load_only_what_is_new(stack):
    table, api = stack.world("again"), stack.api
    api.wait_parsed("again")
    api.unpause("again")
    first = api.trigger("again")
    assert api.wait_run("again", first, 120) == "success"
    assert len(table.ledger()) == CHUNKS

    nothing_new = api.trigger("again")
    assert api.wait_run("again", nothing_new, 120) == "success"
    assert len(table.ledger()) == CHUNKS

    table.insert(1000)
    grown = api.trigger("again")
    assert api.wait_run("again", grown, 120) == "success"
    assert [row[2] for row in table.ledger()[CHUNKS:]] == [grown, grown]
    table.assert_exact()

    api.clear("again", first)  # of a finished run: there is nothing to do, and nothing is doubled
    assert api.wait_run("again", first, 120) == "success"
    assert len(table.ledger()) == CHUNKS + 2
    table.assert_exact()


def test_a_cleared_run_is_loaded_again_where_it_is_to_be_reprocessed(stack):
    table, api = stack.world("reprocessed"), stack.api
    with psycopg.connect(stack.dwh, autocommit=True) as connection:
        connection.execute("alter table reprocessed add column _ck_chunk bigint")
    api.wait_parsed("reprocessed")
    api.unpause("reprocessed")
    first = api.trigger("reprocessed")
    succeeded(api, "reprocessed", first)
    table.insert(1000)
    second = api.trigger("reprocessed")
    succeeded(api, "reprocessed", second)
    assert len(table.ledger()) == CHUNKS + 2

    api.clear("reprocessed", first, ["etl.load"])  # a later stage alone resumes
    succeeded(api, "reprocessed", first)
    assert len(table.ledger()) == CHUNKS + 2

    api.clear("reprocessed", first)
    succeeded(api, "reprocessed", first)
    assert "reprocessing from the beginning" in api.log("reprocessed", first, "etl.extract", 2)
    again = table.ledger()[CHUNKS + 2 :]
    assert [(row[0], row[2]) for row in again] == [(seq, first) for seq in range(1, CHUNKS + 3)]
    table.assert_exact()

    api.clear("reprocessed", second)  # its rows came again with the first run's; now once more
    succeeded(api, "reprocessed", second)
    assert [row[2] for row in table.ledger()[2 * (CHUNKS + 2) :]] == [second, second]
    table.assert_exact()


def test_two_runs_at_once_load_everything_once(stack):
    table, api = stack.world("twice"), stack.api
    api.wait_parsed("twice")
    api.unpause("twice")
    runs = [api.trigger("twice", run_id=f"run_{number}") for number in (1, 2)]
    assert [api.wait_run("twice", run, 180) for run in runs] == ["success", "success"]
    assert [row[0] for row in table.ledger()] == list(range(1, CHUNKS + 1))
    table.assert_exact()


def test_sensors_wait_until_the_load_is_caught_up(stack):
    table, api = stack.world("awaited"), stack.api
    for name in ("waits", "awaited", "follows"):
        api.wait_parsed(name)
        api.unpause(name)
    waiting = api.trigger("waits", conf={"at_least": str(ROWS)})
    api.wait(
        "the sensor deferred",
        lambda: api.task("waits", waiting, "deferred").state == "deferred" or None,
        120,
    )
    run_id = api.trigger("awaited")
    assert api.wait_run("awaited", run_id, 120) == "success"
    succeeded(api, "waits", waiting)
    following = api.wait_started("follows", 120)
    assert api.wait_run("follows", following, 120) == "success"
    table.assert_exact()
