"""What is particular to checkpoints in PostgreSQL: migrations, roles, damage, broken connections."""

from __future__ import annotations

import contextlib
import json
import threading

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Json

from airflow_checkpoint_etl.checkpoints import postgres
from airflow_checkpoint_etl.checkpoints.postgres import COMPONENT, SCRIPTS, PostgresCheckpointStore
from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.errors import (
    FencedError,
    ManifestConflictError,
    MissingPrivilegeError,
    SchemaVersionError,
)
from airflow_checkpoint_etl.migrations import ddl_for_administrator, migrate
from airflow_checkpoint_etl.ports import StageRecord
from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Frontier, Lane, Stage

LANE = Lane("orders")
LIFE = "9f3c27aa"


def at(seq=0, cursor=BEGIN, stage=Stage.EXTRACT):
    return Checkpoint(stage, Frontier(LIFE, 1, seq, cursor))


def chunk(seq, low, high, fence=1):
    return Chunk(LIFE, seq, low, high, 10, 9, f"x/{seq}.arrow", 1234, f"{seq:064x}", fence)


@pytest.fixture
def store(database):
    store = PostgresCheckpointStore(database.connect)
    yield store
    store.close()


@pytest.fixture
def filled(store):
    """A stage with three chunks, written by fence 5."""
    store.begin(LANE, 5, at())
    for seq, low in enumerate([BEGIN, "i8:10", "i8:20"], 1):
        store.append(LANE, 5, chunk(seq, low, f"i8:{seq * 10}", 5), at(seq, f"i8:{seq * 10}"))
    return store


@pytest.fixture
def role(database, postgres_server):
    """A role that may connect and nothing else; and how to connect as it."""
    name = f"etl_{database.dsn.rpartition('=')[2]}"
    database.execute(f'create role "{name}" login')
    dsn = postgres_server.dsn(database.dsn.rpartition("=")[2], user=name)
    yield name, lambda: psycopg.connect(dsn)
    database.execute(f'drop owned by "{name}"; drop role "{name}"')


# --- migrations ----------------------------------------------------------------------------------


def test_twenty_first_users_at_once_all_succeed(database):
    stores = [PostgresCheckpointStore(database.connect) for _ in range(20)]
    barrier = threading.Barrier(len(stores))
    outcomes = []

    def start(number, store):
        barrier.wait()
        try:
            outcomes.append(store.preflight())
            store.begin(Lane("orders", f"p{number}"), 1, at())
        except Exception as error:  # noqa: BLE001  every outcome is counted
            outcomes.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=start, args=pair) for pair in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[]] * 20
    assert database.execute("select count(*) from checkpoint_etl.checkpoint") == [(20,)]


def test_tables_of_a_newer_package_are_refused(store, database):
    store.preflight()
    database.execute("update checkpoint_etl.schema_version set version = 7")
    newer = PostgresCheckpointStore(database.connect)
    with pytest.raises(
        SchemaVersionError, match=r"version 7.*up to 1; upgrade airflow-checkpoint-etl"
    ):
        newer.preflight()


def test_an_older_version_is_migrated_forwards_once(database):
    scripts = [*SCRIPTS, "alter table checkpoint_etl.checkpoint add column note text; -- 100%"]
    with database.connect() as connection:
        migrate(connection, COMPONENT, scripts[:1])
        migrate(connection, COMPONENT, scripts)
        migrate(connection, COMPONENT, scripts)
    assert database.execute("select component, version from checkpoint_etl.schema_version") == [
        (COMPONENT, 2)
    ]


def test_a_migration_that_fails_leaves_nothing_behind(database):
    with database.connect() as connection, pytest.raises(psycopg.errors.UndefinedTable):
        migrate(connection, COMPONENT, [*SCRIPTS, "alter table checkpoint_etl.nowhere add x text"])
    assert database.execute("select to_regnamespace('checkpoint_etl')") == [(None,)]


