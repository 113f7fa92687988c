"""Every history of the protocol in a small world does no harm; without a safeguard, one does."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from protocol_model import CONDITIONS, EVERYTHING, Protocol, World, explore

from tests import figures

FULL = Protocol()
TWO = ("extract", "load")
"""The stages of a world in which extract transforms as well: the same moves in fewer states."""

SMALL_WORLDS = {
    "two extracts": World(attempts=(2, 1, 1)),
    "two transforms": World(attempts=(1, 2, 1)),
    "two loads": World(attempts=(1, 1, 2)),
    "a killed attempt and answers that get lost": World(restarts=1, lost_answers=True),
    "a store that loses writes": World(stages=TWO, attempts=(2, 1), losses=1),
    "a store that loses writes, in three stages": World(losses=1, restarts=1, rows=1),
    "a store that loses writes, and chunks cut anew": World(
        stages=TWO, rows=3, chunk_rows=(1, 2), losses=1, stateful=False, restarts=1
    ),
    "a rewind beside two extracts": World(rewinds=1, attempts=(2, 1, 1)),
    "a rewind beside two transforms": World(rewinds=1, attempts=(1, 2, 1)),
    "a rewind beside two loads": World(rewinds=1, attempts=(1, 1, 2)),
    "a rewind and a store that loses writes": World(
        stages=TWO, rewinds=1, losses=1, attempts=2, rows=1
    ),
    "a warehouse that fails over": World(failovers=1, restarts=1, rows=1),
    "a warehouse that fails over, and rewinds": World(
        stages=TWO, failovers=1, rewinds=1, attempts=(2, 1), rows=1
    ),
    "a warehouse that fails over, and is followed": World(
        stages=TWO, failovers=1, resyncs=1, attempts=(2, 1)
    ),
    "a staged file that vanishes": World(deletions=1, restarts=1),
    "a collector beside two extracts": World(collections=1, attempts=(2, 1, 1)),
    "a collector and a warehouse that fails over": World(
        collections=1, failovers=1, restarts=1, rows=1
    ),
    "a row that commits late and one that appears": World(
        stages=TWO, late=True, arrivals=1, attempts=2, stateful=False
    ),
    "a cleared run that resumes": World(stages=TWO, clears=1, arrivals=1, attempts=(1, 2)),
    "a cleared run that is loaded again, between rewinds": World(
        stages=TWO, clears=1, reprocesses=True, rewinds=1, restarts=1, rows=1
    ),
    "a cleared run that is loaded again, beside a later one": World(
        stages=TWO, clears=1, reprocesses=True, runs=2, sequential=True, arrivals=1, stateful=False
    ),
}

LARGE_WORLDS = {
    "a run cleared early, and a rewind": World(
        stages=TWO, clears=1, clears_early=True, reprocesses=True, rewinds=1, stateful=False
    ),
    "a failover and two rewinds": World(
        stages=TWO, failovers=1, rewinds=2, attempts=(2, 1), rows=1
    ),
    "two of each": World(attempts=2, rows=1),
    "two extracts and a lossy store": World(attempts=(2, 1, 1), losses=1),
    "two transforms and a lossy store": World(attempts=(1, 2, 1), losses=1),
    "two loads and a lossy store": World(attempts=(1, 1, 2), losses=1),
    "two of each and a lossy store": World(stages=TWO, attempts=2, losses=1),
    "two of each and a rewind": World(attempts=2, rewinds=1, rows=1),
    "a killed attempt, a lossy store and a rewind": World(restarts=1, losses=1, rewinds=1, rows=1),
    "a failover beside two loads": World(attempts=(1, 1, 2), failovers=1),
    "a failover beside two of each": World(stages=TWO, attempts=2, failovers=1),
    "a failover, a rewind and a lossy store": World(failovers=1, rewinds=1, losses=1, rows=1),
    "two runs at once, one of them cleared": World(
        stages=TWO, runs=2, arrivals=1, clears=1, stateful=False
    ),
    "chunks of any size and a lossy store": World(chunk_rows=(1, 2), attempts=(2, 1, 1), losses=1),
}

QUIET = World(stages=TWO, attempts=(1, 2))
FORGETFUL = World(stages=TWO, attempts=(2, 1), losses=1)
LOSSY = World(stages=TWO, losses=1)
RECUT = World(stages=TWO, rows=3, chunk_rows=(1, 2), losses=1, stateful=False, restarts=1)
REWOUND = World(stages=TWO, rewinds=1, attempts=2, rows=1)
REWOUND_AND_LOSSY = World(stages=TWO, rewinds=1, attempts=2, rows=1, losses=1)
REWOUND_IN_THREE = World(rewinds=1, rows=1)
FAILED_OVER = World(stages=TWO, failovers=1, rows=1)
FAILED_OVER_AND_REWOUND = World(stages=TWO, failovers=1, rewinds=2, rows=1, attempts=(2, 1))
NOTED = World(stages=TWO, attempts=(1, 2), notes=True, rows=1)
LATE = World(stages=TWO, late=True)
REPLACED = World(stages=TWO, runs=2, replacements=1, rows=1, sequential=True)
ORPHANED = World(stages=TWO, collections=1, attempts=(2, 1), rows=1)
COLLECTED = World(stages=TWO, collections=1, failovers=1, rows=1)
DELETED = World(stages=TWO, deletions=1)
RETARGETED = World(stages=TWO, clears=1, arrivals=1, attempts=(1, 2), stateful=False)
CLEARED = World(stages=TWO, clears=1, clears_early=True, reprocesses=True, rows=1, stateful=False)
TRIED_AGAIN = World(stages=TWO, attempts=(2, 1), reprocesses=True, rows=1, stateful=False)
CLEARED_AND_REWOUND = World(stages=TWO, clears=1, rewinds=1, reprocesses=True, stateful=False)
CLEARED_BEFORE = World(
    stages=TWO, clears=1, runs=2, arrivals=1, sequential=True, reprocesses=True, stateful=False
)

TWICE = "row 1 is in the warehouse 2 times"
FORKED = "made from a state that is not the one before it"
STALE = "stale rows (0, 1], made before the rewind"

UNSAFE = {
    "neither fence nor compare-and-set": (
        Protocol(fenced=False, compare_and_set=False), QUIET, TWICE,
    ),
    "a fence without the compare-and-set": (Protocol(compare_and_set=False), QUIET, TWICE),
    "fence and lane compared in a step of their own": (
        Protocol(one_transaction=False), QUIET, TWICE,
    ),
    "the fence alone compared in a step of its own": (
        Protocol(one_transaction=False, compare_and_set=False), QUIET, TWICE,
    ),
    "a compare-and-set without the cursor": (
        Protocol(compares=EVERYTHING - {"cursor"}), RECUT, "missing below the load frontier",
    ),
    "a compare-and-set without the chunk number": (
        Protocol(compares=EVERYTHING - {"seq"}), RECUT, "the ledger's chunk 2 has number 3",
    ),
    "a compare-and-set without the transform's state": (
        Protocol(compares=EVERYTHING - {"state"}), FORGETFUL, FORKED,
    ),
    "a compare-and-set without the incarnation": (
        Protocol(compares=EVERYTHING - {"incarnation"}), REWOUND_AND_LOSSY, STALE,
    ),
    "the transform's state under a key of its own": (
        Protocol(compares=EVERYTHING - {"state"}, state_from="store"), LOSSY, FORKED,
    ),
    "a rewind that keeps the incarnation": (Protocol(incarnation="kept"), REWOUND, STALE),
    "a generation number for an incarnation": (
        Protocol(incarnation="generation"), FAILED_OVER_AND_REWOUND, STALE,
    ),
    "an attempt that goes on across a rewind": (
        Protocol(pinned="never"), REWOUND_IN_THREE, STALE,
    ),
    "an attempt bound to a life only when it first reads": (
        Protocol(pinned="when it reads"), REWOUND_IN_THREE, STALE,
    ),
    "the run's target in the checkpoint store": (
        Protocol(targets_in="store", finish_compares=False), LOSSY, "is green at row 0, below",
    ),
    "green when the manifest is empty": (
        Protocol(green_when="manifest empty"), LOSSY, "is green at row 0, below its target 2",
    ),
    "finishing without a look at the lane, when it fell back": (
        Protocol(finish_compares=False), FAILED_OVER, "is green at row 0, below its target 1",
    ),
    "finishing without a look at the target, when it moved": (
        Protocol(finish_compares=False), RETARGETED, "is green at row 1, below its target 2",
    ),
    "a bound that is not settled": (
        Protocol(settles=False), LATE, "row 1 is missing below the load frontier",
    ),
    "a source whose timeline is not compared": (
        Protocol(watches_source=False), REPLACED, "the source's row 1 is not in the warehouse",
    ),
    "a staged file's name without the fence": (
        Protocol(fence_in_name=False), ORPHANED, "which is yet to be loaded, is collected",
    ),
    "collecting what is loaded but not durable": (
        Protocol(collects="loaded"), COLLECTED, "is collected",
    ),
    "loading again a run that is not done": (
        Protocol(reprocess_if=CONDITIONS - {"done"}), CLEARED, "are deleted though it was not done",
    ),
    "loading again whenever extract is tried again": (
        Protocol(reprocess_if=CONDITIONS - {"clear number"}), TRIED_AGAIN, "though nobody cleared it",
    ),
    "loading again a run that reaches above the lane": (
        Protocol(reprocess_if=CONDITIONS - {"range"}), CLEARED_AND_REWOUND, "below its target 2",
    ),
    "loading again only up to the run's own target": (
        Protocol(reprocess_to="own target"), CLEARED_BEFORE, "rows of run 2, green before, are gone",
    ),
}  # fmt: skip

STUCK = {
    "the transform's state under a key of its own": (
        Protocol(state_from="store"), LOSSY, "load 2 finds 0 chunk(s) to load",
    ),
    "reconciling without a look at the files": (
        Protocol(looks_for_files=False), DELETED, "its file is missing",
    ),
    "the warehouse read before the store": (
        Protocol(reads_first="warehouse"), NOTED, "told that the warehouse was restored",
    ),
}  # fmt: skip

CATCHING = {harm[1] for harm in (*UNSAFE.values(), *STUCK.values())}


@cache
def explored(world):
    """Walk through a world under the whole protocol; once, though several tests look at it."""
    found = explore(FULL, world, heals=world in SMALL_WORLDS.values())
    figures.noted("states explored", found.states)
    return found


@pytest.mark.parametrize("world", SMALL_WORLDS.values(), ids=SMALL_WORLDS.keys())
def test_no_history_does_harm_and_every_one_can_still_end_well(world):
    found = explored(world)
    assert found.violation is None, str(found)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", LARGE_WORLDS.values(), ids=LARGE_WORLDS.keys())
def test_no_history_does_harm_in_a_larger_world(world):
    found = explore(FULL, world, heals=True, limit=20_000_000)
    figures.noted("states explored", found.states)
    assert found.violation is None, str(found)


@pytest.mark.parametrize(("protocol", "world", "harm"), UNSAFE.values(), ids=UNSAFE.keys())
def test_without_a_safeguard_some_history_does_harm(protocol, world, harm):
    found = explore(protocol, world)
    assert harm in (found.violation or ""), str(found)
    figures.injected("safeguards removed, and the harm found")


@pytest.mark.parametrize(("protocol", "world", "harm"), STUCK.values(), ids=STUCK.keys())
def test_without_a_safeguard_some_history_never_ends(protocol, world, harm):
    found = explore(protocol, world, heals=True)
    assert harm in (found.violation or ""), str(found)
    figures.injected("safeguards removed, and the harm found")


@pytest.mark.parametrize("world", sorted(CATCHING, key=str))
def test_the_whole_protocol_does_no_harm_in_the_worlds_that_catch_the_others(world):
    found = explored(world)
    assert found.violation is None, str(found)


SAVERS = {
    "the fence in the load": (Protocol(fenced=False), QUIET),
    "the comparison when a chunk is appended": (
        Protocol(appends_compare=False), World(attempts=(2, 1, 1), losses=1, rows=1),
    ),
    "the stop when the warehouse was restored": (
        Protocol(stops_when_restored=False), World(failovers=1, restarts=1, rows=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("protocol", "world"), SAVERS.values(), ids=SAVERS.keys())
def test_what_only_saves_work_can_be_left_out(protocol, world):
    found = explore(protocol, world, heals=True)
    assert found.violation is None, str(found)


def test_the_small_worlds_hold_every_misfortune_and_every_answer_to_it():
    kinds = {kind for world in (*SMALL_WORLDS.values(), REPLACED) for kind in explored(world).steps}
    assert kinds >= {
        "start", "kill", "loss", "save", "rewind", "failover", "deletion", "clear", "arrival",
        "commit", "replacement", "unheard", "in doubt",  # what happens
        "aim", "read", "reconcile", "begin", "settle", "target", "append", "load", "note", "done",
        "list", "collect", "reprocess", "resync", "resume", "again",  # what is done
        "already", "conflict", "fenced", "rewound", "restored", "missing", "unfinished",
        "other source", "cut off",  # how it is found out
    }  # fmt: skip


def test_a_counter_example_is_told_step_by_step():
    story = str(explore(Protocol(compare_and_set=False), QUIET))
    assert story.startswith("row 1 is in the warehouse 2 times")
    assert "1. extract of run 1 starts, with fence 1" in story
    assert "and the answer is lost" in story
