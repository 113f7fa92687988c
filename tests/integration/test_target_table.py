"""The target table: what is accepted, what is refused and how, append, upsert and creation."""

from __future__ import annotations

import contextlib
import threading
import traceback
from decimal import Decimal

import psycopg
import pyarrow as pa
import pytest

from airflow_checkpoint_etl.columns import PG_TYPE
from airflow_checkpoint_etl.endpoints import PostgresWarehouse
from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    ConfigurationError,
    MissingPrivilegeError,
    PreflightError,
    TypeMismatchError,
    ValueNotCarriedError,
)
from airflow_checkpoint_etl.warehouses.refusals import MissingParentError
from airflow_checkpoint_etl.warehouses.target import TargetTable

CANARY = "canary-4711"


@pytest.fixture
def connection(database):
    with database.connect(autocommit=True) as connection:
        yield connection


def warehouse(table="orders", cursor=("id",), **options):
    return TargetTable(PostgresWarehouse(conn_id="dwh", table=table, **options), cursor)


def orders(**columns):
    return pa.table(columns or {"id": [1, 2], "note": ["a", None]})


def declared(table, **types):
    """Record PostgreSQL types on columns, as a source does."""
    fields = [
        field.with_metadata({PG_TYPE: types[field.name].encode()}) if field.name in types else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def load(connection, target, table, ledger_id=1):
    target.accept(connection, table.schema)
    with connection.transaction():
        return target.write(connection, table, ledger_id)


def rows(connection, statement="select * from orders order by 1"):
    return connection.execute(statement).fetchall()


@contextlib.contextmanager
def refused(kind, *words):
    """Expect an error of this kind whose text, and whole traceback, name no value."""
    with pytest.raises(kind) as raised:
        yield
    text = str(raised.value)
    for word in words:
        assert word in text, text
    assert CANARY not in "".join(traceback.format_exception(raised.value))


# --- append --------------------------------------------------------------------------------------


def test_append_writes_every_row_straight_into_the_target(connection):
    connection.execute("create table orders (id bigint primary key, note text)")
    assert load(connection, warehouse(), orders()) == 2
    assert rows(connection) == [(1, "a"), (2, None)]


def test_columns_meet_by_name_whatever_their_order(connection):
    connection.execute("create table orders (spare int default 7, note text, id bigint)")
    load(connection, warehouse(), orders())
    assert rows(connection, "select id, note, spare from orders order by 1") == [
        (1, "a", 7),
        (2, None, 7),
    ]


def test_write_never_commits(connection, database):
    connection.execute("create table orders (id bigint, note text)")
    target = warehouse()
    target.accept(connection, orders().schema)
    with connection.transaction(force_rollback=True):
        target.write(connection, orders(), 1)
        assert database.execute("select count(*) from orders") == [(0,)]
    assert rows(connection) == []


def test_write_outside_a_transaction_is_refused(connection):
    connection.execute("create table orders (id bigint, note text)")
    with refused(PreflightError, "inside the load's transaction"):
        warehouse().write(connection, orders(), 1)


def test_a_chunk_without_rows_writes_nothing(connection):
    connection.execute("create table orders (id bigint, note text)")
    assert load(connection, warehouse(), orders().slice(0, 0)) == 0


def test_large_chunks_go_in_many_batches(connection):
    connection.execute("create table orders (id bigint, note text)")
    table = pa.table({"id": pa.array(range(200_000), pa.int64()), "note": ["x" * 40] * 200_000})
    assert load(connection, warehouse(), table) == 200_000
    assert rows(connection, "select count(*), sum(id), max(note) from orders") == [
        (200_000, 19_999_900_000, "x" * 40)
    ]


def test_text_that_needs_a_cast_keeps_the_order_of_the_rows(connection):
    connection.execute(
        "create table orders (id bigint, span interval, place bigint generated always as identity)"
    )
    table = declared(
        pa.table({"id": [3, 1, 2], "span": ["1 mon", "30 days", None]}), span="interval"
    )
    assert load(connection, warehouse(), table) == 3
    assert rows(connection, "select id, span::text from orders order by place") == [
        (3, "1 mon"),
        (1, "30 days"),
        (2, None),
    ]


def test_several_chunks_on_one_connection_and_in_one_transaction(connection):
    connection.execute("create table orders (id bigint, span interval)")
    target = warehouse()
    table = declared(pa.table({"id": [1], "span": ["1 day"]}), span="interval")
    target.accept(connection, table.schema)
    for _ in range(2):
        with connection.transaction():
            for _ in range(2):
                target.write(connection, table, 1)
    assert rows(connection, "select count(*) from orders") == [(4,)]
    assert rows(connection, "select count(*) from pg_class where relname like '\\_ck%'") == [(0,)]


def test_partitioned_targets(connection):
    connection.execute(
        "create table orders (id bigint, note text) partition by range (id);"
        "create table low partition of orders for values from (0) to (2);"
        "create table high partition of orders for values from (2) to (10)"
    )
    assert load(connection, warehouse(), orders()) == 2
    assert rows(connection, "select count(*) from high") == [(1,)]
    with refused(ValueNotCarriedError, "SQLSTATE 23514"):
        load(connection, warehouse(), orders(id=[77], note=[CANARY]))


def test_an_unqualified_name_follows_the_search_path(connection):
    connection.execute(
        "create schema a; create schema b; create table b.orders (id bigint, note text)"
    )
    connection.execute("set search_path to a, b")
    assert load(connection, warehouse(), orders()) == 2
    facts = warehouse().describe(connection)
    assert (facts.schema, facts.name) == ("b", "orders")


def test_dict_rows_and_manual_commits_of_a_hooks_connection(database):
    with database.connect(row_factory=psycopg.rows.dict_row) as connection:
        connection.execute("create table orders (id bigint, note text)")
        connection.commit()
        target = warehouse()
        target.check(connection)
        assert target.is_empty(connection)
        connection.commit()
        load(connection, target, orders())
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert database.execute("select count(*) from orders") == [(2,)]


def test_a_connection_of_another_encoding_is_refused(connection):
    connection.execute("create table orders (id bigint, note text)")
    connection.execute("set client_encoding to latin1")
    with refused(PreflightError, "client_encoding is LATIN1"):
        load(connection, warehouse(), orders())


# --- lineage -------------------------------------------------------------------------------------


def test_lineage_is_kept_where_the_column_is(connection):
    connection.execute("create table orders (id bigint, note text, _ck_chunk bigint)")
    load(connection, warehouse(), orders(), ledger_id=42)
    assert rows(connection) == [(1, "a", 42), (2, None, 42)]


def test_lineage_is_kept_through_casts_too(connection):
    connection.execute("create table orders (id bigint, span interval, _ck_chunk bigint not null)")
    table = declared(pa.table({"id": [1], "span": ["1 day"]}), span="interval")
    load(connection, warehouse(lineage="always"), table, ledger_id=2**62)
    assert rows(connection, "select _ck_chunk from orders") == [(2**62,)]


def test_lineage_never_leaves_the_column_alone(connection):
    connection.execute("create table orders (id bigint, note text, _ck_chunk bigint)")
    target = warehouse(lineage="never")
    load(connection, target, orders(), ledger_id=42)
    assert rows(connection, "select distinct _ck_chunk from orders") == [(None,)]
    assert not target.keeps_lineage(target.describe(connection))


def test_lineage_always_needs_the_column(connection):
    connection.execute("create table orders (id bigint, note text)")
    with refused(PreflightError, 'alter table "public"."orders" add column "_ck_chunk" bigint'):
        warehouse(lineage="always").check(connection)


def test_a_lineage_column_of_another_type_is_refused(connection):
    connection.execute("create table orders (id bigint, note text, _ck_chunk text)")
    with refused(PreflightError, "must be an ordinary bigint and is text"):
        warehouse().check(connection)


def test_rows_may_not_bring_the_lineage_column(connection):
    connection.execute("create table orders (id bigint, _ck_chunk bigint)")
    table = pa.table({"id": [1], "_ck_chunk": [5]})
    with refused(PreflightError, "the load itself writes it"):
        load(connection, warehouse(), table)
    assert load(connection, warehouse(lineage="never"), table) == 1


# --- upsert --------------------------------------------------------------------------------------


@pytest.fixture
def versions(connection):
    connection.execute("create table orders (id bigint primary key, at timestamptz, note text)")
    return warehouse(write="upsert", key="id", cursor=("at", "id"))


def version(*entries):
    ids, seconds, notes = zip(*entries, strict=True)
    at = pa.array([None if s is None else s * 1_000_000 for s in seconds], pa.int64())
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "at": at.cast(pa.timestamp("us", "UTC")),
            "note": list(notes),
        }
    )


