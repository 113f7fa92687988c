"""The widest tables, a very large field, and names that only quoting saves, through all three stages."""

from __future__ import annotations

import random

import psycopg
import pytest
import redis

from airflow_checkpoint_etl.errors import ChunkTooLargeError, PreflightError
from airflow_checkpoint_etl.staging.postgres import PostgresStagingArea
from airflow_checkpoint_etl.staging.redis import RedisStagingArea
from airflow_checkpoint_etl.warehouses.catalog import quoted
from tests import support
from tests.support import World

MOST_COLUMNS = 1600
FIELD_BYTES = 64 << 20
LONGEST = "n" * 63
LONGEST_UNICODE = "ж" * 31  # 62 bytes
STRANGE = [
    "select",
    "Order",
    'a "quoted" name',
    "semi;colon -- and /* comment */",
    "it's",
    "back\\slash",
    "per%scent %(x)s %%",
    "brace{0}{}",
    "?",
    "$1",
    ":name",
    "1digit",
    " blanks ",
    "new\nline\ttab",
    "ш\u0301люз",
    "שלום\u202e",
    "🦆",
    LONGEST,
    LONGEST_UNICODE,
    "user",
    "_ck",
    "excluded",
    "standing",
    "arrived",
    "source_rows",
]


@pytest.fixture
def empty(request, new_database, valkey_server) -> World:
    """Two empty databases and a checkpoint store: PostgreSQL, or Redis where a test asks for it."""
    port = valkey_server.port if getattr(request, "param", "") == "redis" else None
    if port is not None:
        redis.Redis(port=port).flushall()
    return World(new_database().dsn, new_database().dsn, port)


both_stores = pytest.mark.parametrize("empty", ["redis", "postgres"], indirect=True)
rather_long = pytest.param("append", marks=pytest.mark.chaos)


def keep(record):
    return record


# --- wide --------------------------------------------------------------------------------------------


def wide_source(world: World, columns: int, rows: int) -> list[str]:
    """A table of an id and text, boolean and numeric columns in turn; a row of it fits a page."""
    names = [f"c{n}" for n in range(1, columns)]
    kinds = ["smallint", "boolean", "text", "numeric(3, 1)"]
    values = ["(g % 100)::int2", "g % 2 = 0", "case g % 3 when 0 then null else 'x' end", "0.5"]
    declared = ", ".join(f"{name} {kinds[n % 4]}" for n, name in enumerate(names))
    world.fetch(f"create table orders (id bigserial primary key, {declared})", at="source")
    given = ", ".join(values[n % 4] for n in range(len(names)))
    world.fetch(
        f"insert into orders ({', '.join(names)}) select {given} from generate_series(1, {rows}) g",
        at="source",
    )
    return ["id", *names]


@pytest.mark.parametrize(
    ("empty", "function"),
    [("redis", None), pytest.param("postgres", keep, marks=pytest.mark.chaos)],
    indirect=["empty"],
)
def test_as_many_columns_as_a_table_can_have(empty, function):
    names = wide_source(empty, MOST_COLUMNS, 250)
    empty.warehouse["lineage"] = "never"
    empty.run(function=function)
    columns = ", ".join(names)
    assert_equal(empty, columns, "orders", "orders_copy", 250)


def test_as_many_columns_as_an_upsert_with_lineage_can_have(empty):
    names = wide_source(empty, MOST_COLUMNS - 1, 120)
    empty.warehouse |= {"write": "upsert", "key": "id"}
    empty.run()
    empty.fetch("update orders set c1 = 7", at="source")
    empty.fetch("insert into orders (c1) values (9)", at="source")
    empty.run("run_2")
    assert len(empty.fetch("select * from orders_copy limit 1")[0]) == MOST_COLUMNS
    assert empty.fetch("select count(*), count(distinct id) from orders_copy") == [(121, 121)]
    assert empty.fetch("select c1 from orders_copy where id = 121") == [(9,)]
    assert names[-1] == f"c{MOST_COLUMNS - 2}"


