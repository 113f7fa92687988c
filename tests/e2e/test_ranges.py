"""A first load in ranges, killed and cleared on its way, and the increment after it."""

from __future__ import annotations

import psycopg
import pytest

from tests.e2e.conftest import ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

NAME = "ranged_redis"


def fetch(stack, statement, *parameters):
    with psycopg.connect(stack.dwh, autocommit=True) as connection:
        return connection.execute(statement, parameters).fetchall()


def loading_midway(stack, run_id):
    """A part's load that runs and has loaded some of its chunks."""
    for one in stack.api.tasks(NAME, run_id):
        if one.task_id == "etl.part.load" and one.state == "running" and one.pid:
            ((chunks,),) = fetch(
                stack,
                "select count(*) from checkpoint_etl.ledger"
                " where pipeline = %s and part <> 'default' and map_index = %s",
                NAME,
                one.map_index,
            )
            if chunks:
                return one
    return None


def test_a_range_in_four_parts_survives_a_killed_load_and_a_cleared_planning(stack):
    table, api = stack.world(NAME), stack.api
    api.wait_parsed(NAME)
    api.unpause(NAME)
    first = api.trigger(NAME)
    killed = api.wait("a part is loading", lambda: loading_midway(stack, first), 120)
    stack.airflow.kill_task(killed)
    assert api.clear(NAME, first, ["etl.plan"]) == ["etl.plan"]
    assert api.wait_run(NAME, first, 180) == "success"
    table.assert_exact()
    plans = fetch(
        stack, "select outcome, low, target from checkpoint_etl.plan where pipeline = %s", NAME
    )
    assert plans == [("loaded", "begin", f"i8:{ROWS}")]
    assert len(api.tries(NAME, first, "etl.plan")) == 2
    parts = fetch(
        stack,
        "select map_index, sum(rows)::int, count(distinct try_number) from checkpoint_etl.ledger"
        " where pipeline = %s and part <> 'default' group by part, map_index order by map_index",
        NAME,
    )
    assert [part[0] for part in parts] == [0, 1, 2, 3]
    assert [part[1] for part in parts] == pytest.approx([ROWS / 4] * 4, rel=0.2)
    assert parts[killed.map_index][2] > 1, "the killed load went on in its retry"

    table.insert(1000)
    second = api.trigger(NAME)
    assert api.wait_run(NAME, second, 120) == "success"
    table.assert_exact()
    main = fetch(
        stack,
        "select run_id = %s, sum(rows)::int from checkpoint_etl.ledger"
        " where pipeline = %s and part = 'default' group by run_id order by min(seq)",
        second,
        NAME,
    )
    assert main == [(False, ROWS), (True, 1000)]