NOTES = "select id, note from orders order by 1"


def test_the_newest_version_in_a_chunk_wins(connection, versions):
    table = version((1, 5, "old"), (1, 9, "new"), (2, 6, "only"), (1, 7, "middle"))
    assert load(connection, versions, table) == 4
    assert rows(connection, NOTES) == [(1, "new"), (2, "only")]


def test_among_equal_versions_the_last_one_wins(connection, versions):
    load(connection, versions, version((1, 5, "first"), (1, 5, "last")))
    assert rows(connection, NOTES) == [(1, "last")]


def test_an_older_version_never_overwrites_a_newer_one(connection, versions):
    load(connection, versions, version((1, 9, "new")))
    assert load(connection, versions, version((1, 5, "old"), (2, 1, "other"))) == 2
    assert rows(connection, NOTES) == [(1, "new"), (2, "other")]


def test_the_same_version_again_changes_nothing_else(connection, versions):
    table = version((1, 9, "new"))
    load(connection, versions, table)
    load(connection, versions, table)
    assert rows(connection, NOTES) == [(1, "new")]


def test_a_row_without_a_cursor_value_counts_as_older(connection, versions):
    connection.execute("insert into orders values (1, null, 'by hand')")
    load(connection, versions, version((1, 5, "loaded")))
    assert rows(connection, NOTES) == [(1, "loaded")]


