"""Rejected records: kept aside exactly, within limits, and replayed exactly once."""

from __future__ import annotations

import threading

import psycopg
import pytest

from airflow_checkpoint_etl.errors import (
    ReplayError,
    TooManyRejectedError,
    TransformError,
)
from airflow_checkpoint_etl.failpoints import ENVIRONMENT, FailpointError, reset
from airflow_checkpoint_etl.quarantine import Reject
from airflow_checkpoint_etl.transform import CallableTransformer

BAD = "id % 10 = 3"


def picky(record):
    if record["id"] % 10 == 3:
        raise ValueError(record["customer"])
    return record


def keep(record):
    return record


def mended(function=keep, **options):
    return CallableTransformer(function, cursor_columns=("id",), **options)


@pytest.fixture
def lenient(world):
    """A world that quarantines; its target refuses amounts above 90 when asked to."""
    world.pipeline = {"on_error": "quarantine"}
    return world


def refuse_large(world):
    world.fetch(
        "create table orders_copy (id bigint primary key, customer text, amount numeric(12, 2),"
        " created_at timestamptz, _ck_chunk bigint, constraint small check (amount < 9))"
    )


def quarantined(world, columns="stage, cursor"):
    return world.fetch(
        f"select {columns} from checkpoint_etl.quarantine order by ledger_id, ordinal"
    )


def assert_counted(world, source_rows):
    """The ledger's and the lane's counts are those of the tables."""
    ((loaded, rejected),) = world.fetch(
        "select coalesce(sum(rows), 0)::int, coalesce(sum(rows_rejected), 0)::int"
        " from checkpoint_etl.ledger where rewound_at is null"
    )
    assert world.fetch("select count(*) from orders_copy") == [(loaded,)]
    assert world.fetch("select count(*) from checkpoint_etl.quarantine") == [(rejected,)]
    assert world.fetch("select rows_total from checkpoint_etl.lane") == [(loaded,)]
    assert loaded + rejected == source_rows
    assert world.fetch(
        "select count(*) from checkpoint_etl.quarantine_file as file where not exists"
        " (select from checkpoint_etl.quarantine as q"
        "  where q.ledger_id = file.ledger_id and q.stage = file.stage)"
    ) == [(0,)]


# --- the transform's -----------------------------------------------------------------------------


def test_records_the_transform_raises_on_are_kept_aside_and_the_others_are_loaded(lenient):
    _, transform, load = lenient.run(function=picky)
    assert (transform.rows, transform.rejected, load.rejected) == (900, 100, 100)
    assert_counted(lenient, 1000)
    assert lenient.fetch(f"select count(*) from orders_copy where {BAD}") == [(0,)]
    stage, cursor, reason, payload = quarantined(lenient, "stage, cursor, reason, payload")[0]
    assert (stage, cursor) == ("transform", "i8:3")
    assert reason.startswith("ValueError in picky, line ")
    ((customer, amount),) = lenient.fetch(
        "select customer, amount from orders where id = 3", at="source"
    )
    assert payload["customer"] == customer
    assert payload["amount"] == str(amount)
    assert customer not in reason


def test_a_rejection_says_the_words_of_the_transform(lenient):
    def judge(record):
        if record["id"] == 5:
            words = "no such tariff"
            raise Reject(words)
        return record

    lenient.run(function=judge)
    assert quarantined(lenient, "cursor, reason") == [("i8:5", "no such tariff")]


def test_what_is_no_record_or_has_other_columns_or_an_unfit_value_is_rejected(lenient):
    def odd(record):
        if record["id"] == 1:
            return {"something": "else"}
        if record["id"] == 20:
            return "no record"
        if record["id"] == 30:
            return record | {"amount": object()}
        if record["id"] == 40:
            return [record, record | {"customer": 7}]
        return record

    lenient.run(function=odd)
    assert [cursor for _, cursor in quarantined(lenient)] == ["i8:1", "i8:20", "i8:30", "i8:40"]
    assert_counted(lenient, 1000)


def test_a_rejecting_record_leaves_the_state_as_it_was(lenient):
    def count(record, state):
        state["seen"] += 1
        state["ids"].append(record["id"] % 2)
        if record["id"] % 10 == 3:
            state["ids"].clear()
            raise ValueError
        if record["id"] % 10 == 5:
            state["bad"] = object()
        if record["id"] % 10 == 7:
            return record | {"amount": "much"}
        state["ids"] = state["ids"][-3:]
        return record | {"amount": state["seen"]}

    lenient.run(function=count, initial_state={"seen": 0, "ids": []})
    assert_counted(lenient, 1000)
    assert lenient.fetch("select max(amount)::int, count(distinct amount) from orders_copy") == [
        (700, 700)
    ]
    assert lenient.fetch(
        "select state::jsonb from checkpoint_etl.ledger order by seq desc limit 1"
    ) == [({"seen": 700, "ids": [0, 1, 0]},)]