def test_a_target_without_room_for_lineage_says_how_to_do_without(empty):
    wide_source(empty, MOST_COLUMNS, 10)
    with pytest.raises(PreflightError, match="lineage"):
        empty.run()
    empty.warehouse["lineage"] = "never"
    empty.run("run_2")
    assert empty.fetch("select count(*) from orders_copy") == [(10,)]


# --- large -------------------------------------------------------------------------------------------


def large_source(world: World) -> None:
    """Small rows around one of 64 MiB that no compression makes smaller."""
    world.fetch("create table orders (id bigserial primary key, body bytea)", at="source")
    with psycopg.connect(world.source_dsn, autocommit=True) as connection:
        for body in (b"small", noise(FIELD_BYTES), b"after"):
            connection.execute("insert into orders (body) values (%b)", (body,))


def noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)


@both_stores
def test_a_field_of_64_mib_under_a_raised_cap(empty, monkeypatch):
    large_source(empty)
    monkeypatch.setattr(support, "CAP", 128 << 20)
    empty.run()
    digest = "select id, length(body), md5(body) from {} order by id"
    copied = empty.fetch(digest.format("orders_copy"))
    assert copied == empty.fetch(digest.format("orders"), at="source")
    assert [row[1] for row in copied] == [5, FIELD_BYTES, 5]


@pytest.mark.parametrize(
    "empty", ["redis", pytest.param("postgres", marks=pytest.mark.chaos)], indirect=True
)
def test_a_field_above_the_default_cap_is_refused_with_the_way_out_and_nothing_is_lost(
    empty, monkeypatch
):
    large_source(empty)
    with pytest.raises(ChunkTooLargeError) as refused:
        empty.run()
    for way_out in ("chunk_bytes", "max_staged_chunk", "object storage"):
        assert way_out in str(refused.value)
    assert not refused.value.retryable
    monkeypatch.setattr(support, "CAP", 128 << 20)
    empty.run()
    assert empty.fetch("select id, length(body) from orders_copy order by id") == [
        (1, 5),
        (2, FIELD_BYTES),
        (3, 5),
    ]


@pytest.mark.chaos
def test_a_large_text_through_a_transform_and_a_cast(empty, monkeypatch):
    """An upsert's rows travel through a temporary table."""
    empty.fetch("create table orders (id bigserial primary key, body text)", at="source")
    empty.fetch(
        "insert into orders (body) select string_agg(md5(g::text), '') from generate_series(1, 524288) g",
        at="source",
    )
    empty.warehouse |= {"write": "upsert", "key": "id"}
    monkeypatch.setattr(support, "CAP", 128 << 20)
    empty.run(function=keep)
    digest = "select id, length(body), md5(body) from {}"
    assert empty.fetch(digest.format("orders_copy")) == empty.fetch(
        digest.format("orders"), at="source"
    )


@pytest.mark.parametrize("area", [PostgresStagingArea, RedisStagingArea])
def test_a_cap_above_what_the_store_takes_as_one_value_is_lowered_to_that(area):
    assert area(lambda: None, 1 << 40)._cap < 1 << 30


# --- strange names -------------------------------------------------------------------------------------


def ident(*names: str) -> str:
    return quoted(*names)


def assert_equal(world: World, columns: str, source: str, target: str, rows: int) -> None:
    """Both tables hold the same rows, compared as text in SQL."""
    digest = "select count(*), md5(string_agg(t::text, chr(10) order by t::text)) from (select {} from {}) t"
    there = world.fetch(digest.format(columns, source), at="source")
    assert world.fetch(digest.format(columns, target)) == there
    assert there[0][0] == rows


