"""Rewind, reset, resync and release: what they take back, what they leave, and who is stopped."""

from __future__ import annotations

import datetime as dt
import threading

import psycopg
import pytest

from airflow_checkpoint_etl.errors import (
    FencedError,
    PipelineChangedError,
    RewindError,
    RewoundError,
    WarehouseRestoredError,
)
from airflow_checkpoint_etl.protocol import Stage


def loaded(world) -> list[tuple]:
    """(number of ids, distinct ids, highest id) in the target."""
    return world.fetch("select count(*), count(distinct id), max(id) from orders_copy")


def lane(world) -> tuple:
    return world.fetch(
        "select seq, cursor, generation, rows_total from checkpoint_etl.lane where part = 'default'"
    )[0]


# --- rewind ------------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_a_rewind_would_touch_and_changes_nothing(world):
    world.run()
    with world.admin() as admin:
        told = admin.rewind("i8:700")
    assert (told.chunks, told.rows, told.deleted) == (3, 300, 300)
    assert (told.before.cursor, told.after.cursor) == ("i8:1000", "i8:700")
    assert loaded(world) == [(1000, 1000, 1000)]
    assert lane(world) == (10, "i8:1000", 1, 1000)
    assert world.fetch("select count(*) from checkpoint_etl.event") == [(0,)]


def test_a_rewind_takes_rows_back_and_the_next_run_loads_them_again(world):
    world.run()
    with world.admin() as admin:
        assert admin.rewind("i8:700", dry_run=False).deleted == 300
    assert loaded(world) == [(700, 700, 700)]
    assert lane(world) == (7, "i8:700", 2, 700)
    extract, _, load = world.run("run_2")
    assert (extract.first, extract.rows, load.rows) == ("i8:700", 300, 300)
    assert lane(world) == (10, "i8:1000", 2, 1000)
    world.assert_exact()


def test_a_rewind_is_written_down_with_who_and_why(world):
    world.run()
    with world.admin(actor="ann") as admin:
        admin.rewind("i8:700", dry_run=False)
    ((kind, actor, detail),) = world.fetch(
        "select kind, actor, detail from checkpoint_etl.event order by id"
    )
    assert (kind, actor, detail["reason"]) == ("rewind", "ann", "a test")
    assert (detail["from"]["cursor"], detail["to"]["cursor"]) == ("i8:1000", "i8:700")
    assert (detail["chunks"], detail["rows"], detail["deleted"]) == (3, 300, 300)


def test_a_rewind_over_an_earlier_rewind_takes_both_lives_back(world):
    world.run()
    with world.admin() as admin:
        admin.rewind("i8:700", dry_run=False)
    world.run("run_2")
    with world.admin() as admin:
        assert admin.rewind("i8:500", dry_run=False).rows == 500
    assert loaded(world) == [(500, 500, 500)]
    world.run("run_3")
    world.assert_exact()


def test_a_value_inside_a_chunk_is_no_point_to_rewind_to_but_has_a_boundary_below_it(world):
    world.run()
    with world.admin() as admin:
        with pytest.raises(RewindError, match="i8:650 is no chunk boundary"):
            admin.rewind("i8:650", dry_run=False)
        assert admin.boundary("i8:650") == "i8:600"
        assert admin.boundary("i8:600") == "i8:600"
        assert admin.boundary("i8:99") == "begin"
        assert admin.boundary("i8:5000") == "i8:1000"
        admin.rewind(admin.boundary("i8:650"), dry_run=False)
    assert loaded(world) == [(600, 600, 600)]


def test_an_append_without_lineage_is_not_rewound_unless_duplicates_are_accepted(world):
    world.warehouse["lineage"] = "never"
    world.run()
    with world.admin() as admin:
        with pytest.raises(RewindError, match="has no column _ck_chunk"):
            admin.rewind("i8:700", dry_run=False)
        assert lane(world)[0] == 10
        assert admin.rewind("i8:700", dry_run=False, allow_duplicates=True).deleted is None
    world.run("run_2")
    assert loaded(world) == [(1300, 1000, 1000)]


def test_the_rows_of_a_rewound_upsert_stay_until_they_are_replaced(world):
    world.warehouse |= {"write": "upsert", "key": "id"}
    world.run()
    with world.admin() as admin:
        assert admin.rewind("i8:700", dry_run=False).deleted is None
    assert loaded(world) == [(1000, 1000, 1000)]
    world.fetch("update orders set amount = 7 where id > 900", at="source")
    world.run("run_2")
    world.assert_exact()


