"""The three stages of a run work at once while things go wrong, and every row arrives exactly once.

Injected: SIGKILL in each stage while the others work, SIGSTOP of one of them, Redis flushed in the
middle, fewer worker slots than stages, a stage that fails for good, clears. ``pytest -m chaos`` kills at
every point of an ordinary run, on both stores, with ten seeds each.
"""

from __future__ import annotations

import itertools

import pytest
import redis

from airflow_checkpoint_etl.following import share_of
from airflow_checkpoint_etl.protocol import Stage
from tests.chaos.harness_arena import FAST_SEED, SEEDS, STORES, Arena, any_transform, dice
from tests.chaos.harness_checks import assert_sound
from tests.chaos.harness_drive import Injection
from tests.chaos.harness_points import COPY, RUN, TOGETHER, plain_points, reach_of
from tests.chaos.harness_together import Together, assert_little_rework

pytestmark = pytest.mark.xdist_group("follow")  # they share an arena

STAGED = (Stage.EXTRACT, Stage.TRANSFORM)
HOLDS = sorted(point for point in TOGETHER if point.endswith("hold"))


@pytest.fixture(scope="module")
def arena(postgres_server, valkey_server):
    with Arena(postgres_server, valkey_server) as made:
        yield made


@pytest.fixture(params=STORES)
def store(request):
    return request.param


def case_of(arena, store, *, rows=800, together=None, grace=3600.0, **options):
    return arena.case(store, rows=rows, together=together or {}, grace=grace, **options)


def at(point, turn=1, how="kill"):
    return Injection(f"{point}@{turn}", how)


def check(run, *, rework=True):
    history = run.history if run.history.tries else run.drive()
    assert not run.failed, f"{run.failed}\n{history}"
    assert history.all_landed, f"nothing went wrong\n{history}"
    assert_sound(history, bounded_rework=False)
    if rework:
        assert_little_rework(history)
    return history


# --- side by side ----------------------------------------------------------------------------------


def test_the_stages_work_at_once(arena, store):
    case = case_of(arena, store)
    # The extract is stopped for good unless the others take what it has staged meanwhile.
    seen = []

    def on_stop(step, attempt):
        seen.append(loaded(case))
        return seen[-1] == 3

    run = Together(
        arena.attempts,
        case,
        {"extract": [at("extract.before_read", 4, "stop")]},
        on_stop=on_stop,
    )
    check(run)
    assert seen[-1] == 3
    assert run.most_at_once == 3


def is_done(case):
    return case.fetch(f"select done from checkpoint_etl.run where pipeline = '{case.name}'") == [
        (True,)
    ]


def loaded(case):
    ((seq,),) = case.fetch(
        "select coalesce(max(seq), 0) from checkpoint_etl.ledger "
        f"where pipeline = '{case.name}' and rewound_at is null"
    )
    return seq


@pytest.mark.parametrize(("slots", "first"), [(1, "extract"), (1, "load"), (2, "load")])
def test_fewer_worker_slots_than_stages_are_no_deadlock(arena, slots, first):
    case = case_of(arena, "redis", together={"patience": 0.05, "staged_bytes": 12_000})
    order = [first, *(step for step in RUN if step != first)]
    run = Together(arena.attempts, case, steps=order, slots=slots)
    check(run, rework=True)
    assert run.most_at_once <= slots
    assert run.deferrals, "with fewer slots than stages, somebody has to give one back"


# --- kills -----------------------------------------------------------------------------------------


def kill_one_in_each(arena, store, points, seed):
    random = dice(seed, "follow", store, *points)
    case = case_of(
        arena,
        store,
        transform=any_transform(random),
        write=random.choice(["append", "upsert"]),
        label=f"seed {seed}, {store}, killed at {points}",
        together={"patience": random.choice([0.0, 0.1, 5.0])},
        grace=0.0,  # a file that was collected while a stage looked is made again
    )
    wrong = {}
    for point in points:
        # Passes of an ordinary run of four chunks; here there are eight.
        most = arena.passes(store)[point]
        wrong[reach_of(point).step] = [at(point, random.randint(1, most))]
    check(Together(arena.attempts, case, wrong), rework=False)


def hands():
    """Every point of an ordinary run once: at most one in each stage at a time."""
    columns = {step: [] for step in RUN}
    for point in plain_points():
        columns[reach_of(point).step].append(point)
    for column in columns.values():
        dice(FAST_SEED, "follow", column[0]).shuffle(column)
    dealt = itertools.zip_longest(*columns.values())
    return [
        (STORES[number % 2], tuple(point for point in points if point))
        for number, points in enumerate(dealt)
    ]


@pytest.mark.parametrize(("where", "points"), hands(), ids=lambda value: "+".join([*value]))
def test_a_kill_in_every_stage_while_the_others_work_costs_no_row(arena, where, points):
    kill_one_in_each(arena, where, points, FAST_SEED)


