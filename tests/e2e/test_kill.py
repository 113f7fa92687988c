"""A worker killed with -9 in each stage: the retry resumes and nothing is read or loaded twice."""

from __future__ import annotations

import pytest

from tests import figures
from tests.e2e.conftest import ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

CHUNKS = ROWS // 500


@pytest.mark.parametrize("store", ["redis", "postgres"])
@pytest.mark.parametrize("stage", ["extract", "transform", "load"])
def test_a_killed_worker_is_resumed_by_the_retry(stack, stage, store):
    name = f"kill_{stage}_{store}"
    table, api = stack.world(name), stack.api
    api.wait_parsed(name)
    before = table.rows_read()
    api.unpause(name)
    run_id = api.trigger(name)
    task = api.wait_running(name, run_id, f"etl.{stage}")
    table.wait_for_chunks(stage, 5)
    stack.airflow.kill_task(task)
    figures.injected("workers killed")
    done = table.seq(stage)
    assert done < CHUNKS
    assert api.wait_run(name, run_id, 180) == "success"

    tries = api.tries(name, run_id, f"etl.{stage}")
    assert [one.try_number for one in tries] == [1, 2]
    ledger = table.ledger()
    assert [row[0] for row in ledger] == list(range(1, CHUNKS + 1)), "every chunk once"
    if stage == "load":
        assert {row[1] for row in ledger if row[0] <= done} == {1}
        assert {row[1] for row in ledger if row[0] > done + 1} == {2}
    # A kill may cost the chunk in flight and not one chunk more; settling looks at a row or two.
    read = table.rows_read() - before
    assert ROWS <= read < ROWS + 2 * 500
    table.assert_exact()
    log = api.log(name, run_id, f"etl.{stage}", 2)
    assert "of earlier tries are kept" in log
