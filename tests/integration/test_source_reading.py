"""Reading a PostgreSQL source: chunks tile the cursor axis, and every value arrives as it was."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from airflow_checkpoint_etl import columns as carrying
from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.endpoints import PostgresSource
from airflow_checkpoint_etl.errors import (
    CancelledError,
    CheckpointEtlError,
    TypeMismatchError,
    ValueNotCarriedError,
)
from airflow_checkpoint_etl.sources.postgres import PostgresReader


@pytest.fixture
def reader_of(database):
    """Makes readers of the test's database, closed after the test."""
    made = []

    def make(start_after=None, **options: Any) -> PostgresReader:
        source = PostgresSource(**{"conn_id": "shop", "settle": "none", **options})
        made.append(PostgresReader(source, database.connect, start_after))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


def comparable(table: pa.Table) -> pa.Table:
    """Floats as text, because NaN equals nothing."""
    for place, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            table = table.set_column(place, field.name, table[field.name].cast(pa.string()))
    return table


def read_all(reader: PostgresReader, start: str = BEGIN) -> tuple[pa.Table, list[str]]:
    """Read everything beyond ``start``; check that the chunks tile it and can be read again."""
    target = reader.settle(start).target
    tables, ends = [], [start]
    while ends[-1] != target:
        assert not reader.at_or_past(ends[-1], target)
        chunk = reader.read(ends[-1], target)
        again = reader.read_again(ends[-1], chunk.high)
        assert again.high == chunk.high
        assert comparable(again.table).equals(comparable(chunk.table), check_metadata=True)
        tables.append(chunk.table)
        ends.append(chunk.high)
        assert len(ends) < 1000
    assert reader.at_or_past(ends[-1], target)
    return pa.concat_tables(tables) if tables else pa.table({}), ends


def test_chunks_tile_the_table_exactly_and_end_at_the_target(database, reader_of):
    database.execute("create table t (id bigint primary key, v text)")
    database.execute("insert into t select i * 3, 'v' || i from generate_series(1, 1000) i")
    rows, ends = read_all(reader_of(table="t", chunk_rows=137))
    assert rows["id"].to_pylist() == [i * 3 for i in range(1, 1001)]
    assert rows["v"].to_pylist() == [f"v{i}" for i in range(1, 1001)]
    assert ends[0] == BEGIN
    assert ends[1] == f"i8:{137 * 3}"
    assert ends[-1] == "i8:3000"
    assert len(ends) == 9


def test_a_last_chunk_of_exactly_the_limit_ends_at_the_target(database, reader_of):
    database.execute("create table t (id int primary key)")
    database.execute("insert into t select generate_series(1, 200)")
    rows, ends = read_all(reader_of(table="t", chunk_rows=100))
    assert ends == [BEGIN, "i4:100", "i4:200"]
    assert rows.num_rows == 200


def test_rows_that_vanished_below_the_target_still_end_at_the_target(database, reader_of):
    database.execute("create table t (id int primary key)")
    database.execute("insert into t select generate_series(1, 10)")
    reader = reader_of(table="t")
    target = reader.settle(BEGIN).target
    database.execute("delete from t where id > 5")
    chunk = reader.read("i4:5", target)
    assert chunk.table.num_rows == 0
    assert chunk.table.schema.field("id").type == pa.int32()
    assert chunk.high == target


def test_an_empty_table_has_nothing_to_settle(database, reader_of):
    database.execute("create table t (id int primary key)")
    assert reader_of(table="t").settle(BEGIN).target == BEGIN
    accepting = reader_of(table="t", on_source_reset="continue")
    assert accepting.settle("i4:7").target == "i4:7"