@pytest.mark.parametrize(
    ("entry", "words"),
    [((None, 5, CANARY), 'key column "id"'), ((1, None, CANARY), 'cursor column "at"')],
)
def test_null_keys_and_cursors_are_refused(connection, versions, entry, words):
    with refused(ValueNotCarriedError, words, "1 of 1 rows"):
        load(connection, versions, version(entry))


def test_columns_that_do_not_arrive_are_left_alone(connection):
    connection.execute(
        "create table orders (id bigint primary key, note text, mine text default 'kept')"
    )
    target = warehouse(write="upsert", key="id")
    load(connection, target, orders())
    connection.execute("update orders set mine = 'changed' where id = 1")
    load(connection, target, orders(id=[1], note=["b"]))
    assert rows(connection) == [(1, "b", "changed"), (2, None, "kept")]


def test_a_table_of_keys_alone_can_be_upserted(connection):
    connection.execute("create table orders (id bigint primary key)")
    target = warehouse(write="upsert", key="id")
    assert load(connection, target, pa.table({"id": [1, 1, 2]})) == 3
    assert load(connection, target, pa.table({"id": [2, 3]})) == 2
    assert rows(connection) == [(1,), (2,), (3,)]


def test_an_upsert_moves_the_lineage(connection):
    connection.execute("create table orders (id bigint primary key, note text, _ck_chunk bigint)")
    target = warehouse(write="upsert", key="id")
    load(connection, target, orders(), ledger_id=1)
    load(connection, target, orders(id=[2], note=["b"]), ledger_id=2)
    assert rows(connection) == [(1, "a", 1), (2, "b", 2)]


def test_cursors_are_compared_as_the_targets_type(connection):
    connection.execute(
        "create table orders (id bigint primary key, version numeric(60,2), note text)"
    )
    target = warehouse(write="upsert", key="id", cursor=("version",))
    table = declared(
        pa.table({"id": [1, 1], "version": ["9", "10"], "note": ["nine", "ten"]}),
        version="numeric(60,2)",
    )
    load(connection, target, table)
    load(connection, target, table.slice(0, 1))
    assert rows(connection) == [(1, Decimal("10.00"), "ten")]


def test_keys_are_equal_as_the_targets_collation_says(connection):
    try:
        connection.execute(
            "create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server has no ICU, so no collation calls different texts equal")
    connection.execute("create table orders (name text collate nocase primary key, id bigint)")
    target = warehouse(write="upsert", key="name")
    table = pa.table({"name": ["Anna", "ANNA", "bert"], "id": [1, 2, 3]})
    assert load(connection, target, table) == 3
    assert rows(connection) == [("ANNA", 2), ("bert", 3)]


def test_columns_with_a_collation_of_their_own(connection):
    connection.execute('create table orders (name text collate "POSIX" primary key, id bigint)')
    target = warehouse(write="upsert", key="name")
    load(connection, target, pa.table({"name": ["b", "a", "b"], "id": [1, 2, 3]}))
    assert rows(connection) == [("a", 2), ("b", 3)]


def test_composite_keys_in_any_order(connection):
    connection.execute("create table orders (a int, b int, id bigint, unique (b, a))")
    target = warehouse(write="upsert", key=("a", "b"))
    target.check(connection)
    load(connection, target, pa.table({"a": [1, 1], "b": [2, 2], "id": [7, 8]}))
    assert rows(connection) == [(1, 2, 8)]


@pytest.mark.parametrize(
    "ddl",
    [
        "create table orders (id bigint, note text)",
        "create table orders (id bigint, note text, unique (id, note))",
        "create table orders (id bigint, note text); create unique index on orders (id) where note is null",
        "create table orders (id bigint, note text); create unique index on orders ((id + 1))",
        "create table orders (id bigint, note text, unique (id) deferrable)",
        "create table orders (id bigint, note text); create index on orders (id)",
    ],
)
def test_an_upsert_needs_a_full_unique_index_on_exactly_its_key(connection, ddl):
    connection.execute(ddl)
    with refused(PreflightError, 'create unique index on "public"."orders" ("id")'):
        warehouse(write="upsert", key="id").check(connection)


def test_an_upserts_columns_must_be_in_the_target(connection):
    connection.execute("create table orders (id bigint primary key, note text)")
    with refused(PreflightError, 'the key column "nr" is not in the target'):
        warehouse(write="upsert", key="nr").check(connection)
    with refused(PreflightError, 'the cursor column "at" is not in the target'):
        warehouse(write="upsert", key="id", cursor=("at",)).check(connection)