@pytest.mark.parametrize(
    "points",
    [
        ("copy.after_bound", "transform.before_append", "copy.before_rows"),
        ("copy.after_describe", "transform.after_append", "load.before_commit"),
        ("extract.after_stage", "transform.after_acquire", "load.after_commit"),
        ("extract.before_append", "transform.after_begin", "load.before_note"),
    ],
    ids="+".join,
)
def test_a_kill_in_every_stage_costs_no_row_in_copy_form_either(arena, store, points):
    case = case_of(arena, store, **COPY.options)
    wrong = {reach_of(point).step: [at(point)] for point in points}
    check(Together(arena.attempts, case, wrong))


@pytest.mark.chaos
@pytest.mark.parametrize("points", [points for _, points in hands()], ids="+".join)
@pytest.mark.parametrize("seed", SEEDS)
def test_kills_anywhere_in_every_stage_at_once_cost_no_row(arena, store, points, seed):
    kill_one_in_each(arena, store, points, seed)


@pytest.mark.parametrize(("store", "point"), [*zip(STORES * 2, sorted(TOGETHER), strict=True)])
def test_a_kill_while_a_stage_waits_costs_nothing(arena, store, point):
    # The transform holds back before extract does only where it makes larger chunks.
    case = case_of(arena, store, transform="running_total", together={"patience": 5.0})
    if point in HOLDS:
        case.together["staged_bytes"] = 2 * size_of_a_total(arena, store)
    wrong = {"load": [at("load.before_load", 1, "sleep:1")]} if point in HOLDS else {}
    check(Together(arena.attempts, case, wrong | {reach_of(point).step: [at(point)]}))


def size_of_a_total(arena, store):
    """The bytes of a chunk that the transform has made larger."""
    case = case_of(arena, store, rows=100, transform="running_total")
    Together(arena.attempts, case).drive()
    read, made = sizes(case)
    assert read < made
    return made


# --- other misfortunes -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", RUN)
def test_a_stage_that_is_stopped_for_a_while_holds_up_nothing_but_time(arena, step):
    case = case_of(arena, "redis", together={"patience": 0.05})
    point = {"extract": "extract.before_append", "transform": "transform.before_append"}.get(
        step, "load.before_commit"
    )
    passes = []

    def on_stop(stopped, attempt):
        passes.append(stopped)
        return len(passes) == 50

    check(Together(arena.attempts, case, {step: [at(point, 3, "stop")]}, on_stop=on_stop))
    assert set(passes) == {step}


def test_a_redis_that_is_flushed_while_extract_works_is_rebuilt_and_waited_for(arena):
    case = case_of(arena, "redis", transform="running_total")

    def on_stop(step, attempt):
        if loaded(case) < 2:
            return False
        with redis.Redis(port=case.redis_port) as client:
            return client.flushall()

    wrong = {"extract": [at("extract.before_read", 5, "stop")]}
    run = Together(arena.attempts, case, wrong, on_stop=on_stop)
    check(run, rework=False)


def test_a_redis_that_is_flushed_after_extract_has_ended_is_upstream_lost(arena):
    case = case_of(arena, "redis")
    run = Together(arena.attempts, case, steps=("extract",))
    run.drive()
    with redis.Redis(port=case.redis_port) as client:
        client.flushall()
    rest = Together(arena.attempts, case, steps=("transform", "load"))
    rest.drive()
    assert rest.failed["transform"].error == "UpstreamLostError"
    assert rest.failed["load"].error == "UpstreamFailedError"
    assert loaded(case) == 0
    case.clear_number = 1
    check(Together(arena.attempts, case), rework=False)


def test_what_extract_lost_just_before_its_end_is_made_again_by_its_retry(arena):
    case = case_of(arena, "redis")

    def on_stop(step, attempt):
        if not any(outcome.killed for _, _, outcome in run.history.tries):
            return False  # the load has yet to come to its own misfortune
        with redis.Redis(port=case.redis_port) as client:
            return client.flushall()

    last = at("extract.after_append", 8, "stop")
    run = Together(
        arena.attempts,
        case,
        {"extract": [last], "load": [at("load.before_load", 2)]},
        on_stop=on_stop,
    )
    check(run, rework=False)


def test_a_stage_that_fails_for_good_is_named_by_those_that_follow_it(arena):
    case = case_of(arena, "postgres")
    case.fetch(f"alter table {case.source_table} rename column amount to costs", at="source")
    case.source["columns"] = ("id", "amount")
    run = Together(arena.attempts, case)
    run.drive()
    assert set(run.failed) == set(RUN)
    assert run.failed["transform"].error == run.failed["load"].error == "UpstreamFailedError"
    assert "extract" in run.failed["transform"].message


def test_a_load_is_not_green_before_the_stages_before_it(arena):
    """Everything is staged and loaded, and extract dies before it is done: its retry may go on."""
    case = case_of(arena, "postgres", together={"patience": 5.0})
    ended = []

    def on_stop(step, attempt):
        ended.append(loaded(case))
        return ended[-1] == 8 and not is_done(case)

    wrong = {"extract": [at("extract.after_append", 8, "stop")]}
    check(Together(arena.attempts, case, wrong, on_stop=on_stop))
    assert ended[-1] == 8
    assert is_done(case)