@pytest.mark.parametrize("stage", ["extract", "transform", "load"])
def test_an_attempt_that_a_rewind_overtakes_ends_and_writes_nothing(world, stage):
    world.run()
    world.insert(200)
    if stage != "extract":
        world.stage("extract", "run_2")
    if stage == "load":
        world.stage("transform", "run_2")
    runner, ports = world.runner(stage, "run_2")
    port, name = {
        "extract": (ports.source, "read"),
        "transform": (ports.checkpoints, "append"),
        "load": (ports.staging, "get"),
    }[stage]
    original = getattr(port, name)

    def rewound_meanwhile(*args):
        setattr(port, name, original)
        with world.admin() as admin:
            admin.rewind("i8:700", dry_run=False)
        return original(*args)

    setattr(port, name, rewound_meanwhile)
    work = {"extract": runner.extract, "load": runner.load}.get(
        stage, lambda: runner.transform(None)
    )
    with pytest.raises((RewoundError, FencedError)):
        work()
    ports.close()
    assert loaded(world) == [(700, 700, 700)]
    world.run("run_3")
    world.assert_exact()


def test_a_rewind_waits_for_a_load_transaction_and_then_takes_its_chunk_back_too(world):
    world.stage("extract")
    world.stage("transform")
    runner, ports = world.runner("load")
    admin_done = threading.Event()
    write = ports.warehouse._target.write

    def slow_write(connection, table, ledger_id):
        thread = threading.Thread(target=rewind)
        thread.start()
        assert not admin_done.wait(0.3), "the rewind did not wait for the load's transaction"
        ports.warehouse._target.write = write
        return write(connection, table, ledger_id)

    def rewind():
        with world.admin() as admin:
            admin.reset(dry_run=False)
        admin_done.set()

    ports.warehouse._target.write = slow_write
    with pytest.raises((RewoundError, FencedError)):
        runner.load()
    ports.close()
    assert admin_done.wait(10)
    assert loaded(world) == [(0, 0, None)]
    world.run("run_2")
    world.assert_exact()


def test_two_pipelines_in_one_table_and_rows_of_others_keep_theirs(world):
    world.run()
    world.insert(200)
    world.pipeline |= {"pipeline_id": "newer_orders", "start_after": "1000"}
    world.run("run_newer")
    world.pipeline.clear()
    world.fetch(
        "insert into orders_copy (id, amount, created_at)"
        " select 5000 + n, 1, now() from generate_series(1, 50) n"
    )
    with world.admin() as admin:
        assert admin.rewind("i8:200", dry_run=False).deleted == 800
    assert world.fetch(
        "select coalesce(pipeline, 'by hand'), count(*) from orders_copy"
        " left join checkpoint_etl.ledger on _ck_chunk = ledger.id group by 1 order by 1"
    ) == [("by hand", 50), ("newer_orders", 200), ("orders", 200)]


def test_two_parts_with_the_same_chunk_numbers_do_not_take_each_others_rows_back(world):
    world.run()
    world.part = "second"
    world.run("run_second")
    assert loaded(world) == [(2000, 1000, 1000)]  # each part has loaded all rows
    with world.admin() as admin:
        admin.rewind("i8:400", dry_run=False)
    assert loaded(world) == [(1400, 1000, 1000)]
    assert world.fetch(
        "select part, count(*) from orders_copy join checkpoint_etl.ledger on _ck_chunk = ledger.id"
        " group by 1 order by 1"
    ) == [("default", 1000), ("second", 400)]
    world.run("run_third")
    assert loaded(world) == [(2000, 1000, 1000)]


# --- reset, resync, release ----------------------------------------------------------------------------


def test_a_reset_starts_from_the_beginning_and_accepts_another_filter(world):
    world.run()
    world.source["where"] = "id % 2 = 0"
    with pytest.raises(PipelineChangedError):
        world.run("run_2")
    with world.admin() as admin:
        assert admin.reset(dry_run=False).deleted == 1000
    world.run("run_3")
    assert loaded(world) == [(500, 500, 1000)]
    world.source["where"] = "id % 3 = 0"
    with pytest.raises(PipelineChangedError):
        world.run("run_4")


def test_a_warehouse_restored_to_an_older_state_stops_until_it_is_resynced(world):
    world.stage("extract")
    world.stage("transform")
    restore = snapshot(world, lambda: world.stage("load"))
    restore()
    world.insert(100)
    with pytest.raises(WarehouseRestoredError, match="resync"):
        world.run("run_2")
    with world.admin() as admin:
        admin.resync()
    world.run("run_3")
    world.assert_exact()


def test_a_restored_warehouse_is_resynced_by_the_extract_that_was_told_to(world):
    world.stage("extract")
    world.stage("transform")
    restore = snapshot(world, lambda: world.stage("load"))
    restore()
    world.attempt["on_warehouse_restored"] = "resync"
    world.run("run_2")
    world.assert_exact()
    assert world.fetch("select kind from checkpoint_etl.event") == [("resync",)]