def test_an_upserts_columns_must_arrive(connection):
    connection.execute("create table orders (id bigint primary key, note text)")
    with refused(PreflightError, 'column "id" does not arrive, and an upsert needs it'):
        load(connection, warehouse(write="upsert", key="id"), pa.table({"note": ["a"]}))


# --- creating the target ------------------------------------------------------------------------


def test_a_missing_target_shows_the_statement_that_would_create_it(connection):
    table = declared(
        pa.table(
            {
                "id": [1],
                "amount": pa.array([Decimal("1.50")], pa.decimal128(12, 2)),
                "span": ["1 day"],
            }
        ),
        id="bigint",
        amount="numeric(12,2)",
        span="interval",
    )
    with refused(
        PreflightError,
        "create_table=True",
        'create table if not exists "public"."orders" (\n'
        '    "id" bigint,\n'
        '    "amount" numeric(12,2),\n'
        '    "span" interval,\n'
        "    \"_ck_chunk\" bigint default nullif(current_setting('checkpoint_etl.chunk', true), '')::bigint\n"
        ");",
    ):
        load(connection, warehouse(), table)
    with refused(PreflightError, "does not exist", "create_table=True"):
        warehouse().check(connection)


def test_create_table_makes_the_table_and_loads(connection, database):
    target = warehouse(create_table=True)
    target.check(connection)
    assert target.describe(connection) is None
    assert target.is_empty(connection)
    target.accept(connection, orders().schema)
    assert database.execute("select count(*) from orders") == [(0,)]  # committed on its own
    assert load(connection, target, orders(), ledger_id=3) == 2
    assert rows(connection) == [(1, "a", 3), (2, None, 3)]
    assert not target.is_empty(connection)


def test_a_table_is_created_from_arrow_types_where_none_is_recorded(connection):
    table = pa.table(
        {
            "small": pa.array([1], pa.int8()),
            "huge": pa.array([2**64 - 1], pa.uint64()),
            "share": pa.array([0.5], pa.float32()),
            "amount": pa.array([Decimal("1.50")], pa.decimal128(3, 2)),
            "at": pa.array([0], pa.timestamp("ns", "Europe/Berlin")),
            "kind": pa.array(["a"]).dictionary_encode(),
            "raw": pa.array([b"\0"], pa.binary(1)),
            "u": pa.array([bytes(16)], pa.uuid()),
        }
    )
    target = warehouse(create_table=True, lineage="never")
    load(connection, target, table)
    assert [(c.name, c.pg_type) for c in target.describe(connection).columns] == [
        ("small", "smallint"),
        ("huge", "numeric(20,0)"),
        ("share", "real"),
        ("amount", "numeric"),
        ("at", "timestamp with time zone"),
        ("kind", "text"),
        ("raw", "bytea"),
        ("u", "uuid"),
    ]


def test_a_recorded_type_that_a_transform_left_behind_is_not_used(connection):
    table = declared(pa.table({"id": [1], "day": pa.array([1.5])}), day="date")
    target = warehouse(create_table=True)
    load(connection, target, table)
    assert target.describe(connection).column("day").pg_type == "double precision"


def test_an_upsert_table_is_created_with_its_primary_key(connection):
    target = warehouse(create_table=True, write="upsert", key="id")
    target.check(connection)
    load(connection, target, orders())
    load(connection, target, orders())
    target.check(connection)
    assert rows(connection, "select count(*) from orders") == [(2,)]


def test_a_column_of_none_alone_cannot_be_created(connection):
    with refused(TypeMismatchError, 'output_columns={"note": "text"}'):
        load(connection, warehouse(create_table=True), orders(id=[1], note=[None]))
    assert warehouse().describe(connection) is None


def test_nothing_but_a_types_name_gets_into_the_statement(connection):
    table = declared(orders(), note="text); drop schema public cascade; --")
    with refused(TypeMismatchError, "the warehouse has no type"):
        load(connection, warehouse(create_table=True), table)


def test_a_type_the_warehouse_lacks_is_named(connection):
    table = declared(orders(), note="app.mood")
    with refused(TypeMismatchError, 'column "note": the warehouse has no type app.mood'):
        load(connection, warehouse(create_table=True), table)
    connection.execute("create schema app; create type app.mood as enum ('a', 'b')")
    assert load(connection, warehouse(create_table=True), table) == 2


def test_a_fault_found_after_creation_leaves_no_table_behind(connection):
    # The type is made, and only then is it seen that an unrelated text cannot go there.
    connection.execute("create domain app_text as integer")
    table = declared(orders(), id="bigint", note="app_text")
    table = table.append_column(
        pa.field("raw", pa.string(), metadata={PG_TYPE: b"regclass"}), [["x", "y"]]
    )
    with refused(TypeMismatchError, 'column "raw": regclass means something else'):
        load(connection, warehouse(create_table=True), table)
    assert warehouse().describe(connection) is None