def test_a_budget_that_ends_the_run_early_is_heard_by_those_that_follow(arena):
    case = case_of(arena, "postgres", max_rows=300)
    run = Together(arena.attempts, case)
    history = run.drive()
    assert not run.failed, f"{run.failed}\n{history}"
    assert loaded(case) == 3
    assert is_done(case)
    case.max_rows = None
    check(Together(arena.attempts, case, run="run_2"), rework=False)


def test_a_cleared_run_waits_for_its_extract_and_not_for_its_old_goal(arena):
    case = case_of(arena, "postgres")
    check(Together(arena.attempts, case))
    case.insert(300)
    case.clear_number = 1
    # The load starts first: the target of before the clear is reached, and must not be believed.
    check(Together(arena.attempts, case, steps=("load", "transform", "extract")))
    assert loaded(case) == 11
    alone = Together(arena.attempts, case, steps=())
    case.clear_number = 2
    alone = Together(arena.attempts, case, steps=("load",))
    check(alone, rework=False)
    assert loaded(case) == 11


def test_a_run_that_is_reprocessed_takes_its_rows_back_while_the_others_wait(arena):
    case = case_of(arena, "postgres")
    check(Together(arena.attempts, case))
    case.clear_number, case.attempt = 1, {"on_clear": "reprocess"}
    check(Together(arena.attempts, case, steps=("load", "transform", "extract")), rework=False)
    assert len(case.ledger()) == 8


def test_a_rewind_while_the_stages_work_ends_their_run_and_the_next_one_starts_from_there(
    arena, store
):
    case = case_of(arena, store, write="append")

    def on_stop(step, attempt):
        if loaded(case) < 3:
            return False
        case.act("rewind", "by_hand", 1)
        return True

    stopped = [at("extract.before_read", 4, "stop")]
    run = Together(arena.attempts, case, {"extract": stopped}, on_stop=on_stop)
    run.drive()
    ended = {"FencedError", "RewoundError", "UpstreamFailedError"}
    assert set(run.failed) == set(RUN), run.history  # none is green
    assert {outcome.error for outcome in run.failed.values()} <= ended, run.history
    assert loaded(case) == 2
    again = Together(arena.attempts, case, run="run_2")
    again.drive()
    assert not again.failed, again.history
    assert_sound(again.history, bounded_rework=False)


# --- back-pressure ---------------------------------------------------------------------------------


def waiting(case):
    """Bytes staged by each stage and not loaded, by the store and the warehouse."""
    ports = case.ports()
    try:
        records = [ports.checkpoints.read(case.lane, stage) for stage in STAGED]
        state = ports.warehouse.lane(case.lane)
    finally:
        ports.close()
    if state is None:
        return [0, 0]
    seq = state.frontier.seq
    return [sum(one.size for one in record.entries if one.seq > seq) for record in records]


@pytest.mark.parametrize("limit", [1, 20_000])
def test_bytes_that_wait_to_be_loaded_are_bounded(arena, store, limit):
    case = case_of(arena, store, rows=800, together={"staged_bytes": limit, "patience": 1.0})
    most = [0, 0]

    def on_look(running):
        if is_there(case):
            most[:] = map(max, most, waiting(case))

    wrong = {"load": [at("load.before_load"), at("load.after_commit")]}
    run = Together(arena.attempts, case, wrong, on_look=on_look)
    run.drive()
    largest, share = max(sizes(case)), share_of(limit)
    assert 0 < most[0] < share + largest
    assert 0 < most[1] < share + largest
    check(run)


def sizes(case):
    """The bytes of every chunk that either stage has staged; none is collected yet."""
    ports = case.ports()
    try:
        return [
            entry.size
            for stage in STAGED
            for entry in ports.checkpoints.read(case.lane, stage).entries
        ]
    finally:
        ports.close()


def is_there(case):
    """Whether the first stage has made the ledger's tables and the checkpoint store's."""
    tables = ["checkpoint_etl.ledger", "checkpoint_etl.manifest"][: 1 if case.redis_port else 2]
    return all(
        case.fetch(f"select to_regclass('{table}') is not null") == [(True,)] for table in tables
    )


def test_nothing_is_held_back_for_a_load_that_has_failed(arena):
    case = case_of(arena, "redis", together={"staged_bytes": 1}, warehouse={"create_table": False})
    case.fetch(
        f"create table {case.target_table} (id bigint, customer text, amount numeric(12, 2))"
    )
    run = Together(arena.attempts, case)
    history = run.drive()
    assert set(run.failed) == {"load"}, history
    assert run.failed["load"].error in {"PreflightError", "TypeMismatchError"}
    assert history.of("extract")[-1].succeeded
