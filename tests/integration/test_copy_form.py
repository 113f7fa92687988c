"""A pipeline in copy form, by its three stages: what is staged, what arrives, and what is refused."""

from __future__ import annotations

import logging

import psycopg
import pytest

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.errors import (
    CopiedChunkError,
    PreflightError,
    StagedChunkError,
    TypeMismatchError,
    ValueNotCarriedError,
)
from airflow_checkpoint_etl.frames import BLOCK, Frames
from airflow_checkpoint_etl.protocol import Stage
from airflow_checkpoint_etl.staging import codec
from tests.support import COLUMNS, INSERT

# What is tested here does not depend on the checkpoint store; tests/chaos kills it on both.
pytestmark = pytest.mark.parametrize("world", ["postgres"], indirect=True)

COPY = {"form": "copy"}


@pytest.fixture
def copied(world):
    world.attempt |= COPY
    return world


def staged(world, stage=Stage.EXTRACT):
    """The staged files of a stage's chunks, decoded."""
    ports = world.ports()
    try:
        entries = ports.checkpoints.read(world.lane, stage).entries
        return [codec.decode(ports.staging.get(entry.name)) for entry in entries]
    finally:
        ports.close()


# --- the way through the stages -------------------------------------------------------------------


def test_rows_arrive_as_they_were_copied(copied):
    copied.run()
    copied.assert_exact()
    assert [row[:4] for row in copied.ledger()][:2] == [
        (1, BEGIN, "i8:100", 100),
        (2, "i8:100", "i8:200", 100),
    ]
    copied.insert(50)
    extract, passed, load = copied.run("run_2")
    assert [one.rows for one in (extract, passed, load)] == [50, 50, 50]
    copied.assert_exact()


def test_what_is_staged_says_what_was_copied(copied):
    copied.stage("extract")
    chunks = staged(copied)
    assert len(chunks) == 10
    assert {type(chunk) for chunk in chunks} == {Frames}
    first = chunks[0]
    assert first.num_rows == 100
    assert [(column.name, column.pg_type) for column in first.columns] == [
        ("id", "bigint"),
        ("customer", "text"),
        ("amount", "numeric(12,2)"),
        ("created_at", "timestamp with time zone"),
    ]
    raw = b"".join(first.blocks())
    assert raw.startswith(b"PGCOPY\n\xff\r\n\0")
    assert raw.endswith(b"\xff\xff")
    assert len(raw) == first.size


def test_a_copied_chunk_is_read_again_to_the_byte(copied):
    ports = copied.ports()
    try:
        read = ports.source.read("i8:200", "i8:1000", "copy")
        again = ports.source.read_again("i8:200", "i8:300", "copy")
    finally:
        ports.close()
    assert read.high == again.high == "i8:300"
    assert read.table.num_rows == 100
    assert codec.digest(codec.encode(read.table)) == codec.digest(codec.encode(again.table))


def test_a_run_without_news_loads_nothing(copied):
    copied.run()
    assert [one.chunks for one in copied.run("run_2")] == [0, 0, 0]


def test_gaps_left_by_deleted_rows_are_passed(copied):
    copied.fetch("delete from orders where id between 150 and 950", at="source")
    copied.run()
    copied.assert_exact()
    assert sum(row[3] for row in copied.ledger()) == 1000 - 801


def test_an_empty_source_loads_nothing(copied):
    copied.fetch("truncate orders", at="source")
    copied.run()
    assert copied.fetch("select to_regclass('orders_copy')") == [(None,)]


def test_rows_left_below_the_target_but_gone_when_read_make_an_empty_chunk(copied):
    copied.stage("extract", "run_0")
    copied.fetch("delete from orders", at="source")
    ports = copied.ports()
    try:
        read = ports.source.read(BEGIN, "i8:1000", "copy")
    finally:
        ports.close()
    assert (read.high, read.table.num_rows) == ("i8:1000", 0)


# --- the size of chunks ---------------------------------------------------------------------------


def test_a_chunk_keeps_within_its_bytes(copied):
    copied.source |= {"chunk_rows": 100_000, "chunk_bytes": 20_000}
    copied.run()
    copied.assert_exact()
    sizes = [chunk.size for chunk in staged(copied)]
    assert max(sizes) <= 20_000
    assert len(sizes) < 12, "chunks are far smaller than they may be"


