"""Something goes wrong at every failpoint, and the retry ends with every row exactly once.

Injected: SIGKILL, an exception, or the loss of every connection of the attempt, at a random pass of each
point that docs/failpoints.md lists. By default one kill per point and checkpoint store, up to three in
one scenario (one in each step). ``pytest -m chaos tests/chaos`` takes every point alone, in all three
ways, appending and upserting, with ten seeds each.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import zip_longest

import psycopg
import pytest

from tests import figures
from tests.chaos import harness_checks
from tests.chaos.harness_arena import FAST_SEED, SEEDS, STORES, Arena, any_transform, dice
from tests.chaos.harness_checks import assert_sound
from tests.chaos.harness_drive import drive
from tests.chaos.harness_points import (
    PENDING,
    SWALLOWED,
    listed_points,
    reach_of,
    reachable_points,
)

pytestmark = pytest.mark.xdist_group("kill_everywhere")  # they share an arena


@pytest.fixture(scope="module")
def arena(postgres_server, valkey_server):
    with Arena(postgres_server, valkey_server) as made:
        yield made


def hands(store):
    """Deal every point once: scenarios with at most one point per step."""
    by_scenario = defaultdict(lambda: defaultdict(list))
    for point in reachable_points():
        reach = reach_of(point)
        by_scenario[reach.scenario][reach.step].append(point)
    for columns in by_scenario.values():
        for column in columns.values():
            dice(FAST_SEED, store, column[0]).shuffle(column)
        for points in zip_longest(*columns.values()):
            yield [point for point in points if point]


FAST = [(store, points) for store in STORES for points in hands(store)]


def test_every_listed_failpoint_has_a_scenario_or_is_pending():
    unknown = [
        point for point in listed_points() if point not in PENDING and reach_of(point) is None
    ]
    assert not unknown, (
        f"no scenario reaches {unknown}: add their group to REACHED_BY in "
        "tests/chaos/harness_points.py, or list them in PENDING there"
    )
    assert set(listed_points()) >= PENDING, "PENDING names points that are not listed"


def test_the_default_scenarios_hold_every_reachable_point_once_per_store():
    for store in STORES:
        dealt = [point for where, points in FAST if where == store for point in points]
        assert sorted(dealt) == sorted(reachable_points())


@pytest.mark.parametrize(
    ("store", "points"), FAST, ids=[f"{store}-{'+'.join(points)}" for store, points in FAST]
)
def test_a_kill_at_any_point_neither_loses_nor_doubles_a_row(arena, store, points):
    random = dice(FAST_SEED, store, *points)
    case = arena.case_for(
        points[0],
        store,
        transform=any_transform(random),
        write=random.choice(["append", "upsert"]),
        label=f"seed {FAST_SEED}, {store}, {points}",
    )
    wrong = {reach_of(point).step: [arena.draw(random, store, point)] for point in points}
    history = drive(arena.attempts, case, wrong, steps=reach_of(points[0]).steps)
    assert history.all_landed, f"a kill did not happen\n{history}"
    assert_sound(history, bounded_rework=not reach_of(points[0]).scenario.several_runs)


# --- the checks are no ornament: each of these they must notice -----------------------------------

DAMAGE = {
    "1 missing, 0 extra, 0 doubled": ("delete from {target} where id = 7", ""),
    "0 missing, 1 extra, 0 doubled": ("insert into {target} (id, amount) values (0, 1)", ""),
    "0 missing, 1 extra, 1 doubled": (
        "insert into {target} select * from {target} where id = 7",
        "",
    ),
    # The ledgers of all cases are checked at once, so this one must not stay.
    "the ledger is not contiguous": (
        "update checkpoint_etl.ledger set low = high where pipeline = '{name}' and seq = 2",
        "delete from checkpoint_etl.ledger where pipeline = '{name}'",
    ),
    "prepared transactions left behind": (
        "begin; select 1; prepare transaction 'left_{name}'",
        "rollback prepared 'left_{name}'",
    ),
    "staged files are left": (
        "insert into checkpoint_etl.staged (name, data) values ('{name}/default/x', '')",
        "",
    ),
}


@pytest.mark.parametrize("noticed", DAMAGE)
def test_the_checks_notice_damage(arena, monkeypatch, noticed):
    monkeypatch.setattr(harness_checks, "GONE_WITHIN", 0.1)
    case = arena.case("postgres", rows=200)
    history = drive(arena.attempts, case)
    statement, undo = (
        text.format(name=case.name, target=case.target_table) for text in DAMAGE[noticed]
    )
    case.fetch(statement)
    try:
        with figures.damaged("damage noticed"), pytest.raises(AssertionError, match=noticed):
            assert_sound(history)
    finally:
        if undo:
            case.fetch(undo)


def test_the_checks_notice_an_open_transaction(arena, monkeypatch):
    case = arena.case("postgres", rows=100)
    history = drive(arena.attempts, case)
    monkeypatch.setattr(harness_checks, "GONE_WITHIN", 0.1)
    with psycopg.connect(case.warehouse_dsn) as connection:
        connection.execute("select 1")
        with pytest.raises(AssertionError, match="connections left behind"):
            assert_sound(history)


def test_the_checks_notice_work_done_twice(arena):
    case = arena.case("redis", rows=300)
    history = drive(arena.attempts, case)
    history.tries.insert(0, history.tries[0])
    with pytest.raises(AssertionError, match="worked on 6 chunks, 3 would do"):
        assert_sound(history)


@pytest.mark.chaos
@pytest.mark.parametrize("write", ["append", "upsert"])
@pytest.mark.parametrize("how", ["kill", "raise", "drop"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("point", reachable_points())
def test_a_failure_of_any_kind_at_any_point_is_mended_by_the_retry(arena, point, store, how, write):
    reach = reach_of(point)
    for seed in SEEDS:
        random = dice(seed, store, point, how, write)
        case = arena.case_for(
            point,
            store,
            transform=any_transform(random),
            write=write,
            label=f"seed {seed}, {store}, {how} at {point}, {write}",
        )
        wrong = {reach.step: [arena.draw(random, store, point, how)]}
        history = drive(arena.attempts, case, wrong, steps=reach.steps)
        assert history.all_landed, f"nothing went wrong\n{history}"
        if how == "raise" and point not in SWALLOWED:
            first = history.of(reach.step)[0]
            assert first.error == "FailpointError", f"{first.explain()}\n{history}"
        assert_sound(history, bounded_rework=not reach.scenario.several_runs)
