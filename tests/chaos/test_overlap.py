"""An attempt that was stopped wakes up behind its own retry, and changes nothing.

Injected: SIGSTOP at a failpoint; the retry runs the step, and all later ones, to the end; SIGCONT. The
woken attempt must find that it was taken over, or that nothing is left to do, and ledger, lane, target
and manifest must be as the retry left them. Also: it wakes up while the retry, stopped too, is halfway.
By default ten points and four pairs; ``pytest -m chaos tests/chaos`` takes every point on both checkpoint
stores with ten seeds, and 200 pairs.
"""

from __future__ import annotations

import contextlib
import time

import psycopg
import pytest

from tests import figures
from tests.chaos.harness_arena import COUNT, FAST_SEED, SEEDS, STORES, Arena, any_transform, dice
from tests.chaos.harness_checks import assert_sound
from tests.chaos.harness_drive import History, Injection, drive
from tests.chaos.harness_points import plain_points, reach_of

HOLDS_THE_LANE = ("load.before_rows", "load.after_rows", "load.before_commit")
"""Points at which the open load transaction holds the lane's row, so that the retry has to end it."""

COLLECTS = ("collect.after_delete", "collect.after_forget")
"""Points that are passed only where nothing staged is kept for a while."""

FAST = [
    ("redis", "extract.after_settle"),
    ("postgres", "extract.before_stage"),
    ("redis", "extract.before_append"),
    ("postgres", "transform.after_read_state"),
    ("redis", "transform.after_apply"),
    ("postgres", "transform.before_append"),
    ("redis", "load.before_load"),
    ("postgres", "load.before_advance"),
    ("redis", "load.before_commit"),
    ("postgres", "load.after_commit"),
]


pytestmark = pytest.mark.xdist_group("overlap")  # they share an arena


@pytest.fixture(scope="module")
def arena(postgres_server, valkey_server):
    with Arena(postgres_server, valkey_server) as made:
        yield made


@contextlib.contextmanager
def stopped(arena, case, step, point):
    """An attempt that has stopped itself at a point; whatever happens, it does not stay so."""
    attempt = arena.attempts.start(case, step, failpoint=f"{point}=stop")
    try:
        assert attempt.wait_stopped(), f"it ended before {point}: {attempt.wait().explain()}"
        figures.injected("SIGSTOP and SIGCONT", point=point)
        yield attempt
    finally:
        attempt.kill()


def overlap(arena, store, point, seed):
    random = dice(seed, "overlap", store, point)
    reach = reach_of(point)
    case = arena.case(
        store,
        transform=any_transform(random),
        write=random.choice(["append", "upsert"]),
        grace=0.0 if point in COLLECTS else 3600.0,
        label=f"seed {seed}, {store}, stopped at {point}",
    )
    injection = arena.draw(random, store, point, "stop")
    before, after = split(reach.steps, reach.step)
    history = drive(arena.attempts, case, steps=before) if before else History(case)
    with stopped(arena, case, reach.step, injection.point) as stale:
        retry = drive(arena.attempts, case, steps=after, first_try=2)
        left = case.stored()
        stale.resume()
        outcome = stale.wait()
        found = case.stored()
    history.tries += [(reach.step, injection, outcome), *retry.tries]
    assert_stale(outcome, point, history)
    assert_unchanged(left, found, outcome, history)
    assert_sound(history)


def split(steps, step):
    place = len(steps) - 1 - steps[::-1].index(step)
    return steps[:place], steps[place:]


def assert_stale(outcome, point, history):
    """It was fenced, or done, or (within its transaction) its backend had been ended by the retry."""
    allowed = {"FencedError", None}
    if point in HOLDS_THE_LANE:
        allowed = {"AdminShutdown", "OperationalError"}
    assert outcome.signal is None, f"{history}\n{outcome.explain()}"
    assert outcome.error in allowed, f"{history}\n{outcome.explain()}"


def assert_unchanged(left, found, outcome, history):
    orphans = set(found.pop("staged")) - set(left.pop("staged"))
    changed = [what for what in left if left[what] != found[what]]
    assert not changed, f"the stale attempt changed {changed}\n{history}\n{outcome.explain()}"
    # It may have staged the one chunk it was at, under its own fence, before it was refused.
    assert len(orphans) <= 1, f"orphans {orphans}\n{history}"
    assert all("-f1-" in name for name in orphans), f"orphans {orphans}\n{history}"


@pytest.mark.parametrize(("store", "point"), FAST)
def test_a_stopped_attempt_wakes_up_behind_its_retry_and_writes_nothing(arena, store, point):
    overlap(arena, store, point, FAST_SEED)


@pytest.mark.chaos
@pytest.mark.parametrize("point", plain_points())
@pytest.mark.parametrize("store", STORES)
def test_an_attempt_stopped_anywhere_writes_nothing_behind_its_retry(arena, store, point):
    for seed in SEEDS:
        overlap(arena, store, point, seed)


# --- both at work ----------------------------------------------------------------------------------


