"""Settling: rows that commit late are waited for, and nobody else is."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.endpoints import PostgresSource
from airflow_checkpoint_etl.errors import CancelledError, PreflightError, SettleTimeoutError
from airflow_checkpoint_etl.sources import catalog, queries, settle
from airflow_checkpoint_etl.sources.postgres import PostgresReader

BY_ID = {"table": "t", "cursor": "id"}
BY_TIME = {"table": "t", "cursor": ("at", "id")}
BOTH = pytest.mark.parametrize("cursor", [BY_ID, BY_TIME], ids=["locks", "transactions"])


@pytest.fixture
def source(database):
    """A table with ten rows from a minute ago, and readers of it."""
    database.execute(
        "create table t (id bigserial primary key, at timestamptz not null default now(), v text)"
    )
    database.execute("create unique index on t (at, id)")
    database.execute("create table elsewhere (id bigserial, v text)")
    database.execute(
        "insert into t (at) select now() - interval '1 minute' from generate_series(1, 10)"
    )
    made = []

    def make(**options: Any) -> PostgresReader:
        made.append(
            PostgresReader(PostgresSource(**{"conn_id": "shop", **options}), database.connect)
        )
        return made[-1]

    yield make
    for reader in made:
        reader.close()


@pytest.fixture
def background():
    with ThreadPoolExecutor() as pool:
        yield pool


def ids(reader: PostgresReader, low: str, target: str) -> list[int]:
    found = []
    while low != target:
        chunk = reader.read(low, target)
        found += chunk.table["id"].to_pylist()
        low = chunk.high
    return found


def is_waiting(future: Any) -> bool:
    time.sleep(0.3)
    return not future.done()


OLD = "insert into t (at) values (now() - interval '30 seconds')"


@BOTH
def test_an_uncommitted_earlier_insert_is_waited_for_and_then_read(
    database, source, background, cursor
):
    reader = source(**cursor)
    with database.connect() as writer:
        writer.execute(OLD)  # draws id 11
        database.execute("insert into t (at) values (now() - interval '20 seconds')")  # 12, commits
        settled = background.submit(reader.settle, BEGIN)
        assert is_waiting(settled)
        writer.commit()
    target = settled.result(10).target
    assert ids(reader, BEGIN, target) == list(range(1, 13))
    assert reader.settle(target).target == target


@BOTH
def test_a_rolled_back_or_killed_writer_is_waited_for_and_leaves_nothing(
    database, source, background, cursor
):
    reader = source(**cursor)
    writer = database.connect()
    killed = database.connect()
    writer.execute(OLD)
    killed.execute(OLD)
    database.execute("insert into t (at) values (now() - interval '20 seconds')")
    settled = background.submit(reader.settle, BEGIN)
    assert is_waiting(settled)
    writer.rollback()
    database.execute("select pg_terminate_backend(%s)", killed.info.backend_pid)
    assert ids(reader, BEGIN, settled.result(10).target) == [*range(1, 11), 13]
    writer.close()
    killed.close()


@BOTH
def test_writers_that_start_later_do_not_prolong_the_wait(database, source, background, cursor):
    reader = source(**cursor)
    first, later = database.connect(), database.connect()
    with closing(first), closing(later):
        first.execute(OLD)
        settled = background.submit(reader.settle, BEGIN)
        assert is_waiting(settled)
        later.execute("insert into t (v) values ('later')")
        first.commit()
        target = settled.result(10).target  # though the later one is still open
        later.commit()
        first_run = ids(reader, BEGIN, target)
        assert set(range(1, 11)) <= set(first_run) <= set(range(1, 12))
        assert 12 not in first_run
    time.sleep(settle.MARGIN_SECONDS + 0.2)
    second_run = ids(reader, target, reader.settle(target).target)
    assert sorted(first_run + second_run) == list(range(1, 13))


@BOTH
def test_a_prepared_transaction_is_waited_for(database, source, background, cursor):
    reader = source(**cursor)
    for number, already in enumerate((True, False)):
        gid = f"gid {number} {uuid.uuid4()}"
        with database.connect(autocommit=True) as writer:
            writer.execute("begin")
            writer.execute(OLD)
            if already:
                writer.execute(f"prepare transaction '{gid}'")
            database.execute("insert into t (at) values (now() - interval '20 seconds')")
            settled = background.submit(reader.settle, BEGIN)
            assert is_waiting(settled)
            if not already:  # prepared while it is being waited for
                writer.execute(f"prepare transaction '{gid}'")
                assert is_waiting(settled)
        assert is_waiting(settled)  # its session has ended, it has not
        database.execute(f"commit prepared '{gid}'")
        found = ids(reader, BEGIN, settled.result(10).target)
        assert sorted(found) == list(range(1, 13 + 2 * number))


def test_an_id_drawn_long_before_its_insert_is_waited_for(database, source, background):
    reader = source(**BY_ID)
    with database.connect() as writer:
        ((drawn,),) = writer.execute("select nextval('t_id_seq')").fetchall()
        database.execute("insert into t (v) values ('later id')")
        settled = background.submit(reader.settle, BEGIN)
        assert is_waiting(settled)
        writer.execute("insert into t (id) values (%s)", [drawn])
        writer.commit()
    assert ids(reader, BEGIN, settled.result(10).target) == list(range(1, 13))


def test_a_savepoint_that_gave_up_its_lock_is_still_waited_for(database, source, background):
    reader = source(**BY_ID)
    with database.connect() as writer:
        writer.execute("savepoint s")
        writer.execute(OLD)
        database.execute("insert into t (v) values ('later id')")
        settled = background.submit(reader.settle, BEGIN)
        assert is_waiting(settled)
        writer.execute("rollback to savepoint s")
        writer.execute("insert into t (id) values (11)")
        writer.commit()
    assert ids(reader, BEGIN, settled.result(10).target) == list(range(1, 13))


@pytest.mark.parametrize("kind", ["bigserial", "bigint generated by default as identity"])
def test_writers_of_partitions_and_of_their_parents_are_waited_for(
    database, source, background, kind
):
    for number, (table, written) in enumerate(itertools.product(("p", "p_1"), repeat=2)):
        database.execute("drop table if exists p")
        database.execute(f"create table p (id {kind} primary key) partition by range (id)")
        database.execute("create table p_1 partition of p default")
        reader = source(table=table, cursor="id")
        with database.connect() as writer:
            if number % 2:
                writer.execute("select nextval(pg_get_serial_sequence('p', 'id'))")
            writer.execute(f"insert into {written} (id) values (1)")
            database.execute("insert into p (id) values (2)")
            settled = background.submit(reader.settle, BEGIN)
            assert is_waiting(settled)
            writer.commit()
        assert ids(reader, BEGIN, settled.result(10).target) == [1, 2]


def prepare(database):
    with database.connect(autocommit=True) as writer:
        writer.execute("begin")
        writer.execute("insert into t (id) values (100)")
        writer.execute("prepare transaction 'held'")
    return lambda: database.execute("commit prepared 'held'")


def draw(database):
    writer = database.connect()
    ((drawn,),) = writer.execute("select nextval('t_id_seq') + 89").fetchall()

    def finish():
        writer.execute("insert into t (id) values (%s)", [drawn])
        writer.commit()
        writer.close()

    return finish


def write_child(database):
    writer = database.connect()
    writer.execute("insert into t_child (id) values (100)")

    def finish():
        writer.commit()
        writer.close()

    return finish


@pytest.mark.parametrize(
    ("begin", "right", "wrong"),
    [
        (prepare, b"l.pid is distinct from pg_backend_pid()", b"l.pid <> pg_backend_pid()"),
        (draw, b"relkind = 'S'", b"relkind = '-'"),
        (write_child, b"i.inhparent = b.oid", b"false"),
    ],
)
def test_every_part_of_the_listing_is_needed(
    database, source, background, monkeypatch, begin, right, wrong
):
    """Negative controls: with one part taken away, a row that commits late is never read."""
    database.execute("create table t_child () inherits (t)")
    statements = dict(queries.load("settle.sql"))
    assert right in statements["writers"]
    broken = {**statements, "writers": statements["writers"].replace(right, wrong)}
    files = {"settle.sql": broken}
    load = queries.load
    database.execute("insert into t (id) values (101)")
    finish = begin(database)
    with monkeypatch.context() as patch:
        patch.setattr(queries, "load", lambda file: files.get(file) or load(file))
        hasty = source(**BY_ID, settle_timeout=5, unique=True, on_source_reset="continue")
        target = hasty.settle(BEGIN).target
        assert 100 not in ids(hasty, BEGIN, target)
    patient = source(**BY_ID, unique=True)
    settled = background.submit(patient.settle, BEGIN)
    assert is_waiting(settled)
    finish()
    assert hasty.settle(target).target == target  # and so the row is lost
    assert 100 in ids(patient, BEGIN, settled.result(10).target)


def test_locks_do_not_wait_for_readers_and_writers_of_other_tables(database, source):
    with database.connect() as other:
        other.execute("select * from t")
        other.execute("insert into elsewhere (v) values ('x')")
        started = time.monotonic()
        assert source(**BY_ID).settle(BEGIN).target == "i8:10"
        assert time.monotonic() - started < 5


def test_transactions_wait_for_any_transaction_of_this_database_only(
    database, source, background, new_database
):
    other_database = new_database()
    reader = source(**BY_TIME)
    with other_database.connect() as distant, database.connect() as idle:
        distant.execute("select 1")
        assert reader.settle(BEGIN).target.endswith(
            '"i8:10"]'
        )  # and an idle connection holds nothing
        idle.execute("select 1")
        settled = background.submit(reader.settle, BEGIN)
        assert is_waiting(settled)
        idle.commit()
        assert settled.result(10).target.endswith('"i8:10"]')


def test_nothing_new_waits_for_nobody(database, source):
    with database.connect() as writer:
        writer.execute(OLD)
        assert source(**BY_ID).settle("i8:10").target == "i8:10"
        last = database.execute("select max(at) from t")[0][0]
        at = f'["tz:{last.isoformat(timespec="microseconds")[:26]}Z","i8:10"]'
        assert source(**BY_TIME).settle(at).target == at


def test_a_transactions_bound_stays_a_second_behind_the_clock(database, source):
    reader = source(**BY_TIME)
    database.execute("insert into t (v) values ('just now')")
    database.execute("insert into t (at) values (now() + interval '1 hour')")
    first = reader.settle(BEGIN).target
    assert first.endswith('"i8:10"]')
    time.sleep(settle.MARGIN_SECONDS + 0.1)
    assert reader.settle(first).target.endswith('"i8:11"]')


def test_a_row_filter_bounds_the_target(database, source):
    reader = source(**BY_ID, where="id <= 5")
    assert reader.settle(BEGIN).target == "i8:5"
    assert reader.settle("i8:5").target == "i8:5"


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Pacific/Kiritimati"])
def test_local_timestamps_settle_whatever_zone_they_are_written_in(
    database, source, background, zone
):
    database.execute("create table l (at timestamp, id bigserial, primary key (at, id))")
    # as an application server does, though the database's own time zone is another one
    insert = f"insert into l (at) values (now() at time zone '{zone}')"
    database.execute(
        f"alter database \"{database.dsn.split('dbname=')[1]}\" set timezone to '{zone}'"
    )
    reader = source(table="l", cursor=("at", "id"))
    assert reader.preflight().settle == "transactions"
    with database.connect() as writer:
        writer.execute(insert)
        database.execute(insert)
        settled = background.submit(reader.settle, BEGIN)
        time.sleep(settle.MARGIN_SECONDS)
        assert is_waiting(settled)
        writer.commit()
    assert ids(reader, BEGIN, settled.result(10).target) == [1, 2]


@BOTH
def test_a_timeout_names_who_is_waited_for(database, source, cursor):
    reader = source(**cursor, settle_timeout=0.5)
    gid = f"stuck {uuid.uuid4()}"
    with (
        database.connect(application_name="nightly import") as writer,
        database.connect(autocommit=True) as other,
    ):
        pid = writer.info.backend_pid
        writer.execute(OLD)
        other.execute("begin")
        other.execute("insert into t (v) values ('secret')")
        other.execute(f"prepare transaction '{gid}'")
        with pytest.raises(SettleTimeoutError) as caught:
            reader.settle(BEGIN)
        writer.rollback()
    database.execute(f"rollback prepared '{gid}'")
    message = str(caught.value)
    assert f"pid {pid} (postgres, nightly import), " in message
    assert f"prepared transaction '{gid}', " in message
    assert "settle_timeout=0.5 s" in message
    assert "secret" not in message
    assert caught.value.retryable


def test_a_role_that_may_only_select_settles_too(database, source, background):
    name = f"plain_{uuid.uuid4().hex[:8]}"
    database.execute(f"create role {name} login")
    database.execute(f"grant select on t to {name}")
    try:
        for cursor in (BY_ID, BY_TIME):
            dsn = psycopg.conninfo.make_conninfo(database.dsn, user=name)
            config = PostgresSource(conn_id="shop", settle_timeout=1.0, **cursor)
            reader = PostgresReader(config, lambda dsn=dsn: psycopg.connect(dsn))
            with closing(reader), database.connect() as writer:
                writer.execute(OLD)
                with pytest.raises(SettleTimeoutError, match=f"pid {writer.info.backend_pid} "):
                    reader.settle(BEGIN)
                writer.rollback()
                assert reader.settle(BEGIN).target.endswith(("i8:10", '"i8:10"]'))
    finally:
        database.execute(f"drop owned by {name}")
        database.execute(f"drop role {name}")


@BOTH
def test_a_wait_can_be_cancelled(database, source, cursor):
    reader = source(**cursor)
    with database.connect() as writer:
        writer.execute(OLD)
        threading.Timer(0.5, reader.cancel).start()
        started = time.monotonic()
        with pytest.raises(CancelledError):
            reader.settle(BEGIN)
        assert time.monotonic() - started < 2.5
        writer.rollback()


@BOTH
def test_a_source_session_that_is_repeatable_read_by_default_still_sees_new_rows(
    database, source, background, cursor
):
    name = database.dsn.split("dbname=")[1]
    database.execute(f'alter database "{name}" set default_transaction_isolation = serializable')
    reader = source(**cursor)
    with database.connect() as writer:
        writer.execute(OLD)
        database.execute("insert into t (at) values (now() - interval '20 seconds')")
        settled = background.submit(reader.settle, BEGIN)
        assert is_waiting(settled)
        writer.commit()
    assert ids(reader, BEGIN, settled.result(10).target) == list(range(1, 13))


def test_a_reader_that_finds_itself_on_a_standby_stops_settling(database, source, monkeypatch):
    reader = source(**BY_ID)
    target = reader.settle(BEGIN).target
    monkeypatch.setattr(catalog, "is_standby", lambda session: True)
    with pytest.raises(PreflightError, match="standby"):
        reader.settle(target)
