"""Lanes that share a target, a quarantine or a plan keep out of each other's rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from protocol_model_tables import (
    Plans,
    Tables,
    Upserts,
    explore_plans,
    explore_tables,
    explore_upserts,
)

from tests import figures

HARMFUL = {
    "a rewind that deletes by chunk number": (
        explore_tables, Tables(deletes_by="seq"), "row 1 of lane b is missing",
    ),
    "a quarantine kept by chunk number": (
        explore_tables, Tables(quarantine_key="seq"), "row 1 of lane b is missing",
    ),
    "a rewind that leaves its chunks' rejects": (
        explore_tables, Tables(rewind_drops_rejects=False), "which was rewound, is there",
    ),
    "a replay that does not hold the lane": (
        explore_tables, Tables(replay_locks_lane=False), "which was rewound, is there",
    ),
    "an upsert that takes any version": (
        explore_upserts, Upserts(guards_version=False), "version 2 has overwritten version 3",
    ),
    "an upsert of a key twice": (
        explore_upserts, Upserts(deduplicates=False), "no attempt can ever load",
    ),
    "a cleared planner that plans again": (
        explore_plans, Plans(one_open=False), "row 1 is in the target 2 times",
    ),
    "a main lane that is acquired beside its plan": (
        explore_plans, Plans(main_waits=False), "row 1 is in the target 2 times",
    ),
    "a planner that lets the main lane's load go on": (
        explore_plans, Plans(planner_fences=False), "row 1 is in the target 2 times",
    ),
    "a plan that is closed before its parts are done": (
        explore_plans, Plans(closes_when_done=False), "row 2 is missing below the main cursor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("explore", [explore_tables, explore_upserts, explore_plans])
def test_no_history_of_shared_tables_does_harm(explore):
    found = explore()
    assert found.violation is None, str(found)


@pytest.mark.parametrize(("explore", "rules", "harm"), HARMFUL.values(), ids=HARMFUL.keys())
def test_without_a_rule_of_shared_tables_some_history_does_harm(explore, rules, harm):
    found = explore(rules)
    assert harm in (found.violation or ""), str(found)
    figures.injected("safeguards removed, and the harm found")


def test_comparing_the_main_cursor_when_a_plan_is_closed_is_a_second_guard():
    found = explore_plans(Plans(closing_compares=False))
    assert found.violation is None, str(found)
