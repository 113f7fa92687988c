"""Copy form and transfer under kills: every point that they pass, on both stores, and a stale attempt.

tests/chaos/test_kill_everywhere.py kills at the points that only they have. Here they are killed at those that
they share with every other run; ``pytest -m chaos`` takes each of them alone, ten seeds each, in all three
ways.
"""

from __future__ import annotations

from itertools import zip_longest

import pytest

from tests.chaos.harness_arena import FAST_SEED, SEEDS, STORES, Arena, dice
from tests.chaos.harness_checks import assert_sound
from tests.chaos.harness_drive import Injection, drive
from tests.chaos.harness_points import COPY, SWALLOWED, TRANSFER
from tests.chaos.test_overlap import stopped

pytestmark = pytest.mark.xdist_group("copies")  # they share an arena

SCENARIOS = {"copy": COPY, "transfer": TRANSFER}
POINTS = {
    "copy": {
        "extract": (
            "extract.after_acquire", "extract.after_begin", "extract.after_settle", "extract.before_read",
            "extract.after_read", "extract.before_stage", "extract.after_stage", "extract.before_append",
            "extract.after_append", "copy.after_bound", "copy.after_describe",
        ),
        "transform": (
            "transform.after_acquire", "transform.after_begin", "transform.before_append",
            "transform.after_append",
        ),
        "load": (
            "load.after_acquire", "load.before_load", "load.before_advance", "load.before_rows",
            "copy.before_rows", "load.after_rows", "load.before_commit", "load.after_commit",
            "load.before_note", "load.before_finish", "collect.before_delete", "collect.after_delete",
        ),
    },
    "transfer": {
        "transfer": (
            "extract.after_acquire", "transform.after_acquire", "load.after_acquire", "extract.before_begin",
            "transform.after_begin", "transfer.after_begin", "extract.before_settle", "extract.after_settle",
            "transfer.before_read", "copy.after_bound", "copy.after_describe", "transfer.before_load",
            "load.before_advance", "transfer.before_preoperator", "transfer.after_preoperator",
            "load.before_rows", "copy.before_rows", "transfer.after_block", "load.after_rows",
            "load.before_commit", "load.after_commit", "load.before_note", "load.before_finish",
            "transfer.before_stand",
        ),
    },
}  # fmt: skip
ALL = [
    (name, step, point)
    for name, steps in POINTS.items()
    for step, points in steps.items()
    for point in points
]


@pytest.fixture(scope="module")
def arena(postgres_server, valkey_server):
    with Arena(postgres_server, valkey_server) as made:
        yield made


def struck(arena, random, store, name, point, how="kill"):
    """An injection at a random one of a point's passes in the scenario."""
    passes = arena.passes(store, SCENARIOS[name])[point]
    assert passes, f"{point} is not passed by {SCENARIOS[name].name}"
    return Injection(f"{point}@{random.randint(1, passes)}", how)


def hands():
    """Deal every point once per store: at most one point per step."""
    for store in STORES:
        for name, steps in POINTS.items():
            columns = [list(points) for points in steps.values()]
            for column in columns:
                dice(FAST_SEED, store, column[0]).shuffle(column)
            for points in zip_longest(*columns):
                yield store, name, dict(zip(steps, points, strict=True))


@pytest.mark.parametrize(
    ("store", "name", "points"),
    list(hands()),
    ids=lambda value: "+".join(filter(None, value.values())) if isinstance(value, dict) else None,
)
def test_a_kill_at_any_point_neither_loses_nor_doubles_a_row(arena, store, name, points):
    scenario = SCENARIOS[name]
    random = dice(FAST_SEED, store, name, *points.values())
    case = arena.case(
        store,
        write=random.choice(["append", "upsert"]),
        label=f"seed {FAST_SEED}, {store}, {name}, {points}",
        **scenario.options,
    )
    wrong = {
        step: [struck(arena, random, store, name, point)] for step, point in points.items() if point
    }
    history = drive(arena.attempts, case, wrong, steps=scenario.steps)
    assert history.all_landed, f"a kill did not happen\n{history}"
    assert_sound(history)


@pytest.mark.chaos
@pytest.mark.parametrize("write", ["append", "upsert"])
@pytest.mark.parametrize("how", ["kill", "raise", "drop"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(("name", "step", "point"), ALL)
def test_a_failure_at_any_point_is_mended_by_the_retry(arena, name, step, point, store, how, write):
    scenario = SCENARIOS[name]
    for seed in SEEDS:
        random = dice(seed, store, name, point, how, write)
        case = arena.case(
            store,
            write=write,
            label=f"seed {seed}, {store}, {name}, {how} at {point}, {write}",
            **scenario.options,
        )
        wrong = {step: [struck(arena, random, store, name, point, how)]}
        history = drive(arena.attempts, case, wrong, steps=scenario.steps)
        assert history.all_landed, f"nothing went wrong\n{history}"
        if how == "raise" and point not in SWALLOWED:
            first = history.of(step)[0]
            assert first.error == "FailpointError", f"{first.explain()}\n{history}"
        assert_sound(history)


STALE = {
    "transfer.after_begin": {"FencedError"},
    "transfer.before_load": {"FencedError"},
    "load.before_rows": {"AdminShutdown", "OperationalError"},
    "transfer.after_block": {"AdminShutdown", "OperationalError"},
    "load.before_commit": {"AdminShutdown", "OperationalError"},
    "load.after_commit": {"FencedError"},
}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("point", STALE)
def test_a_stale_transfer_wakes_up_behind_its_retry_and_writes_nothing(arena, store, point):
    random = dice(FAST_SEED, "stale", store, point)
    case = arena.case(
        store,
        write=random.choice(["append", "upsert"]),
        grace=3600.0,
        label=f"{store}, stopped at {point}",
        **TRANSFER.options,
    )
    with stopped(arena, case, "transfer", f"{point}@1") as stale:
        retry = drive(arena.attempts, case, steps=["transfer"], first_try=2)
        left = case.stored()
        stale.resume()
        outcome = stale.wait()
        found = case.stored()
    assert outcome.error in STALE[point], outcome.explain()
    assert left == found
    assert_sound(retry)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("step", ["extract", "transform", "load"])
def test_a_stale_stage_of_a_chain_wakes_up_behind_a_transfer_and_doubles_nothing(
    arena, store, step
):
    """Its lease has run out; the transfer of another run takes all three stages."""
    point = {
        "extract": "extract.before_append@2",
        "transform": "transform.before_append@2",
        "load": "load.before_load@2",
    }[step]
    case = arena.case(store, grace=3600.0, lease=0.2, **COPY.options)
    before = {"extract": (), "transform": ("extract",), "load": ("extract", "transform")}[step]
    if before:
        drive(arena.attempts, case, steps=before)
    with stopped(arena, case, step, point) as stale:
        case.lease = 60.0
        history = drive(arena.attempts, case, run="run_transfer", steps=["transfer"])
        left = case.stored()
        stale.resume()
        outcome = stale.wait()
        found = case.stored()
    assert outcome.error == "FencedError", outcome.explain()
    orphans = set(found.pop("staged")) - set(left.pop("staged"))
    assert len(orphans) <= 1
    assert left == found
    assert_sound(history)