def test_a_batch_that_raises_is_halved_until_the_bad_rows_stand_alone(lenient):
    def batch(table):
        if any(value % 10 == 3 for value in table.column("id").to_pylist()):
            raise ValueError
        return table

    lenient.run(function=batch, mode="batch")
    assert_counted(lenient, 1000)
    assert lenient.fetch("select count(*) from orders_copy") == [(900,)]
    lenient.assert_exact(source=f"(select * from orders where not {BAD}) as good")


def test_what_is_no_fault_of_a_record_fails_the_task(lenient):
    def offline(record):
        raise ConnectionRefusedError

    with pytest.raises(TransformError, match="ConnectionRefusedError"):
        lenient.run(function=offline)


def test_a_chunk_of_which_every_record_is_rejected_moves_the_frontier(lenient):
    def never(record):
        raise ValueError

    lenient.run(function=never)
    assert lenient.fetch("select count(*) from checkpoint_etl.quarantine") == [(1000,)]
    assert lenient.fetch("select cursor, rows_total from checkpoint_etl.lane") == [("i8:1000", 0)]
    with lenient.admin() as admin:
        assert admin.replay_quarantine(mended(), dry_run=True).released == 1000
        assert admin.replay_quarantine(mended(), dry_run=False).released == 1000
    lenient.assert_exact()
    lenient.insert(10)
    lenient.run("run_2")
    lenient.assert_exact()


def test_a_state_that_grows_without_end_stops_the_transform(world):
    def hoard(record, state):
        state.setdefault("all", []).append("x" * 2000)
        return record

    with pytest.raises(TransformError, match="more than 1,048,576"):
        world.run(function=hoard, initial_state={})


# --- the load's ----------------------------------------------------------------------------------


def test_rows_the_target_refuses_are_kept_aside_and_the_others_are_loaded(lenient):
    refuse_large(lenient)
    _, _, load = lenient.run(function=keep)
    large = lenient.fetch("select count(*) from orders where amount >= 9", at="source")[0][0]
    assert (load.rows, load.rejected) == (1000 - large, large)
    assert_counted(lenient, 1000)
    stage, reason, payload = quarantined(lenient, "stage, reason, payload")[0]
    assert stage == "load"
    assert 'constraint "small"' in reason
    assert payload["amount"] not in reason
    lenient.assert_exact(source="(select * from orders where amount < 9) as good")


REFUSALS = {
    "not null": ("customer text not null", "customer is not null"),
    "too long": ("customer varchar(3)", "customer is null or length(customer) <= 3"),
    "unique": ("customer text unique", None),
    "exclusion": ("customer text, exclude using hash (customer with =)", None),
    "deferred": ("customer text unique deferrable initially deferred", None),
    "foreign key": ("customer text references parent", "customer is null or customer = ''"),
}


@pytest.mark.parametrize("world", ["postgres"], indirect=True)  # the store has no part in it
@pytest.mark.parametrize("kind", REFUSALS)
def test_every_kind_of_refusal_finds_its_rows(lenient, kind):
    column, good = REFUSALS[kind]
    lenient.fetch("create table parent (name text primary key)")
    lenient.fetch("insert into parent values ('')")
    lenient.fetch(
        f"create table orders_copy (id bigint, amount numeric(12, 2), created_at timestamptz, {column})"
    )
    lenient.fetch("delete from orders where id > 100", at="source")
    lenient.run(function=keep)
    good = good or "customer is null or id in (select min(id) from orders group by customer)"
    lenient.assert_exact(source=f"(select * from orders where {good}) as good")
    assert_counted(lenient, 100)


def test_texts_the_target_cannot_read_are_found(lenient):
    lenient.fetch("create table orders_copy (id bigint, amount integer)")

    def texts(record):
        return {"id": record["id"], "amount": "much" if record["id"] % 10 == 3 else "1"}

    lenient.run(function=texts)
    assert_counted(lenient, 1000)
    assert lenient.fetch(f"select count(*) from orders_copy where {BAD}") == [(0,)]
    ((reason,),) = lenient.fetch("select distinct reason from checkpoint_etl.quarantine")
    assert 'column "amount"' in reason
    assert "much" not in reason


