"""What each settle mode does beside waiting: lag, timeouts, sources that went back, standbys."""

from __future__ import annotations

import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.endpoints import PostgresSource
from airflow_checkpoint_etl.errors import (
    MissingPrivilegeError,
    PreflightError,
    SettleTimeoutError,
    SourceResetError,
)
from airflow_checkpoint_etl.sources import catalog
from airflow_checkpoint_etl.sources.postgres import PostgresReader
from tests.standby import StandbyServer

SERIAL = "create table t (id bigserial primary key, v text)"
FOREIGN = """
create extension file_fdw;
create server files foreign data wrapper file_fdw;
create table t (id bigint not null) partition by range (id);
create foreign table t_1 partition of t default server files options (filename '/dev/null')
"""
MATERIALIZED = "; create materialized view t as select * from b; create unique index on t (id)"
TEN = "insert into t (v) select 'x' from generate_series(1, 10)"


@pytest.fixture
def source(database):
    """Makes readers of the table t; they are closed after the test."""
    made = []

    def make(dsn: str = database.dsn, primary: str | None = None, **options: Any):
        config = PostgresSource(**{"conn_id": "shop", "table": "t", **options})
        connect_primary = (lambda: psycopg.connect(primary)) if primary else None
        made.append(
            PostgresReader(config, lambda: psycopg.connect(dsn), connect_primary=connect_primary)
        )
        return made[-1]

    yield make
    for reader in made:
        reader.close()


def ids(reader, low, target):
    return reader.read(low, target).table["id"].to_pylist()


# --- lag and timeouts ----------------------------------------------------------------------------


def test_lag_takes_the_bound_and_then_waits_that_long_and_no_longer(database, source):
    database.execute(SERIAL)
    database.execute(TEN)
    reader = source(settle="lag", settle_lag=0.6)
    with database.connect() as quick, database.connect() as slow:
        for writer in (quick, slow):
            writer.execute("insert into t (v) values ('late')")  # 11 and 12
        database.execute("insert into t (v) values ('last')")  # 13
        with ThreadPoolExecutor() as pool:
            started = time.monotonic()
            settled = pool.submit(reader.settle, BEGIN)
            time.sleep(0.2)
            database.execute("insert into t (v) values ('above')")  # 14: above the bound
            quick.commit()
            target = settled.result(20).target
        assert time.monotonic() - started >= 0.6
        assert target == "i8:13"
        assert ids(reader, BEGIN, target) == [*range(1, 12), 13]  # and 12 is missed
        slow.rollback()


def test_a_run_may_end_where_the_last_one_did_when_writers_do_not_end(database, source, caplog):
    database.execute(SERIAL)
    database.execute(TEN)
    reader = source(settle_timeout=0.3, on_settle_timeout="finish")
    with database.connect(application_name="nightly import") as writer:
        writer.execute("insert into t (v) values ('late')")
        database.execute("insert into t (v) values ('last')")
        bound = reader.settle("i8:7")
        assert (bound.target, bound.settled) == ("i8:7", False)
        assert f"pid {writer.info.backend_pid} (postgres, nightly import)" in caplog.text
        assert "This run ends where the last one did, at 7" in caplog.text
        writer.commit()
    bound = reader.settle("i8:7")
    assert (bound.target, bound.settled) == ("i8:12", True)


def test_a_run_that_ends_unsettled_is_green_and_has_caught_up_with_nothing(world):
    import datetime as dt

    from airflow_checkpoint_etl.postgres import Session
    from airflow_checkpoint_etl.protocol import Lane
    from airflow_checkpoint_etl.warehouses.ledger import Ledger

    world.run("run_1")
    world.source = {"settle_timeout": 0.3, "on_settle_timeout": "finish"}
    before = dt.datetime.now(dt.UTC)
    with psycopg.connect(world.source_dsn) as writer:
        writer.execute("insert into orders (amount) values (1)")
        world.insert(5)
        assert [done.chunks for done in world.run("run_2")] == [0, 0, 0]
        writer.commit()
    session = Session(lambda: psycopg.connect(world.warehouse_dsn), "test")
    ledger = Ledger(session, session, lock_timeout=1.0)
    assert not ledger.caught_up(Lane("orders"), before)
    world.run("run_3")
    assert ledger.caught_up(Lane("orders"), before)
    ledger.close()
    world.assert_exact()


# --- a source that went back -----------------------------------------------------------------------


def test_a_truncated_and_restarted_sequence_stops_the_run(database, source):
    database.execute(SERIAL)
    database.execute(TEN)
    reader = source()
    assert reader.settle("i8:10").target == "i8:10"
    database.execute("truncate t restart identity")
    with pytest.raises(SourceResetError, match="no row at or above the checkpoint at 10"):
        reader.settle("i8:10")
    database.execute("insert into t (v) values ('again')")
    with pytest.raises(
        SourceResetError,
        match=r'sequence t_id_seq is at 1, behind the checkpoint at 10: .*="continue"',
    ) as caught:
        reader.settle("i8:10")
    assert not caught.value.retryable
    accepting = source(on_source_reset="continue")
    assert accepting.settle("i8:10").target == "i8:10"


