"""Every history of range plans leaves each row there once; without a rule, one does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from protocol_model_plans import Plans, explore_plans

TWICE, LOST = "is loaded twice", "is lost below the main lane's cursor"

HARMFUL = {
    "a planner that plans anew over an open plan": (Plans(one_open=False), TWICE),
    "a planner that does not compare the main lane with what it saw": (Plans(compares=False), TWICE),
    "a main lane that may be acquired while a plan is open": (Plans(sealed_by="nothing"), TWICE),
    "a main lane that only acquire looks at": (Plans(sealed_by="acquire"), TWICE),
    "a closing that does not look at the parts": (Plans(verifies=False), LOST),
    "a rewind that leaves what parts have loaded": (Plans(takes_parts=False), TWICE),
    "a rewind while a plan is open": (Plans(waits=False), TWICE),
    "an abandoned plan whose parts live on": (Plans(buries=False), TWICE),
}  # fmt: skip


def test_no_history_of_plans_does_harm():
    found = explore_plans()
    assert found.violation is None, str(found)
    assert set(found.steps) >= {
        "look", "settle", "given", "moved", "small", "make", "acquire", "killed", "refused",
        "land", "not done", "close", "rewind", "abandon",
    }  # fmt: skip


@pytest.mark.parametrize(("rules", "harm"), HARMFUL.values(), ids=HARMFUL.keys())
def test_without_a_rule_of_plans_some_history_does_harm(rules, harm):
    found = explore_plans(rules)
    assert harm in (found.violation or ""), str(found)


@pytest.mark.chaos
def test_no_history_of_plans_over_a_source_that_grows_does_harm():
    found = explore_plans(rows=3, arrivals=1)
    assert found.violation is None, str(found)
