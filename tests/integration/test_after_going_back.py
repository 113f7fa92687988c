"""What a lane does after it was resynced, removed, cut elsewhere, restored or widened."""

from __future__ import annotations

import time

import psycopg
import pytest

from airflow_checkpoint_etl.errors import SourceResetError, StageBusyError
from airflow_checkpoint_etl.ports import LaneSpec
from airflow_checkpoint_etl.protocol import Owner, Stage
from airflow_checkpoint_etl.transform import CallableTransformer
from airflow_checkpoint_etl.warehouses import rewind
from tests.support import ORDERS, World, seconds


@pytest.fixture
def empty_world(new_database):
    source, warehouse = new_database(), new_database()
    return World(source.dsn, warehouse.dsn, None)


@pytest.fixture
def world(empty_world):
    empty_world.fetch(ORDERS, at="source")
    empty_world.insert(1000)
    return empty_world


@pytest.fixture
def sweeping(world):
    world.source |= {"settle": "sweep"}
    world.warehouse |= {"write": "upsert", "key": ("id",)}
    return world


def forget_fence(world, stage: Stage) -> None:
    """Make the warehouse look restored: the checkpoint store knows a newer fence of the stage."""
    world.fetch(f"update checkpoint_etl.stage set fence = 0 where stage = '{stage.value}'")
    ports = world.ports()
    try:
        record = ports.checkpoints.read(world.lane, stage)
        ports.checkpoints.begin(world.lane, 9, record.checkpoint)
    finally:
        ports.close()


def source_identity(world) -> dict[str, str]:
    ((identity,),) = world.fetch("select source_identity from checkpoint_etl.lane")
    return identity


def test_a_rewind_after_a_resync_deletes_what_it_takes_back(world):
    world.run()
    with world.admin() as admin:
        admin.resync()
        assert admin.rewind("i8:500", dry_run=False).deleted == 500
    assert world.fetch("select count(*) from orders_copy") == [(500,)]
    world.run("run_2")
    world.assert_exact()


def test_a_reprocess_after_a_resync_of_its_own_doubles_nothing(world):
    world.run()
    forget_fence(world, Stage.EXTRACT)
    world.attempt |= {"on_clear": "reprocess", "on_warehouse_restored": "resync"}
    world.run(clear_number=1)
    assert world.fetch("select kind from checkpoint_etl.event order by id") == [
        ("resync",),
        ("reprocess",),
    ]
    world.assert_exact()


def test_a_resync_because_of_the_warehouse_keeps_the_source_it_knows(world):
    world.run()
    known = source_identity(world)
    world.attempt |= {"on_warehouse_restored": "resync"}
    forget_fence(world, Stage.EXTRACT)
    world.run("run_2")
    assert source_identity(world) == known != {}


def test_a_resync_is_needed_for_whichever_stage_is_behind_its_own_record(world):
    world.attempt |= {"on_warehouse_restored": "resync"}
    world.stage("extract")
    for number in range(1, 6):
        world.stage("transform", try_number=number)
    world.fetch("update checkpoint_etl.stage set fence = 1 where stage = 'transform'")
    world.run(clear_number=1)
    world.assert_exact()


@pytest.mark.parametrize(
    "lost", ["delete from checkpoint_etl.lane", "drop schema checkpoint_etl cascade"]
)
def test_a_rewind_leaves_the_rows_of_a_lane_that_is_gone(world, lost):
    world.run()
    world.fetch(lost)
    world.pipeline["start_after"] = "1000"
    world.insert(300)
    world.run("run_2")
    world.assert_exact()
    with world.admin() as admin:
        assert admin.rewind("i8:1000", dry_run=False).deleted == 300
    assert world.fetch("select count(*) from orders_copy") == [(1000,)]
    world.run("run_3")
    world.assert_exact()