@pytest.mark.parametrize("world", ["postgres"], indirect=True)  # the store has no part in it
@pytest.mark.parametrize(
    "bad", [{"amount": "1.005"}, {"amount": "1000000"}, {"code": "abcd"}, {"code": "a\0"}]
)
def test_a_value_that_would_change_on_its_way_is_found(lenient, bad):
    lenient.fetch("create table orders_copy (id bigint, amount numeric(6, 2), code varchar(3))")
    lenient.fetch("delete from orders where id > 50", at="source")

    def odd(record):
        row = {"id": record["id"], "amount": "1.50", "code": "abc"}
        return row | bad if record["id"] % 10 == 3 else row

    lenient.run(function=odd)
    assert [cursor for _, cursor in quarantined(lenient)] == [f"i8:{n}" for n in range(3, 50, 10)]
    assert_counted(lenient, 50)


@pytest.mark.parametrize("world", ["postgres"], indirect=True)  # the store has no part in it
@pytest.mark.parametrize("way", ["domain", "no temporary tables"])
def test_where_the_server_cannot_try_row_by_row_the_chunk_is_halved(
    lenient, monkeypatch, new_database, way
):
    lenient.fetch("create domain small as numeric(12, 2) check (value < 9)")
    lenient.fetch(
        "create table orders_copy (id bigint, customer text, created_at timestamptz,"
        f" amount {'small' if way == 'domain' else 'numeric(12, 2) check (amount < 9)'})"
    )
    lenient.fetch("delete from orders where id < 890 or id > 910", at="source")
    if way != "domain":
        name = lenient.fetch("select current_database()")[0][0]
        lenient.fetch(f'revoke temporary on database "{name}" from public')
        lenient.fetch("drop role if exists meek")
        lenient.fetch("create role meek login")
        lenient.fetch(f'grant create on database "{name}" to meek')
        lenient.fetch("grant all on all tables in schema public to meek")
        lenient.warehouse_dsn += " user=meek"
    try:
        lenient.run(function=keep)
        assert_counted(lenient, 21)
        assert lenient.fetch("select count(*) from checkpoint_etl.quarantine") == [(11,)]
    finally:
        if way != "domain":
            lenient.warehouse_dsn = lenient.warehouse_dsn.removesuffix(" user=meek")
            lenient.fetch("drop owned by meek; drop role meek")


def test_a_locked_target_quarantines_nothing(lenient):
    refuse_large(lenient)
    lenient.warehouse = {"lock_timeout": 0.2}
    lenient.stage("extract")
    lenient.stage("transform", function=keep)
    with psycopg.connect(lenient.warehouse_dsn) as other:
        other.execute("lock table orders_copy in exclusive mode")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            lenient.stage("load")
    assert quarantined(lenient) == []
    lenient.stage("load", try_number=2)
    assert_counted(lenient, 1000)


def test_on_error_fail_keeps_nothing_of_the_chunk(world):
    refuse_large(world)
    with pytest.raises(Exception, match="small"):
        world.run(function=keep)
    assert quarantined(world) == []


# --- limits --------------------------------------------------------------------------------------


def test_too_many_rejected_rows_stop_the_transform_before_the_chunk_is_kept(lenient):
    lenient.pipeline |= {"max_rejected_rows": 25}
    with pytest.raises(TooManyRejectedError, match=r"30 of 300 rows .* 203; 213; 223") as raised:
        lenient.run(function=picky)
    assert not raised.value.retryable
    lenient.stage("transform", function=keep, try_number=2)  # keeps the first two chunks
    lenient.stage("load")
    assert len(quarantined(lenient)) == 20
    assert_counted(lenient, 1000)


def test_the_share_is_of_the_rows_read_in_the_run(lenient):
    def late(record):
        if record["id"] > 900:
            raise ValueError
        return record

    lenient.pipeline |= {"max_rejected_share": 0.09}
    with pytest.raises(TooManyRejectedError, match="100 of 1,000"):
        lenient.run(function=late)
    lenient.pipeline |= {"max_rejected_share": 0.1}
    lenient.stage("transform", function=late, try_number=2)
    lenient.stage("load")
    assert_counted(lenient, 1000)


def test_too_many_refused_rows_roll_the_chunk_back(lenient):
    refuse_large(lenient)
    lenient.pipeline |= {"max_rejected_rows": 50}
    with pytest.raises(TooManyRejectedError, match="load of orders, chunk 10"):
        lenient.run(function=keep)
    assert lenient.fetch("select seq from checkpoint_etl.lane") == [(9,)]
    assert_counted(lenient, 900)
    lenient.pipeline |= {"max_rejected_rows": 200}
    lenient.stage("load", try_number=2)
    assert_counted(lenient, 1000)


