"""When a stage that follows another takes, waits, ends or gives up: every case there is."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import pytest
from airflow.sdk.api.datamodels._generated import TaskInstanceState

from airflow_checkpoint_etl.following import (
    PATIENT_SECONDS,
    WORTHWHILE,
    Following,
    Move,
    Sight,
    Upstream,
    decide,
    is_answered,
    is_held,
    is_let_go,
    is_worth_waking,
    share_of,
    upstream_of,
    waiting_bytes,
)
from airflow_checkpoint_etl.ports import LaneState, Run
from airflow_checkpoint_etl.protocol import Chunk, Frontier

EVERY_SIGHT = [
    Sight(upstream, *flags)
    for upstream in Upstream
    for flags in itertools.product([False, True], repeat=4)
]


def rule(sight: Sight) -> Move:
    """The rules once more, as a table: what is there first, then what became of the stage before."""
    if sight.next and sight.answered and not sight.reached:
        return Move.TAKE
    ended = {Upstream.WORKING: Move.WAIT, Upstream.FAILED: Move.FAIL, Upstream.SKIPPED: Move.SKIP}
    return ended.get(sight.upstream) or {
        (True, True): Move.DONE,
        (True, False): Move.LOST if sight.reconciled else Move.RECONCILE,
    }.get((sight.answered, sight.reached), Move.LOST)


@pytest.mark.parametrize("sight", EVERY_SIGHT, ids=str)
def test_every_sight_has_its_move(sight):
    assert decide(sight) is rule(sight)


def test_nothing_but_a_success_of_the_stage_before_makes_a_stage_green():
    done = {sight.upstream for sight in EVERY_SIGHT if decide(sight) is Move.DONE}
    assert done == {Upstream.SUCCEEDED}


def test_a_stage_gives_up_only_when_the_stage_before_has_ended():
    gives_up = {Move.LOST, Move.FAIL, Move.SKIP, Move.DONE, Move.RECONCILE}
    assert not any(
        decide(sight) in gives_up for sight in EVERY_SIGHT if sight.upstream is Upstream.WORKING
    )


def test_a_stage_waits_only_while_somebody_can_still_bring_what_it_waits_for():
    waits = {sight.upstream for sight in EVERY_SIGHT if decide(sight) is Move.WAIT}
    assert waits == {Upstream.WORKING}


def test_nothing_is_taken_under_the_goal_of_an_earlier_clear():
    assert not any(
        decide(sight) in {Move.TAKE, Move.DONE} for sight in EVERY_SIGHT if not sight.answered
    )


def test_reconciling_happens_once_and_then_the_chunk_is_lost():
    sight = Sight(Upstream.SUCCEEDED, answered=True)
    assert decide(sight) is Move.RECONCILE
    assert decide(Sight(Upstream.SUCCEEDED, answered=True, reconciled=True)) is Move.LOST


def test_every_state_that_airflow_knows_is_an_end_or_work():
    ends = {
        TaskInstanceState.SUCCESS: Upstream.SUCCEEDED,
        TaskInstanceState.FAILED: Upstream.FAILED,
        TaskInstanceState.UPSTREAM_FAILED: Upstream.FAILED,
        TaskInstanceState.REMOVED: Upstream.FAILED,
        TaskInstanceState.SKIPPED: Upstream.SKIPPED,
    }
    for state in TaskInstanceState:
        assert upstream_of(state.value) is ends.get(state, Upstream.WORKING)
    assert upstream_of(None) is Upstream.WORKING


# --- whose goal it is ------------------------------------------------------------------------------


def goal(**options):
    return Run("i8:0", "i8:9", **{"incarnation": "life1"} | options)


LANE = LaneState(Frontier("life1", 1, 0, "i8:0"))


@pytest.mark.parametrize(
    ("upstream", "run", "clear_number", "answered"),
    [
        (Upstream.WORKING, None, 0, False),
        (Upstream.SUCCEEDED, None, 0, False),
        (Upstream.WORKING, goal(), 0, True),
        # cleared with Downstream: extract has not answered this clear, then it has
        (Upstream.WORKING, goal(done=True), 1, False),
        (Upstream.WORKING, goal(clear_number=1), 1, True),
        # cleared alone: the stage before still stands
        (Upstream.SUCCEEDED, goal(done=True), 1, True),
        # a sibling was cleared since
        (Upstream.WORKING, goal(clear_number=2), 1, True),
        # extract takes rows back: its goal is of an earlier life until it has
        (Upstream.WORKING, goal(incarnation="life0", clear_number=1), 1, False),
        (Upstream.SUCCEEDED, goal(incarnation="life0"), 0, False),
    ],
)
def test_a_goal_counts_once_extract_has_answered_the_last_clear(
    upstream, run, clear_number, answered
):
    assert is_answered(upstream, run, LANE, clear_number) is answered


def test_a_lane_that_does_not_exist_yet_has_no_goal():
    assert not is_answered(Upstream.SUCCEEDED, goal(), None, 0)


# --- back-pressure ---------------------------------------------------------------------------------


def chunk(seq: int, size: int) -> Chunk:
    return Chunk("life1", seq, f"i8:{seq - 1}", f"i8:{seq}", 1, 1, f"file{seq}", size, "d", 1)


def test_bytes_of_loaded_chunks_do_not_wait():
    staged = [chunk(seq, 10) for seq in range(1, 6)]
    assert [waiting_bytes(staged, loaded) for loaded in (0, 3, 5)] == [50, 20, 0]


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 1 << 30])
def test_whoever_holds_back_has_something_to_be_loaded_and_nothing_waits_for_itself(limit):
    share = share_of(limit)
    assert not is_held(0, share), "with nothing staged, a chunk of any size may be"
    assert is_let_go(0, share), "and a deferred stage is woken for it"
    assert is_held(share, share)
    assert Following(lambda: Upstream.WORKING, staged_bytes=limit).share == share


def test_a_stage_that_was_let_go_is_not_held_again_at_once():
    for share in range(1, 50):
        for waiting in range(100):
            assert not (is_let_go(waiting, share) and is_held(waiting, share)), (waiting, share)


def test_a_deferred_stage_is_woken_for_several_chunks_or_for_one_that_stays():
    assert is_worth_waking(WORTHWHILE, 0.0)
    assert not is_worth_waking(WORTHWHILE - 1, 0.0)
    assert is_worth_waking(1, PATIENT_SECONDS)
    assert not is_worth_waking(0, PATIENT_SECONDS * 100)


# --- deferring -------------------------------------------------------------------------------------


def test_the_trigger_comes_back_as_it_was_sent():
    try:
        from airflow.sdk.serde import deserialize, serialize
    except ModuleNotFoundError:  # before Airflow 3.2 it is elsewhere
        from airflow.serialization.serde import deserialize, serialize

    from airflow_checkpoint_etl.hooks.following import Place
    from airflow_checkpoint_etl.operators.following import Neighbours
    from airflow_checkpoint_etl.triggers.following import FollowTrigger

    place = Place("dwh", "checkpoints", "orders", "default", "load", "dag", "run", 2)
    neighbours = Neighbours("dag", "run", -1, "etl.transform", ("etl.load",))
    trigger = FollowTrigger(asdict(place), asdict(neighbours), share=10, holding=True)
    path, arguments = trigger.serialize()
    assert path == f"{FollowTrigger.__module__}.{FollowTrigger.__qualname__}"
    again = FollowTrigger(**deserialize(serialize(arguments)))
    assert again.serialize() == trigger.serialize()
    assert Place(**again.place) == place