def strange_source(world: World, schema: str, table: str, cursor: str) -> str:
    """A table whose every name is strange; returns its columns."""
    source = ident(schema, table)
    others = [name for name in STRANGE if name != cursor]
    columns = ", ".join(f"{ident(name)} text" for name in others)
    world.fetch(f"create schema {ident(schema)}", at="source")
    world.fetch(
        f"create table {source} ({ident(cursor)} bigint generated always as identity primary key,"
        f" {columns})",
        at="source",
    )
    given = ", ".join(["'v' || g"] * len(others))
    names = ", ".join(map(ident, others))
    world.fetch(
        f"insert into {source} ({names}) select {given} from generate_series(1, 130) g", at="source"
    )
    return f"{ident(cursor)}, {names}"


PLACES = [
    ("Mixed", "select", "Order"),
    ("select", LONGEST, LONGEST),
    ('a "b"', "semi;colon -- x", 'a "quoted" name'),
    ("per%scent", "brace{0}{}", "per%scent %(x)s %%"),
    (LONGEST_UNICODE, LONGEST_UNICODE, LONGEST_UNICODE),
    ("🦆", "שלום\u202e", "ш\u0301люз"),
    ("back\\slash", "it's", "back\\slash"),
    ("d.o.t", "new\nline", "brace{0}{}"),
]


@pytest.mark.parametrize(("schema", "table", "cursor"), PLACES)
@pytest.mark.parametrize("write", [rather_long, "upsert"])
def test_strange_names_go_all_the_way(empty, schema, table, cursor, write):
    names = strange_source(empty, schema, table, cursor)
    empty.fetch(f"create schema {ident(schema)}")
    empty.source |= {"table": ident(schema, table), "cursor": cursor}
    empty.warehouse |= {"table": ident(schema, table), "write": write}
    if write == "upsert":
        empty.warehouse["key"] = cursor
    empty.run(function=keep if write == "upsert" else None)
    target = ident(schema, table)
    assert_equal(empty, names, target, target, 130)
    assert empty.fetch(f"select count(*) from {target} where _ck_chunk is null") == [(0,)]
    assert empty.fetch(f"select distinct _ck_chunk from {target} order by 1") == empty.fetch(
        "select id from checkpoint_etl.ledger order by id"
    )


def test_a_strange_composite_cursor_of_text_is_quoted(empty):
    """Values of a text cursor stand in the statements: they must be as safe as names."""
    empty.fetch(
        'create table orders ("Grp" text not null, id bigserial, primary key ("Grp", id))',
        at="source",
    )
    with psycopg.connect(empty.source_dsn, autocommit=True) as connection:
        for value in [
            *STRANGE,
            "",
            "'); drop table orders; --",
            "$$",
            "E'\\x'",
            "\\",
            "''",
            "\u2028",
        ]:
            connection.execute(
                'insert into orders ("Grp") select %s from generate_series(1, 9)', (value,)
            )
    empty.source |= {"cursor": ("Grp", "id"), "chunk_rows": 7, "settle": "transactions"}
    empty.warehouse |= {"write": "upsert", "key": ("Grp", "id")}
    empty.run()
    rows = 9 * (len(STRANGE) + 7)
    assert_equal(empty, '"Grp", id', "orders", "orders_copy", rows)


@pytest.mark.parametrize("at", ["source", "warehouse"])
def test_a_name_that_postgres_would_cut_off_is_not_taken_for_another_table(empty, at):
    """``to_regclass`` cuts names off in silence: that of a table which is not there finds another."""
    empty.fetch("create table orders (id bigserial primary key, note text)", at="source")
    empty.fetch("insert into orders (note) select 'x' from generate_series(1, 5)", at="source")
    empty.fetch(f"create table {LONGEST} (id bigserial primary key, note text)", at=at)
    if at == "source":
        empty.source["table"] = LONGEST + "_2"
    else:
        empty.warehouse["table"] = LONGEST + "_2"
    with pytest.raises((PreflightError, ValueError), match="63 bytes"):
        empty.run()
    assert empty.fetch(f"select count(*) from {LONGEST}", at=at) == [(0,)]