def interleave(arena, store, seed, number):
    """The first try wakes up and goes on to its end while the retry, too, is in the middle."""
    random = dice(seed, "interleave", store, number)
    first = arena.draw(random, store, random.choice(plain_points()), "stop")
    reach = reach_of(first.name)
    same_step = [point for point in plain_points() if reach_of(point) == reach]
    second = Injection(f"{random.choice(same_step)}@{random.choice([1, 1, 2])}", "stop")
    case = arena.case(
        store,
        transform=any_transform(random),
        write=random.choice(["append", "upsert"]),
        label=f"seed {seed}, pair {number}, {store}: {first.point} beside {second.point}",
    )
    before, after = split(reach.steps, reach.step)
    history = drive(arena.attempts, case, steps=before) if before else History(case)
    with stopped(arena, case, reach.step, first.point) as stale:
        retry = arena.attempts.start(case, reach.step, try_number=2, failpoint=second.setting)
        try:
            if retry.wait_stopped():
                figures.injected("SIGSTOP and SIGCONT", point=second.name)
            stale.resume()
            outcomes = [stale.wait()]
            retry.resume()
            outcomes.append(retry.wait())
        finally:
            retry.kill()
    history.tries += zip([reach.step] * 2, (first, second), outcomes, strict=True)
    assert outcomes[0].error in {"FencedError", "AdminShutdown", "OperationalError", None}, (
        f"{history}\n{outcomes[0].explain()}"
    )
    assert outcomes[1].succeeded, f"{history}\n{outcomes[1].explain()}"
    history.tries += drive(arena.attempts, case, steps=after, first_try=3).tries
    # What the first try did after the retry had looked is cut, so work is not bounded by a chunk.
    assert_sound(history, bounded_rework=False)


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("store", STORES)
def test_two_attempts_at_work_at_once_come_to_one_result(arena, store, number):
    interleave(arena, store, FAST_SEED, number)


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(10 * COUNT))
@pytest.mark.parametrize("store", STORES)
def test_any_two_attempts_at_work_at_once_come_to_one_result(arena, store, number):
    interleave(arena, store, "long", number)


# --- when the retry may end the stopped attempt's transaction, and when not ------------------------


@pytest.fixture
def staged(arena):
    """A case of which everything is staged and nothing is loaded."""

    def make(**options):
        case = arena.case("redis", grace=3600.0, **options)
        drive(arena.attempts, case, steps=("extract", "transform"))
        return case

    return make


def load_backends(case):
    return case.fetch(
        "select pid from pg_stat_activity where xact_start is not null "
        f"and application_name like 'checkpoint_etl load f% {case.name}'"
    )


def test_another_run_does_not_end_a_stopped_load_whose_lease_is_live(arena, staged):
    case = staged()
    with stopped(arena, case, "load", "load.before_commit@2") as attempt:
        backends = load_backends(case)
        assert len(backends) == 1
        other = arena.attempts.run(case, "load", "run_2")
        assert other.error == "StageBusyError", other.explain()
        assert load_backends(case) == backends
        attempt.resume()
        outcome = attempt.wait()
    assert outcome.succeeded, outcome.explain()
    assert outcome.summary["chunks"] == 4
    case.assert_arrived()


def test_another_run_ends_a_stopped_load_once_its_lease_has_run_out(arena, staged):
    case = staged(lease=0.5)
    lease = (
        "select lease_until < clock_timestamp() from checkpoint_etl.stage "
        f"where pipeline = '{case.name}' and stage = 'load'"
    )
    with stopped(arena, case, "load", "load.before_commit@2") as attempt:
        deadline = time.monotonic() + 10
        while case.fetch(lease) != [(True,)]:
            assert time.monotonic() < deadline, "the lease of a stopped attempt did not run out"
            time.sleep(0.01)
        case.lease = 60.0
        case.insert(100)
        other = drive(arena.attempts, case, run="run_2")
        left = case.stored()
        attempt.resume()
        outcome = attempt.wait()
        assert outcome.error in {"AdminShutdown", "OperationalError"}, outcome.explain()
        assert case.stored() == left
    retry = drive(arena.attempts, case, steps=("load",), first_try=2)
    assert retry.tries[-1][2].summary["chunks"] == 0
    assert other.tries[-1][2].summary["chunks"] == 4
    case.assert_arrived()


def test_a_load_ends_no_stranger_that_holds_the_lanes_row(arena, staged):
    case = staged()
    with psycopg.connect(case.warehouse_dsn, application_name="report") as stranger:
        stranger.execute(
            f"select from checkpoint_etl.lane where pipeline = '{case.name}' for update"
        )
        outcome = arena.attempts.run(case, "load")
        assert outcome.error == "CheckpointEtlError", outcome.explain()
        assert "report" in outcome.message
        assert stranger.execute("select 1").fetchone() == (1,)
    drive(arena.attempts, case, steps=("load",), first_try=2)
    case.assert_arrived()


def test_a_stopped_attempt_that_is_resumed_alone_goes_on(arena):
    case = arena.case("redis")
    history = History(case)
    for step, point in [
        ("extract", "extract.before_append@2"),
        ("transform", "transform.after_stage"),
    ]:
        with stopped(arena, case, step, point) as attempt:
            attempt.resume()
            outcome = attempt.wait()
        assert outcome.succeeded, outcome.explain()
        history.tries.append((step, Injection(point, "stop"), outcome))
    history.tries += drive(arena.attempts, case, steps=("load",)).tries
    assert_sound(history)


def test_a_load_that_lost_its_connection_at_its_end_frees_the_stage(arena, staged):
    case = staged()
    case.grace = 0.0
    with stopped(arena, case, "load", "collect.after_delete") as attempt:
        attempt.drop_connections(case)
        attempt.resume()
        outcome = attempt.wait()
    assert outcome.succeeded, outcome.explain()
    assert case.fetch(
        "select lease_until from checkpoint_etl.stage "
        f"where pipeline = '{case.name}' and stage = 'load'"
    ) == [(None,)]