def test_a_schema_that_no_table_can_hold_creates_none(connection):
    table = pa.table({"tags": [[1, 2]], "id": [1]})
    with refused(TypeMismatchError, 'column "tags": list<item: int64> has no PostgreSQL type here'):
        load(connection, warehouse(create_table=True), table)
    assert warehouse().describe(connection) is None


def test_many_tasks_create_one_table(connection, database):
    errors = []
    start = threading.Barrier(8)

    def create():
        try:
            with database.connect(autocommit=True) as own:
                target = warehouse(create_table=True)
                start.wait()
                load(own, target, orders())
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rows(connection, "select count(*) from orders") == [(16,)]


def test_a_missing_schema_is_named(connection):
    with refused(
        PreflightError, 'the schema "nowhere" for the target "nowhere"."orders" does not exist'
    ):
        warehouse("nowhere.orders", create_table=True).check(connection)
    with refused(PreflightError, '"nowhere"."orders" does not exist'):
        warehouse("nowhere.orders").check(connection)


# --- names ---------------------------------------------------------------------------------------

STRANGE = [
    "Mixed Case",
    "select",
    'with "quotes"',
    "größe✓",
    "per%cent %s",
    "{braces}",
    "x" * 63,
    "semi;colon",
    " ",
]


def test_strange_column_names(connection):
    columns = ", ".join(psycopg.sql.Identifier(name).as_string(None) + " text" for name in STRANGE)
    connection.execute(f"create table orders (id bigint primary key, {columns})")
    table = pa.table({"id": [1], **{name: [name] for name in STRANGE}})
    assert load(connection, warehouse(), table) == 1
    assert rows(connection) == [(1, *STRANGE)]
    assert load(connection, warehouse(write="upsert", key="id"), table) == 1


def test_strange_column_names_with_casts(connection):
    columns = ", ".join(
        psycopg.sql.Identifier(name).as_string(None) + " numeric(60,2)" for name in STRANGE
    )
    connection.execute(f"create table orders (id bigint primary key, {columns})")
    table = pa.table({"id": [1], **{name: ["1.5"] for name in STRANGE}})
    assert load(connection, warehouse(), table) == 1
    with refused(
        ValueNotCarriedError, *(f'column "{name}": 1 value(s) would be rounded' for name in STRANGE)
    ):
        load(
            connection, warehouse(), pa.table({"id": [2], **{name: ["1.555"] for name in STRANGE}})
        )


@pytest.mark.parametrize(
    "name",
    ["Mixed Case", 'with "quotes"', "größe✓", "per%cent %s", "{braces}", "x" * 63, "dot.ted"],
)
def test_strange_table_names(connection, name):
    table = psycopg.sql.Identifier(name).as_string(None)
    created = warehouse(f"public.{table}", create_table=True)
    assert load(connection, created, orders()) == 2
    facts = warehouse(table).describe(connection)
    assert (facts.schema, facts.name) == ("public", name)
    assert load(connection, warehouse(table), orders()) == 2


def test_an_unquoted_name_folds_as_in_sql(connection):
    connection.execute("create table orders (id bigint, note text)")
    assert load(connection, warehouse("Public.ORDERS"), orders()) == 2
    connection.execute('create table "order" (id bigint, note text)')
    assert load(connection, warehouse("order"), orders()) == 2


@pytest.mark.parametrize(
    "name", ["a b", "a.b.c.d", "a.b.c", "orders; drop table x", '"open', "1st", "."]
)
def test_what_is_no_table_name_is_refused(connection, name):
    with refused(ConfigurationError, "not a table name"):
        warehouse(name, create_table=True).check(connection)


def test_a_name_that_postgresql_would_cut_is_refused(connection):
    with refused(ConfigurationError, "63 bytes"):
        warehouse("ä" * 40, create_table=True).check(connection)
    with refused(TypeMismatchError, "63 bytes"):
        load(connection, warehouse(create_table=True), pa.table({"id": [1], "ä" * 40: [1]}))


# --- refusals before any row ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "words"),
    [
        ("create view orders as select 1 as id", "is a view"),
        ("create materialized view orders as select 1 as id", "is a materialized view"),
        ("create sequence orders", "is a sequence"),
        ("create type orders as (id bigint)", "is a composite type"),
    ],
)
def test_only_tables_can_be_loaded(connection, ddl, words):
    connection.execute(ddl)
    with refused(PreflightError, f'target "public"."orders" {words}'):
        warehouse().check(connection)