@pytest.mark.parametrize("settle", ["auto", "none", "sweep"])
def test_a_purged_table_whose_sequence_is_ahead_is_no_reset(database, source, settle):
    database.execute(SERIAL)
    database.execute(TEN)
    database.execute("delete from t")
    reader = source(settle=settle)
    assert reader.settle("i8:10").target == "i8:10"
    database.execute("insert into t (v) values ('new')")
    assert reader.settle("i8:10").target == "i8:11"


def test_without_a_sequence_the_largest_cursor_has_to_do(database, source):
    database.execute("create table t (id text primary key, kept bool not null default true)")
    database.execute("insert into t values ('a'), ('b'), ('c')")
    reader = source(settle="none", where="kept")
    database.execute("update t set kept = false")  # hidden rows are there all the same
    assert reader.settle("txt:c").target == "txt:c"
    database.execute("delete from t where id = 'c'")
    with pytest.raises(SourceResetError, match="no row at or above the checkpoint at c"):
        reader.settle("txt:c")


def test_an_unreadable_sequence_is_named_where_it_could_tell_a_purge(database, source):
    name = f"plain_{uuid.uuid4().hex[:8]}"
    database.execute(SERIAL)
    database.execute(TEN)
    database.execute(f"create role {name} login")
    database.execute(f"grant select on t to {name}")
    try:
        reader = source(psycopg.conninfo.make_conninfo(database.dsn, user=name))
        assert reader.settle("i8:10").target == "i8:10"
        database.execute("delete from t")
        with pytest.raises(SourceResetError, match="grant the role SELECT on sequence t_id_seq"):
            reader.settle("i8:10")
        database.execute(f"grant select on sequence t_id_seq to {name}")
        assert reader.settle("i8:10").target == "i8:10"
    finally:
        database.execute(f"drop owned by {name}")
        database.execute(f"drop role {name}")


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
def test_a_clock_behind_the_frontier_stops_the_run(database, source, kind):
    database.execute(f"create table t (at {kind} primary key)")
    database.execute("insert into t values ('2999-01-01')")
    tag = (
        "tz:2999-01-01T00:00:00.000000Z"
        if kind == "timestamptz"
        else "ts:2999-01-01T00:00:00.000000"
    )
    with pytest.raises(SourceResetError, match=r"clock is at .* behind the checkpoint at 2999"):
        source(cursor="at").settle(tag)
    assert source(cursor="at", on_source_reset="continue").settle(tag).target == tag


def test_another_timeline_stops_the_run_until_it_is_accepted(world):
    world.run("run_1")
    other = (
        'update checkpoint_etl.lane set source_identity = source_identity || \'{"timeline": "7"}\''
    )
    world.fetch(other)
    world.insert(10)
    with pytest.raises(SourceResetError, match=r'timeline 7, now 1.*"continue", or resync'):
        world.run("run_2")
    with pytest.raises(SourceResetError):  # and stays so
        world.run("run_2")
    world.source = {"on_source_reset": "continue"}
    world.run("run_2")
    world.source = {}
    world.insert(10)
    world.run("run_3")
    world.assert_exact()
    world.fetch(other)
    with world.admin() as admin:
        admin.resync()
    world.insert(10)
    world.run("run_4")
    assert world.fetch("select count(*), count(distinct id) from orders_copy") == [(1030, 1030)]


# --- what a source session may not do ---------------------------------------------------------------


def test_row_level_security_that_comes_later_raises_instead_of_hiding_rows(database, source):
    name = f"plain_{uuid.uuid4().hex[:8]}"
    database.execute(SERIAL)
    database.execute(TEN)
    database.execute(f"create role {name} login")
    database.execute(f"grant select on t to {name}")
    try:
        reader = source(psycopg.conninfo.make_conninfo(database.dsn, user=name))
        assert ids(reader, BEGIN, "i8:10") == list(range(1, 11))
        database.execute("alter table t enable row level security")
        database.execute("create policy few on t for select using (id > 5)")
        for call in (lambda: reader.read(BEGIN, "i8:10"), lambda: reader.settle(BEGIN)):
            with pytest.raises(MissingPrivilegeError, match="BYPASSRLS where row-level security"):
                call()
    finally:
        database.execute(f"drop owned by {name}")
        database.execute(f"drop role {name}")


@pytest.mark.parametrize(
    ("ddl", "options", "rule"),
    [
        (
            SERIAL.replace("t (", "b (") + "; create view t as select * from b",
            {"unique": True, "allow_sort": True},
            "only the rows of a table",
        ),
        (
            SERIAL.replace("t (", "b (") + MATERIALIZED,
            {},
            "only the rows of a table",
        ),
        (
            FOREIGN,
            {"unique": True, "allow_sort": True},
            "the rows of a foreign table",
        ),
    ],
)
def test_only_tables_are_swept(database, source, ddl, options, rule):
    database.execute(ddl)
    with pytest.raises(PreflightError, match=f"settle='sweep': {rule}"):
        source(settle="sweep", **options).preflight()


