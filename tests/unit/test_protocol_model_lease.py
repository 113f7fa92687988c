"""Leases leave a load that works alone, let a retry in at once and end nobody else's backend."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from protocol_model_lease import Leases, explore_leases

from tests import figures

HARMFUL = {
    "a load transaction that writes the stage's row": (
        Leases(stage_row="the load transaction"), "takes the stage from a load that works",
    ),
    "a live lease that is stolen": (
        Leases(live_lease="steals"), "takes the stage from a load that works",
    ),
    "a release that ends whatever lease there is": (
        Leases(release_compares=False), "takes the stage from a load that works",
    ),
    "a try number in what makes a task the same": (
        Leases(same_task="run and try"), "has to wait for the lease of its own task",
    ),
    "a stored pid that is ended later": (
        Leases(ends="a stored pid"), "ends a backend that is somebody else's by now",
    ),
}  # fmt: skip


def test_no_history_of_leases_does_harm():
    found = explore_leases()
    assert found.violation is None, str(found)
    assert set(found.steps) >= {"acquire", "busy", "begin", "end", "freeze", "wake", "release"}


@pytest.mark.parametrize(("rules", "harm"), HARMFUL.values(), ids=HARMFUL.keys())
def test_without_a_rule_of_leases_some_history_does_harm(rules, harm):
    found = explore_leases(rules)
    assert harm in (found.violation or ""), str(found)
    figures.injected("safeguards removed, and the harm found")
