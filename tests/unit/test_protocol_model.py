"""Every history of the protocol in a small world keeps the invariants; without a safeguard, one breaks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from protocol_model import EVERYTHING, Protocol, World, explore

FULL = Protocol()

SMALL_WORLDS = {
    "a killed attempt": World(restarts=1, losses=0, rewinds=0),
    "a store that loses writes": World(restarts=0, losses=1, rewinds=0),
    "a lossy store and a rewind": World(restarts=0, losses=1, rewinds=1, chunk_rows=(1,)),
    "three rows without state": World(rows=3, restarts=0, losses=0, rewinds=0, stateful=False),
}

LARGE_WORLDS = {
    "a killed attempt and a lossy store": World(restarts=1, losses=1, rewinds=0),
    "a killed attempt and a rewind": World(restarts=1, losses=0, rewinds=1),
    "a lossy store, a rewind and chunks of any size": World(restarts=0, losses=1, rewinds=1),
    "three rows and a lossy store": World(rows=3, restarts=0, losses=1, rewinds=0, stateful=False),
    "everything at once": World(chunk_rows=(1,)),
}

QUIET = World(restarts=0, losses=0, rewinds=0)
FORGETFUL = World(restarts=0, losses=1, rewinds=0)
RECUT = World(rows=3, restarts=0, losses=1, rewinds=0, stateful=False, attempts=1)
REWOUND = World(restarts=0, losses=0, rewinds=1)

UNSAFE = {
    "neither fence nor compare-and-set": (
        Protocol(fenced=False, compare_and_set=False),
        QUIET,
        "row 1 is in the warehouse 2 times",
    ),
    "a fence without the compare-and-set": (
        Protocol(compare_and_set=False),
        QUIET,
        "row 1 is in the warehouse 2 times",
    ),
    "fence and lane compared in a step of their own": (
        Protocol(one_transaction=False),
        QUIET,
        "row 1 is in the warehouse 2 times",
    ),
    "the fence alone compared in a step of its own": (
        Protocol(one_transaction=False, compare_and_set=False),
        QUIET,
        "row 1 is in the warehouse 2 times",
    ),
    "a compare-and-set without the cursor": (
        Protocol(compares=EVERYTHING - {"cursor"}),
        RECUT,
        "missing below the load frontier",
    ),
    "a compare-and-set without the chunk number": (
        Protocol(compares=EVERYTHING - {"seq"}),
        RECUT,
        "the ledger's chunk 2 has number 3",
    ),
    "a compare-and-set without the transform's state": (
        Protocol(compares=EVERYTHING - {"state"}),
        FORGETFUL,
        "made from a state that is not the one before it",
    ),
    "a transform that starts from the store's state": (
        Protocol(compares=EVERYTHING - {"state"}, state_from="store"),
        FORGETFUL,
        "made from a state that is not the one before it",
    ),
    "a compare-and-set without the incarnation": (
        Protocol(compares=EVERYTHING - {"incarnation"}),
        REWOUND,
        "stale rows",
    ),
    "a rewind that keeps the incarnation": (
        Protocol(new_incarnation=False),
        REWOUND,
        "stale rows",
    ),
    "an attempt that goes on across a rewind": (
        Protocol(pinned=False),
        REWOUND,
        "stale rows",
    ),
    "the last ID in the store, written after the rows": (
        Protocol(arbiter="store"),
        QUIET,
        "row 1 is in the warehouse 2 times",
    ),
    "the last ID in the store, written before the rows": (
        Protocol(arbiter="store", store_first=True),
        QUIET,
        "the load is done but only 0 of 2 rows are loaded",
    ),
}


@pytest.mark.parametrize("world", SMALL_WORLDS.values(), ids=SMALL_WORLDS.keys())
def test_no_history_breaks_an_invariant(world):
    found = explore(FULL, world)
    assert found.violation is None, str(found)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", LARGE_WORLDS.values(), ids=LARGE_WORLDS.keys())
def test_no_history_breaks_an_invariant_in_a_larger_world(world):
    found = explore(FULL, world)
    assert found.violation is None, str(found)


@pytest.mark.parametrize(("protocol", "world", "harm"), UNSAFE.values(), ids=UNSAFE.keys())
def test_without_a_safeguard_some_history_does_harm(protocol, world, harm):
    found = explore(protocol, world)
    assert harm in (found.violation or ""), str(found)


@pytest.mark.parametrize("world", [QUIET, RECUT, REWOUND], ids=["quiet", "recut", "rewound"])
def test_the_whole_protocol_does_no_harm_in_the_worlds_that_catch_the_unsafe_ones(world):
    found = explore(FULL, world)
    assert found.violation is None, str(found)


def test_the_compare_and_set_is_safe_by_itself_and_the_fence_only_saves_work():
    found = explore(Protocol(fenced=False), FORGETFUL)
    assert found.violation is None, str(found)


def test_the_small_worlds_hold_every_misfortune_and_every_answer_to_it():
    world = World(restarts=1, losses=1, rewinds=1, chunk_rows=(1,), attempts=1)
    kinds = set(explore(FULL, world).steps)
    assert kinds >= {
        "start", "kill", "loss", "rewind",  # what happens to the attempts
        "reconcile", "begin", "append", "read", "load", "done",  # what they do
        "in doubt", "already", "conflict", "fenced", "rewound",  # how they find out
    }  # fmt: skip


def test_a_counter_example_is_told_step_by_step():
    story = str(explore(Protocol(compare_and_set=False), QUIET))
    assert story.startswith("row 1 is in the warehouse 2 times")
    assert "1. a producer starts, with fence 1" in story
    assert "and the acknowledgement is lost" in story