def test_a_standby_is_not_swept(database, source, monkeypatch):
    database.execute(SERIAL)
    monkeypatch.setattr(catalog, "is_standby", lambda session: True)
    with pytest.raises(PreflightError, match="settle='sweep': the server is a standby"):
        source(settle="sweep").preflight()


# --- reading from a hot standby ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def standby(postgres_server):
    with StandbyServer(postgres_server) as server:
        yield server


@pytest.fixture
def on_standby(database, standby, source):
    """Makes readers that read from the standby and settle on the primary."""
    name = database.dsn.split("dbname=")[1]

    def make(**options: Any):
        standby.catch_up()
        options = {"settle_conn_id": "primary", **options}
        return source(standby.dsn(name), database.dsn, **options)

    return make


@pytest.mark.parametrize("cursor", ["id", ("at", "id")])
def test_a_standby_is_settled_on_its_primary_and_read_after_its_replay(
    database, standby, on_standby, cursor
):
    database.execute(
        "create table t (id bigserial primary key, at timestamptz default now() not null, unique (at, id))"
    )
    database.execute("insert into t (at) values (now() - interval '1 minute')")
    reader = on_standby(cursor=cursor)
    facts = reader.preflight()
    assert facts.settle == ("locks" if cursor == "id" else "transactions")
    assert facts.promise.on_primary
    late = "insert into t (at) values (now() - interval '30 seconds')"
    with (
        psycopg.connect(standby.dsn(), autocommit=True) as control,
        database.connect() as writer,
        ThreadPoolExecutor() as pool,
    ):
        writer.execute(late)
        database.execute(late)
        standby.catch_up()
        settled = pool.submit(reader.settle, BEGIN)
        time.sleep(0.3)
        assert not settled.done()
        control.execute("select pg_wal_replay_pause()")
        try:
            writer.commit()
            time.sleep(0.5)
            assert not settled.done()  # it has ended, and cannot be read here yet
        finally:
            control.execute("select pg_wal_replay_resume()")
        target = settled.result(30).target
    assert ids(reader, BEGIN, target) == [1, 2, 3]


def test_a_retry_on_a_standby_waits_for_what_its_bound_was_settled_with(
    database, standby, on_standby, source
):
    """The bound may come from an earlier try, which read from another standby."""
    database.execute(SERIAL)
    reader = on_standby()
    refused = source(standby.dsn(database.dsn.split("dbname=")[1]))
    with (
        psycopg.connect(standby.dsn(), autocommit=True) as control,
        ThreadPoolExecutor() as pool,
    ):
        control.execute("select pg_wal_replay_pause()")
        try:
            database.execute(TEN)
            read = pool.submit(ids, reader, BEGIN, "i8:10")
            time.sleep(0.5)
            assert not read.done()
        finally:
            control.execute("select pg_wal_replay_resume()")
        assert read.result(30) == list(range(1, 11))
    with pytest.raises(PreflightError, match="the server is a standby"):
        refused.read(BEGIN, "i8:10")


def test_a_standby_that_does_not_replay_is_a_timeout(database, standby, on_standby):
    database.execute(SERIAL)
    database.execute(TEN)
    reader = on_standby(settle_timeout=0.5)
    with psycopg.connect(standby.dsn(), autocommit=True) as control:
        control.execute("select pg_wal_replay_pause()")
        try:
            database.execute(TEN)
            with pytest.raises(SettleTimeoutError, match="has not replayed the primary's log"):
                reader.settle(BEGIN)
        finally:
            control.execute("select pg_wal_replay_resume()")


def test_the_server_to_settle_on_must_be_the_primary(
    database, standby, on_standby, source, new_database, monkeypatch
):
    database.execute(SERIAL)
    standby.catch_up()
    name = database.dsn.split("dbname=")[1]
    options = {"settle_conn_id": "primary"}
    other = source(standby.dsn(name), new_database().dsn, **options)
    with pytest.raises(PreflightError, match=r"settle_conn_id='primary': .*\(database "):
        other.preflight()
    itself = source(standby.dsn(name), standby.dsn(name), **options)
    with pytest.raises(PreflightError, match="this server is a standby itself"):
        itself.preflight()
    with pytest.raises(PreflightError, match="name the primary's connection with settle_conn_id="):
        source(standby.dsn(name)).preflight()
    real = catalog.server_identity
    monkeypatch.setattr(
        catalog,
        "server_identity",
        lambda session: real(session) | {"system_identifier": session.source},
    )
    with pytest.raises(PreflightError, match=r"not the primary .*\(system_identifier"):
        on_standby().preflight()
    monkeypatch.setattr(
        catalog, "server_identity", lambda session: {"database": real(session)["database"]}
    )
    with pytest.raises(MissingPrivilegeError, match="pg_control_system"):
        on_standby().preflight()


def test_a_primary_is_settled_on_itself_whatever_settle_conn_id_says(database, source, caplog):
    database.execute(SERIAL)
    caplog.set_level(logging.INFO)
    reader = source(database.dsn, "host=127.0.0.1 port=1 connect_timeout=1", settle_conn_id="gone")
    facts = reader.preflight()
    assert not facts.promise.on_primary
    assert reader.settle(BEGIN).target == BEGIN
