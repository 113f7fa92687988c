"""Rows are taken back all or not at all, and a reset lane starts where its pipeline now says."""

from __future__ import annotations

import psycopg
import psycopg.conninfo
import pytest

from airflow_checkpoint_etl.errors import (
    MissingPrivilegeError,
    PipelineChangedError,
    PreflightError,
    RewindError,
    WarehouseRestoredError,
)
from airflow_checkpoint_etl.sources import settle
from tests.support import ORDERS, World

KEEPERS = {
    "a trigger": """
        create function kept() returns trigger language plpgsql as 'begin return null; end';
        create trigger kept before delete on orders_copy for each row
        when (old.id > 900) execute function kept()""",
    "a rule": "create rule kept as on delete to orders_copy do instead nothing",
}
FORBIDDERS = {
    "a reference": """
        create table parcels (order_id bigint references orders_copy (id));
        insert into parcels values (1000)""",
    "a trigger": """
        create function kept() returns trigger language plpgsql as
        $$ begin raise exception 'O''Brien stays'; end $$;
        create trigger kept before delete on orders_copy for each row execute function kept()""",
}


@pytest.fixture
def world(new_database):
    made = World(new_database().dsn, new_database().dsn)
    made.fetch(ORDERS, at="source")
    made.insert(1000)
    return made


@pytest.fixture
def loaded(world):
    world.run()
    world.fetch("alter table orders_copy add primary key (id)")
    return world


def rewind(world, to="i8:500", **options):
    with world.admin() as admin:
        return admin.rewind(to, dry_run=False, **options)


def assert_nothing_was_changed(world):
    assert world.fetch("select cursor, generation from checkpoint_etl.lane") == [("i8:1000", 1)]
    assert world.fetch("select count(*) from orders_copy") == [(1000,)]
    world.run("run_2")
    world.assert_exact()


@pytest.mark.parametrize("keeper", KEEPERS.values(), ids=KEEPERS)
def test_rows_that_are_kept_in_silence_stop_a_rewind(loaded, keeper):
    loaded.fetch(keeper)
    with pytest.raises(RewindError, match="would be loaded a second time"):
        rewind(loaded)
    assert_nothing_was_changed(loaded)


@pytest.mark.parametrize("forbidder", FORBIDDERS.values(), ids=FORBIDDERS)
def test_rows_that_may_not_be_deleted_stop_a_rewind_without_being_quoted(loaded, forbidder):
    loaded.fetch(forbidder)
    with pytest.raises(RewindError, match="cannot be deleted") as refused:
        rewind(loaded)
    assert "O'Brien" not in str(refused.value)
    assert "1000" not in str(refused.value)
    assert_nothing_was_changed(loaded)


def test_a_reprocess_that_cannot_take_all_rows_back_loads_nothing_again(loaded):
    loaded.fetch(KEEPERS["a trigger"])
    loaded.attempt["on_clear"] = "reprocess"
    with pytest.raises(RewindError, match="would be loaded a second time"):
        loaded.stage("extract", clear_number=1)
    assert_nothing_was_changed(loaded)


def test_rows_that_people_have_deleted_before_are_no_reason_to_stop(loaded):
    loaded.fetch("delete from orders_copy where id between 600 and 700")
    assert rewind(loaded).deleted == 399
    loaded.run("run_2")
    loaded.assert_exact()


def test_rows_that_a_policy_hides_stop_a_rewind(loaded):
    loaded.fetch(
        "do $$ begin create role narrow login; exception when duplicate_object then null; end $$"
    )
    loaded.fetch("""
        grant usage on schema checkpoint_etl to narrow;
        grant all on all tables in schema checkpoint_etl, public to narrow;
        grant all on all sequences in schema checkpoint_etl to narrow;
        alter table orders_copy enable row level security;
        create policy narrow_only on orders_copy to narrow using (id < 900)""")
    as_owner = loaded.warehouse_dsn
    loaded.warehouse_dsn = psycopg.conninfo.make_conninfo(as_owner, user="narrow")
    with pytest.raises(MissingPrivilegeError, match="row-level security would hide some"):
        rewind(loaded)
    loaded.warehouse_dsn = as_owner
    assert_nothing_was_changed(loaded)