def test_a_migration_inside_an_open_transaction_is_part_of_it(database):
    with database.connect() as connection:
        connection.execute("select 1")
        migrate(connection, COMPONENT, SCRIPTS)
        connection.rollback()
    assert database.execute("select to_regnamespace('checkpoint_etl')") == [(None,)]


def test_a_stricter_default_isolation_does_not_confuse_a_waiting_migration(database):
    options = {"options": "-c default_transaction_isolation=serializable"}
    barrier, errors = threading.Barrier(6), []

    def start():
        with database.connect(**options) as connection:
            barrier.wait()
            try:
                migrate(connection, COMPONENT, SCRIPTS)
            except Exception as error:  # noqa: BLE001  every outcome is counted
                errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_role_without_create_gets_the_ddl_for_its_administrator(database, role):
    name, connect = role
    store = PostgresCheckpointStore(connect)
    with pytest.raises(MissingPrivilegeError) as caught:
        store.preflight()
    message = str(caught.value)
    assert f'role "{name}" may not create' in message
    assert "create table checkpoint_etl.manifest" in message
    ddl = ddl_for_administrator(COMPONENT, SCRIPTS, 0, name)
    assert message.endswith(ddl)
    database.execute(ddl)
    store.preflight()
    store.begin(LANE, 1, at())
    assert store.read(LANE, Stage.EXTRACT).fence == 1
    store.close()


def test_a_role_that_may_only_use_the_tables_works(database, role):
    name, connect = role
    with contextlib.closing(PostgresCheckpointStore(database.connect)) as owner:
        owner.preflight()
    store = PostgresCheckpointStore(connect)
    with pytest.raises(MissingPrivilegeError, match="grant usage on schema"):
        store.preflight()
    database.execute(
        f'grant usage on schema checkpoint_etl to "{name}";'
        f'grant select on all tables in schema checkpoint_etl to "{name}"'
    )
    store.preflight()
    with pytest.raises(MissingPrivilegeError, match="grant select, insert, update, delete"):
        store.begin(LANE, 1, at())
    database.execute(
        f'grant insert, update, delete on all tables in schema checkpoint_etl to "{name}"'
    )
    store.begin(LANE, 1, at())
    store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:10"))
    store.note_loaded(LANE, at(1, "i8:10", Stage.LOAD))
    store.forget(LANE, Stage.EXTRACT, [1], LIFE)
    assert store.read(LANE, Stage.EXTRACT) == StageRecord(at(1, "i8:10"), 1)
    store.close()


def test_a_role_with_a_schema_of_its_own_creates_the_tables(database, role):
    name, connect = role
    database.execute(f'create schema checkpoint_etl authorization "{name}"')
    with connect() as connection:
        migrate(connection, COMPONENT, SCRIPTS)
    assert database.execute("select version from checkpoint_etl.schema_version") == [(1,)]


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "fence = 999999",
        "incarnation = 'x'",
        "generation = 2",
        "seq = 2",
        "cursor = 'i8:31'",
        "state_digest = 'x'",
        "rows_in = 1",
        "rows = 1",
        "state = '{}'",
        "updated_at = 'x'",
        "digest = ''",
        "checksum = ''",
    ],
)
def test_a_changed_head_is_a_fault_that_refuses_nobody(filled, database, change):
    database.execute(f"update checkpoint_etl.checkpoint set {change}")
    record = filled.read(LANE, Stage.EXTRACT)
    assert (record.checkpoint, record.fence) == (None, 0)
    assert "fails its checksum" in record.faults[0]
    assert [entry.seq for entry in record.entries] == [1, 2, 3]
    filled.begin(LANE, 6, at(3, "i8:30"))
    rebuilt = filled.read(LANE, Stage.EXTRACT)
    assert (rebuilt.faults, rebuilt.fence, rebuilt.checkpoint) == ((), 6, at(3, "i8:30"))
    assert [entry.seq for entry in rebuilt.entries] == [1, 2, 3]