def test_one_row_larger_than_the_bound_is_a_chunk_of_its_own(copied):
    copied.source |= {"chunk_bytes": 10_000}
    copied.fetch("update orders set customer = repeat('x', 50000) where id = 500", at="source")
    copied.run()
    copied.assert_exact()
    large = [row for row in copied.ledger() if row[1:4] == ("i8:499", "i8:500", 1)]
    assert len(large) == 1


def test_rows_pass_in_blocks_and_not_one_by_one(copied):
    copied.fetch(INSERT.format(20_000), at="source")
    blocks = []

    class Sink:
        def begin(self, high, columns):
            self.high = high

        def check(self):
            pass

        def write(self, block, rows):
            blocks.append(len(block))

    copied.source["chunk_rows"] = 100_000
    ports = copied.ports()
    try:
        high, rows = ports.source.copy_out(BEGIN, "i8:21000", Sink())
    finally:
        ports.close()
    assert (high, rows) == ("i8:21000", 21_000)
    assert max(blocks) < 2 * BLOCK
    assert len(blocks) <= sum(blocks) // BLOCK + 1


def test_a_staged_chunk_above_the_cap_is_refused(copied, monkeypatch):
    monkeypatch.setattr("tests.support.CAP", 1000)
    with pytest.raises(StagedChunkError, match=r"1,000|1000"):
        copied.stage("extract")