def test_every_fault_of_a_schema_comes_at_once(connection):
    connection.execute(
        "create table orders (id bigint, note text, at timestamptz, n int, "
        "made bigint generated always as identity, twice bigint generated always as (id * 2) stored, "
        "needed text not null, defaulted text not null default 'x')"
    )
    table = pa.table(
        {
            "id": [1],
            "Note": ["a"],
            "other": [1],
            "at": pa.array([0], pa.timestamp("us")),
            "n": [[1]],
            "made": [1],
            "twice": [2],
        }
    )
    with refused(
        TypeMismatchError,
        'column "at": timestamp[us] arrives, the target has timestamp with time zone',
        'column "n": list<item: int64> arrives, the target has integer',
        'column "Note" arrives and the target has "note"',
        'column "other" arrives and the target does not have it',
        'column "made" is always generated',
        'column "twice" is always generated',
        'column "needed" of the target is NOT NULL',
    ):
        load(connection, warehouse(), table)


def test_doubled_and_missing_columns(connection):
    connection.execute("create table orders (id bigint)")
    double = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"])
    with refused(PreflightError, 'column "id" arrives 2 times'):
        load(connection, warehouse(), double)
    with refused(PreflightError, "the rows have no columns"):
        load(connection, warehouse(), pa.table({}))


def test_not_null_domains_count_as_required(connection):
    connection.execute(
        "create domain name_text as text not null; create table orders (id bigint, name name_text)"
    )
    with refused(PreflightError, 'column "name" of the target is NOT NULL'):
        load(connection, warehouse(), pa.table({"id": [1]}))


# --- privileges ----------------------------------------------------------------------------------


@pytest.fixture
def clerk(connection, database):
    """A role without any grants, and connections as it."""
    connection.execute("drop role if exists clerk")
    connection.execute("create role clerk login")
    connection.execute(f"revoke temporary on database {connection.info.dbname} from public")
    with psycopg.connect(database.dsn, user="clerk", autocommit=True) as own:
        yield own
    connection.execute("drop owned by clerk; drop role clerk")


def test_missing_privileges_are_named_with_the_grant(connection, clerk):
    connection.execute("create table orders (id bigint primary key, note text)")
    with refused(MissingPrivilegeError, 'grant insert on "public"."orders" to "clerk"'):
        warehouse().check(clerk)
    connection.execute("grant insert on orders to clerk")
    warehouse().check(clerk)
    assert load(clerk, warehouse(), orders()) == 2  # an append needs no more than INSERT
    with refused(MissingPrivilegeError, "grant select on"):
        warehouse().is_empty(clerk)
    with refused(
        MissingPrivilegeError,
        'grant select, update on "public"."orders" to "clerk"',
        f'grant temporary on database "{connection.info.dbname}" to "clerk"',
    ):
        warehouse(write="upsert", key="id").check(clerk)


def test_a_cast_needs_temporary_tables(connection, clerk):
    connection.execute(
        "create table orders (id bigint, span interval); grant insert on orders to clerk"
    )
    table = declared(pa.table({"id": [1], "span": ["1 day"]}), span="interval")
    with refused(MissingPrivilegeError, "grant temporary on database"):
        load(clerk, warehouse(), table)
    connection.execute(f"grant temporary on database {connection.info.dbname} to clerk")
    assert load(clerk, warehouse(), table) == 1


def test_creating_needs_the_privilege_in_the_schema(connection, clerk):
    connection.execute("create schema app; grant usage on schema app to clerk")
    target = warehouse("app.orders", create_table=True)
    with refused(MissingPrivilegeError, 'grant create on schema "app" to "clerk"'):
        target.check(clerk)
    with refused(MissingPrivilegeError, 'grant create on schema "app" to "clerk"'):
        load(clerk, target, orders())


def test_a_schema_without_usage(connection, clerk):
    connection.execute("create schema app; create table app.orders (id bigint)")
    with refused(MissingPrivilegeError, "grant usage on schema"):
        warehouse("app.orders").check(clerk)


def test_row_level_security_is_refused(connection, clerk):
    connection.execute(
        "create table orders (id bigint, note text); grant all on orders to clerk;"
        "alter table orders enable row level security; create policy p on orders using (true)"
    )
    with refused(PreflightError, "row-level security applies to the role"):
        warehouse().check(clerk)
    warehouse().check(connection)


# --- a target that changes -----------------------------------------------------------------------


def test_a_changed_column_type_is_noticed_before_the_next_row(connection):
    connection.execute("create table orders (id bigint, at timestamp)")
    table = pa.table({"id": [1], "at": pa.array([0], pa.timestamp("us"))})
    target = warehouse()
    load(connection, target, table)
    connection.execute("alter table orders alter at type timestamptz")
    with refused(TypeMismatchError, "a time without a zone names no instant"):
        load(connection, target, table)
    assert rows(connection, "select count(*) from orders") == [(1,)]


