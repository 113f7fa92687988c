"""The answer to a load's COMMIT is lost: whether it landed or not, no row is lost and none doubled.

Injected: a proxy between load and warehouse cuts the connection before the COMMIT is forwarded, right
after it was, or when the server has answered. By default 20 cuts, ``pytest -m chaos tests/chaos`` makes
200, over both checkpoint stores, appending and upserting.
"""

from __future__ import annotations

import dataclasses
import time

import psycopg.conninfo
import pytest

from tests import figures
from tests.chaos.harness_arena import COUNT, FAST_SEED, STORES, Arena, any_transform, dice
from tests.chaos.harness_checks import assert_sound
from tests.chaos.harness_drive import Injection, drive
from tests.chaos.proxy import CUTS, CommitCutter

CHUNKS_PER_CUT = 3
"""Enough for every cut to have its commit: a try loads two chunks at most before it is cut."""


pytestmark = pytest.mark.xdist_group("lost_acknowledgement")  # they share an arena


@pytest.fixture(scope="module")
def arena(postgres_server, valkey_server):
    with Arena(postgres_server, valkey_server) as made:
        yield made


def cut_commits(arena, store, write, cuts, seed):
    """Cut the load of one run again and again; return for each cut whether its commit had landed."""
    random = dice(seed, "acknowledgement", store, write)
    case = arena.case(
        store,
        rows=cuts * CHUNKS_PER_CUT * 20,
        chunk_rows=20,
        transform=any_transform(random),
        write=write,
        label=f"seed {seed}, {store}, {write}, {cuts} cut commits",
    )
    history = drive(arena.attempts, case, steps=("extract", "transform"))
    port = int(psycopg.conninfo.conninfo_to_dict(case.warehouse_dsn)["port"])
    landed = []
    with CommitCutter(port) as proxy:
        through = dataclasses.replace(case, warehouse_dsn=proxy.route(case.warehouse_dsn))
        for number in range(1, cuts + 1):
            cut, commit = CUTS[number % len(CUTS)], random.randint(1, 2)
            plan = proxy.plan(cut, commit, everything=random.random() < 0.5)
            before = len(case.ledger())
            outcome = arena.attempts.run(through, "load", try_number=number)
            point = f"commit {commit} cut {cut}"
            history.tries.append(("load", Injection(point, "cut"), outcome))
            assert plan.done.is_set(), f"nothing was cut\n{history}\n{outcome.explain()}"
            assert outcome.error, f"the load did not notice\n{history}"
            assert outcome.retryable, f"{history}\n{outcome.explain()}"
            loaded = settled_ledger(case) - before
            assert loaded in {commit - 1, commit}, f"{loaded} chunks loaded\n{history}"
            landed.append((cut, loaded == commit))
            figures.injected("commits cut off")
            figures.noted(
                f"cut off {cut} the commit, {'landed' if loaded == commit else 'not landed'}"
            )
        last = drive(arena.attempts, case, steps=("load",), first_try=cuts + 1)
    history.tries += last.tries
    assert_sound(history)
    return landed


def settled_ledger(case):
    """The number of chunks loaded, once no load transaction is open any more."""
    deadline = time.monotonic() + 10
    while case.fetch(
        "select from pg_stat_activity where datname = current_database() and xact_start is not null "
        f"and application_name like 'checkpoint_etl load f% {case.name}'"
    ):
        assert time.monotonic() < deadline, "the transaction of a load that was cut off stays open"
    return len(case.ledger())


def assert_both_outcomes(landed):
    """A commit that was not forwarded cannot have landed, an answered one must have."""
    assert {was for cut, was in landed if cut == "before"} == {False}
    assert {was for cut, was in landed if cut == "after"} == {True}


@pytest.mark.parametrize("write", ["append", "upsert"])
@pytest.mark.parametrize("store", STORES)
def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_done_twice(arena, store, write):
    assert_both_outcomes(cut_commits(arena, store, write, 5, FAST_SEED))


@pytest.mark.chaos
@pytest.mark.parametrize("write", ["append", "upsert"])
@pytest.mark.parametrize("store", STORES)
def test_any_number_of_lost_answers_costs_no_row(arena, store, write):
    assert_both_outcomes(cut_commits(arena, store, write, 5 * COUNT, "long"))