DAMAGE = {
    "changed": "set_byte(data, length(data) - 9, get_byte(data, length(data) - 9) # 255)",
    "cut": "substr(data, 1, length(data) - 1)",
    "grown": "data || 'x'::bytea",
    "exchanged": "(select data from checkpoint_etl.staged where name like '%%/000000000004-%%' limit 1)",
    "arrow instead": "'\\xffffffff00000000'::bytea",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_refused_and_a_clear_stages_it_anew(copied, how):
    copied.stage("extract")
    copied.stage("transform")
    copied.fetch(
        f"update checkpoint_etl.staged set data = {DAMAGE[how].replace('%%', '%')} "
        "where name like '%/000000000003-%'"
    )
    with pytest.raises(StagedChunkError, match="damaged or replaced"):
        copied.stage("load")
    assert copied.fetch("select count(*), max(id) from orders_copy") == [(200, 200)]
    copied.run(clear_number=1)
    copied.assert_exact()


# --- what is read ---------------------------------------------------------------------------------


def test_columns_where_and_text_columns_hold(copied):
    copied.source |= {
        "columns": ("amount", "customer"),
        "where": "id % 3 = 0",
        "text_columns": ("amount",),
    }
    copied.run()
    copied.assert_exact(
        "id, customer, amount", source="(select * from orders where id % 3 = 0) as o"
    )
    assert copied.fetch(
        "select string_agg(attname, ',' order by attnum) from pg_attribute "
        "where attrelid = 'orders_copy'::regclass and attnum > 0"
    ) == [("amount,customer,id,_ck_chunk",)]


def test_a_query_is_copied(copied):
    copied.source |= {
        "table": None,
        "query": "select id, amount * 2 as twice, upper(customer) as customer from orders -- all",
        "unique": True,
        "settle_tables": ("orders",),
    }
    copied.run()
    copied.assert_exact(
        "id, twice, customer",
        source="(select id, amount * 2 as twice, upper(customer) as customer from orders) as o",
    )


def test_columns_are_matched_by_name_and_not_by_place(copied):
    copied.fetch(
        "create table orders_copy (extra text default 'x', created_at timestamptz, gone int, "
        "amount numeric(12,2), customer text, id bigint, _ck_chunk bigint)"
    )
    copied.fetch("alter table orders_copy drop column gone")
    copied.fetch(
        "alter table orders add column dropped int; alter table orders drop column dropped",
        at="source",
    )
    copied.run()
    copied.assert_exact()
    assert copied.fetch("select distinct extra from orders_copy") == [("x",)]


def test_a_generated_column_of_the_source_is_copied_into_an_ordinary_one(copied):
    copied.fetch(
        "alter table orders add column tax numeric generated always as (amount * 0.2) stored",
        at="source",
    )
    copied.run()
    copied.assert_exact(f"{COLUMNS}, tax")


@pytest.mark.parametrize(
    "column",
    ["customer text generated always as ('x') stored", "id bigint generated always as identity"],
)
def test_a_column_that_the_target_makes_itself_is_refused(copied, column):
    name = column.split()[0]
    others = [
        definition
        for definition in (
            "id bigint",
            "customer text",
            "amount numeric(12,2)",
            "created_at timestamptz",
        )
        if not definition.startswith(name)
    ]
    copied.fetch(f"create table orders_copy ({column}, {', '.join(others)})")
    with pytest.raises(TypeMismatchError, match=f'column "{name}" is always generated'):
        copied.stage("extract")


def test_a_composite_cursor_of_text_is_copied_in_its_own_order(copied):
    copied.fetch(
        'create table named (name text collate "C", id int, x float8, primary key (name, id)); '
        "insert into named select chr(65 + n % 50), n, n / 7.0 from generate_series(1, 700) n",
        at="source",
    )
    copied.source |= {"table": "named", "cursor": ("name", "id"), "settle": "none"}
    copied.run()
    copied.assert_exact("name, id, x", source="named")
    assert len(copied.ledger()) >= 7


# --- lineage --------------------------------------------------------------------------------------


def lineage(world):
    return world.fetch(
        "select seq, count(*) from orders_copy left join checkpoint_etl.ledger on _ck_chunk = ledger.id "
        "group by 1 order by 1"
    )


def test_every_row_names_its_chunk(copied):
    copied.run()
    assert lineage(copied) == [(seq, 100) for seq in range(1, 11)]


def test_a_lineage_column_without_the_default_is_filled_as_well(copied, caplog):
    copied.fetch(
        "create table orders_copy (id bigint primary key, customer text, amount numeric(12,2), "
        "created_at timestamptz, _ck_chunk bigint)"
    )
    with caplog.at_level(logging.WARNING):
        copied.run()
    copied.assert_exact()
    assert lineage(copied) == [(seq, 100) for seq in range(1, 11)]
    assert caplog.text.count("alter column _ck_chunk set default nullif(current_setting(") == 1


def test_a_default_that_reads_the_chunk_wrongly_is_refused(copied):
    copied.fetch(
        "create table orders_copy (id bigint primary key, customer text, amount numeric(12,2), "
        "created_at timestamptz, _ck_chunk bigint default "
        "current_setting('checkpoint_etl.chunk', true)::bigint + 1)"
    )
    copied.stage("extract")
    copied.stage("transform")
    with pytest.raises(PreflightError, match="gives something else than it holds"):
        copied.stage("load")
    assert copied.fetch("select count(*) from orders_copy") == [(0,)]


def test_a_rewind_takes_copied_rows_back(copied):
    copied.run()
    with copied.admin() as admin:
        assert admin.rewind("i8:700", dry_run=False).deleted == 300
    copied.run("run_2")
    copied.assert_exact()


# --- upsert ---------------------------------------------------------------------------------------


def test_an_upsert_keeps_the_newest_of_each_key(copied):
    copied.warehouse |= {"write": "upsert", "key": ("customer",)}
    copied.source["where"] = "customer is not null"
    copied.fetch("update orders set customer = 'c' || id % 37 where id % 5 > 0", at="source")
    copied.fetch("update orders set customer = null where id % 5 = 0", at="source")
    copied.run()
    newest = (
        f"(select distinct on (customer) {COLUMNS} from orders where customer is not null "
        "order by customer, id desc) as newest"
    )
    copied.assert_exact(source=newest)
    copied.fetch("insert into orders (customer, amount) values ('c1', 5), ('c1', 6)", at="source")
    copied.run("run_2")
    copied.assert_exact(source=newest)


def test_an_older_version_never_replaces_a_newer_one(copied):
    copied.warehouse |= {"write": "upsert", "key": ("id",)}
    copied.run()
    copied.fetch("update orders_copy set id = id, amount = 7 where id = 1")
    with copied.admin() as admin:
        admin.rewind(None, dry_run=False)
    copied.run("run_2")
    copied.assert_exact()


def test_a_null_in_an_upserts_key_is_refused(copied):
    copied.warehouse |= {"write": "upsert", "key": ("customer",), "create_table": False}
    copied.fetch(
        "create table orders_copy (id bigint, customer text unique, amount numeric(12,2), "
        "created_at timestamptz)"
    )
    copied.stage("extract")
    copied.stage("transform")
    with pytest.raises(
        ValueNotCarriedError, match='the key column "customer" of an upsert is NULL'
    ):
        copied.stage("load")


# --- what is refused ------------------------------------------------------------------------------


def other_amount(world, pg_type="numeric(12,3)"):
    world.fetch(
        f"create table orders_copy (id bigint, customer text, amount {pg_type}, created_at timestamptz)"
    )


def test_unequal_types_are_refused_before_anything_is_staged(copied):
    other_amount(copied)
    with pytest.raises(TypeMismatchError, match=r'"amount": numeric\(12,2\) was copied'):
        copied.stage("extract")
    assert staged(copied) == []


def test_auto_stages_arrow_where_the_types_differ_and_says_why(world, caplog):
    world.attempt["form"] = "auto"
    other_amount(world)
    with caplog.at_level(logging.INFO):
        world.run()
    assert 'staged in arrow form, because:\n- column "amount": numeric(12,2)' in caplog.text
    assert not any(isinstance(chunk, Frames) for chunk in staged(world))
    world.assert_exact()


def test_auto_copies_where_the_types_are_equal(world):
    world.attempt["form"] = "auto"
    world.run()
    assert all(isinstance(chunk, Frames) for chunk in staged(world))
    world.assert_exact()


def test_a_target_that_changed_after_extract_is_refused_and_a_clear_stages_anew(world):
    world.attempt["form"] = "auto"
    world.stage("extract")
    world.stage("transform")
    other_amount(world)
    with pytest.raises(TypeMismatchError, match='column "amount"'):
        world.stage("load")
    world.run(clear_number=1)
    world.assert_exact()


def test_a_transform_refuses_a_copied_chunk_and_a_clear_stages_it_as_arrow(world):
    world.stage("extract")
    world.fetch("truncate checkpoint_etl.run, checkpoint_etl.ledger cascade")
    world.attempt |= COPY
    copied_run = "run_2"
    world.insert(100)
    world.stage("extract", copied_run)
    world.attempt["form"] = "arrow"
    with pytest.raises(CopiedChunkError, match="no transform can read"):
        world.stage("transform", copied_run, function=lambda record: record)
    world.run(copied_run, function=lambda record: record, clear_number=1)
    world.assert_exact()


def test_forms_may_follow_each_other_on_one_lane(world):
    for number, form in enumerate(["arrow", "copy", "arrow", "copy"]):
        world.attempt["form"] = form
        world.insert(150)
        world.run(f"run_{number}")
    world.assert_exact()


def test_a_refused_row_is_named_by_its_constraint_and_never_by_its_values(copied):
    copied.fetch(
        "create table orders_copy (id bigint, customer text, amount numeric(12,2) "
        "constraint small check (amount < 5), created_at timestamptz)"
    )
    copied.stage("extract")
    copied.stage("transform")
    with pytest.raises(ValueNotCarriedError, match='constraint "small"') as raised:
        copied.stage("load")
    assert "O'Brien" not in str(raised.value)
    assert copied.fetch("select count(*), max(id) from orders_copy") == [(400, 400)]


# --- what it costs --------------------------------------------------------------------------------


def statements_of(world, monkeypatch, stage, run):
    """How many times a stage talked to the servers, by chunk."""
    count = 0
    execute = psycopg.Cursor.execute

    def counting(self, *args, **kwargs):
        nonlocal count
        count += 1
        return execute(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", counting)
        world.stage(stage, run)
    return count


@pytest.mark.parametrize("write", ["append", "upsert"])
def test_the_statements_of_a_chunk_do_not_grow_with_its_rows(copied, monkeypatch, write):
    if write == "upsert":
        copied.warehouse |= {"write": "upsert", "key": ("id",)}
    copied.source["chunk_rows"] = 100_000
    copied.run("run_0")
    counts = {}
    for rows in (10, 5000):
        copied.insert(rows)
        counts[rows] = [
            statements_of(copied, monkeypatch, stage, f"run_{rows}")
            for stage in ("extract", "transform", "load")
        ]
    assert counts[10] == counts[5000]
    copied.assert_exact()


# --- leaving a copy early -------------------------------------------------------------------------


class FullError(Exception):
    """The sink takes no more."""


@pytest.mark.parametrize("rows", [1, 100, 50_000])
def test_a_copy_that_is_left_early_leaves_a_connection_that_works(copied, rows):
    class Sink:
        def begin(self, high, columns):
            pass

        def check(self):
            pass

        def write(self, block, rows):
            raise FullError

    copied.insert(max(0, rows - 1000))
    copied.source["chunk_rows"] = rows
    ports = copied.ports()
    try:
        for _ in range(3):
            with pytest.raises(FullError):
                ports.source.copy_out(BEGIN, f"i8:{max(rows, 1000)}", Sink())
            assert ports.source._session.is_open
        assert ports.source.read(BEGIN, "i8:1000", "copy").table.num_rows == min(rows, 1000)
    finally:
        ports.close()