# --- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point",
    ["quarantine.before_search", "quarantine.before_records", "quarantine.after_records"],
)
def test_a_load_that_fails_among_its_rejected_records_keeps_none_of_them(
    lenient, monkeypatch, point
):
    refuse_large(lenient)
    lenient.stage("extract")
    lenient.stage("transform", function=picky)
    reset()
    monkeypatch.setenv(ENVIRONMENT, f"{point}=raise")
    with pytest.raises(FailpointError):
        lenient.stage("load")
    before = lenient.fetch("select coalesce(sum(rows_in), 0)::int from checkpoint_etl.ledger")
    assert_counted(lenient, before[0][0])
    monkeypatch.delenv(ENVIRONMENT)
    lenient.stage("load", try_number=2)
    assert_counted(lenient, 1000)


@pytest.mark.parametrize(
    "point", ["after_lock", "after_take", "after_rows", "before_commit", "after_commit"]
)
def test_a_replay_that_fails_anywhere_is_done_once(lenient, monkeypatch, point):
    lenient.run(function=picky)
    reset()
    monkeypatch.setenv(ENVIRONMENT, f"replay.{point}=raise")
    with lenient.admin() as admin, pytest.raises(FailpointError):
        admin.replay_quarantine(mended(), dry_run=False)
    assert_counted(lenient, 1000)
    monkeypatch.delenv(ENVIRONMENT)
    with lenient.admin() as admin:
        replayed = admin.replay_quarantine(mended(), dry_run=False)
    assert replayed.released == (0 if point == "after_commit" else 100)
    lenient.assert_exact()
    assert_counted(lenient, 1000)


# --- replay --------------------------------------------------------------------------------------


def test_a_replay_loads_under_the_chunks_the_records_came_from(lenient):
    lenient.run(function=picky)
    with lenient.admin() as admin:
        dry = admin.replay_quarantine(mended())
        assert (dry.records, dry.released, dry.rows, dry.left) == (100, 100, 100, 0)
        assert_counted(lenient, 1000)
        assert len(quarantined(lenient)) == 100
        assert admin.replay_quarantine(mended(), dry_run=False) == dry
    lenient.assert_exact()
    assert_counted(lenient, 1000)
    assert lenient.fetch(
        "select count(*) from orders_copy join checkpoint_etl.ledger on ledger.id = _ck_chunk"
        r" where orders_copy.id > coalesce(substring(low from 'i8:(\d+)')::int, 0)"
        r" and orders_copy.id <= substring(high from 'i8:(\d+)')::int"
    ) == [(1000,)]
    ((actor, detail),) = lenient.fetch(
        "select actor, detail from checkpoint_etl.event where kind = 'replay'"
    )
    assert (actor, detail["released"], detail["left"]) == ("ann", 100, 0)


def test_what_fails_again_stays_with_its_new_reason(lenient):
    lenient.run(function=picky)

    def half(record):
        if record["id"] % 20 == 3:
            raise KeyError
        return record

    with lenient.admin() as admin:
        replayed = admin.replay_quarantine(mended(half), dry_run=False)
    assert (replayed.records, replayed.released, replayed.left) == (100, 50, 50)
    assert {reason.split()[0] for (reason,) in quarantined(lenient, "reason")} == {"KeyError"}
    assert_counted(lenient, 1000)
    with lenient.admin() as admin:
        admin.replay_quarantine(mended(), dry_run=False)
    lenient.assert_exact()


def test_a_replayed_record_that_fans_out_is_loaded_whole_or_not_at_all(lenient):
    refuse_large(lenient)
    lenient.fetch("alter table orders_copy drop constraint orders_copy_pkey")
    lenient.fetch("delete from orders where id > 20", at="source")
    lenient.run(function=picky)

    def twice(record):
        return [record, record | {"amount": 1000 if record["id"] == 3 else 1}]

    with lenient.admin() as admin:
        replayed = admin.replay_quarantine(mended(twice), dry_run=False)
    assert (replayed.released, replayed.rows, replayed.left) == (1, 2, 1)
    assert lenient.fetch("select id from orders_copy where id in (3, 13)") == [(13,), (13,)]
    assert next(reason for (reason,) in quarantined(lenient, "reason")).count("small") == 1


def test_records_the_load_refused_are_replayed_without_a_transform(lenient):
    refuse_large(lenient)
    lenient.run(function=picky)
    lenient.fetch("alter table orders_copy drop constraint small")
    with lenient.admin() as admin:
        replayed = admin.replay_quarantine(dry_run=False)
    assert replayed.left == 100
    assert {stage for stage, _ in quarantined(lenient)} == {"transform"}
    assert_counted(lenient, 1000)
    with lenient.admin() as admin:
        admin.replay_quarantine(mended(), dry_run=False)
    lenient.assert_exact()


