"""Histories that would lose, double or change rows, or leave a lane that no retry moves on."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

from airflow_checkpoint_etl import failpoints
from airflow_checkpoint_etl.errors import (
    CancelledError,
    CheckpointEtlError,
    FencedError,
    PreflightError,
    StagedChunkError,
    ValueNotCarriedError,
    WarehouseRestoredError,
)
from airflow_checkpoint_etl.failpoints import ENVIRONMENT, FailpointError, reset
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Lane, Owner, Stage
from airflow_checkpoint_etl.transform import CallableTransformer
from airflow_checkpoint_etl.warehouses.ledger import Ledger
from tests.support import connector

if TYPE_CHECKING:
    from tests.support import World

LANE = Lane("orders")


def keep(record):
    return record


@contextlib.contextmanager
def failing(monkeypatch, point):
    reset()
    monkeypatch.setenv(ENVIRONMENT, point)
    try:
        yield
    finally:
        monkeypatch.delenv(ENVIRONMENT)
        reset()


@contextlib.contextmanager
def held(monkeypatch, point):
    """Hold another thread at a point: yields an event that says it is there, and one that lets it go."""
    there, go_on = threading.Event(), threading.Event()

    def act(name, action):
        there.set()
        assert go_on.wait(60)

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "_act", act)
        with failing(patch, f"{point}=hold"):
            try:
                yield there, go_on
            finally:
                go_on.set()


def entry(world: World, stage: Stage, position: int):
    _, ports = world.runner("look")
    try:
        return ports.checkpoints.read(LANE, stage).entries[position]
    finally:
        ports.close()


def lose(world: World, name: str) -> None:
    _, ports = world.runner("look")
    ports.staging.delete([name])
    ports.close()


def damage(world: World, name: str) -> None:
    if world.redis_port is not None:
        redis.Redis(port=world.redis_port).set(f"checkpoint_etl:staged:{name}", b"damaged")
    else:
        world.fetch(f"update checkpoint_etl.staged set data = 'damaged' where name = '{name}'")


def caught_up(world: World, moment: dt.datetime) -> bool:
    session = Session(connector(world.warehouse_dsn), "test")
    try:
        return Ledger(session, session, 1.0).caught_up(LANE, moment)
    finally:
        session.close()


def clock(world: World) -> dt.datetime:
    return world.fetch("select clock_timestamp()")[0][0]


# --- a staged file that is lost or damaged never blocks a lane for good -------------------------------


def test_a_passed_on_file_that_is_lost_is_extracted_again_by_a_clear(world):
    world.stage("extract")
    world.stage("transform")
    lose(world, entry(world, Stage.EXTRACT, 6).name)
    with pytest.raises(StagedChunkError, match="missing"):
        world.stage("load")
    extract, _, load = world.run("run_1")
    assert (extract.first, load.rows) == ("i8:600", 400)
    world.assert_exact()


def test_a_passed_on_file_that_is_lost_is_extracted_again_by_the_next_run(world):
    world.stage("extract")
    world.stage("transform")
    lose(world, entry(world, Stage.EXTRACT, 6).name)
    world.run("run_2")
    world.assert_exact()


def test_losing_the_extracted_and_the_transformed_file_costs_one_clear(world):
    world.stage("extract")
    world.stage("transform", function=keep)
    for stage in (Stage.EXTRACT, Stage.TRANSFORM):
        lose(world, entry(world, stage, 6).name)
    world.run("run_1", function=keep)
    world.assert_exact()


@pytest.mark.parametrize("function", [None, keep])
@pytest.mark.parametrize("stage", [Stage.EXTRACT, Stage.TRANSFORM])
def test_a_damaged_file_is_staged_again_by_a_clear(world, stage, function):
    world.stage("extract")
    if stage is Stage.TRANSFORM:
        world.stage("transform", function=function)
    damage(world, entry(world, stage, 6).name)

    def go_on():
        if stage is Stage.EXTRACT:
            world.stage("transform", function=function)
        world.stage("load")

    with pytest.raises(StagedChunkError, match="damaged"):
        go_on()
    world.run("run_1", function=function)
    world.assert_exact()


def test_a_file_consumed_already_may_be_lost_without_reading_it_again(world):
    world.stage("extract")
    world.stage("transform", function=keep)
    lose(world, entry(world, Stage.EXTRACT, 6).name)
    extract, _, load = world.run("run_1", function=keep)
    assert (extract.chunks, load.rows) == (0, 1000)
    world.assert_exact()


# --- a transform that was wrong can be corrected ---------------------------------------------------------


def spoil(record):
    return record | {"customer": None if record["id"] == 650 else "x"}


@pytest.mark.parametrize("run", ["run_1", "run_2"])
def test_rows_that_the_target_refuses_are_transformed_again_by_the_corrected_code(world, run):
    world.fetch(
        "create table orders_copy"
        " (id bigint, customer text not null, amount numeric(12, 2), created_at timestamptz)"
    )
    with pytest.raises(ValueNotCarriedError):
        world.run("run_1", function=spoil)
    world.run(run, function=lambda record: record | {"customer": f"c{record['id']}"})
    assert world.fetch("select count(*), count(distinct id) from orders_copy") == [(1000, 1000)]
    assert world.fetch("select customer from orders_copy where id = 650") == [("c650",)]


def test_rows_that_the_target_refuses_load_unchanged_once_the_target_takes_them(world):
    world.fetch(
        "create table orders_copy"
        " (id bigint, customer text not null, amount numeric(12, 2), created_at timestamptz)"
    )
    with pytest.raises(ValueNotCarriedError):
        world.run("run_1", function=spoil)
    world.fetch("alter table orders_copy alter customer drop not null")
    assert world.stage("load", try_number=2).rows == 400


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", 1.5),
        ("created_at", dt.datetime(2026, 1, 1)),  # noqa: DTZ001  whose zone nobody knows
    ],
)
def test_a_value_is_never_changed_to_fit_the_incoming_columns_type(world, column, value):
    with contextlib.suppress(PreflightError, ValueNotCarriedError):
        world.run(function=lambda record: {"n": record["id"], "id": record["id"]} | {column: value})
        type_of = world.fetch(
            "select data_type from information_schema.columns"
            f" where table_name = 'orders_copy' and column_name = '{column}'"
        )
        assert type_of in ([("double precision",)], [("timestamp without time zone",)])


# --- two lanes, two attempts ---------------------------------------------------------------------------


def test_a_renamed_pipeline_does_not_load_its_table_a_second_time(world):
    world.run()
    world.pipeline["pipeline_id"] = "orders_v2"
    runner, ports = world.runner("extract", "run_2")
    spec = runner._spec()
    ports.source.preflight()
    ports.warehouse.preflight()
    renamed = SimpleNamespace(**{name: getattr(spec, name) for name in spec.__slots__})
    renamed.lane = Lane("orders_v2")
    with pytest.raises(PreflightError, match="start_after"):
        ports.warehouse.acquire(
            renamed, Stage.EXTRACT, Owner("dag", "run_2", "extract"), dt.timedelta(60)
        )
    ports.close()


@pytest.mark.parametrize(
    ("fence", "error"), [(99, FencedError), (0, CheckpointEtlError)], ids=["newer", "no load"]
)
def test_a_load_ends_no_backend_but_an_older_loads(world, fence, error):
    world.run()
    session, other = (Session(connector(world.warehouse_dsn), "test") for _ in range(2))
    ledger = Ledger(session, other, lock_timeout=0.3)
    world.fetch(f"update checkpoint_etl.lane set load_fence = {fence}")
    with psycopg.connect(world.warehouse_dsn) as holder:
        name = f"checkpoint_etl load f{fence} orders" if fence else "psql"
        holder.execute(f"set application_name = '{name}'")
        holder.execute("update checkpoint_etl.lane set updated_at = now()")
        with pytest.raises(error, match="newer attempt" if fence else r"backend \d+ \(psql\)"):
            ledger.acquire(LANE, Stage.LOAD, Owner("dag", "run_1", "load"), dt.timedelta(60))
        holder.execute("select 1")
    ledger.close()


def test_a_hung_backend_of_an_older_load_is_ended(world):
    world.run()
    session, other = (Session(connector(world.warehouse_dsn), "test") for _ in range(2))
    ledger = Ledger(session, other, lock_timeout=0.3)
    with psycopg.connect(world.warehouse_dsn) as older:
        older.execute("set application_name = 'checkpoint_etl load f1 orders'")
        older.execute("update checkpoint_etl.lane set updated_at = now()")
        ledger.acquire(LANE, Stage.LOAD, Owner("dag", "run_1", "load"), dt.timedelta(60))
        with pytest.raises(psycopg.errors.AdminShutdown):
            older.execute("select 1")
        older.close()
    ledger.close()


def test_a_stale_load_does_not_mark_a_run_done_that_was_given_a_new_target(world, monkeypatch):
    world.stage("extract")
    world.stage("transform")
    stale, ports = world.runner("load")
    finish = ports.warehouse.finish

    def late(*args):
        world.stage("load", try_number=2)
        world.insert(500)
        assert world.stage("extract", try_number=2).target == "i8:1500"
        finish(*args)

    monkeypatch.setattr(ports.warehouse, "finish", late)
    with pytest.raises(FencedError):
        stale.load()
    ports.close()
    assert world.fetch("select target, done from checkpoint_etl.run") == [("i8:1500", False)]
    world.stage("transform", try_number=2)
    world.stage("load", try_number=3)
    world.assert_exact()


# --- "caught up" is never said too early -----------------------------------------------------------------


def test_a_run_that_its_budget_ended_is_not_caught_up(world):
    world.attempt["max_rows"] = 250
    before = clock(world)
    world.run("run_1")
    assert not caught_up(world, before)
    world.attempt["max_rows"] = None
    world.run("run_2")
    assert caught_up(world, before)


def test_what_commits_while_settling_waits_is_not_said_to_be_loaded(world, monkeypatch):
    with held(monkeypatch, "extract.after_settle") as (there, go_on):
        thread = threading.Thread(target=world.stage, args=["extract"])
        thread.start()
        assert there.wait(30)
        world.insert(10)
        moment = clock(world)
        go_on.set()
        thread.join()
    assert world.fetch("select target from checkpoint_etl.run") == [("i8:1000",)]
    world.stage("transform")
    world.stage("load")
    assert not caught_up(world, moment)


# --- broken connections, and being stopped ---------------------------------------------------------------


def test_a_transaction_never_goes_on_over_another_connection(world, monkeypatch):
    world.stage("extract")
    world.stage("transform")
    runner, ports = world.runner("load")
    session = ports.warehouse._data
    old_row = session.row

    def row(statement, parameters=None):
        if "update checkpoint_etl.lane" in statement and parameters["seq"] == 4:
            session._connection.close()
        return old_row(statement, parameters)

    monkeypatch.setattr(session, "row", row)
    with pytest.raises(psycopg.OperationalError):
        runner.load()
    ports.close()
    assert [row[0] for row in world.ledger()] == [1, 2, 3]
    world.stage("load", try_number=2)
    world.assert_exact()


def test_a_load_stops_soon_though_it_was_asked_between_two_statements(world, monkeypatch):
    world.stage("extract")
    world.stage("transform")
    world.fetch(
        "create table orders_copy"
        " (id bigint, customer text, amount numeric(12, 2), created_at timestamptz)"
    )
    runner, ports = world.runner("load")
    ended = []

    def load():
        try:
            runner.load()
        except CancelledError:
            ended.append(time.monotonic())

    with psycopg.connect(world.warehouse_dsn) as locker:
        with held(monkeypatch, "load.before_rows") as (there, go_on):
            thread = threading.Thread(target=load)
            thread.start()
            assert there.wait(30)
            locker.execute("lock table orders_copy in access exclusive mode")
            asked = time.monotonic()
            runner.stop()
            go_on.set()
            thread.join(timeout=6)
        locker.rollback()
    thread.join()
    ports.close()
    assert ended
    assert ended[0] - asked < 5
    world.stage("load", try_number=2)
    world.assert_exact()


def test_a_transform_stops_within_a_chunk(world):
    world.stage("extract")
    runner, ports = world.runner("transform")
    seen = []

    def slow(record):
        seen.append(record["id"])
        if len(seen) == 10:
            runner.stop()
        return record

    with pytest.raises(CancelledError):
        runner.transform(CallableTransformer(slow, cursor_columns=("id",)))
    ports.close()
    assert len(seen) == 10
    world.run("run_1", function=keep)
    world.assert_exact()


# --- the checkpoint store and the warehouse disagree ------------------------------------------------------


def test_a_new_warehouse_with_an_old_store_is_told_what_to_do(world):
    if world.redis_port is None:
        pytest.skip("the store is in the warehouse")
    for number in range(3):
        world.stage("extract", try_number=number)
    world.fetch("drop schema checkpoint_etl cascade")
    with pytest.raises(WarehouseRestoredError, match="resync"):
        world.stage("extract", run="run_2")
    with world.admin() as admin:
        admin.resync()
    world.run("run_2")
    world.assert_exact()


@pytest.mark.parametrize("nth", range(1, 8))
@pytest.mark.parametrize("stage", ["extract", "transform", "load"])
def test_a_store_that_forgets_between_any_two_calls_loses_no_row(world, monkeypatch, stage, nth):
    def total(record, state):
        state["total"] += int(record["amount"] * 100)
        return record | {"total": state["total"]}

    options = {"function": total, "initial_state": {"total": 0}}
    world.source["chunk_rows"] = 350
    for name in ("extract", "transform", "load"):
        runner, ports = world.runner(name)
        calls = []
        for method in ("read", "begin", "append", "note_loaded"):
            old = getattr(ports.checkpoints, method)

            def call(*arguments, old=old, name=name, calls=calls, ports=ports):
                calls.append(1)
                if name == stage and len(calls) == nth:
                    if world.redis_port is not None:
                        redis.Redis(port=world.redis_port).flushall()
                    else:
                        world.fetch("truncate checkpoint_etl.checkpoint, checkpoint_etl.manifest")
                return old(*arguments)

            monkeypatch.setattr(ports.checkpoints, method, call)
        with contextlib.suppress(Exception):
            if name == "transform":
                runner.transform(CallableTransformer(total, initial_state={"total": 0}))
            else:
                getattr(runner, name)()
        ports.close()
    world.source["chunk_rows"] = 200  # the boundaries are others now
    world.insert(100)
    world.run("run_2", **options)
    world.assert_exact()
    expected = world.fetch(
        "select id, sum(amount * 100) over (order by id)::bigint from orders order by id",
        at="source",
    )
    assert world.fetch("select id, total from orders_copy order by id") == expected


def test_extract_cut_anew_under_a_running_transform_and_load_keeps_state_and_rows(world):
    def total(record, state):
        state["total"] += int(record["amount"] * 100)
        return record | {"total": state["total"]}

    options = {"function": total, "initial_state": {"total": 0}}
    world.stage("extract")
    world.stage("transform", **options)
    loader, ports = world.runner("load")
    old_load = ports.warehouse.load

    def load(claim, chunk, *rows_and_policy):
        if chunk.seq == 3:
            for stage in (Stage.EXTRACT, Stage.TRANSFORM):
                lose(world, entry(world, stage, 4).name)
            world.source["chunk_rows"] = 70
            world.insert(100)
            world.stage("extract", run="run_2")
            world.stage("transform", run="run_2", **options)
        return old_load(claim, chunk, *rows_and_policy)

    object.__setattr__(ports.warehouse, "load", load)
    with contextlib.suppress(StagedChunkError):
        loader.load()
    ports.close()
    with contextlib.suppress(Exception):
        world.stage("load", run="run_2")
    world.run("run_3", **options)
    world.assert_exact()
    expected = world.fetch(
        "select id, sum(amount * 100) over (order by id)::bigint from orders order by id",
        at="source",
    )
    assert world.fetch("select id, total from orders_copy order by id") == expected


@pytest.mark.parametrize("first", [None, keep])
def test_a_transform_switched_on_or_off_between_tries_loses_no_row(world, monkeypatch, first):
    second = keep if first is None else None
    world.stage("extract")
    with (
        failing(monkeypatch, "transform.after_append@4=raise"),
        pytest.raises(FailpointError),
    ):
        world.stage("transform", function=first)
    world.attempt["grace"] = dt.timedelta(0)
    world.run("run_1", function=second)
    world.insert(100)
    world.run("run_2", function=first)
    world.assert_exact()


def test_a_budget_with_retries_clears_and_two_runs_loads_everything_once(world, monkeypatch):
    world.attempt["max_rows"] = 150
    with failing(monkeypatch, "extract.after_append@1=raise"), pytest.raises(FailpointError):
        world.stage("extract", run="run_1")
    world.stage("extract", run="run_2")
    world.stage("extract", run="run_1", try_number=2)
    world.stage("transform", run="run_2")
    world.stage("transform", run="run_1")
    world.stage("load", run="run_1")
    world.stage("load", run="run_2")
    world.run("run_1")
    world.run("run_2")
    world.attempt["max_rows"] = None
    world.run("run_3")
    world.assert_exact()


def test_a_text_cursor_is_resumed_and_loaded_in_its_columns_order(world, monkeypatch):
    world.fetch("alter table orders add code text", at="source")
    world.fetch(
        "update orders set code = case id % 3 when 0 then '[' when 1 then 'Ä' else 'a\"' end || id",
        at="source",
    )
    world.fetch("alter table orders alter code set not null, add unique (code)", at="source")
    world.source |= {"cursor": "code", "settle": "locks"}
    with failing(monkeypatch, "extract.after_append@4=raise"), pytest.raises(FailpointError):
        world.stage("extract")
    world.stage("extract", try_number=2)
    world.stage("transform")
    with failing(monkeypatch, "load.after_commit@4=raise"), pytest.raises(FailpointError):
        world.stage("load")
    world.stage("load", try_number=2)
    world.assert_exact()


def test_a_retry_that_finds_everything_loaded_still_tells_who_waits_for_the_asset(
    world, monkeypatch
):
    from airflow_checkpoint_etl import CheckpointLoadOperator

    world.stage("extract")
    world.stage("transform")
    with failing(monkeypatch, "load.before_finish=raise"), pytest.raises(FailpointError):
        world.stage("load")
    summary = world.stage("load", try_number=2)
    events: list[object] = []
    operator = CheckpointLoadOperator(task_id="load", pipeline=world.configure())
    outlet = SimpleNamespace(add=lambda asset, extra: events.append(asset))
    operator._finished({"outlet_events": {operator._alias: outlet}}, summary)
    assert len(events) == 1