# --- a ledger that was restored without its target ------------------------------------------------------


def restored_ledger(world):
    """Load a second run, and put the ledger's schema back to before it, as pg_restore -n would."""
    tables = [f"checkpoint_etl.{name}" for name in ("lane", "stage", "run", "ledger")]
    for number, table in enumerate(tables):
        world.fetch(f"create table kept_{number} as table {table}")
    world.insert(100)
    world.run("run_2")
    for table in reversed(tables):
        world.fetch(f"delete from {table}")
    for number, table in enumerate(tables):
        world.fetch(f"insert into {table} overriding system value select * from kept_{number}")
    world.fetch(
        "select setval(pg_get_serial_sequence('checkpoint_etl.ledger', 'id'), max(id))"
        " from checkpoint_etl.ledger"
    )


def resync(world, by):
    if by == "a person":
        with world.admin() as admin:
            admin.resync()
    else:
        world.attempt["on_warehouse_restored"] = "resync"
        world.stage("extract", "run_3")


@pytest.mark.parametrize("by", ["a person", "the extract"])
def test_a_ledger_restored_without_its_target_is_not_resynced(world, by):
    world.run()
    restored_ledger(world)
    with pytest.raises(WarehouseRestoredError):
        world.run("run_3")
    with pytest.raises(RewindError, match="would be loaded a second time"):
        resync(world, by)
    world.fetch("delete from orders_copy where _ck_chunk > 10")
    resync(world, "a person")
    world.attempt.clear()
    world.run("run_4")
    world.assert_exact()


def test_an_upserts_ledger_restored_without_its_target_is_resynced(world):
    world.warehouse |= {"write": "upsert", "key": "id"}
    world.run()
    restored_ledger(world)
    resync(world, "a person")
    world.run("run_3")
    world.assert_exact()


# --- after a reset -----------------------------------------------------------------------------------


@pytest.fixture
def begun_late(world, monkeypatch):
    """A lane that began after id 500 and was loaded."""
    monkeypatch.setattr(settle, "MARGIN_SECONDS", 0.0)
    world.fetch("create unique index on orders (created_at, id)", at="source")
    world.pipeline["start_after"] = ("500",)
    world.run()
    return world


def reset(world):
    with world.admin() as admin:
        admin.reset(dry_run=False)


def test_a_reset_lane_starts_at_the_beginning_once_no_other_start_is_given(begun_late):
    world = begun_late
    reset(world)
    world.pipeline["start_after"] = None
    world.run("run_2")
    world.assert_exact()


def test_a_reset_lane_takes_a_cursor_of_another_type(begun_late):
    world = begun_late
    reset(world)
    world.pipeline["start_after"] = None
    world.source["cursor"] = ("created_at", "id")
    world.run("run_2")
    world.assert_exact()


def test_a_run_from_before_a_reset_to_another_cursor_resumes_when_it_is_cleared(begun_late):
    world = begun_late
    reset(world)
    world.pipeline["start_after"] = None
    world.source["cursor"] = ("created_at", "id")
    world.run("run_2")
    world.attempt["on_clear"] = "reprocess"
    world.run("run_1", clear_number=1)
    world.assert_exact()


def test_a_reset_lane_does_not_load_from_the_beginning_into_a_table_that_holds_rows(begun_late):
    world = begun_late
    reset(world)
    world.fetch("insert into orders_copy (id, amount) values (7, 1)")
    world.pipeline["start_after"] = None
    with pytest.raises(PreflightError, match="already holds rows"):
        world.run("run_2")
    world.pipeline["start_after"] = ("500",)
    world.run("run_3")
    assert world.fetch("select count(*), min(id) from orders_copy where id > 500") == [(500, 501)]


# --- a claim that was taken in vain --------------------------------------------------------------------


def test_a_load_that_finds_its_target_replaced_leaves_no_lease(loaded):
    loaded.insert(10)
    loaded.stage("extract", "run_2")
    loaded.stage("transform", "run_2")
    loaded.fetch("alter table orders_copy rename to former")
    loaded.fetch("create table orders_copy (like former)")
    with pytest.raises(PipelineChangedError):
        loaded.stage("load", "run_2")
    assert (
        loaded.fetch("select stage from checkpoint_etl.stage where lease_until is not null") == []
    )
