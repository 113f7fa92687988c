"""What a configuration promises: the level, the grounds, and what is only declared."""

from __future__ import annotations

import pickle

import pytest

from airflow_checkpoint_etl.guarantee import Guarantee, Level, Promise, of

BY_ID = Promise("locks", ("id",))
BY_TIME = Promise("transactions", ("updated_at", "id"), changing=True)
SWEPT = Promise("sweep", ("id",))
LAGGED = Promise("lag", ("id",), lag=2.5)
NOT_WAITED = Promise("none", ("id",))


@pytest.mark.parametrize(
    ("promise", "write", "transactional", "level"),
    [
        (BY_ID, "append", True, "exactly-once"),
        (BY_ID, "upsert", True, "exactly-once"),
        (BY_ID, "append", False, "at-least-once"),
        (BY_ID, "upsert", False, "effectively-once"),
        (BY_TIME, "append", True, "exactly-once"),
        (SWEPT, "upsert", True, "effectively-once"),
        (SWEPT, "upsert", False, "effectively-once"),
        (SWEPT, "append", True, "at-least-once"),
        (LAGGED, "append", True, "at-most-once"),
        (NOT_WAITED, "upsert", True, "at-most-once"),
        (NOT_WAITED, "append", False, "best-effort"),
        (Promise("memory", ("id",)), "append", True, "exactly-once"),
    ],
)
def test_the_level_is_what_reading_and_writing_leave_of_it(promise, write, transactional, level):
    promised = of(promise, write=write, transactional=transactional)
    assert promised.level == level
    assert str(promised).startswith(f"{level}: ")


def test_a_mode_that_is_only_declared_says_so_and_why():
    doubted = Promise("locks", ("token",), doubt="no sequence is behind 'token'")
    assert str(of(doubted, write="append")) == (
        "exactly-once only if settle='locks' fits all writers, as declared: not proven, because no "
        "sequence is behind 'token'; rows are read in order of token and everyone who writes the table "
        "or draws an id is waited for; rows are appended, in one transaction with the ledger. Assumes "
        "that ids are drawn in the inserting transaction"
    )


def test_a_cursor_that_updates_move_loads_row_versions():
    assert "the target holds row versions" in str(of(BY_TIME, write="append"))
    assert "of which the newest version wins" in str(of(BY_TIME, write="upsert"))
    assert "version" not in str(of(BY_ID, write="append"))


def test_what_is_taken_for_granted_is_listed():
    filtered = Promise("transactions", ("at",), filtered=True)
    assert str(of(filtered, write="append")).endswith(
        ". Assumes that writers set at to the time they write at, that the source's clock does not step "
        "back and that the row filter never changes its mind about a row"
    )
    assert "Assumes" not in str(of(NOT_WAITED, write="append"))


def test_rejected_records_are_part_of_the_promise():
    assert "stand in quarantine" in str(of(BY_ID, write="append", on_error="quarantine"))
    assert "rejected" not in str(of(BY_ID, write="append", on_error="fail"))


def test_a_guarantee_is_a_value():
    promised = of(LAGGED, write="append")
    assert isinstance(promised, Guarantee)
    assert promised == pickle.loads(pickle.dumps(promised))
    assert promised.level is Level.AT_MOST_ONCE
    assert "settle_lag=2.5 s" in promised.reasons[0]
