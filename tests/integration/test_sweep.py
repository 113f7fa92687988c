"""Sweeping: rows that appear below the frontier, from late commits or ids made anywhere, are found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from airflow_checkpoint_etl import failpoints
from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.endpoints import PostgresSource
from airflow_checkpoint_etl.errors import CorruptRecordError
from airflow_checkpoint_etl.failpoints import FailpointError
from airflow_checkpoint_etl.sources import sweeping
from airflow_checkpoint_etl.sources.postgres import PostgresReader
from airflow_checkpoint_etl.sweep import parse
from tests.support import ORDERS, World

CLIENT_IDS = """
create table orders (
    id {kind} primary key,
    customer text,
    amount numeric(12, 2) not null,
    created_at timestamptz not null default clock_timestamp()
) {rest}
"""
INSERT = """
insert into orders (id, customer, amount)
select {id}, '{who} ' || n, n from generate_series(1, {rows}) as n
"""


@pytest.fixture
def swept(request, new_database, valkey_server):
    """A world with keys that are texts made by the writers, in no order, read by sweeping."""
    source, warehouse = new_database(), new_database()
    port = None
    if getattr(request, "param", "redis") == "redis":
        port = valkey_server.port
        redis.Redis(port=port).flushall()
    made = World(source.dsn, warehouse.dsn, port)
    made.fetch(CLIENT_IDS.format(kind="text", rest=""), at="source")
    made.source = {"settle": "sweep"}
    made.warehouse = {"write": "upsert", "key": ("id",)}
    return made


ON_BOTH_STORES = pytest.mark.parametrize("swept", ["redis", "postgres"], indirect=True)


def insert(world, rows: int, who: str = "early", connection: Any = None) -> None:
    statement = INSERT.format(id="md5('{}' || n)", who=who, rows=rows).replace("{}", who)
    if connection is None:
        world.fetch(statement, at="source")
    else:
        connection.execute(statement)


def sweeps(world, run: str) -> list[tuple[int, str]]:
    """(rows read, token) of every loaded chunk of a run that swept."""
    return world.fetch(
        f"select rows_in, swept from checkpoint_etl.ledger where run_id = '{run}' and low = high"
        " order by id"
    )


def test_rows_that_commit_late_are_found_by_the_next_run(swept):
    insert(swept, 250)
    with psycopg.connect(swept.source_dsn) as writer:
        insert(swept, 120, "late", writer)
        writer.execute("savepoint s")
        insert(swept, 5, "saved", writer)
        writer.execute("release s")
        insert(swept, 10, "quick")
        swept.run("run_1")
        assert swept.fetch("select count(*) from orders_copy") == [(260,)]
        writer.commit()
    swept.run("run_2")
    swept.assert_exact()
    assert sum(rows for rows, _ in sweeps(swept, "run_2")) >= 120  # in the order of the cursor
    swept.run("run_3")  # and an unneeded one changes nothing
    swept.run("run_4")
    assert sum(rows for rows, _ in sweeps(swept, "run_4")) == 0
    swept.assert_exact()


def test_the_first_sweep_of_a_lane_has_nothing_to_look_at(swept):
    insert(swept, 30)
    swept.run("run_1")
    ((rows, token),) = sweeps(swept, "run_1")
    assert rows == 0
    assert parse(token).done is not None
    assert swept.fetch("select low, high from checkpoint_etl.ledger order by id limit 1") == [
        (BEGIN, BEGIN)
    ]
    swept.assert_exact()


def test_a_lane_that_starts_beside_a_loaded_table_sweeps_from_its_beginning(swept):
    swept.fetch("insert into orders (id, amount) values ('a', 1), ('b', 1)", at="source")
    swept.pipeline = {"start_after": ("b",)}
    with psycopg.connect(swept.source_dsn) as writer:
        writer.execute("insert into orders (id, amount) values ('a1', 1)")
        swept.fetch("insert into orders (id, amount) values ('c', 1)", at="source")
        swept.run("run_1")
        writer.commit()
    swept.run("run_2")
    assert swept.fetch("select id from orders_copy order by id") == [("a1",), ("c",)]


def test_an_update_that_commits_late_is_swept_as_well(swept):
    insert(swept, 50)
    with psycopg.connect(swept.source_dsn) as writer:
        writer.execute("update orders set customer = 'changed' where amount <= 20")
        swept.run("run_1")
        writer.commit()
    swept.run("run_2")
    assert swept.fetch("select count(*) from orders_copy where customer = 'changed'") == [(20,)]
    swept.assert_exact()


def test_ids_from_a_cached_sequence_are_found(swept):
    world = swept
    world.fetch("drop table orders", at="source")
    world.fetch(ORDERS, at="source")
    world.fetch("alter table orders alter id set cache 20", at="source")
    with (
        psycopg.connect(world.source_dsn, autocommit=True) as one,
        psycopg.connect(world.source_dsn, autocommit=True) as two,
    ):
        for number in range(4):
            for connection in (one, two):
                connection.execute("insert into orders (amount) values (1)")
            world.run(f"run_{number}")
    world.run("run_last")
    world.assert_exact()


def test_a_partitioned_table_is_swept(swept):
    swept.fetch("drop table orders", at="source")
    swept.fetch(CLIENT_IDS.format(kind="uuid", rest="partition by hash (id)"), at="source")
    for number in range(2):
        swept.fetch(
            f"create table orders_{number} partition of orders for values"
            f" with (modulus 2, remainder {number})",
            at="source",
        )
    many = INSERT.format(id="gen_random_uuid()", who="x", rows=150)
    swept.fetch(many, at="source")
    for number in range(3):
        with psycopg.connect(swept.source_dsn) as writer:
            writer.execute(many)
            swept.run(f"run_{number}")
            writer.commit()
    swept.run("run_last")
    swept.assert_exact()


# --- attempts that end on the way -------------------------------------------------------------------


def begin_late(world, early: int = 300, late: int = 450) -> None:
    """Load a first run, beside a transaction whose rows then commit below the frontier."""
    insert(world, early)
    with psycopg.connect(world.source_dsn) as writer:
        insert(world, late, "late", writer)
        world.run("run_1")
        writer.commit()
    insert(world, 100, "more")


@pytest.mark.parametrize(
    "point", ["sweep.before_read@2", "sweep.after_read@3", "extract.after_append@2"]
)
def test_an_extract_that_fails_while_sweeping_goes_on_there(swept, monkeypatch, point):
    begin_late(swept)
    failpoints.reset()
    monkeypatch.setenv(failpoints.ENVIRONMENT, f"{point}=raise")
    with pytest.raises(FailpointError):
        swept.stage("extract", "run_2")
    monkeypatch.delenv(failpoints.ENVIRONMENT)
    summary = swept.stage("extract", "run_2", try_number=2)
    assert summary.kept >= 1
    swept.stage("transform", "run_2")
    swept.stage("load", "run_2")
    assert len(sweeps(swept, "run_2")) >= 5
    swept.assert_exact()


def test_another_run_finishes_a_sweep_that_was_begun_and_then_sweeps_to_its_own_goal(
    swept, monkeypatch
):
    begin_late(swept)
    swept.stage("extract", "run_2")
    swept.stage("transform", "run_2")
    failpoints.reset()
    monkeypatch.setenv(failpoints.ENVIRONMENT, "load.after_commit@2=raise")
    with pytest.raises(FailpointError):
        swept.stage("load", "run_2")
    monkeypatch.delenv(failpoints.ENVIRONMENT)
    ((token,),) = swept.fetch("select swept from checkpoint_etl.lane")
    assert parse(token).goal is not None
    forget(swept)
    with psycopg.connect(swept.source_dsn) as writer:
        insert(swept, 30, "later", writer)
        swept.run("run_3")
        writer.commit()
    swept.run("run_4")
    swept.assert_exact()
    assert any(parse(at).done == parse(token).goal for _, at in sweeps(swept, "run_3"))


def forget(world) -> None:
    """Have the checkpoint store lose everything."""
    if world.redis_port is not None:
        redis.Redis(port=world.redis_port).flushall()
    else:
        for table in ("manifest", "checkpoint", "staged"):
            world.fetch(f"delete from checkpoint_etl.{table}")


@ON_BOTH_STORES
@pytest.mark.parametrize("lost_after", ["extract", "transform"])
def test_a_store_that_forgets_a_sweep_costs_rework_only(swept, lost_after):
    begin_late(swept)
    swept.stage("extract", "run_2")
    if lost_after == "transform":
        swept.stage("transform", "run_2")
    forget(swept)
    insert(swept, 30, "later")
    swept.run("run_2")
    swept.run("run_3")
    swept.assert_exact()


KILLED = """
import json, sys
from tests.support import World
options, stage = json.loads(sys.argv[1]), sys.argv[2]
World(**options).stage(stage, "run_2")
"""


@pytest.mark.parametrize(
    ("stage", "point"),
    [
        ("extract", "sweep.after_read@2"),
        ("transform", "transform.after_stage@2"),
        ("load", "load.before_commit@2"),
    ],
)
def test_a_worker_killed_while_sweeping_costs_nothing_but_time(swept, stage, point):
    import json

    begin_late(swept)
    for before in ("extract", "transform"):
        if before == stage:
            break
        swept.stage(before, "run_2")
    options = {
        name: getattr(swept, name)
        for name in ("source_dsn", "warehouse_dsn", "redis_port", "source", "warehouse")
    }
    function = stage == "transform"
    script = KILLED if not function else KILLED.replace('"run_2")', '"run_2", function=dict)')
    root = str(Path(__file__).parents[2])
    killed = subprocess.run(
        [sys.executable, "-c", script, json.dumps(options), stage],
        env={**os.environ, "PYTHONPATH": root, failpoints.ENVIRONMENT: f"{point}=kill"},
        cwd=root,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    insert(swept, 30, "later")
    swept.stage("extract", "run_2", try_number=2)
    swept.stage("transform", "run_2", try_number=2, function=dict if function else None)
    swept.stage("load", "run_2", try_number=2)
    swept.run("run_3")
    swept.assert_exact()


def test_the_log_says_that_a_run_is_sweeping(swept, caplog):
    caplog.set_level("INFO", logger="airflow_checkpoint_etl")
    begin_late(swept, early=20, late=20)
    caplog.clear()
    swept.attempt = {"progress_seconds": 0.0}
    swept.run("run_2")
    assert "extract orders: sweeping rows that appeared late at or below" in caplog.text
    assert "load orders: sweeping rows that appeared late" in caplog.text
    assert ", swept of " in caplog.text


def test_a_rewind_sweeps_again_from_where_the_point_was(swept):
    begin_late(swept)
    swept.run("run_2")
    ((point,),) = swept.fetch(
        "select high from checkpoint_etl.ledger where run_id = 'run_1' order by id desc limit 1"
    )
    with swept.admin() as admin:
        admin.rewind(point, dry_run=False)
    swept.fetch("delete from orders_copy where customer like 'late%'")
    swept.run("run_3")
    assert swept.fetch("select count(*) from orders_copy where customer like 'late%'") == [(450,)]


# --- the reader alone -------------------------------------------------------------------------------


def test_a_sweep_reads_what_was_written_since_its_token_and_nothing_older(database, monkeypatch):
    database.execute("create table t (id int primary key)")
    database.execute("insert into t values (1), (5)")
    reader = PostgresReader(
        PostgresSource(conn_id="shop", table="t", settle="sweep", chunk_rows=2), database.connect
    )
    with closing(reader):
        first = reader.settle(BEGIN)
        assert first.target == "i4:5"
        nothing = reader.sweep("", first.swept, BEGIN)
        assert (nothing.table.num_rows, nothing.swept) == (0, first.swept)
        database.execute("insert into t values (2), (3), (4), (6)")
        second = reader.settle("i4:5")
        assert int(second.swept) > int(first.swept)
        chunk = reader.sweep(first.swept, second.swept, "i4:5")
        assert chunk.table["id"].to_pylist() == [2, 3]
        assert chunk.swept == f"{first.swept}>{second.swept}@i4:3"
        # a newer goal changes nothing for a sweep that was begun
        chunk = reader.sweep(chunk.swept, str(int(second.swept) + 5), "i4:5")
        assert chunk.table["id"].to_pylist() == [4]
        assert chunk.swept == second.swept
        # 2^32 transactions earlier the 32 bits of a row say the same, and everything is read again
        turned = str(int(first.swept) - (1 << 32)).replace("-", "")
        monkeypatch.setattr(sweeping, "_TELLABLE", 0)
        assert reader.sweep(turned, second.swept, "i4:5").table["id"].to_pylist() == [1, 2]
        with pytest.raises(CorruptRecordError, match="no sweep token"):
            reader.sweep("12>", second.swept, "i4:5")


@pytest.mark.parametrize(
    ("since", "row", "late"),
    [
        (712, 711, False),
        (712, 712, True),
        (712, 713, True),
        (712, 712 + (1 << 31) - 1, True),
        ((1 << 32) - 5, (1 << 32) - 6, False),
        ((1 << 32) - 5, (1 << 32) + 7, True),  # the counter came round between
        ((3 << 32) + 10, (3 << 32) + 9, False),
        ((3 << 32) + 10, (3 << 32) + 11, True),
    ],
)
def test_the_last_32_bits_of_two_transactions_tell_which_is_older(database, since, row, late):
    from airflow_checkpoint_etl.sources.keyset import Keyset

    text = Keyset("public", "t", None, ("id",)).late(BEGIN, "i4:1", 1, since).as_string()
    condition = text.partition(" and ")[2].partition(" order by ")[0]
    condition = condition.replace('"public"."t"."xmin"', f"'{row % (1 << 32)}'::xid")
    assert "xid" in condition
    assert database.execute(f"select {condition}") == [(late,)]