def test_a_changed_load_record_is_rebuilt_by_the_next_note(store, database):
    store.note_loaded(LANE, at(9, "i8:90", Stage.LOAD))
    database.execute("update checkpoint_etl.checkpoint set seq = 99999")
    store.note_loaded(LANE, at(5, "i8:50", Stage.LOAD))
    assert store.read(LANE, Stage.LOAD).checkpoint == at(5, "i8:50", Stage.LOAD)


def test_an_append_to_a_damaged_head_conflicts(filled, database):
    database.execute("update checkpoint_etl.checkpoint set seq = 7")
    with pytest.raises(ManifestConflictError, match="no readable record"):
        filled.append(LANE, 5, chunk(4, "i8:30", "i8:40", 5), at(4, "i8:40"))


def test_a_damaged_entry_is_left_out_and_named_and_begin_drops_it(filled, database):
    database.execute(
        "update checkpoint_etl.manifest set entry = replace(entry, '\"rows\":9', '\"rows\":8')"
        " where seq = 2"
    )
    database.execute("update checkpoint_etl.manifest set seq = 77 where seq = 3")
    record = filled.read(LANE, Stage.EXTRACT)
    assert [entry.seq for entry in record.entries] == [1]
    assert len(record.faults) == 2
    filled.begin(LANE, 6, at(3, "i8:30"))
    assert filled.read(LANE, Stage.EXTRACT).faults == ()
    assert database.execute("select seq from checkpoint_etl.manifest") == [(1,)]


def test_entries_without_a_head_are_still_read(filled, database):
    database.execute("delete from checkpoint_etl.checkpoint")
    record = filled.read(LANE, Stage.EXTRACT)
    assert (record.checkpoint, record.faults, len(record.entries)) == (None, (), 3)


def test_entries_are_json_that_sql_can_read(filled, database):
    rows = database.execute(
        "select sum((entry::json -> 'body' ->> 'rows')::int) from checkpoint_etl.manifest"
    )
    assert rows == [(27,)]


# --- connections ---------------------------------------------------------------------------------


def test_a_connection_with_odd_adapters_and_factories_works(database):
    def connect():
        connection = database.connect(row_factory=dict_row, cursor_factory=psycopg.ClientCursor)
        for kind in (dict, list):
            connection.adapters.register_dumper(kind, _JsonDumper)
        connection.execute("select 1")
        return connection

    store = PostgresCheckpointStore(connect)
    store.begin(LANE, 1, at())
    store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:10"))
    store.forget(LANE, Stage.EXTRACT, [1, 2], LIFE)
    assert store.read(LANE, Stage.EXTRACT) == StageRecord(at(1, "i8:10"), 1)
    store.close()


class _JsonDumper(psycopg.adapt.Dumper):
    oid = psycopg.adapters.types["json"].oid

    def dump(self, obj):
        return json.dumps(obj).encode()


def test_the_dumper_of_the_test_above_is_odd_enough(database):
    with database.connect() as connection:
        connection.adapters.register_dumper(list, _JsonDumper)
        assert connection.execute("select %s", ([1],)).fetchone() == ([1],)
        assert connection.execute("select %s", (Json([1]),)).fetchone() == ([1],)
        with pytest.raises(psycopg.errors.WrongObjectType):
            connection.execute("select 1 = any(%s)", ([1],))


class _Dropped:
    """Connections whose backend is terminated on request, right after or right before a statement."""

    def __init__(self, database):
        self.database = database
        self.made = []

    def __call__(self):
        self.made.append(self.database.connect())
        return self.made[-1]

    def terminate(self):
        pid = self.made[-1].info.backend_pid
        self.database.execute(f"select pg_terminate_backend({pid}, 5000)")