def test_transforms_with_state_are_not_replayed(lenient):
    lenient.run(function=picky)
    with lenient.admin() as admin, pytest.raises(ReplayError, match="with state"):
        admin.replay_quarantine(
            mended(lambda record, state: record, initial_state={}), dry_run=False
        )


def test_a_replay_into_another_table_is_refused(lenient):
    lenient.run(function=picky)
    lenient.fetch("alter table orders_copy rename to old")
    lenient.fetch("create table orders_copy (like old)")
    with lenient.admin() as admin, pytest.raises(ReplayError, match="not the table"):
        admin.replay_quarantine(mended(), dry_run=False)
    assert len(quarantined(lenient)) == 100


def test_two_replays_at_once_load_every_record_once(lenient):
    lenient.run(function=picky)
    done = []

    def replay():
        with lenient.admin() as admin:
            done.append(admin.replay_quarantine(mended(), dry_run=False).released)

    threads = [threading.Thread(target=replay) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 0, 100]
    lenient.assert_exact()
    assert_counted(lenient, 1000)


def test_a_rewind_takes_the_records_of_its_chunks_and_a_replay_after_it_finds_the_others(lenient):
    lenient.run(function=picky)
    with lenient.admin() as admin:
        rewound = admin.rewind("i8:500", dry_run=False)
        assert rewound.quarantined == 50
        assert_counted(lenient, 500)
        assert admin.replay_quarantine(mended(), dry_run=False).released == 50
    lenient.assert_exact(source="(select * from orders where id <= 500) as below")
    lenient.run("run_2", function=picky)
    assert len(quarantined(lenient)) == 50
    assert_counted(lenient, 1000)
    with lenient.admin() as admin:
        admin.replay_quarantine(mended(), dry_run=False)
    lenient.assert_exact()


def test_a_rewind_after_a_replay_takes_the_replayed_rows_back(lenient):
    lenient.run(function=picky)
    with lenient.admin() as admin:
        admin.replay_quarantine(mended(), dry_run=False)
        assert admin.rewind("i8:500", dry_run=False).deleted == 500
    lenient.run("run_2", function=keep)
    lenient.assert_exact()
    assert_counted(lenient, 1000)


# --- upsert --------------------------------------------------------------------------------------


def versions(world):
    """Every customer-less key n has version n (old) and version n + 500 (new)."""
    world.fetch("truncate orders restart identity", at="source")
    world.fetch(
        "insert into orders (customer, amount) select 'k' || n % 50, n from generate_series(1, 200) n",
        at="source",
    )
    world.warehouse = {"write": "upsert", "key": ("customer",)}
    world.source = {"chunk_rows": 40}
    world.pipeline = {"on_error": "quarantine"}


def newest(world):
    return world.fetch("select customer, id, amount::int from orders_copy order by customer")


def expected_newest():
    return sorted((f"k{n % 50}", n, n) for n in range(151, 201))


def test_a_replayed_older_version_never_replaces_a_newer_one(lenient):
    versions(lenient)

    def old_ones(record):
        if record["id"] % 3 == 0 and record["id"] <= 150:
            raise ValueError
        return record

    lenient.run(function=old_ones)
    assert newest(lenient) == expected_newest()
    with lenient.admin() as admin:
        replayed = admin.replay_quarantine(mended(), dry_run=False)
    assert (replayed.released, replayed.left) == (50, 0)
    assert newest(lenient) == expected_newest()


def test_a_replayed_newer_version_replaces_an_older_one(lenient):
    versions(lenient)

    def new_ones(record):
        if record["id"] > 150 and record["id"] % 2:
            raise ValueError
        return record

    lenient.run(function=new_ones)
    assert newest(lenient) != expected_newest()
    with lenient.admin() as admin:
        admin.replay_quarantine(mended(), dry_run=False)
    assert newest(lenient) == expected_newest()


def test_a_rewind_and_another_part_bring_no_older_version_back(lenient):
    versions(lenient)
    lenient.source |= {"where": "id > 100"}
    lenient.run(function=keep)
    assert newest(lenient) == expected_newest()
    lenient.part = "older"
    lenient.source |= {"where": "id <= 100"}
    lenient.run(function=keep)
    assert newest(lenient) == expected_newest()
    with lenient.admin() as admin:
        admin.rewind("begin", dry_run=False)
    lenient.run("run_2", function=picky)
    with lenient.admin() as admin:
        admin.replay_quarantine(mended(), dry_run=False)
    assert newest(lenient) == expected_newest()