def test_a_change_that_still_fits_is_planned_anew(connection):
    connection.execute("create table orders (id bigint, amount numeric(12,2))")
    table = pa.table({"id": [1], "amount": pa.array([Decimal("1.5")], pa.decimal128(12, 1))})
    target = warehouse()
    load(connection, target, table)
    connection.execute(
        "alter table orders alter amount type numeric(14,4), add column _ck_chunk bigint"
    )
    load(connection, target, table, ledger_id=8)
    assert rows(connection, "select amount::text, _ck_chunk from orders order by 2") == [
        ("1.5000", 8),
        ("1.5000", None),
    ]


def test_a_dropped_or_replaced_target_is_noticed(connection):
    connection.execute("create table orders (id bigint, note text)")
    target = warehouse()
    load(connection, target, orders())
    connection.execute("drop table orders")
    with refused(PreflightError):
        load(connection, target, orders())
    connection.execute("create table orders (id bigint, note text)")
    with refused(PreflightError, "dropped or replaced while the load ran"):
        load(connection, target, orders())


def test_the_definition_holds_still_until_the_commit(connection, database):
    connection.execute("create table orders (id bigint, note text)")
    target = warehouse()
    target.accept(connection, orders().schema)
    with database.connect(autocommit=True) as other, connection.transaction():
        target.write(connection, orders(), 1)
        other.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("alter table orders alter note type varchar(3)")


def test_schemas_may_differ_from_chunk_to_chunk(connection):
    connection.execute("create table orders (id bigint, amount numeric(12,4))")
    target = warehouse()
    with connection.transaction():
        for scale, value in ((1, "1.5"), (4, "1.2345"), (0, "7")):
            amount = pa.array([Decimal(value)], pa.decimal128(10, scale))
            target.write(connection, pa.table({"id": [1], "amount": amount}), 1)
    assert rows(connection, "select amount::text from orders order by amount") == [
        ("1.2345",),
        ("1.5000",),
        ("7.0000",),
    ]


def test_an_equal_schema_is_accepted_without_asking_the_database(connection):
    connection.execute("create table orders (id bigint, note text)")
    target = warehouse()
    target.accept(connection, orders().schema)
    connection.close()
    target.accept(connection, orders().schema)
    with pytest.raises(psycopg.OperationalError):
        target.accept(connection, pa.schema([("id", pa.int64())]))


# --- refusals of the database ---------------------------------------------------------------------


@pytest.mark.parametrize("by_cast", [False, True])
@pytest.mark.parametrize(
    ("ddl", "words"),
    [
        ("note text not null", ['column "note"', "SQLSTATE 23502"]),
        (
            "note text, constraint short check (note is not null)",
            ['constraint "short"', "SQLSTATE 23514"],
        ),
        (
            "note text, constraint one unique nulls not distinct (note)",
            ['constraint "one"', "SQLSTATE 23505"],
        ),
        (
            "note text, constraint parent foreign key (id) references parent",
            ['constraint "parent"', "SQLSTATE 23503"],
        ),
    ],
)
def test_a_constraint_is_named_and_no_value(connection, ddl, words, by_cast):
    connection.execute("create table parent (id bigint primary key)")
    connection.execute(f"create table orders (id bigint, secret text, span interval, {ddl})")
    columns = {
        "id": [1, 2],
        "secret": [CANARY, CANARY],
        "note": pa.array([None, None], pa.string()),
    }
    if by_cast:
        columns["span"] = ["1 day", None]
    table = declared(pa.table(columns), span="interval")
    kind = MissingParentError if "parent" in ddl else ValueNotCarriedError
    with refused(kind, 'target "public"."orders"', "Nothing of this chunk was written", *words):
        load(connection, warehouse(), table)
    assert kind.retryable == ("parent" in ddl)
    assert rows(connection, "select count(*) from orders") == [(0,)]