def test_chunks_are_bounded_by_bytes_and_the_next_limit_learns_from_them(database, reader_of):
    database.execute("create table t (id int primary key, v text)")
    database.execute(
        "insert into t select i, repeat(md5(i::text), 32768) from generate_series(1, 40) i"
    )
    reader = reader_of(table="t", chunk_bytes="8MiB")
    target = reader.settle(BEGIN).target
    first = reader.read(BEGIN, target)
    assert 1 <= first.table.num_rows <= 8
    assert first.table.nbytes <= 8 << 20
    assert reader._limit() <= 8
    rows, ends = read_all(reader)
    assert rows["id"].to_pylist() == list(range(1, 41))
    assert len(ends) >= 6


def test_one_row_larger_than_the_bound_still_moves_on(database, reader_of):
    database.execute("create table t (id int primary key, v text)")
    database.execute("insert into t select i, repeat('x', 300000) from generate_series(1, 5) i")
    rows, ends = read_all(reader_of(table="t", chunk_bytes=1000))
    assert rows["id"].to_pylist() == [1, 2, 3, 4, 5]
    assert len(ends) == 6


def test_small_rows_after_large_ones_fill_chunks_again(database, reader_of):
    database.execute("create table t (id int primary key, v text)")
    database.execute(
        "insert into t select i, repeat('x', case when i <= 4 then 1000000 else 1 end)"
        " from generate_series(1, 5000) i"
    )
    rows, ends = read_all(reader_of(table="t", chunk_bytes="2MiB"))
    assert rows["id"].to_pylist() == list(range(1, 5001))
    assert len(ends) < 12


def test_a_composite_cursor_splits_ties(database, reader_of):
    database.execute("create table t (at timestamptz, id bigint, primary key (at, id))")
    database.execute(
        "insert into t select '2026-01-01Z'::timestamptz + make_interval(secs => i / 10), i"
        " from generate_series(1, 95) i"
    )
    rows, ends = read_all(reader_of(table="t", cursor=("at", "id"), chunk_rows=7))
    assert rows["id"].to_pylist() == list(range(1, 96))
    assert ends[1] == '["tz:2026-01-01T00:00:00.000000Z","i8:7"]'


def test_a_text_cursor_is_read_and_compared_by_the_database(database, reader_of):
    words = [
        "a10",
        "a9",
        "B1",
        "b'2",
        "Ä",
        "ä\\1",
        "z z",
        "",
        "日本",
        'o"o',
        "%s",
        "{}",
        "\U0001f600",
    ]
    for collation in ("C", "pg_unicode_fast", "default"):
        database.execute(f'create table "t {collation}" (k text collate "{collation}" primary key)')
        for word in words:
            database.execute(f'insert into "t {collation}" values (%s)', word)
        expected = [row[0] for row in database.execute(f'select k from "t {collation}" order by k')]
        for chunk_rows in (1, 5):
            reader = reader_of(table=f'"t {collation}"', cursor="k", chunk_rows=chunk_rows)
            rows, _ = read_all(reader)
            assert rows["k"].to_pylist() == expected
    assert reader.at_or_past("txt:b", "txt:a")
    assert not reader.at_or_past("txt:a", "txt:b")
    assert not reader.at_or_past(BEGIN, "txt:")


