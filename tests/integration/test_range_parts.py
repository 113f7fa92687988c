"""One range loaded in parts: planned once, loaded in any order, closed in one step."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl.errors import (
    PlanEndedError,
    PlanNotDoneError,
    PlanOpenError,
    RewindError,
)
from airflow_checkpoint_etl.planner import Cutting
from tests.ranges import PlannedWorld

FOUR = Cutting(parts=4, rows_per_part=200)


@pytest.fixture
def planned(world):
    return PlannedWorld.of(world)


def test_a_first_load_in_four_parts_is_exact(planned):
    keys = planned.plan(FOUR)
    assert len(keys) == 4
    for key in reversed(keys):
        planned.load_part(key)
    closed = planned.close()
    assert closed.rows == 1000
    planned.assert_exact()
    assert planned.main() == ("i8:1000", 1)