@pytest.mark.parametrize(
    ("pg_type", "value", "recorded", "words"),
    [
        ("jsonb", CANARY, None, ['column "x"', "SQLSTATE 22P02"]),
        ("json", f'{{"a": "{CANARY}', "json", ['column "x"', "SQLSTATE 22P02"]),
        ("mood", CANARY, None, ['column "x"', "SQLSTATE 22P02"]),
        ("text", CANARY + "\0", None, ['column "x"', "SQLSTATE 22021"]),
        ("name", CANARY * 9, None, ['column "x"', "SQLSTATE 42622"]),
        ("varchar(3)", CANARY, None, ['column "x"', "character varying(3)", "11 characters"]),
        ("inet", CANARY, None, ['column "x": 1 text(s) are no valid inet', "SQLSTATE 22P02"]),
        ("integer[]", CANARY, None, ['column "x": 1 text(s) are no valid integer[]']),
        ("numeric(60,2)", CANARY, None, ['column "x": 1 text(s) are no valid numeric(60,2)']),
        ("numeric(60,2)", "1" * 60, "numeric(60,2)", ['column "x": 1 text(s) are no valid numeric(60,2)', "22003"]),
        ("numeric(60,2)", "1.555", "numeric(60,2)", ['column "x": 1 value(s) would be rounded as numeric(60,2)']),
        ("interval(0)", "0.5 seconds", None, ['column "x": 1 value(s) would be rounded as interval(0)']),
        ("varchar(3)[]", "{abcd}", None, ['column "x": 1 value(s) would be cut or padded']),
        ("varchar(3)[]", '{"abc "}', None, ['column "x": 1 value(s) would be cut or padded']),
        ("bit(3)", "1010", None, ['column "x": 1 value(s) would be cut or padded']),
        ("numeric(12,2)[]", "{1.555}", None, ['column "x": 1 value(s) would be rounded']),
        ("address", "(Main St,1.555)", "address", ['column "x": 1 value(s) is not read back as the same text']),
        ("price[]", "{1.555}", "price[]", ['column "x": 1 value(s) is not read back']),
        ("price", "1.555", "price", ['column "x": 1 value(s) would be rounded']),
        ("positive", "-1", None, ["SQLSTATE 23514"]),
        ("date", "31.12.2026 " + CANARY, None, ['column "x"', "no ISO 8601 date"]),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_by_its_column(
    connection, pg_type, value, recorded, words
):
    connection.execute(
        "create type mood as enum ('sad', 'ok');"
        "create domain price as numeric(12,2);"
        "create domain positive as integer check (value > 0);"
        "create type address as (street text, number numeric(12,2))"
    )
    connection.execute(f"create table orders (id bigint, secret text, x {pg_type})")
    table = pa.table({"id": [1, 2], "secret": [CANARY, ""], "x": [None, value]})
    table = declared(table, x=recorded) if recorded else table
    with refused(CheckpointEtlError, 'target "public"."orders"', *words):
        load(connection, warehouse(), table)
    assert rows(connection, "select count(*) from orders") == [(0,)]


def test_arrow_values_that_do_not_fit_are_named_by_their_column(connection):
    connection.execute("create table orders (id smallint, amount numeric(4,2))")
    with refused(
        ValueNotCarriedError,
        'column "id" arrives as int64 and goes to smallint: a value does not fit',
    ):
        load(connection, warehouse(), pa.table({"id": [70_000]}))
    too_fine = pa.array([Decimal("1.2345")], pa.decimal128(8, 4))
    with refused(
        ValueNotCarriedError, 'column "amount" arrives as decimal128(8, 4) and goes to numeric(4,2)'
    ):
        load(connection, warehouse(), pa.table({"amount": too_fine}))


def test_a_deferred_constraint_is_checked_before_the_commit(connection):
    connection.execute(
        "create table parent (name text primary key);"
        "create table orders (id bigint, note text constraint parent references parent deferrable initially deferred)"
    )
    with refused(MissingParentError, 'constraint "parent"', "SQLSTATE 23503"):
        load(connection, warehouse(), orders(id=[1], note=[CANARY]))


def test_no_error_carries_the_connections_password(database, connection):
    connection.execute("create table orders (id bigint not null, note text)")
    with psycopg.connect(f"{database.dsn} password={CANARY}", autocommit=True) as secret:
        with refused(ValueNotCarriedError):
            load(secret, warehouse(), orders(id=pa.array([None], pa.int64()), note=["x"]))
        with refused(ConfigurationError):
            warehouse("a b").check(secret)


def test_a_trigger_that_raises_is_named_without_its_message(connection):
    connection.execute(
        "create table orders (id bigint, note text);"
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no %', new.note; end $$;"
        "create trigger t before insert on orders for each row execute function refuse()"
    )
    with refused(
        ValueNotCarriedError, "a trigger or function of the table raised", "SQLSTATE P0001"
    ):
        load(connection, warehouse(), orders(id=[1], note=[CANARY]))


def test_a_trigger_that_drops_rows_is_noticed(connection):
    connection.execute(
        "create table orders (id bigint, note text, span interval);"
        "create function drop_row() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger t before insert on orders for each row when (new.id > 1) execute function drop_row()"
    )
    with refused(PreflightError, "took 1 of 2 rows"):
        load(connection, warehouse(), orders())
    with refused(PreflightError, "took 1 of 2 rows"):
        load(
            connection,
            warehouse(),
            declared(orders(id=[1, 2], span=["1 day", "2 days"]), span="interval"),
        )


def test_errors_that_a_retry_may_cure_pass_as_they_are(connection, database):
    connection.execute("create table orders (id bigint primary key, note text)")
    with database.connect() as other:
        other.execute("insert into orders values (1, 'x')")
        connection.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            load(connection, warehouse(), orders())
        other.rollback()
    assert load(connection, warehouse(), orders()) == 2