CURSORS = (
    ("smallint", ["-32768", "0", "32767"]),
    ("bigint", ["-9223372036854775808", "9007199254740993", "9223372036854775807"]),
    ("numeric", ["-1e40", "-0.1", "0", "1e-30", "12345678901234567890.0000000001", "1e50"]),
    ("numeric(20,4)", ["-1.5", "0.0001", "9007199254740993.0001"]),
    ("numeric(40,3)", ["-1.5", "12345678901234567890123456789012345.678"]),
    ("varchar(20)", ["", "a", "b"]),
    (
        "uuid",
        [
            "00000000-0000-0000-0000-000000000000",
            "7f000000-0000-4000-8000-000000000001",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
    ),
    ("date", ["0001-01-01", "1969-12-31", "2026-02-28", "9999-12-31"]),
    (
        "timestamp",
        ["0001-01-01 00:00:00", "2026-01-01 00:00:00.000001", "9999-12-31 23:59:59.999999"],
    ),
    (
        "timestamptz",
        ["0001-01-01 00:00:00Z", "2026-01-01 00:00:00.5Z", "9999-12-31 23:59:59.999999Z"],
    ),
    ("timestamptz(3)", ["2026-01-01 00:00:00.123Z", "2026-01-01 00:00:00.124Z"]),
)


@pytest.mark.parametrize("as_text", [False, True])
def test_every_cursor_type_is_exact_at_its_extremes(database, reader_of, as_text):
    options = {"text_columns": ("k",)} if as_text else {}
    for number, (pg_type, values) in enumerate(CURSORS):
        table = f"t{number}"
        database.execute(f"create table {table} (k {pg_type} primary key, place int)")
        for place, value in enumerate(values):
            database.execute(f"insert into {table} values (%s::{pg_type}, {place})", value)
        reader = reader_of(table=table, cursor="k", chunk_rows=1, **options)
        rows, ends = read_all(reader)
        assert rows["place"].to_pylist() == list(range(len(values)))
        assert len(ends) == len(values) + 1
        rest, _ = read_all(reader, ends[1])
        assert rest["place"].to_pylist() == list(range(1, len(values)))


def test_a_number_carried_as_text_is_still_read_in_number_order(database, reader_of):
    database.execute("create table t (id int primary key)")
    database.execute("insert into t select generate_series(1, 120)")
    rows, _ = read_all(reader_of(table="t", text_columns=("id",), chunk_rows=7))
    assert rows["id"].to_pylist() == [str(i) for i in range(1, 121)]


def test_a_cursor_value_outside_the_calendar_is_an_error_that_names_its_column(database, reader_of):
    for value in ("0044-03-15 BC", "infinity", "10000-01-01"):
        database.execute("drop table if exists t")
        database.execute("create table t (k date primary key)")
        database.execute("insert into t values (%s)", value)
        with pytest.raises(ValueNotCarriedError, match="cursor column k"):
            reader_of(table="t", cursor="k").settle(BEGIN)
    database.execute("drop table t")
    database.execute("create table t (k numeric primary key)")
    database.execute("insert into t values ('NaN')")
    with pytest.raises(ValueNotCarriedError, match="cursor column k"):
        reader_of(table="t", cursor="k").settle(BEGIN)


def test_partitions_views_foreign_partitions_and_queries_are_read_alike(
    database, reader_of, postgres_server
):
    database.execute("create table t (id int primary key, v text) partition by range (id)")
    database.execute("create table t_1 partition of t for values from (0) to (50)")
    database.execute("create table t_2 partition of t default")
    database.execute("insert into t select i, 'v' || i from generate_series(1, 120) i")
    database.execute("create view shown as select id, upper(v) as v from t where id <= 100")
    database.execute("create materialized view kept as select * from t")
    database.execute("create unique index on kept (id)")
    rows, _ = read_all(reader_of(table="t", chunk_rows=9))
    assert rows["id"].to_pylist() == list(range(1, 121))
    rows, _ = read_all(reader_of(table="shown", unique=True, chunk_rows=9))
    assert rows["v"].to_pylist() == [f"V{i}" for i in range(1, 101)]
    rows, _ = read_all(reader_of(table="kept", chunk_rows=9))
    assert rows["id"].to_pylist() == list(range(1, 121))
    query = 'select a.id, b.v as "Other" -- why\nfrom t a join t b using (id) where a.id % 10 = 0; '
    rows, _ = read_all(reader_of(query=query, unique=True, chunk_rows=5, allow_sort=True))
    assert rows.to_pylist() == [{"id": i, "Other": f"v{i}"} for i in range(10, 121, 10)]

    database.execute("create extension postgres_fdw")
    database.execute(
        "create server itself foreign data wrapper postgres_fdw options"
        f" (host '127.0.0.1', port '{postgres_server.port}', dbname '{database.dsn.split('dbname=')[1]}')"
    )
    database.execute("create user mapping for current_user server itself options (user 'postgres')")
    database.execute("create table p (id int not null, v text) partition by range (id)")
    database.execute("create table p_1 partition of p for values from (0) to (50)")
    database.execute("insert into p select * from t where id < 50")
    database.execute(
        "create foreign table p_2 partition of p for values from (50) to (200) server itself"
        " options (table_name 't_2')"
    )
    reader = reader_of(table="p", unique=True, allow_sort=True, chunk_rows=9)
    assert reader.preflight().settle == "none"
    rows, _ = read_all(reader)
    assert rows["id"].to_pylist() == list(range(1, 121))


def test_a_row_filter_and_chosen_columns(database, reader_of):
    database.execute("create table t (id int primary key, a text, b text)")
    database.execute("insert into t select i, 'a%s{}' || i, 'b' from generate_series(1, 100) i")
    reader = reader_of(
        table="t", columns=("a",), where="a like 'a%5' or id = 1 -- or not", chunk_rows=3
    )
    rows, ends = read_all(reader)
    assert rows.column_names == ["a", "id"]
    assert rows["id"].to_pylist() == [1, *range(5, 101, 10)]
    assert ends[-1] == "i4:95"


NAMES = (
    "Mixed Case",
    "select",
    "日本語",
    "it's",
    'dou"ble',
    "dot.ted",
    "x" * 63,
    "%s",
    "{}",
    "a\\b",
    ";--",
)


def test_unusual_identifiers(database, reader_of):
    for name in NAMES:
        identifier = sql.Identifier(name)
        with database.connect(autocommit=True) as connection:
            statements = (
                "create schema {0}",
                "create table {0}.{0} ({0} int primary key, v text)",
                "insert into {0}.{0} select i, 'v' from generate_series(1, 10) i",
            )
            for statement in statements:
                connection.execute(sql.SQL(statement).format(identifier))
            table = sql.SQL("{0}.{0}").format(identifier).as_string(connection)
        reader = reader_of(table=table, cursor=name, chunk_rows=4)
        facts = reader.preflight()
        assert facts.identity["relation"] == f"{name}.{name}"
        rows, _ = read_all(reader)
        assert rows[name].to_pylist() == list(range(1, 11))


SAMPLES: dict[str, list[str]] = {
    "smallint": ["-32768", "32767"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "real": ["1.1", "NaN", "Infinity", "-0", "1e-45"],
    "double precision": ["0.1", "NaN", "-Infinity", "5e-324", "1.7976931348623157e308"],
    "boolean": ["true", "false"],
    "bytea": ["\\x", "\\x00ff0a5c"],
    "uuid": ["ffffffff-ffff-4fff-8fff-ffffffffffff"],
    "date": ["4714-11-24 BC", "0044-03-15 BC", "2026-02-28", "5874897-12-31"],
    "time": ["00:00", "23:59:59.999999"],
    "timestamp": ["4714-11-24 00:00:00 BC", "2026-01-01 12:34:56.789012", "290000-01-01"],
    "timestamptz": ["4714-11-24 00:00:00Z BC", "2026-01-01 12:34:56.789012+05:30", "290000-01-01Z"],
    "timestamp(3)": ["2026-01-01 12:34:56.789"],
    "text": ["", "\\N", "a\nb\t'\"\\", "ünï 日本 \U0001f600", "x" * 10000],
    "varchar(10)": ["", "0123456789"],
    "char(5)": ["a", "a b", ""],
    "bpchar": ["a  ", ""],
    "name": ["pg_class"],
    "json": ['{"b":1,  "a":[1,2.50]}', "null", '"x"'],
    "jsonb": ['{"big": 123456789012345678901234567890.123}', "null", "1", '"\\u00e9"'],
    "numeric(12,2)": ["-9999999999.99", "0.01", "0"],
    "numeric(38,10)": ["9999999999999999999999999999.9999999999", "-0.0000000001"],
    "numeric(40,2)": ["99999999999999999999999999999999999999.99", "NaN"],
    "numeric(5,-2)": ["1234500"],
    "numeric": ["NaN", "Infinity", "1e-100", "123456789012345678901234567890.5"],
    "interval": ["1 mon -2 days 03:04:05.000006", "-1 year", "infinity"],
    "timetz": ["24:00:00+05:30", "12:00Z"],
    "int[]": ["{1,NULL,3}", "{{1,2},{3,4}}", "[2:3]={1,2}", "{}"],
    "text[]": ['{"a,b","c\\"d",NULL}'],
    "timestamptz[]": ["{infinity,2026-01-01 00:00:00.000001Z}"],
    "char(3)[]": ['{"a  "}'],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "int4range": ["[1,5)", "empty", "(,3)"],
    "tstzrange": ["[2026-01-01Z,infinity)"],
    "bit(3)": ["101"],
    "varbit": ["1"],
    '"char"': ["a"],
    "oid": ["4294967295"],
    "pg_lsn": ["16/B374D848"],
    "xid8": ["18446744073709551615"],
    "tsvector": ["'a':1A 'b':2"],
    "point": ["(0.1,1e-300)"],
    "mood": ["sad", "it's"],
    "positive": ["1", "2147483647"],
    "price": ["-1.25"],
    "pair": ['(1,"a,b")', "(,)"],
    "hstore": ['"a"=>"1"', ""],
    "citext": ["AbC"],
    "vector": ["[1,2.5]"],
}


def as_text(value: Any, pg_type: str) -> str | None:
    """What PostgreSQL would write for an Arrow scalar, by SQL where Python has no such value."""
    if not value.is_valid:
        return None
    kind = str(value.type)
    if kind.startswith("date32"):
        return f"(date '1970-01-01' + {value.value})::{pg_type}::text"
    if kind.startswith("timestamp"):
        days, rest = divmod(value.value, 86_400_000_000)
        moment = f"(date '1970-01-01' + {days}) + {rest} * interval '1 microsecond'"
        zone = " at time zone 'UTC'" if "tz=" in kind else ""
        return f"(({moment}){zone})::{pg_type}::text"
    plain = value.as_py()
    plain = f"\\x{plain.hex()}" if isinstance(plain, bytes) else str(plain)
    return f"{sql.quote(plain)}::{pg_type}::text"


def test_every_type_arrives_exactly(database, reader_of):
    for statement in (
        "create type mood as enum ('sad', 'it''s')",
        "create domain positive as int check (value > 0)",
        "create domain price as numeric(12,2)",
        "create type pair as (a int, b text)",
        "create extension hstore",
        "create extension citext",
        "create extension vector",
    ):
        database.execute(statement)
    listed = ", ".join(f"c{place} {pg_type}" for place, pg_type in enumerate(SAMPLES))
    database.execute(f"create table t (id int primary key, {listed})")
    database.execute("insert into t values (0)")
    for place, samples in enumerate(SAMPLES.values()):
        for number, sample in enumerate(samples, 1):
            database.execute(
                f"insert into t (id, c{place}) values ({number}, %s)"
                f" on conflict (id) do update set c{place} = excluded.c{place}",
                sample,
            )
    rows, _ = read_all(reader_of(table="t"))
    assert rows["id"].to_pylist() == list(range(6))
    with database.connect(autocommit=True) as connection:
        connection.execute(
            "set timezone = 'UTC'; set extra_float_digits = 3; set bytea_output = hex"
        )
        for place, (pg_type, samples) in enumerate(SAMPLES.items()):
            stored = [
                row[0] for row in connection.execute(f"select c{place}::text from t order by id")
            ]
            assert stored[1 : len(samples) + 1] != [None] * len(samples)
            found = []
            for scalar in rows[f"c{place}"]:
                expression = as_text(scalar, pg_type)
                row = connection.execute(f"select {expression}" if expression else "select null")
                found.append(row.fetchone()[0])
            assert found == stored, pg_type
            field = rows.schema.field(f"c{place}")
            assert field.equals(
                carrying.field_of(field.name, carrying.pg_type_of(field)), check_metadata=True
            )
    assert (
        carrying.pg_type_of(rows.schema.field(f"c{list(SAMPLES).index('price')}"))
        == "numeric(12,2)"
    )
    padded = rows[f"c{list(SAMPLES).index('char(5)')}"][1].as_py()
    assert padded == "a    "
    assert rows[f"c{list(SAMPLES).index('bpchar')}"][1].as_py() == "a  "


ODD_VALUES = (
    ("timestamptz", "infinity", "timestamp with time zone"),
    ("timestamptz", "-infinity", "timestamp with time zone"),
    ("timestamp", "infinity", "timestamp without time zone"),
    ("timestamp", "-infinity", "timestamp without time zone"),
    ("timestamp", "294276-12-31 23:59:59.999999", "timestamp without time zone"),
    ("date", "infinity", "date"),
    ("date", "-infinity", "date"),
    ("time", "24:00", "time without time zone"),
    ("numeric(10,2)", "NaN", "numeric(10,2)"),
)


def test_a_value_arrow_cannot_hold_is_refused_by_column_and_travels_as_text(database, reader_of):
    for number, (pg_type, value, full_type) in enumerate(ODD_VALUES):
        table = f"t{number}"
        database.execute(f"create table {table} (id int primary key, odd {pg_type})")
        database.execute(f"insert into {table} values (1, null), (2, %s), (3, null)", value)
        reader = reader_of(table=table)
        with pytest.raises(ValueNotCarriedError, match=r'column odd .*text_columns=\("odd",\)'):
            reader.read(BEGIN, reader.settle(BEGIN).target)
        rows, _ = read_all(reader_of(table=table, text_columns=("odd",)))
        found = rows["odd"].to_pylist()[1]
        same = f"select odd = %s::{pg_type} from {table} where id = 2"
        assert database.execute(same, found) == [(True,)]
        assert carrying.pg_type_of(rows.schema.field("odd")) == full_type


def test_a_column_whose_type_changed_meanwhile_is_an_error_and_not_a_changed_value(
    database, reader_of
):
    database.execute("create table t (id int primary key, n int, d numeric(10,2))")
    database.execute("insert into t values (1, 1, 1.25)")
    for change in ("alter column n type bigint", "alter column d type numeric(12,4)"):
        reader = reader_of(table="t")
        assert reader.read(BEGIN, "i4:1").table.num_rows == 1
        database.execute(f"alter table t {change}")
        with pytest.raises(TypeMismatchError, match="is no longer"):
            reader.read(BEGIN, "i4:1")
        assert reader_of(table="t").read(BEGIN, "i4:1").table.num_rows == 1


def test_a_failing_row_says_its_code_and_no_data(database, reader_of):
    database.execute("create table t (id int primary key, v text)")
    database.execute("insert into t values (1, 'secret')")
    for reader in (
        reader_of(table="t", where="v::int > 0"),
        reader_of(query="select id, v::int from t", unique=True),
    ):
        with pytest.raises(CheckpointEtlError, match="22P02") as caught:
            reader.read(BEGIN, "i4:1")
        assert "secret" not in f"{caught.value} {caught.value.__cause__}"
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


SLOW = "pg_sleep(20)::text is not null"


def cancelled_within(reader: PostgresReader, work: Any, seconds: float) -> None:
    threading.Timer(0.3, reader.cancel).start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        work()
    assert time.monotonic() - started < seconds


def test_a_slow_read_is_cancelled_and_stays_so(database, reader_of):
    database.execute("create table t (id int primary key)")
    database.execute("insert into t values (1)")
    reader = reader_of(table="t", where=SLOW)
    cancelled_within(reader, lambda: reader.read(BEGIN, "i4:1"), 2)
    with pytest.raises(CancelledError):
        reader.settle(BEGIN)
    reader = reader_of(table="t", where=SLOW)
    cancelled_within(reader, lambda: reader.settle(BEGIN).target, 2)
    assert database.execute("select count(*) from pg_stat_activity where state = 'active'") == [
        (1,)
    ]


def test_an_exception_from_a_signal_handler_ends_the_statement_too(database, reader_of):
    import signal

    def interrupted(number, frame):
        raise KeyboardInterrupt

    database.execute("create table t (id int primary key)")
    database.execute("insert into t values (1)")
    reader = reader_of(table="t", where=SLOW)
    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            reader.read(BEGIN, "i4:1")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert database.execute("select count(*) from pg_stat_activity where state = 'active'") == [
        (1,)
    ]


END_THEM = (
    "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
    " where application_name like '%checkpoint_etl%' and datname = current_database()"
)


def test_lost_connections_are_opened_again(database, reader_of):
    database.execute("create table t (id int primary key, v int)")
    database.execute("insert into t select i, i from generate_series(1, 30) i")
    slow = "pg_sleep(case when id > 20 then 0.05 else 0 end)::text is not null"
    reader = reader_of(table="t", chunk_rows=10, where=slow)
    target = reader.settle(BEGIN).target
    assert reader.read(BEGIN, target).high == "i4:10"
    assert database.execute(END_THEM) == [(2,)]
    assert reader.read("i4:10", target).high == "i4:20"

    def end_the_running_one():
        running = "select count(*) from pg_stat_activity where state = 'active' and query ~ '^COPY'"
        deadline = time.monotonic() + 10
        while database.execute(running) == [(0,)] and time.monotonic() < deadline:
            time.sleep(0.01)
        ended.extend(database.execute(END_THEM))

    ended: list[tuple[int]] = []
    helper = threading.Thread(target=end_the_running_one)
    helper.start()
    assert reader.read("i4:20", target).table["v"].to_pylist() == list(range(21, 31))
    helper.join()
    assert ended == [(2,)]
    assert database.execute(END_THEM) == [(2,)]
    assert reader.settle("i4:20").target == "i4:30"


def test_a_server_that_is_gone_is_a_retryable_error_without_a_password(reader_of, database):
    source = PostgresSource(conn_id="shop", table="t")
    reader = PostgresReader(
        source, lambda: psycopg.connect("host=127.0.0.1 port=1 user=u password=hunter2")
    )
    with pytest.raises(CheckpointEtlError, match="cannot connect to source 'shop'") as caught:
        reader.preflight()
    assert caught.value.retryable
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_the_connection_factory_may_use_other_defaults(database):
    """A dict row factory, a repeatable-read role, odd formats and an open transaction change nothing."""
    from psycopg.rows import dict_row

    database.execute(
        "create schema other; create table other.t (id int primary key, at timestamptz, i interval)"
    )
    database.execute("insert into other.t values (1, '2026-07-01Z', '1 day -1 hour')")

    def connect():
        connection = psycopg.connect(
            database.dsn,
            row_factory=dict_row,
            options="-c default_transaction_isolation=serializable -c timezone=America/New_York"
            " -c datestyle=SQL,DMY -c intervalstyle=sql_standard",
        )
        connection.execute("set search_path = other")
        connection.commit()
        connection.execute("select 1")
        return connection

    reader = PostgresReader(
        PostgresSource(
            conn_id="c", query="select * from t", unique=True, settle="none", text_columns=("at",)
        ),
        connect,
    )
    try:
        rows, _ = read_all(reader)
        assert rows["at"].to_pylist() == ["2026-07-01 00:00:00+00"]
        assert rows["i"].to_pylist() == ["P1DT-1H"]
        for connection in ("control", "rows"):
            text = "select current_setting('transaction_isolation') || ' ' || current_setting('row_security')"
            if connection == "control":
                assert reader._session.fetch(text.encode()) == [("read committed off",)]
            else:
                with reader._session.rows().cursor() as execution:
                    execution.execute(text)
                    assert execution.fetchone() == ("read committed off",)
    finally:
        reader.close()
