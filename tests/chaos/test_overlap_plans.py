"""A planning or a closing that was stopped wakes up behind its own retry, and changes nothing.

Injected: SIGSTOP at a failpoint outside the transaction; the retry plans, every part is loaded, the plan is
closed and an increment loaded; SIGCONT. One store by default; ``pytest -m chaos`` takes the other one too.
"""

from __future__ import annotations

import pytest

from tests.chaos.harness_arena import Arena
from tests.chaos.harness_checks import assert_sound
from tests.chaos.harness_drive import History, drive
from tests.chaos.harness_points import PLANNED
from tests.chaos.test_overlap import split, stopped

pytestmark = pytest.mark.xdist_group("overlap_plans")  # they share an arena

POINTS = {
    "plan.before_look": "plan",
    "plan.before_settle": "plan",
    "plan.after_split": "plan",
    "plan.after_commit": "plan",
    "close.before_lock": "close",
    "close.after_commit": "close",
}


@pytest.fixture(scope="module")
def arena(postgres_server, valkey_server):
    with Arena(postgres_server, valkey_server) as made:
        yield made


def plans(case):
    return case.fetch(
        f"select t::text from checkpoint_etl.plan as t where pipeline = '{case.name}' order by id"
    )


@pytest.mark.parametrize("store", ["postgres", pytest.param("redis", marks=pytest.mark.chaos)])
@pytest.mark.parametrize("point", POINTS)
def test_a_planning_or_closing_that_wakes_up_behind_its_retry_changes_nothing(arena, store, point):
    step = POINTS[point]
    case = arena.case(store, grace=3600.0, label=f"stopped at {point}", **PLANNED.options)
    before, after = split(PLANNED.steps, step)
    history = drive(arena.attempts, case, steps=before) if before else History(case)
    with stopped(arena, case, step, point) as stale:
        drive(arena.attempts, case, steps=after, first_try=2)
        left = case.stored() | {"plans": plans(case)}
        stale.resume()
        outcome = stale.wait()
        found = case.stored() | {"plans": plans(case)}
    assert outcome.succeeded, outcome.explain()
    assert found == left
    assert_sound(history, bounded_rework=False)