def test_a_connection_that_was_dropped_is_replaced_once(database):
    connect = _Dropped(database)
    store = PostgresCheckpointStore(connect)
    store.begin(LANE, 1, at())
    operations = [
        lambda: store.read(LANE, Stage.EXTRACT),
        lambda: store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:10")),
        lambda: store.note_loaded(LANE, at(1, "i8:10", Stage.LOAD)),
        lambda: store.forget(LANE, Stage.EXTRACT, [9], LIFE),
        lambda: store.begin(LANE, 1, at(1, "i8:10")),
    ]
    for number, operation in enumerate(operations, 2):
        connect.terminate()
        operation()
        assert len(connect.made) == number
    assert store.read(LANE, Stage.EXTRACT).checkpoint == at(1, "i8:10")
    store.close()


def test_an_append_that_committed_before_the_connection_broke_is_recognised(database):
    connect = _Dropped(database)
    store = PostgresCheckpointStore(connect)
    store.begin(LANE, 1, at())
    attempt, lost = store._session._attempt, []

    def lose_the_first_answer(connection, work):
        result = attempt(connection, work)
        if not lost:
            lost.append(result)
            connection.close()
            raise psycopg.OperationalError
        return result

    store._session._attempt = lose_the_first_answer
    store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:10"))
    assert len(connect.made) == 2
    record = store.read(LANE, Stage.EXTRACT)
    assert (record.checkpoint, len(record.entries)) == (at(1, "i8:10"), 1)
    store.close()


def test_a_server_that_cannot_be_reached_is_tried_once(database):
    tries = []

    def connect():
        tries.append(1)
        return psycopg.connect("host=127.0.0.1 port=1 connect_timeout=1")

    with pytest.raises(psycopg.OperationalError):
        PostgresCheckpointStore(connect).preflight()
    assert len(tries) == 1


def test_a_refused_begin_leaves_no_trace(store, database):
    store.begin(LANE, 5, at(3, "i8:30"))
    before = database.execute("select * from checkpoint_etl.checkpoint")
    with pytest.raises(FencedError):
        store.begin(LANE, 4, at())
    assert database.execute("select * from checkpoint_etl.checkpoint") == before


def test_a_stricter_default_isolation_turns_a_race_into_a_conflict(database):
    options = {"options": "-c default_transaction_isolation=serializable"}
    stores = [PostgresCheckpointStore(lambda: database.connect(**options)) for _ in range(6)]
    stores[0].begin(LANE, 1, at())
    barrier, outcomes = threading.Barrier(6), []

    def race(number, store):
        store.preflight()
        barrier.wait()
        one = chunk(1, BEGIN, f"i8:{number}")
        try:
            store.append(LANE, 1, one, at(1, one.high))
            outcomes.append(number)
        except ManifestConflictError:
            outcomes.append(None)
        finally:
            store.close()

    threads = [threading.Thread(target=race, args=pair) for pair in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcome is not None for outcome in outcomes) == 1
    assert len(outcomes) == 6


def test_a_begin_waits_for_the_one_before_it_and_then_sees_its_fence(filled, database, monkeypatch):
    held, go_on, outcomes = threading.Event(), threading.Event(), []
    refuse_older = postgres.refuse_older

    def pause_the_newer_one(lane, stage, fence, stored):
        refuse_older(lane, stage, fence, stored)
        if fence == 9:
            held.set()
            assert go_on.wait(30)

    monkeypatch.setattr(postgres, "refuse_older", pause_the_newer_one)

    def begin(fence):
        with contextlib.closing(PostgresCheckpointStore(database.connect)) as store:
            try:
                store.begin(LANE, fence, at(3, "i8:30"))
                outcomes.append((fence, "begun"))
            except FencedError:
                outcomes.append((fence, "fenced"))

    newer = threading.Thread(target=begin, args=(9,))
    older = threading.Thread(target=begin, args=(7,))
    newer.start()
    assert held.wait(30)
    older.start()
    waiting = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while older.is_alive() and not database.execute(waiting):
        older.join(0.02)
    go_on.set()
    newer.join()
    older.join()
    assert sorted(outcomes) == [(7, "fenced"), (9, "begun")]
    assert filled.read(LANE, Stage.EXTRACT).fence == 9
