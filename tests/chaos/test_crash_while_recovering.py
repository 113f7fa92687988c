"""The retry is killed as well: two kills in a row at random points of one step, then it completes.

By default 20 pairs of points, ``pytest -m chaos tests/chaos`` takes 200.
"""

from __future__ import annotations

import pytest

from tests import figures
from tests.chaos.harness_arena import COUNT, FAST_SEED, STORES, Arena, any_transform, dice
from tests.chaos.harness_checks import assert_sound
from tests.chaos.harness_drive import Injection, drive
from tests.chaos.harness_points import reach_of, reachable_points

DRAWS = 12
"""Draws in which a pair must be found whose second point the retry still passes."""


pytestmark = pytest.mark.xdist_group("crash_while_recovering")  # they share an arena


@pytest.fixture(scope="module")
def arena(postgres_server, valkey_server):
    with Arena(postgres_server, valkey_server) as made:
        yield made


def recover(arena, store, seed, number):
    random = dice(seed, "pair", store, number)
    for _ in range(DRAWS):
        first = arena.draw(random, store, random.choice(reachable_points()))
        reach = reach_of(first.name)
        second = random.choice([p for p in reachable_points() if reach_of(p) == reach])
        # The retry has less to do than the first try had: its first passes are the likely ones.
        again = Injection(f"{second}@{random.choice([1, 1, 2])}")
        case = arena.case_for(
            first.name,
            store,
            transform=any_transform(random),
            write=random.choice(["append", "upsert"]),
            label=f"seed {seed}, pair {number}, {store}: {first.point}, then {again.point}",
        )
        history = drive(arena.attempts, case, {reach.step: [first, again]}, steps=reach.steps)
        assert_sound(history, bounded_rework=not reach.scenario.several_runs)
        if history.all_landed:
            assert len(history.of(reach.step)) == 3, str(history)
            figures.noted("pairs of kills")
            return
    message = f"no pair in {DRAWS} draws: seed {seed}, pair {number}, {store}"
    raise AssertionError(message)


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("store", STORES)
def test_a_retry_that_is_killed_too_is_mended_by_the_next(arena, store, number):
    recover(arena, store, FAST_SEED, number)


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(10 * COUNT))
@pytest.mark.parametrize("store", STORES)
def test_any_pair_of_kills_is_mended(arena, store, number):
    recover(arena, store, "long", number)
