"""What must hold after every scenario, asked of the servers in SQL and not of the product."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg

from airflow_checkpoint_etl.protocol import Stage
from tests.chaos.harness_drive import WORK

if TYPE_CHECKING:
    from tests.chaos.harness_case import Case
    from tests.chaos.harness_drive import History

GONE_WITHIN = 10.0
"""Seconds in which a server must have noticed that a killed client is gone."""

LEFT_BEHIND = {
    "connections": """
        select pid, application_name, state, query from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend'
          and pid <> pg_backend_pid()""",
    "prepared transactions": "select gid from pg_prepared_xacts where database = current_database()",
    "locks": """
        select pid, locktype, mode, relation::regclass from pg_locks
        where database = (select oid from pg_database where datname = current_database())
          and pid is distinct from pg_backend_pid()
          and pid in (select pid from pg_stat_activity where backend_type = 'client backend')""",
    "temporary tables": "select relname from pg_class where relpersistence = 't'",
}


def assert_sound(history: History, *, bounded_rework: bool = True) -> None:
    """Rows exact, ledger contiguous, nothing left open or staged, rework bounded."""
    case = history.case
    try:
        case.assert_arrived()
        assert_ledger_is_dense(case)
        assert_nothing_left_behind(case)
        assert_all_collected(case)
        if bounded_rework:
            assert_rework_is_bounded(history)
    except AssertionError as fault:
        message = f"{fault}\n{history}"
        raise AssertionError(message) from fault


def assert_ledger_is_dense(case: Case) -> None:
    numbers = [row[0] for row in case.ledger()]
    assert numbers == list(range(1, len(numbers) + 1)), f"ledger numbers {numbers}"


def assert_nothing_left_behind(case: Case) -> None:
    """No connection, transaction, lock or temporary table is left in source and warehouse."""
    for dsn in {case.source_dsn, case.warehouse_dsn}:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for what, query in LEFT_BEHIND.items():
                deadline = time.monotonic() + GONE_WITHIN
                while found := connection.execute(query).fetchall():
                    # A backend whose client was killed ends when it next looks at its socket.
                    assert time.monotonic() < deadline, f"{what} left behind: {found}"
                    time.sleep(0.002)


def assert_all_collected(case: Case) -> None:
    """After collection nothing is staged any more and the manifest is empty: all is loaded."""
    case.collect_all()
    ports = case.ports()
    try:
        staged = ports.staging.names(f"{case.name}/")
        entries = [
            entry.seq
            for stage in (Stage.EXTRACT, Stage.TRANSFORM)
            for entry in ports.checkpoints.read(case.lane, stage).entries
        ]
    finally:
        ports.close()
    assert not staged, f"staged files are left: {staged}"
    assert not entries, f"manifest entries are left: {entries}"


def assert_rework_is_bounded(history: History) -> None:
    """Each thing that went wrong costs at most the one chunk it interrupted."""
    chunks = len(history.case.ledger())
    for step in WORK:
        tries = history.of(step)
        if not tries:
            continue
        done, most = history.work(step), chunks + history.injections(step)
        assert done <= most, f"{step} worked on {done} chunks, {most} would do"
        summary = tries[-1].summary
        if step != "load":
            assert summary["chunks"] + summary["kept"] == chunks, f"{step}: {summary}"
        reported = sum(one.summary["chunks"] for one in tries if one.summary)
        assert reported <= most, f"{step} reports {reported} chunks, {most} would do"
