"""A transfer: the three stages in one attempt, straight from COPY to COPY, under the same protocol."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import psycopg
import pytest

from airflow_checkpoint_etl import failpoints
from airflow_checkpoint_etl.errors import (
    CancelledError,
    PreflightError,
    StageBusyError,
    TypeMismatchError,
)
from airflow_checkpoint_etl.failpoints import FailpointError
from airflow_checkpoint_etl.protocol import Stage
from airflow_checkpoint_etl.transfer import TransferRunner
from tests.chaos.faults import struck
from tests.support import seconds

LOG = "create table if not exists prepared (at timestamptz default clock_timestamp())"
NOTE = "insert into prepared default values"


# What is tested here does not depend on the checkpoint store; tests/chaos kills it on both.
pytestmark = pytest.mark.parametrize("world", ["redis"], indirect=True)


@pytest.fixture(autouse=True)
def passes_from_the_beginning():
    failpoints.reset()


def lineage(world):
    return world.fetch(
        "select seq, count(*) from orders_copy left join checkpoint_etl.ledger on _ck_chunk = ledger.id "
        "group by 1 order by 1"
    )


def lane(world):
    return world.fetch("select seq, cursor, rows_total from checkpoint_etl.lane")[0]


# --- rows -----------------------------------------------------------------------------------------


def test_a_transfer_loads_everything_in_chunks(world):
    summary = world.transfer()
    assert (summary.stage, summary.chunks, summary.rows, summary.last) == (
        "transfer",
        10,
        1000,
        "i8:1000",
    )
    world.assert_exact()
    assert lane(world) == (10, "i8:1000", 1000)
    assert lineage(world) == [(seq, 100) for seq in range(1, 11)]
    assert world.fetch("select distinct rows_in, rows from checkpoint_etl.ledger") == [(100, 100)]
    assert world.fetch("select done, target from checkpoint_etl.run") == [(True, "i8:1000")]


def test_the_next_run_goes_on_from_the_checkpoint(world):
    world.transfer()
    world.insert(30)
    assert world.transfer("run_2").rows == 30
    assert world.transfer("run_3").chunks == 0
    world.assert_exact()


def test_the_store_shows_all_stages_where_the_load_is(world):
    world.transfer()
    ports = world.ports()
    try:
        records = [ports.checkpoints.read(world.lane, stage) for stage in Stage]
    finally:
        ports.close()
    assert [record.checkpoint.frontier.cursor for record in records] == ["i8:1000"] * 3
    assert [record.entries for record in records] == [(), (), ()]


def test_an_upsert_is_transferred(world):
    world.warehouse |= {"write": "upsert", "key": ("id",)}
    world.transfer()
    world.fetch(
        "delete from orders where id > 900; insert into orders (customer, amount) values ('x', 1)",
        at="source",
    )
    world.fetch("delete from orders_copy where id > 900")
    world.transfer("run_2")
    world.assert_exact()


def test_a_query_with_a_filter_is_transferred(world):
    world.source |= {
        "table": None,
        "query": "select id, amount * 2 as twice from orders where id % 2 = 0",
        "unique": True,
        "settle_tables": ("orders",),
    }
    world.transfer()
    world.assert_exact(
        "id, twice", source="(select id, amount * 2 as twice from orders where id % 2 = 0) as o"
    )


def test_nothing_is_staged(world):
    world.transfer()
    ports = world.ports()
    try:
        assert ports.staging.names("") == []
    finally:
        ports.close()


def test_unequal_types_are_refused_before_any_row(world):
    world.fetch(
        "create table orders_copy (id bigint, customer text, amount numeric(12,1), created_at timestamptz)"
    )
    with pytest.raises(TypeMismatchError, match=r'"amount": numeric\(12,2\) was copied'):
        world.transfer()
    assert world.fetch("select count(*) from orders_copy") == [(0,)]


def test_a_target_that_changes_between_two_chunks_stops_the_transfer(world, monkeypatch):
    monkeypatch.setenv(failpoints.ENVIRONMENT, "load.before_advance@4=raise")
    monkeypatch.setattr(
        failpoints,
        "_act",
        lambda *_: world.fetch("alter table orders_copy alter amount type numeric(12,1)"),
    )
    with pytest.raises(TypeMismatchError, match=r'"amount": numeric\(12,2\) was copied'):
        world.transfer()
    assert world.fetch("select count(*) from orders_copy") == [(300,)]
    assert lane(world)[0] == 3


def test_an_error_of_the_source_is_raised_and_the_chunk_rolled_back(world):
    world.fetch(
        "create view risky as select id, customer, 1 / (id - 555) as amount from orders",
        at="source",
    )
    world.source |= {"table": "risky", "unique": True, "settle": "none", "allow_sort": True}
    with pytest.raises(Exception, match="22012"):
        world.transfer()
    assert world.fetch("select count(*) from orders_copy") == [(500,)]
    assert lane(world)[0] == 5


@pytest.mark.parametrize("write", ["append", "upsert"])
def test_the_statements_of_a_chunk_do_not_grow_with_its_rows(world, monkeypatch, write):
    if write == "upsert":
        world.warehouse |= {"write": "upsert", "key": ("id",)}
    world.source["chunk_rows"] = 100_000
    world.transfer("run_0")
    count = 0
    execute = psycopg.Cursor.execute

    def counting(self, *args, **kwargs):
        nonlocal count
        count += 1
        return execute(self, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    counts = set()
    for rows in (10, 5000):
        world.insert(rows)
        count = 0
        assert world.transfer(f"run_{rows}").chunks == 1
        counts.add(count)
    assert len(counts) == 1
    world.assert_exact()


# --- budgets, clears, busy stages -----------------------------------------------------------------


def test_a_budget_ends_the_run_where_it_stopped(world):
    world.attempt["max_rows"] = 300
    assert world.transfer().rows == 300
    assert world.fetch("select done, target from checkpoint_etl.run") == [(True, "i8:300")]
    world.attempt["max_rows"] = None
    assert world.transfer("run_2").rows == 700
    world.assert_exact()


def test_a_clear_resumes_and_has_nothing_to_do(world):
    world.transfer()
    assert world.transfer(clear_number=1).chunks == 0
    world.assert_exact()


def test_a_clear_may_be_refused(world):
    world.attempt["on_clear"] = "fail"
    world.transfer()
    with pytest.raises(PreflightError, match="on_clear='fail'"):
        world.transfer(clear_number=1)


def test_a_clear_may_reprocess(world):
    world.attempt["on_clear"] = "reprocess"
    world.transfer()
    world.insert(100)
    world.transfer("run_2")
    world.fetch("update orders set amount = 1", at="source")
    assert world.transfer(clear_number=1).rows == 1100
    world.assert_exact()


@pytest.mark.parametrize("stage", list(Stage))
def test_a_stage_of_another_run_that_works_keeps_the_transfer_waiting(world, stage):
    world.transfer("run_0")
    ports = world.ports()
    try:
        runner, _ = world.runner(stage.value, "run_other")
        ports.warehouse.acquire(runner._spec(), stage, runner._attempt.owner, seconds(60))
        with pytest.raises(StageBusyError) as raised:
            world.transfer()
        assert raised.value.stage == stage.value
    finally:
        ports.close()


def test_a_transfer_that_works_keeps_the_stages_of_others_waiting(world, monkeypatch):
    found = {}

    def look(name, action):
        for stage in Stage:
            ports = world.ports()
            try:
                runner, _ = world.runner(stage.value, "run_other")
                with pytest.raises(StageBusyError):
                    ports.warehouse.acquire(
                        runner._spec(), stage, runner._attempt.owner, seconds(60)
                    )
                found[stage] = True
            finally:
                ports.close()

    monkeypatch.setenv(failpoints.ENVIRONMENT, "transfer.before_load@2=raise")
    monkeypatch.setattr(failpoints, "_act", look)
    world.transfer()
    assert set(found) == set(Stage)


@pytest.mark.parametrize("done", [("extract",), ("extract", "transform")])
def test_what_a_chain_has_staged_is_neither_lost_nor_doubled(world, done):
    for stage in done:
        world.stage(stage, "run_chain")
    world.insert(100)
    world.transfer()
    world.assert_exact()
    world.insert(100)
    world.run("run_after")
    world.assert_exact()


def test_a_chain_whose_rows_a_transfer_has_loaded_is_done_at_once(world):
    world.stage("extract", "run_chain")
    world.transfer()
    world.stage("transform", "run_chain")
    assert world.stage("load", "run_chain").rows == 0
    world.assert_exact()


def test_a_stop_rolls_the_chunk_back_and_keeps_the_others(world, monkeypatch):
    runner, ports = world.runner("transfer")
    transfer = TransferRunner(ports, runner._attempt)
    monkeypatch.setenv(failpoints.ENVIRONMENT, "load.before_rows@4=raise")
    monkeypatch.setattr(failpoints, "_act", lambda *_: transfer.stop())
    try:
        with pytest.raises(CancelledError):
            transfer.transfer()
    finally:
        ports.close()
    # The chunk at hand is rolled back, unless it was done before anybody looked.
    ((rows,),) = world.fetch("select count(*) from orders_copy")
    assert rows in {300, 400}
    assert lane(world)[2] == rows
    assert not [one for one in threading.enumerate() if one.name == "transfer-read"]
    world.transfer(try_number=2)
    world.assert_exact()


def test_a_lane_that_moves_elsewhere_meanwhile_is_reconciled(world, monkeypatch):
    """Not by any stage of ours, which are kept out: by hand, so that the compare-and-set finds 0 rows."""
    monkeypatch.setenv(failpoints.ENVIRONMENT, "transfer.before_load@3=raise")
    statement = (
        "with moved as (update checkpoint_etl.lane set seq = seq + 1, cursor = 'i8:210' returning *) "
        "insert into checkpoint_etl.ledger (pipeline, part, incarnation, generation, seq, low, high, "
        "rows_in, rows, digest, input_digest, fence, dag_id, run_id, task_id, map_index, try_number) "
        "select pipeline, part, incarnation, generation, seq, 'i8:200', 'i8:210', 10, 10, '', '', 1, 'd', "
        "'r', 't', -1, 1 from moved"
    )
    rows = "insert into orders_copy (id, customer, amount, created_at) values "

    def move(*_):
        values = world.fetch(
            "select string_agg(format('(%s, %L, %s, %L)', id, customer, amount, created_at), ',') "
            "from orders where id > 200 and id <= 210",
            at="source",
        )[0][0]
        world.fetch(statement)
        world.fetch(rows + values)

    monkeypatch.setattr(failpoints, "_act", move)
    world.transfer()
    world.assert_exact()


# --- the preoperator ------------------------------------------------------------------------------


def prepared(world):
    return world.fetch("select count(*) from prepared")[0][0]


@pytest.fixture
def with_log(world):
    world.fetch(LOG)
    return world


def test_a_preoperator_empties_the_target_before_the_first_rows(with_log):
    with_log.fetch(
        "create table orders_copy (id bigint primary key, customer text, amount numeric(12,2), "
        "created_at timestamptz); insert into orders_copy (id) values (-1), (1)"
    )
    with_log.transfer(preoperator=["truncate orders_copy", NOTE])
    with_log.assert_exact()
    with_log.insert(100)
    with_log.transfer("run_2", preoperator=["truncate orders_copy", NOTE])
    with_log.assert_exact()
    assert prepared(with_log) == 1


def test_a_preoperator_may_make_the_target_anew(with_log):
    make = (
        "drop table orders_copy; create table orders_copy (created_at timestamptz, id bigint, "
        f"customer text, amount numeric(12,2)); {NOTE}"
    )
    with_log.transfer(preoperator=[make])
    with_log.insert(10)
    with_log.transfer("run_2", preoperator=[make])
    with_log.assert_exact()
    assert prepared(with_log) == 1


@pytest.mark.parametrize("at", ["load.before_rows", "load.before_commit@2", "load.after_commit@3"])
def test_a_retry_never_runs_the_preoperator_again(with_log, monkeypatch, at):
    preoperator = ["truncate orders_copy", NOTE]
    monkeypatch.setenv(failpoints.ENVIRONMENT, f"{at}=raise")
    with pytest.raises(FailpointError):
        with_log.transfer(preoperator=preoperator)
    monkeypatch.delenv(failpoints.ENVIRONMENT)
    with_log.transfer(try_number=2, preoperator=preoperator)
    with_log.assert_exact()
    assert prepared(with_log) == 1


def test_a_preoperator_that_leaves_rows_is_refused(with_log):
    with_log.fetch(
        "create table orders_copy (id bigint, customer text, amount numeric(12,2), created_at timestamptz); insert into orders_copy (id) values (-1)"
    )
    with pytest.raises(PreflightError, match="rows are left in the target"):
        with_log.transfer(preoperator=[NOTE])
    assert prepared(with_log) == 0
    assert lane(with_log)[0] == 0


@pytest.mark.parametrize(
    "statement", ["commit", "/* x */ rollback", "begin", "truncate orders_copy; commit"]
)
def test_a_preoperator_cannot_end_the_transaction(with_log, statement):
    with pytest.raises(PreflightError, match="the preoperator was refused"):
        with_log.transfer(preoperator=[NOTE, statement])
    assert prepared(with_log) == 0
    assert lane(with_log)[0] == 0


def test_a_preoperator_does_not_take_another_pipelines_rows(with_log):
    with_log.transfer("run_other")
    with_log.pipeline["pipeline_id"] = "second"
    with pytest.raises(PreflightError, match="orders also loaded into the target"):
        with_log.transfer(preoperator=["truncate orders_copy", NOTE])
    assert with_log.fetch("select count(*) from orders_copy") == [(1000,)]
    assert prepared(with_log) == 0


def test_a_preoperator_does_not_take_rows_that_another_pipeline_loads_meanwhile(
    with_log, monkeypatch
):
    with_log.fetch(
        "create table orders_copy (id bigint, customer text, amount numeric(12,2),"
        " created_at timestamptz)"
    )
    other = replace(with_log, pipeline={"pipeline_id": "other"})
    meanwhile = {"transfer.before_preoperator": lambda: other.transfer("run_other")}
    with (
        struck(monkeypatch, meanwhile),
        pytest.raises(PreflightError, match="other also loaded into the target"),
    ):
        with_log.transfer(preoperator=["truncate orders_copy", NOTE])
    assert with_log.fetch("select count(*) from orders_copy") == [(1000,)]
    assert prepared(with_log) == 0


def test_a_rewind_to_the_beginning_runs_the_preoperator_again(with_log):
    preoperator = ["truncate orders_copy", NOTE]
    with_log.transfer(preoperator=preoperator)
    with with_log.admin() as admin:
        admin.rewind("i8:500", dry_run=False)
    with_log.transfer("run_2", preoperator=preoperator)
    assert prepared(with_log) == 1
    with with_log.admin() as admin:
        admin.rewind(None, dry_run=False)
    with_log.transfer("run_3", preoperator=preoperator)
    assert prepared(with_log) == 2
    with_log.assert_exact()


def test_the_log_names_the_transfer(world, caplog):
    with caplog.at_level(logging.INFO):
        world.transfer()
    assert "transfer orders: from the beginning to 1,000" in caplog.text
    assert "transfer orders: done at 1,000: 10 chunk(s), 1,000 rows" in caplog.text


@pytest.mark.parametrize("most", [None, 250])
def test_a_cursor_of_text_is_transferred_in_the_sources_own_order(world, most):
    """Only the source can compare such a cursor, and it is busy while it reads."""
    world.fetch(
        "create table named (name text primary key, x float8); "
        "insert into named select 'Größe ' || n || chr(97 + n % 26), n / 7.0 from generate_series(1, 700) n",
        at="source",
    )
    world.source |= {"table": "named", "cursor": "name", "settle": "none"}
    world.attempt["max_rows"] = most
    world.transfer()
    world.attempt["max_rows"] = None
    if most:
        assert world.fetch("select count(*) from orders_copy") == [(300,)]
    world.transfer("run_2")
    world.fetch("alter table orders_copy add column id text generated always as (name) stored")
    world.assert_exact("name, x", source="named")


def test_a_transfer_keeps_no_more_than_a_few_blocks_in_memory(world, monkeypatch):
    """The reading thread waits for the writing: at most the queue's blocks are ahead."""
    from airflow_checkpoint_etl import transfer

    most = 0
    take = transfer._Reading._take

    def watching(self):
        nonlocal most
        most = max(most, self._items.qsize())
        return take(self)

    monkeypatch.setattr(transfer._Reading, "_take", watching)
    monkeypatch.setattr(transfer, "_AHEAD", 3)
    for size in ("BLOCK", "_PIECE"):
        monkeypatch.setattr(f"airflow_checkpoint_etl.copyout.{size}", 1000)
    world.source["chunk_rows"] = 1000
    world.transfer()
    world.assert_exact()
    assert most == 3