def test_a_cleared_run_is_reprocessed_where_later_chunks_were_cut_elsewhere(world):
    world.insert(50)
    world.run()
    world.insert(100)
    world.run("run_2")  # begins at 1,050
    with world.admin() as admin:
        admin.rewind("i8:1000", dry_run=False)
    world.insert(100)
    world.run("run_3")  # cuts at 1,100, 1,200 and 1,250
    world.assert_exact()
    world.attempt["on_clear"] = "reprocess"
    world.run("run_2", clear_number=1)
    assert world.fetch(
        "select count(*) from checkpoint_etl.ledger where rewound_at is not null and low = 'i8:1000'"
    ) == [(2,)]
    world.assert_exact()


def test_the_lease_is_kept_while_rows_are_taken_back(world, monkeypatch):
    world.run()
    world.attempt |= {"on_clear": "reprocess", "lease": seconds(1.0)}
    refused = []

    def slowly(name: str) -> None:
        if name != "rewind.after_delete":
            return
        time.sleep(1.6)
        ports = world.ports()
        spec = LaneSpec(world.lane, world.configure().fingerprint(), "begin")
        try:
            ports.warehouse.acquire(
                spec, Stage.EXTRACT, Owner("dag", "run_2", "extract"), seconds(60)
            )
        except StageBusyError as busy:
            refused.append(busy)
        finally:
            ports.close()

    monkeypatch.setattr(rewind, "failpoint", slowly)
    world.run(clear_number=1)
    assert len(refused) == 1
    world.assert_exact()


def test_a_source_whose_transactions_count_from_lower_is_not_swept_past(sweeping):
    sweeping.run()
    sweeping.fetch("update checkpoint_etl.lane set swept = (swept::bigint + 1000000)::text")
    with psycopg.connect(sweeping.source_dsn) as late:
        late.execute("insert into orders (customer, amount) values ('late', 1)")
        sweeping.insert(10)
        with pytest.raises(SourceResetError, match="Resync the lane"):
            sweeping.run("run_2")
        with sweeping.admin() as admin:
            admin.resync()
        sweeping.run("run_3")
    sweeping.run("run_4")
    sweeping.assert_exact()


def test_a_replayed_record_yields_to_the_same_row_swept_up_later(sweeping):
    sweeping.pipeline |= {"on_error": "quarantine"}

    def strict(record):
        if record["customer"] == "bad":
            raise ValueError
        return record

    sweeping.fetch("insert into orders (customer, amount) values ('bad', 1)", at="source")
    sweeping.run(function=strict)
    sweeping.fetch(
        "update orders set customer = 'good', amount = 2 where customer = 'bad'", at="source"
    )
    sweeping.insert(1)
    sweeping.run("run_2", function=strict)
    sweeping.assert_exact()
    with sweeping.admin() as admin:
        mended = CallableTransformer(lambda record: record, cursor_columns=("id",))
        admin.replay_quarantine(mended, dry_run=False)
    sweeping.assert_exact()


def test_a_bound_by_the_clock_has_not_caught_up_with_what_came_just_before_it(world):
    world.source |= {"cursor": ("created_at", "id"), "allow_sort": True}
    world.fetch("alter table orders alter created_at set default now()", at="source")
    time.sleep(1.5)  # longer than the margin that the bound keeps from the clock
    world.run()
    world.fetch("insert into orders (customer, amount) values ('x', 2)", at="source")
    ((committed,),) = world.fetch("select clock_timestamp()", at="source")
    world.run("run_2")
    ports = world.ports()
    try:
        caught_up = ports.warehouse._ledger.caught_up(world.lane, committed)
    finally:
        ports.close()
    ((loaded,),) = world.fetch("select count(*) from orders_copy")
    assert loaded < 1001, "the run must end before the row for this test to mean anything"
    assert not caught_up


def test_a_cursor_column_that_was_widened_goes_on(empty_world):
    world = empty_world
    world.fetch(ORDERS.replace("bigint", "integer"), at="source")
    world.insert(250)
    world.run()
    world.fetch("alter table orders alter id type bigint", at="source")
    world.fetch("alter table orders_copy alter id type bigint")
    world.insert(250)
    world.run("run_2")
    world.assert_exact()
