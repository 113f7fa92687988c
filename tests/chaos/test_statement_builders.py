"""Ten thousand generated names and values through every statement builder: quoted, or refused.

PostgreSQL itself says, in bulk, what each quoted name and literal means to it. Every builder must then
make of a name exactly what it makes of a harmless one, with nothing but the quoted form exchanged.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.columns import PG_TYPE
from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    ConfigurationError,
    PreflightError,
    TypeMismatchError,
)
from airflow_checkpoint_etl.sources.keyset import Column, Keyset, start_after_texts
from airflow_checkpoint_etl.warehouses import catalog, copying
from airflow_checkpoint_etl.warehouses.catalog import Place, TargetFacts, quoted, too_long
from airflow_checkpoint_etl.warehouses.ddl import new_table
from airflow_checkpoint_etl.warehouses.target import TargetTable
from airflow_checkpoint_etl.warehouses.wire import TargetColumn, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = 20_260_101
COUNT = 10_000
LONGEST = 63
HARMLESS = "harmless_7f3a"
"""Stands nowhere in any statement but where a builder puts it."""

FRAGMENTS = [
    '"', '""', "'", "''", ";", "--", "/*", "*/", "\\", "\\\\", "E'", "$$", "$1", "$a$", "%", "%%",
    "%s", "%(x)s", "%b", "{}", "{0}", "{{", "}}", "{x}", "?", ":x", "::int", "(", ")", ",", ".", "..",
    " ", "  ", "\t", "\n", "\r\n", "\b", "\x01", "\x7f", "\u00a0", "\u200b", "\u202e", "\u2028",
    "\ufeff", "\ufffd", "e\u0301", "é", "ß", "İ", "\u0131", "\u212a", "шлюз", "שלום", "مرحبا", "漢字", "🦆",
    "👩\u200d🚀", "\U0001d518", "A", "z", "Z9", "0", "1digit", "_", "select", "SELECT", "from", "user", "table",
    "null", "order", "Limit", "excluded", "drop table x", "or 1=1", "pg_temp", "U&'", "x'", "@", "#",
    "!", "`", "|", "&", "<", ">", "=", "+", "*", "/", "~", "^", "[", "]",
]  # fmt: skip


def generated(count: int = COUNT, seed: int = SEED) -> list[str]:
    """Return distinct names of at most 63 bytes, no two alike; the first thousand fill them."""
    chance = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        name = "".join(chance.choices(FRAGMENTS, k=chance.randint(1, 6)))
        if len(found) < 1000:
            name += "x" * LONGEST
        found.setdefault(cut(name, LONGEST))
    return list(found)


def cut(name: str, length: int) -> str:
    return name.encode()[:length].decode(errors="ignore")


NAMES = generated()
SHARES = [10, pytest.param(1, marks=pytest.mark.chaos)]
"""Every tenth name through each builder by default, all of them in a long run."""
VALUES = [*NAMES[:-3], "", "x" * 100_000, "\\" * 999]
REFUSED = (CheckpointEtlError, psycopg.Error, UnicodeError)


@pytest.fixture(scope="module")
def connection(postgres_server) -> Iterator[psycopg.Connection[Any]]:
    name = "statement_builders"
    dsn = postgres_server.create_database(name)
    with psycopg.connect(dsn, autocommit=True) as opened:
        yield opened
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as other:
        other.execute(f"drop database {name} with (force)")


def batches(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


# --- what a quoted name and a literal mean to PostgreSQL ------------------------------------------------


def test_every_quoted_name_is_that_name_to_the_server(connection):
    assert len(set(NAMES)) == COUNT
    assert sum(len(name.encode()) >= LONGEST - 3 for name in NAMES) > 900
    (wrong,) = connection.execute(
        "select count(*) from unnest(%s::text[], %s::text[]) as t (name, quoted)"
        " where parse_ident(quoted) is distinct from array[name]",
        (NAMES, [quoted(name) for name in NAMES]),
    ).fetchone()
    assert wrong == 0
    for some in batches(NAMES, 1600):
        listed = sql.SQL(", ").join(sql.SQL("0 as ") + sql.SQL(quoted(name)) for name in some)
        described = connection.execute(sql.SQL("select {}").format(listed)).description
        assert [column.name for column in described] == some
    assert all(sql.Identifier(name).as_string(connection) == quoted(name) for name in NAMES)


def test_every_literal_is_that_value_to_the_server(connection):
    for some in batches(VALUES, 2000):
        listed = sql.SQL(", ").join(map(sql.Literal, some))
        (row,) = connection.execute(sql.SQL("select array[{}]::text[]").format(listed)).fetchall()
        assert row[0] == some


# --- every builder puts a name in quotes, and nothing of it elsewhere -------------------------------------


def keyset(name: str, *, query: bool = False) -> Keyset:
    key = (name, "b")
    made = Keyset(None, None, "select 1", key) if query else Keyset(name, name, None, key)
    return replace(made, columns=(Column(name, "text"), Column(name, "interval", cast=True)))


LOW = cursors.encode(("txt", "i8"), ("low", 1))
HIGH = cursors.encode(("txt", "i8"), ("high", 2))
FIELDS = pa.schema(
    [pa.field("a", pa.string(), metadata={PG_TYPE: b"text"}), pa.field("n", pa.int64())]
)


def plans(name: str) -> tuple[Any, ...]:
    fields = [
        pa.field(name, pa.string(), metadata={PG_TYPE: b"text"}),
        pa.field(name + "2", pa.string(), metadata={PG_TYPE: b"interval(3)"}),
    ]
    columns = [
        TargetColumn(name, "text", "text", "text"),
        TargetColumn(name + "2", "interval(3)", "interval(3)", "interval"),
    ]
    made, faults = plan(fields, columns)
    assert faults == []
    return made


SOURCE_BUILDERS: dict[str, Callable[[str], sql.Composable]] = {
    "chunk": lambda name: keyset(name).chunk(LOW, HIGH, 10),
    "chunk of a query": lambda name: keyset(name, query=True).chunk(LOW, HIGH, None),
    "explained": lambda name: keyset(name).explained(10),
    "shape": lambda name: keyset(name).shape([name, name]),
    "everything": lambda name: keyset(name).everything(),
    "newest": lambda name: keyset(name).newest(LOW, HIGH, "2026-01-01"),
    "null keys": lambda name: keyset(name).null_keys(),
    "at or past": lambda name: keyset(name).at_or_past(LOW, HIGH),
}
ARRIVALS = sql.Identifier("pg_temp", "_ck_arrivals_1_1")
TARGET_BUILDERS: dict[str, Callable[[str], sql.Composable]] = {
    "names": lambda name: copying.names([name, name]),
    "arrivals": lambda name: copying.create_arrivals(plans(name), ARRIVALS),
    "losses": lambda name: copying.count_losses(plans(name), ARRIVALS),
    "insert": lambda name: copying.insert_all(facts(name).identifier, plans(name), ARRIVALS, {name: 7}),
    "upsert": lambda name: copying.upsert_newest(
        facts(name).identifier, plans(name), ARRIVALS, {"_ck_chunk": 7}, (name,), (name, name + "2")
    ),
    "upsert of keys alone": lambda name: copying.upsert_newest(
        facts(name).identifier, plans(name), ARRIVALS, {}, (name, name + "2"), (name,)
    ),
    "create table": lambda name: sql.SQL(
        new_table(
            Place(name, name, True, True, True),
            pa.schema([pa.field(name, pa.int64())]),
            (name,),
            lineage=True,
        ).statement
    ),
    "facts": lambda name: sql.SQL(str(facts(name))),
}  # fmt: skip


def facts(name: str) -> TargetFacts:
    return TargetFacts(1, name, name, ())


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("builder", [*SOURCE_BUILDERS, *TARGET_BUILDERS])
def test_a_name_enters_a_statement_only_quoted(builder, share, connection):
    build = (SOURCE_BUILDERS | TARGET_BUILDERS)[builder]
    # Split where the harmless name stands in quotes; it stands nowhere else.
    harmless = build(HARMLESS).as_string(connection)
    second = f'"{HARMLESS}2"'
    assert HARMLESS not in harmless.replace(quoted(HARMLESS), "").replace(second, "")
    wrong = []
    first = len(builder) % share  # so that builders differ in which names they get
    short = [
        name
        for name in NAMES[first::share]
        if len(name.encode()) < LONGEST or second not in harmless
    ]
    for name in short:
        expected = (
            quoted(name + "2")
            .join(harmless.split(second))
            .replace(quoted(HARMLESS), "\x00")
            .replace("\x00", quoted(name))
        )
        if build(name).as_string(connection) != expected:
            wrong.append(name)
    assert wrong == []
    assert len(short) > 7000 // share


VALUE_BUILDERS: dict[str, Callable[[str], sql.Composable]] = {
    "chunk": lambda value: keyset("k").chunk(at(value), at(value), 5),
    "newest": lambda value: keyset("k").newest(at(value), at(value), value),
    "at or past": lambda value: keyset("k").at_or_past(at(value), at(value)),
    "start after": lambda value: start_after_texts(("txt", "num"), (value, value)),
}


def at(value: str) -> str:
    return cursors.encode(("txt", "i8"), (value, 1))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("builder", VALUE_BUILDERS)
def test_a_value_enters_a_statement_only_as_a_literal(builder, share, connection):
    build = VALUE_BUILDERS[builder]
    literal = sql.Literal(HARMLESS).as_string(connection)
    parts = build(HARMLESS).as_string(connection).split(literal)
    assert HARMLESS not in "".join(parts)
    wrong = [
        value
        for value in VALUES[::-share]
        if build(value).as_string(connection)
        != sql.Literal(value).as_string(connection).join(parts)
    ]
    assert wrong == []


def test_a_cursor_of_any_text_is_kept_exactly():
    for value in VALUES:
        assert cursors.decode(at(value))[0] == ("txt", value)
        assert cursors.bounds(at(value))[0].text == value


# --- end to end: all of them as columns, some as everything -----------------------------------------------


def rows_of(names: list[str]) -> pa.Table:
    """Two rows; the first column is the key and the cursor."""
    fields = [pa.field("id", pa.int64())]
    fields += [pa.field(name, pa.string(), metadata={PG_TYPE: b"text"}) for name in names]
    values = [[1, 2]] + [[None, str(place % 7)] for place in range(len(names))]
    return pa.table(
        [pa.array(v, f.type) for v, f in zip(values, fields, strict=True)], pa.schema(fields)
    )


@pytest.mark.parametrize("write", ["append", "upsert"])
def test_every_name_is_a_column_that_is_created_written_and_read(write, connection):
    for number, some in enumerate(batches(NAMES, 1400)):
        rows = rows_of(some)
        config = PostgresWarehouse(
            conn_id="dwh",
            table=f"{write}_{number}",
            create_table=True,
            write=write,
            key="id" if write == "upsert" else (),
        )
        target = TargetTable(config, ("id",))
        target.accept(connection, rows.schema)
        with connection.transaction():
            assert target.write(connection, rows, 1) == 2
        made = target.describe(connection)
        assert [column.name for column in made.columns] == ["id", *some, "_ck_chunk"]
        read = Keyset(
            made.schema, made.name, None, ("id",), columns=tuple(Column(n, "text") for n in some)
        )
        (second,) = connection.execute(read.chunk("i8:1", "i8:2", 9)).fetchall()
        assert second == tuple(rows.slice(1, 1).to_pylist()[0].values())[1:]


def test_some_names_are_schema_table_key_and_cursor_of_a_target(connection):
    for name in NAMES[:: COUNT // 60]:
        connection.execute(f"create schema {quoted(name)}")
        table = quoted(name, name)
        config = PostgresWarehouse(
            conn_id="dwh", table=table, create_table=True, write="upsert", key=name
        )
        target = TargetTable(config, (name,))
        rows = pa.table({name: [1, 2, 2]})
        target.accept(connection, rows.schema)
        with connection.transaction():
            assert target.write(connection, rows, 7) == 3
        assert not target.is_empty(connection)
        assert connection.execute(f"select * from {table} order by 1").fetchall() == [
            (1, 7),
            (2, 7),
        ]
        assert catalog.describe(connection, table).name == name
        connection.execute(f"drop schema {quoted(name)} cascade")


# --- refused ----------------------------------------------------------------------------------------------


OVERLONG = [
    cut(name + "ж" * 40, LONGEST + 2 + extra % 40) for extra, name in enumerate(NAMES[1000:1500])
]
WITH_NUL = [name[: len(name) // 2] + "\x00" + name[len(name) // 2 :] for name in NAMES[1000:1500]]


def test_a_name_longer_than_postgres_keeps_is_refused(connection):
    assert all(map(too_long, OVERLONG))
    assert not any(map(too_long, NAMES))
    for name in OVERLONG:
        made = new_table(
            Place("public", "t", True, True, True),
            pa.schema([pa.field(name, pa.int64())]),
            lineage=False,
        )
        assert any("63 bytes" in fault for fault in made.faults)
        with pytest.raises(ConfigurationError, match="63 bytes"):
            catalog.place_of(connection, quoted(name))


def test_a_name_whose_first_63_bytes_are_another_tables_is_refused_when_the_dag_is_parsed():
    for name in [each for each in OVERLONG if "{{" not in each][::5]:  # which would be a template
        for table in (quoted(name), quoted("public", name), quoted(name, "t")):
            with pytest.raises(ConfigurationError, match="63 bytes"):
                PostgresSource(conn_id="shop", table=table)
            with pytest.raises(ConfigurationError, match="63 bytes"):
                PostgresWarehouse(conn_id="dwh", table=table)
        for parameter in ("cursor", "columns", "text_columns"):
            with pytest.raises(ConfigurationError, match="63 bytes"):
                PostgresSource(**{"conn_id": "shop", "table": "t"} | {parameter: name})
        with pytest.raises(ConfigurationError, match="63 bytes"):
            PostgresWarehouse(conn_id="dwh", table="t", write="upsert", key=name)


def test_names_of_63_bytes_in_every_part_are_taken():
    for name in [name for name in NAMES[:500] if name.strip()]:
        source = PostgresSource(conn_id="shop", table=quoted(name, name), cursor=name)
        assert source.cursor_columns == (name,)


def test_a_name_with_nul_is_refused_before_a_statement_is_sent(connection):
    """libpq would end the statement, or the name, at the NUL."""
    for name in WITH_NUL[::10]:
        with pytest.raises(REFUSED):
            catalog.describe(connection, quoted(name))
        with pytest.raises(REFUSED):
            catalog.place_of(connection, quoted(name))
        for field in (pa.field(name, pa.int64()), pa.field(name, pa.string())):
            config = PostgresWarehouse(conn_id="dwh", table="with_nul", create_table=True)
            with pytest.raises(REFUSED):
                TargetTable(config, ("id",)).accept(
                    connection, pa.schema([pa.field("id", pa.int64()), field])
                )
    assert connection.execute("select to_regclass('with_nul')").fetchone() == (None,)


@pytest.mark.parametrize("parameter", ["table", "cursor", "columns", "text_columns"])
def test_a_parameter_of_the_source_with_nul_is_refused_when_the_dag_is_parsed(parameter):
    for name in WITH_NUL[::50]:
        with pytest.raises(ConfigurationError, match=parameter):
            PostgresSource(**{"conn_id": "shop", "table": "orders"} | {parameter: name})


@pytest.mark.parametrize("parameter", ["table", "key"])
def test_a_parameter_of_the_warehouse_with_nul_is_refused_when_the_dag_is_parsed(parameter):
    for name in WITH_NUL[::50]:
        given = {"conn_id": "dwh", "table": "orders", "write": "upsert", "key": "id"}
        with pytest.raises(ConfigurationError, match=parameter):
            PostgresWarehouse(**given | {parameter: name})


def test_a_value_with_nul_is_refused(connection):
    for value in WITH_NUL[::10]:
        for build in VALUE_BUILDERS.values():
            with pytest.raises(REFUSED):
                build(value).as_string(connection)


def test_half_a_surrogate_pair_is_refused(connection):
    for build in (*SOURCE_BUILDERS.values(), *VALUE_BUILDERS.values()):
        with pytest.raises(REFUSED):
            build("a\ud83e").as_string(connection)


@pytest.mark.parametrize(
    "declared",
    [
        "text; drop table victim",
        "text); drop table victim; --",
        "text default 1",
        "text references victim",
        "text, extra int",
        "text not null",
        "setof text",
        "text check (false)",
        "no_such_type",
        "text\x00",
        "int generated always as identity",
        'text collate "C"',
        "pg_catalog.text.x",
        "",
    ],
)
def test_a_declared_type_is_a_type_and_nothing_else(declared, connection):
    connection.execute("create table if not exists victim (id int primary key)")
    field = pa.field("a", pa.string(), metadata={PG_TYPE: declared.encode()})
    config = PostgresWarehouse(conn_id="dwh", table="declared", create_table=True)
    with pytest.raises((PreflightError, TypeMismatchError, psycopg.Error)):
        TargetTable(config, ("id",)).accept(connection, pa.schema([field]))
    assert connection.execute(
        "select to_regclass('declared'), count(*) from victim"
    ).fetchone() == (
        None,
        0,
    )
