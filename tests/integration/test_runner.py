"""The three stages on real servers: run, resume, run again, and every way a run is refused."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import redis

from airflow_checkpoint_etl.errors import (
    FencedError,
    PipelineChangedError,
    PreflightError,
    SchemaVersionError,
    StageBusyError,
    TransformError,
    UpstreamLostError,
    WarehouseRestoredError,
)
from airflow_checkpoint_etl.failpoints import ENVIRONMENT, FailpointError, reset
from airflow_checkpoint_etl.protocol import Lane, Owner, Stage

if TYPE_CHECKING:
    from tests.support import World

EXTRACT_POINTS = [
    "extract.after_acquire",
    "extract.after_read_state",
    "extract.after_begin",
    "extract.before_settle",
    "extract.after_settle",
    "extract.before_read",
    "extract.after_read@4",
    "extract.before_stage@4",
    "extract.after_stage@4",
    "extract.before_append@4",
    "extract.after_append@4",
]
TRANSFORM_POINTS = [
    "transform.after_acquire",
    "transform.after_read_state",
    "transform.after_begin",
    "transform.before_apply@4",
    "transform.after_apply@4",
    "transform.before_stage@4",
    "transform.after_stage@4",
    "transform.before_append@4",
    "transform.after_append@4",
]
LOAD_POINTS = [
    "load.after_acquire",
    "load.after_read_state",
    "load.before_note",
    "load.before_load@4",
    "load.before_advance@4",
    "load.before_rows@4",
    "load.after_rows@4",
    "load.before_commit@4",
    "load.after_commit@4",
    "load.before_note@4",
    "load.before_finish",
    "collect.after_delete",
]


def keep(record):
    return record


def test_a_run_copies_every_row_exactly_once(world):
    extract, transform, load = world.run()
    assert (extract.rows, transform.rows, load.rows) == (1000, 1000, 1000)
    assert extract.chunks == 10
    world.assert_exact()
    assert [row[0] for row in world.ledger()] == list(range(1, 11))


def test_a_run_with_nothing_new_writes_nothing(world):
    world.run()
    before = world.ledger()
    for summary in world.run("run_2"):
        assert (summary.chunks, summary.rows) == (0, 0)
    assert world.ledger() == before


def test_an_empty_source_is_loaded_as_nothing(world):
    world.fetch("truncate orders", at="source")
    extract, _, load = world.run()
    assert (extract.chunks, load.chunks) == (0, 0)
    world.insert(10)
    world.run("run_2")
    assert world.fetch("select count(*) from orders_copy") == [(10,)]


def test_the_next_run_goes_on_from_the_last_id(world):
    world.run()
    world.insert(1000)
    extract, _, load = world.run("run_2")
    assert extract.first == "i8:1000"
    assert load.last == "i8:2000"
    assert load.rows == 1000
    world.assert_exact()


@pytest.mark.parametrize("point", [*EXTRACT_POINTS, *TRANSFORM_POINTS, *LOAD_POINTS])
def test_a_retry_after_a_failure_anywhere_resumes(world, monkeypatch, point):
    stage = point.split(".", 1)[0]
    world.source["chunk_rows"] = 200
    world.attempt["grace"] = dt.timedelta(0)  # so that collection has something to do
    failed_at = None
    for name in ("extract", "transform", "load"):
        fails = name == stage or (stage == "collect" and name == "load")
        if not fails:
            world.stage(name, function=keep if name == "transform" else None)
            continue
        reset()
        monkeypatch.setenv(ENVIRONMENT, f"{point}=raise")
        try:
            world.stage(name, function=keep if name == "transform" else None)
        except FailpointError:
            failed_at = name
        monkeypatch.delenv(ENVIRONMENT)
        world.stage(name, try_number=2, function=keep if name == "transform" else None)
    swallowed = {"collect.after_delete", "load.before_note", "load.before_note@4"}
    assert failed_at is not None or point in swallowed
    world.assert_exact()
    assert [row[0] for row in world.ledger()] == list(range(1, 6))


def test_a_retry_reads_no_chunk_again_that_was_staged(world, monkeypatch):
    reset()
    monkeypatch.setenv(ENVIRONMENT, "extract.before_read@6=raise")
    with pytest.raises(FailpointError):
        world.stage("extract")
    monkeypatch.delenv(ENVIRONMENT)
    summary = world.stage("extract", try_number=2)
    assert (summary.kept, summary.chunks, summary.first) == (5, 5, "i8:500")


def test_a_retry_loads_no_chunk_again(world, monkeypatch):
    world.stage("extract")
    world.stage("transform")
    reset()
    monkeypatch.setenv(ENVIRONMENT, "load.before_commit@6=raise")
    with pytest.raises(FailpointError):
        world.stage("load")
    monkeypatch.delenv(ENVIRONMENT)
    summary = world.stage("load", try_number=2)
    assert (summary.kept, summary.chunks) == (5, 5)
    assert [(row[0], row[5]) for row in world.ledger()] == [
        (n, 1 if n <= 5 else 2) for n in range(1, 11)
    ]


KILLED = """
import sys
from tests.support import World
from tests.integration.test_runner import keep
world = World(*eval(sys.argv[1]))
world.stage(sys.argv[2], function=keep if sys.argv[2] == "transform" else None)
"""


@pytest.mark.parametrize(
    "point", ["extract.after_stage@4", "transform.after_append@4", "load.after_rows@4"]
)
def test_a_killed_process_is_resumed_by_the_next(world, point):
    stage = point.split(".", 1)[0]
    for name in ("extract", "transform", "load"):
        if name == stage:
            where = repr((world.source_dsn, world.warehouse_dsn, world.redis_port))
            done = subprocess.run(
                [sys.executable, "-c", KILLED, where, name],
                env=os.environ | {ENVIRONMENT: f"{point}=kill"},
                check=False,
            )
            assert done.returncode == -signal.SIGKILL
        world.stage(name, try_number=2, function=keep if name == "transform" else None)
    world.assert_exact()


def test_a_store_that_forgets_everything_costs_no_row(world):
    world.stage("extract")
    world.stage("transform")
    forget(world)
    with pytest.raises(UpstreamLostError, match="Clear extract with Downstream"):
        world.stage("load")
    world.run(run="run_1")
    world.assert_exact()


def test_a_store_that_forgets_midway_continues_from_the_warehouse(world, monkeypatch):
    world.stage("extract")
    world.stage("transform")
    reset()
    monkeypatch.setenv(ENVIRONMENT, "load.after_commit@4=raise")
    with pytest.raises(FailpointError):
        world.stage("load")
    monkeypatch.delenv(ENVIRONMENT)
    forget(world)
    extract, _, load = world.run(run="run_1")
    assert extract.first == "i8:400"
    assert load.rows == 600
    world.assert_exact()


def forget(world: World) -> None:
    if world.redis_port is not None:
        redis.Redis(port=world.redis_port).flushall()
    else:
        world.fetch(
            "truncate checkpoint_etl.checkpoint, checkpoint_etl.manifest, checkpoint_etl.staged"
        )


def test_a_lost_staged_file_is_extracted_again(world):
    world.stage("extract")
    _, ports = world.runner("look")
    name = ports.checkpoints.read(Lane("orders"), Stage.EXTRACT).entries[6].name
    ports.staging.delete([name])
    ports.close()
    summary = world.stage("extract", try_number=2)
    assert (summary.kept, summary.first) == (6, "i8:600")
    world.stage("transform")
    world.stage("load")
    world.assert_exact()


def test_a_warehouse_restored_to_an_older_state_stops_the_run(world):
    world.run()
    world.fetch("update checkpoint_etl.lane set seq = 5, cursor = 'i8:500'")
    with pytest.raises(WarehouseRestoredError, match="older state"):
        world.stage("extract", run="run_2")


def test_a_stale_attempt_cannot_load_after_a_takeover(world, monkeypatch):
    world.stage("extract")
    world.stage("transform")
    reset()
    monkeypatch.setenv(ENVIRONMENT, "load.before_load@4=raise")
    stale, ports = world.runner("load")
    old_load = ports.warehouse.load
    calls = []

    def load_after_the_retry_has_finished(claim, chunk, *rows_and_policy):
        calls.append(chunk.seq)
        if chunk.seq == 3:
            world.stage("load", try_number=2)
        return old_load(claim, chunk, *rows_and_policy)

    monkeypatch.delenv(ENVIRONMENT)
    object.__setattr__(ports.warehouse, "load", load_after_the_retry_has_finished)
    with pytest.raises(FencedError):
        stale.load()
    ports.close()
    assert calls == [1, 2, 3]
    world.assert_exact()


def test_a_stale_extract_cannot_append_after_a_takeover(world, monkeypatch):
    stale, ports = world.runner("extract")
    old_put = ports.staging.put
    done = []

    def put_after_the_retry(name, data):
        old_put(name, data)
        if not done:
            done.append(world.stage("extract", try_number=2))

    monkeypatch.setattr(ports.staging, "put", put_after_the_retry)
    with pytest.raises(FencedError):
        stale.extract()
    ports.close()
    assert done[0].chunks == 10
    world.stage("transform")
    world.stage("load")
    world.assert_exact()


def test_another_run_finds_a_live_lease_and_does_not_steal_it(world):
    _runner, ports = world.runner("extract")
    facts = ports.source.preflight()
    ports.warehouse.preflight()
    from airflow_checkpoint_etl.ports import LaneSpec

    spec = LaneSpec(Lane("orders"), world.configure().fingerprint(), facts.start, facts.identity)
    ports.warehouse.acquire(spec, Stage.EXTRACT, Owner("dag", "run_1", "extract"), dt.timedelta(60))
    with pytest.raises(StageBusyError, match=r"dag\.extract of run_1"):
        world.stage("extract", run="run_2")
    ports.close()


def test_an_expired_lease_is_taken_over(world):
    world.stage("extract")
    world.fetch(
        "update checkpoint_etl.stage set lease_until = now() - interval '1 s', dag_id = 'x'"
    )
    assert world.stage("extract", run="run_2").chunks == 0


def test_the_lease_is_released_when_an_attempt_fails(world, monkeypatch):
    reset()
    monkeypatch.setenv(ENVIRONMENT, "extract.before_read@2=raise")
    with pytest.raises(FailpointError):
        world.stage("extract")
    monkeypatch.delenv(ENVIRONMENT)
    assert world.fetch("select lease_until from checkpoint_etl.stage") == [(None,)]


def test_two_runs_interleaved_load_everything_once(world):
    world.stage("extract", run="run_1")
    world.insert(500)
    world.stage("extract", run="run_2")
    world.stage("transform", run="run_1")
    assert world.stage("load", run="run_1").last == "i8:1000"
    world.stage("transform", run="run_2")
    assert world.stage("load", run="run_2").last == "i8:1500"
    world.assert_exact()


def test_a_retry_keeps_the_target_of_its_run(world, monkeypatch):
    reset()
    monkeypatch.setenv(ENVIRONMENT, "extract.before_read@2=raise")
    with pytest.raises(FailpointError):
        world.stage("extract")
    monkeypatch.delenv(ENVIRONMENT)
    world.insert(500)
    assert world.stage("extract", try_number=2).target == "i8:1000"


def test_clearing_a_finished_run_catches_up(world):
    world.run("run_1")
    world.insert(500)
    summaries = world.run("run_1")
    assert summaries[-1].rows == 500
    world.assert_exact()


def test_clearing_load_alone_does_nothing(world):
    world.run()
    summary = world.stage("load", try_number=2)
    assert (summary.chunks, summary.kept) == (0, 10)


def test_load_without_extract_names_the_way_out(world):
    with pytest.raises(UpstreamLostError, match="extract"):
        world.stage("load")


def test_transform_of_a_run_without_extract_has_no_target(world):
    world.run("run_1")
    with pytest.raises(UpstreamLostError, match="run_2"):
        world.stage("transform", run="run_2")


def test_a_budget_ends_the_run_early_and_the_next_run_goes_on(world):
    world.attempt["max_rows"] = 250
    _, _, load = world.run("run_1")
    assert (load.rows, load.last) == (300, "i8:300")
    world.attempt["max_rows"] = None
    world.run("run_2")
    world.assert_exact()


# --- transforms --------------------------------------------------------------------------------------


def test_a_transform_may_drop_change_and_fan_out(world):
    def clean(record):
        if record["id"] % 10 == 0:
            return None
        changed = record | {"customer": (record["customer"] or "").upper()}
        return [changed, changed | {"id": -record["id"]}] if record["id"] % 10 == 1 else changed

    world.run(function=clean)
    assert world.fetch(
        "select count(*), count(*) filter (where id < 0), count(*) filter (where id % 10 = 0)"
        " from orders_copy"
    ) == [(1000, 100, 0)]


def test_a_batch_transform_gets_and_returns_tables(world):
    from decimal import Decimal

    import pyarrow.compute as pc

    def big(table):
        return table.filter(pc.greater(table["amount"], Decimal(5)))

    world.run(function=big, mode="batch")
    expected = world.fetch("select count(*) from orders where amount > 5", at="source")
    assert world.fetch("select count(*) from orders_copy") == expected


@pytest.mark.parametrize("point", ["transform.after_append@4", "transform.before_append@4"])
def test_a_running_total_survives_a_failure_and_a_lost_store(world, monkeypatch, point):
    def total(record, state):
        state["total"] += int(record["amount"] * 100)
        return {"id": record["id"], "total": state["total"]}

    options = {"function": total, "initial_state": {"total": 0}}
    world.stage("extract")
    reset()
    monkeypatch.setenv(ENVIRONMENT, f"{point}=raise")
    with pytest.raises(FailpointError):
        world.stage("transform", **options)
    monkeypatch.delenv(ENVIRONMENT)
    world.stage("transform", try_number=2, **options)
    reset()
    monkeypatch.setenv(ENVIRONMENT, "load.after_commit@5=raise")
    with pytest.raises(FailpointError):
        world.stage("load")
    monkeypatch.delenv(ENVIRONMENT)
    forget(world)
    world.run(run="run_1", **options)
    expected = world.fetch(
        "select id, sum(amount * 100) over (order by id)::bigint from orders order by id",
        at="source",
    )
    assert world.fetch("select id, total from orders_copy order by id") == expected


def test_a_transform_that_raises_names_the_record_and_not_its_content(world):
    world.fetch("update orders set customer = 'canary-4711' where id = 250", at="source")

    def clean(record):
        if record["id"] == 250:
            raise ValueError(record["customer"])
        return record

    with pytest.raises(TransformError, match=r"id=250 .*chunk 3") as caught:
        world.run(function=clean)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    summary = world.stage("transform", function=keep)
    assert summary.kept == 2


def test_a_transform_that_returns_the_wrong_shape_is_told_so(world):
    with pytest.raises(TransformError, match="it must return a dict"):
        world.run(function=lambda record: 42)
    with pytest.raises(TransformError, match=r"pyarrow\.Table"):
        world.stage("transform", function=lambda table: [1], mode="batch")
    with pytest.raises(TransformError, match="same columns for every record"):
        world.stage("transform", function=lambda r: {"id": r["id"], f"c{r['id'] % 2}": 1})


def test_a_transform_that_drops_everything_still_moves_the_frontier(world):
    _, _, load = world.run(function=lambda record: None)
    assert (load.chunks, load.rows, load.last) == (10, 0, "i8:1000")
    assert world.stage("extract", run="run_2").chunks == 0


# --- upsert ------------------------------------------------------------------------------------------


def test_an_upsert_keeps_the_newest_version(world):
    world.source |= {"cursor": ("created_at", "id"), "settle": "transactions", "allow_sort": True}
    world.source |= {"unique": True}
    world.warehouse |= {"write": "upsert", "key": "id"}
    world.fetch("create unique index on orders (created_at, id)", at="source")
    # Before settling's margin, so that it waits for nothing.
    world.fetch("update orders set created_at = created_at - interval '1 hour'", at="source")
    world.run("run_1")
    world.fetch(
        "update orders set amount = amount + 1, created_at = created_at + interval '30 min'"
        " where id % 3 = 0",
        at="source",
    )
    _, _, load = world.run("run_2")
    assert load.rows == 333
    world.assert_exact()


# --- refusals: nothing is written -------------------------------------------------------------------


def test_a_new_pipeline_does_not_load_into_a_table_that_holds_rows(world):
    world.fetch("create table orders_copy (id bigint, customer text)")
    world.fetch("insert into orders_copy values (1, 'x')")
    with pytest.raises(PreflightError, match="start_after"):
        world.stage("extract")
    assert world.fetch("select count(*) from checkpoint_etl.lane") == [(0,)]


def test_start_after_begins_beside_a_loaded_table(world):
    world.fetch(
        "create table orders_copy"
        " (id bigint, customer text, amount numeric(12, 2), created_at timestamptz)"
    )
    world.fetch("insert into orders_copy select id from generate_series(1, 600) as id")
    world.pipeline["start_after"] = "600"
    _, _, load = world.run()
    assert (load.rows, load.first) == (400, "i8:600")


@pytest.mark.parametrize(
    "change",
    [
        ("source", {"where": "amount > 1"}),
        ("warehouse", {"table": "other"}),
        ("source", {"cursor": ("created_at", "id"), "unique": True, "allow_sort": True}),
    ],
)
def test_a_changed_pipeline_is_refused(world, change):
    world.run()
    getattr(world, change[0]).update(change[1])
    with pytest.raises(PipelineChangedError, match="Undo the change, or use a new pipeline_id"):
        world.stage("extract", run="run_2")


def test_a_replaced_target_is_refused(world):
    world.run()
    world.fetch("create table c2 (like orders_copy)")
    world.fetch("drop table orders_copy")
    world.fetch("alter table c2 rename to orders_copy")
    world.insert(10)
    with pytest.raises(PipelineChangedError, match="dropped or replaced"):
        world.run("run_2")


def test_a_missing_target_shows_the_ddl_it_would_use(world):
    world.warehouse["create_table"] = False
    with pytest.raises(PreflightError, match="orders_copy"):
        world.run()


def test_state_of_a_newer_version_is_refused(world):
    world.run()
    world.fetch("update checkpoint_etl.schema_version set version = 99 where component = 'ledger'")
    with pytest.raises(SchemaVersionError, match="99"):
        world.stage("extract", run="run_2")


def test_a_staged_chunk_above_the_cap_is_refused(world):
    from airflow_checkpoint_etl.errors import ChunkTooLargeError

    runner, ports = world.runner("extract")
    object.__setattr__(ports.staging, "_cap", 100)
    with pytest.raises(ChunkTooLargeError):
        runner.extract()
    ports.close()
    assert world.fetch("select target from checkpoint_etl.run") == [("i8:1000",)]


def test_stop_ends_an_attempt_between_chunks_and_keeps_what_is_done(world):
    from airflow_checkpoint_etl.errors import CancelledError

    runner, ports = world.runner("extract")
    old_put, puts = ports.staging.put, []

    def put(name, data):
        old_put(name, data)
        puts.append(name)
        if len(puts) == 3:
            runner.stop()

    object.__setattr__(ports.staging, "put", put)
    with pytest.raises(CancelledError):
        runner.extract()
    ports.close()
    assert world.stage("extract", try_number=2).kept == 2


def test_staged_files_are_collected_after_the_grace_period(world):
    world.attempt["grace"] = dt.timedelta(0)
    world.run(function=keep)
    _, ports = world.runner("look")
    assert ports.staging.names("orders/") == []
    assert ports.checkpoints.read(Lane("orders"), Stage.TRANSFORM).entries == ()
    ports.close()


def test_staged_files_are_kept_during_the_grace_period(world):
    world.run(function=keep)
    _, ports = world.runner("look")
    assert len(ports.staging.names("orders/")) == 20
    ports.close()


def test_every_row_is_read_once_by_the_sources_own_statistics(world, monkeypatch):
    reset()
    monkeypatch.setenv(ENVIRONMENT, "extract.after_append@5=raise")
    with pytest.raises(FailpointError):
        world.stage("extract")
    monkeypatch.delenv(ENVIRONMENT)
    world.fetch("select pg_stat_force_next_flush()", at="source")
    world.fetch("select pg_stat_reset()", at="source")
    world.stage("extract", try_number=2)
    others = "select 1 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    while world.fetch(others, at="source"):  # a session reports what it read before it is gone
        pass
    [read] = world.fetch(
        "select coalesce(sum(idx_tup_fetch), 0)::bigint + coalesce(sum(seq_tup_read), 0)::bigint"
        " from pg_stat_user_tables where relname = 'orders'",
        at="source",
    )
    assert 500 <= read[0] <= 502, (
        "rows above the stored last id, and the bound, are all that was read"
    )