def test_a_rewind_that_a_restored_warehouse_has_lost_is_noticed(world):
    world.run()

    def rewind_and_run():
        with world.admin() as admin:
            admin.rewind("i8:500", dry_run=False)
        world.run("run_2")

    restore = snapshot(world, rewind_and_run)
    restore()
    world.insert(50)
    with pytest.raises(WarehouseRestoredError):
        world.run("run_3")
    world.attempt["on_warehouse_restored"] = "resync"
    world.run("run_4")
    world.assert_exact()


def snapshot(world, history):
    """Play a history, and return what puts the warehouse's tables back to before it.

    The checkpoint store keeps what it has seen: it is left as the history made it.
    """
    tables = ["orders_copy"] + [
        f"checkpoint_etl.{name}" for name in ("lane", "stage", "run", "ledger", "event")
    ]
    existing = [
        table for table in tables if world.fetch(f"select to_regclass('{table}')") != [(None,)]
    ]
    kept = {table: world.fetch(f"select * from {table}") for table in existing}
    history()

    def restore():
        with psycopg.connect(world.warehouse_dsn) as connection:
            for table in reversed(tables):
                connection.execute(f"delete from {table}")
            for table in existing:
                rows = [
                    [psycopg.types.json.Jsonb(v) if isinstance(v, dict) else v for v in row]
                    for row in kept[table]
                ]
                if rows:
                    marks = ", ".join(["%s"] * len(rows[0]))
                    statement = f"insert into {table} overriding system value values ({marks})"
                    connection.cursor().executemany(statement, rows)

    return restore


def test_a_released_stage_is_free_at_once_and_its_owner_writes_nothing(world):
    world.stage("extract")
    world.stage("transform")
    runner, ports = world.runner("load")
    get = ports.staging.get

    def released_meanwhile(name):
        ports.staging.get = get
        with world.admin() as admin:
            assert admin.release("load") == "dag.load of run_1, try 1"
        return get(name)

    ports.staging.get = released_meanwhile
    with pytest.raises(FencedError):
        runner.load()
    ports.close()
    assert world.fetch("select to_regclass('orders_copy'), max(seq) from checkpoint_etl.lane") in (
        [(None, 0)],
        [("orders_copy", 0)],
    )
    world.stage("load", try_number=2)
    world.assert_exact()


def test_only_a_stage_that_was_acquired_can_be_released(world):
    world.stage("extract")
    with world.admin() as admin, pytest.raises(RewindError, match="never acquired"):
        admin.release(Stage.LOAD)


# --- collection --------------------------------------------------------------------------------------


def staged(world) -> list[str]:
    _, ports = world.runner("look")
    try:
        return ports.staging.names("orders/default/")
    finally:
        ports.close()


def test_nothing_stays_staged_after_collection_whatever_happened_before(world):
    world.run()
    with world.admin() as admin:
        admin.rewind("i8:500", dry_run=False)
    world.stage("extract", "run_2")
    with world.admin() as admin:
        admin.rewind("i8:300", dry_run=False)
    world.run("run_3", function=lambda record: record)
    assert staged(world)
    with world.admin() as admin:
        removed = admin.collect(dt.timedelta(0))
        assert removed
        assert admin.collect(dt.timedelta(0)) == 0
    assert staged(world) == []
    world.insert(100)
    world.run("run_4")
    world.assert_exact()


def test_files_younger_than_the_grace_period_are_kept(world):
    world.run()
    with world.admin() as admin:
        admin.rewind("i8:500", dry_run=False)
        before = staged(world)
        assert admin.collect(dt.timedelta(minutes=15)) == 0
    assert staged(world) == before


def test_an_orphan_goes_once_a_newer_attempt_has_begun_and_not_before(world):
    runner, ports = world.runner("extract")
    append = ports.checkpoints.append

    def killed_before_the_third(lane_, fence, chunk, checkpoint):
        if chunk.seq == 3:
            raise KeyboardInterrupt
        append(lane_, fence, chunk, checkpoint)

    ports.checkpoints.append = killed_before_the_third
    with pytest.raises(KeyboardInterrupt):
        runner.extract()
    ports.close()
    assert len(staged(world)) == 3
    with world.admin() as admin:
        assert admin.collect(dt.timedelta(0)) == 0  # nobody has taken the stage over yet
    world.stage("extract", try_number=2)
    assert len(staged(world)) == 11
    with world.admin() as admin:
        assert admin.collect(dt.timedelta(0)) == 1
    world.stage("transform")
    world.stage("load")
    world.assert_exact()
