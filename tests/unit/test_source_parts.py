"""The parts of reading a source that need no server."""

from __future__ import annotations

import datetime as dt
import threading
import time
import uuid
from decimal import Decimal

import psycopg
import pyarrow as pa
import pytest

from airflow_checkpoint_etl import columns as carrying
from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.errors import (
    CancelledError,
    CheckpointEtlError,
    MissingPrivilegeError,
    PreflightError,
    TypeMismatchError,
    ValueNotCarriedError,
)
from airflow_checkpoint_etl.sources import arrow, failures, positions, queries
from airflow_checkpoint_etl.sources.catalog import Index, Provenance
from airflow_checkpoint_etl.sources.interrupt import Interruptible
from airflow_checkpoint_etl.sources.keyset import Column, Keyset, start_after_texts
from airflow_checkpoint_etl.sources.modes import _sequence_doubts

# --- statements ----------------------------------------------------------------------------------

TABLE = Keyset(
    schema="public",
    table="orders",
    query=None,
    key=("at", "id"),
    columns=(Column("id", "bigint"), Column("span", "interval", cast=True)),
)
AT_7 = '["tz:2026-01-01T00:00:00.000000Z","i8:7"]'


def test_a_chunk_is_read_by_a_row_comparison_with_quoted_literals():
    assert TABLE.chunk(AT_7, AT_7, 10).as_string(None) == (
        'select "public"."orders"."id", "public"."orders"."span"::text as "span"'
        ' from "public"."orders"'
        ' where ("public"."orders"."at", "public"."orders"."id") >'
        " ('2026-01-01T00:00:00.000000Z'::timestamptz, '7'::int8)"
        ' and ("public"."orders"."at", "public"."orders"."id") <='
        " ('2026-01-01T00:00:00.000000Z'::timestamptz, '7'::int8)"
        ' order by "public"."orders"."at", "public"."orders"."id" limit 10'
    )


def test_the_beginning_has_no_lower_bound_and_reading_again_no_limit():
    statement = TABLE.chunk(BEGIN, AT_7, None).as_string(None)
    assert " > " not in statement
    assert "limit" not in statement


def test_text_in_a_cursor_is_quoted():
    keyset = Keyset(schema="s", table='t"', query=None, key=("k",))
    statement = keyset.newest("txt:it's; drop table t --\\").as_string(None)
    assert '"s"."t"""."k"' in statement
    assert "E'it''s; drop table t --\\\\'::text" in statement


def test_a_query_and_a_filter_end_on_their_own_lines():
    keyset = Keyset(
        schema=None, table=None, query="select 1 as id -- one;\n;", key=("id",), where="true -- all"
    )
    statement = keyset.chunk(BEGIN, "i8:1", 1).as_string(None)
    assert '(\nselect 1 as id -- one;\n\n) as "source_rows"' in statement
    assert "(\ntrue -- all\n)" in statement


def test_given_start_values_are_literals():
    statement = start_after_texts(("i8", "txt"), ("1", "x'y")).as_string(None)
    assert statement == "select '1'::int8::text, 'x''y'::text::text"


def test_every_named_statement_is_loaded():
    assert set(queries.load("session.sql")) == {"settings", "inherited"}
    assert {"writers", "transactions", "alive", "blockers"} <= set(queries.load("settle.sql"))
    assert all(statement for statement in queries.load("catalog.sql").values())


# --- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "text", "cursor"),
    [
        ("i8", "-9223372036854775808", "i8:-9223372036854775808"),
        ("num", "1.50", "num:1.5"),
        ("txt", "", "txt:"),
        (
            "uuid",
            "00000000-0000-0000-0000-00000000000A",
            "uuid:00000000-0000-0000-0000-00000000000a",
        ),
        ("d", "0001-01-01", "d:0001-01-01"),
        ("ts", "2026-01-01 00:00:00.5", "ts:2026-01-01T00:00:00.500000"),
        ("tz", "2026-01-01 00:00:00.000001+00", "tz:2026-01-01T00:00:00.000001Z"),
    ],
)
def test_positions_are_read_from_postgres_text(tag, text, cursor):
    assert positions.from_texts(["k"], [tag], [text]) == cursor


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("num", "NaN"),
        ("num", "Infinity"),
        ("d", "infinity"),
        ("d", "0044-03-15 BC"),
        ("ts", "294276-12-31 00:00:00"),
        ("tz", "-infinity"),
        ("tz", "0044-03-15 00:00:00+00 BC"),
        ("i8", None),
    ],
)
def test_a_value_without_a_place_in_the_order_names_its_column(tag, text):
    with pytest.raises(ValueNotCarriedError, match="cursor column k") as caught:
        positions.from_texts(["k"], [tag], [text])
    assert "0044" not in str(caught.value)


def test_the_last_rows_position_is_exact_for_every_type():
    key = uuid.uuid4()
    moment = dt.datetime(9999, 12, 31, 23, 59, 59, 999999)  # noqa: DTZ001  it stands for both kinds
    table = pa.table(
        {
            "i8": pa.array([1, 2**63 - 1], pa.int64()),
            "num": pa.array([Decimal("1.00"), Decimal("1.10")], pa.decimal128(38, 2)),
            "txt": ["a", 'b",'],
            "uuid": pa.array([key.bytes, key.bytes], pa.uuid()),
            "d": pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
            "ts": pa.array([moment, moment], pa.timestamp("us")),
            "tz": pa.array([moment, moment], pa.timestamp("us", tz="UTC")),
        }
    )
    names = table.column_names
    assert positions.last_of(table, names, names) == (
        f'["i8:9223372036854775807","num:1.1","txt:b\\",","uuid:{key}","d:9999-12-31",'
        '"ts:9999-12-31T23:59:59.999999","tz:9999-12-31T23:59:59.999999Z"]'
    )


def test_a_last_row_outside_the_calendar_or_null_is_an_error():
    days = pa.table({"d": pa.array([0, arrow.FIRST_DAY], pa.int32()).cast(pa.date32())})
    empty = pa.table({"d": pa.array([None], pa.date32())})
    for table in (days, empty):
        with pytest.raises(ValueNotCarriedError, match="cursor column d"):
            positions.last_of(table, ["d"], ["d"])


# --- columns -------------------------------------------------------------------------------------


def carry(values: pa.Array, pg_type: str, metadata: dict[bytes, bytes] | None = None) -> pa.Table:
    found = pa.schema([pa.field("c", values.type, metadata=metadata)])
    return arrow.carried(pa.Table.from_arrays([values], schema=found), [Column("c", pg_type)])


def numeric(*texts: str | None) -> pa.Array:
    kind = pa.opaque(pa.string(), "numeric", "PostgreSQL")
    return pa.ExtensionArray.from_storage(kind, pa.array(texts, pa.string()))


TWELVE_TWO = {b"POSTGRESQL:typmod": str(((12 << 16) | 2) + 4).encode()}


def test_numerics_become_decimals_without_loss():
    table = carry(numeric("9999999999.99", "-0.01", None), "numeric(12,2)", TWELVE_TWO)
    assert table["c"].to_pylist() == [Decimal("9999999999.99"), Decimal("-0.01"), None]
    assert table.schema.field("c").equals(
        carrying.field_of("c", "numeric(12,2)"), check_metadata=True
    )


@pytest.mark.parametrize("odd", ["nan", "inf", "-inf"])
def test_numbers_no_decimal_holds_are_refused(odd):
    with pytest.raises(ValueNotCarriedError, match=r'column c .*text_columns=\("c",\)'):
        carry(numeric("1.00", odd), "numeric(12,2)", TWELVE_TWO)


def test_a_numeric_of_another_scale_is_refused_and_not_rounded():
    with pytest.raises(TypeMismatchError, match="no longer numeric"):
        carry(numeric("1.2345"), "numeric(12,4)", TWELVE_TWO)
    with pytest.raises(TypeMismatchError):
        carry(numeric("1.25"), "numeric(12,2)")


def test_json_arrives_as_plain_text():
    values = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(["{}", None]))
    assert carry(values, "jsonb")["c"].to_pylist() == ["{}", None]


@pytest.mark.parametrize(
    ("kind", "pg_type", "good", "bad"),
    [
        (pa.date32(), "date", [arrow.FIRST_DAY, 2145031948], [-2147472692]),
        (
            pa.timestamp("us"),
            "timestamp without time zone",
            [arrow.FIRST_MICROSECOND, 2**63 - 1],
            [-9222425352054775809, arrow.FIRST_MICROSECOND - 1],
        ),
        (
            pa.timestamp("us", tz="UTC"),
            "timestamp with time zone",
            [arrow.FIRST_MICROSECOND],
            [-9222425352054775808],
        ),
        (pa.time64("us"), "time without time zone", [0, arrow.LAST_TIME], [86_400_000_000]),
    ],
)
def test_wrapped_values_are_found_among_good_ones(kind, pg_type, good, bad):
    raw = pa.int32() if pa.types.is_date(kind) else pa.int64()

    def array(values):
        return pa.array([None, *values], raw).view(kind)

    assert carry(array(good), pg_type).num_rows == len(good) + 1
    assert carry(array([]), pg_type).num_rows == 1
    for value in bad:
        with pytest.raises(ValueNotCarriedError, match="column c"):
            carry(array([*good, value]), pg_type)


def test_a_table_without_rows_keeps_its_fields():
    found = pa.schema([pa.field("c", pa.json_(pa.string()))])
    table = arrow.carried(found.empty_table(), [Column("c", "json")])
    assert table.schema.field("c").type == pa.string()


# --- order, uniqueness, provenance ---------------------------------------------------------------


def index(columns: tuple[str, ...], *flags: int, unique: bool = True, alike: bool = True) -> Index:
    return Index(unique, columns, flags or (0,) * len(columns), (alike,) * len(columns))


def test_an_index_serves_the_order_of_its_leading_columns_in_one_direction():
    assert index(("a", "b", "c")).serves(("a", "b"))
    assert index(("a", "b"), 3, 3).serves(("a", "b"))
    assert not index(("b", "a")).serves(("a", "b"))
    assert not index(("a",)).serves(("a", "b"))
    assert not index(("a", "b"), 0, 3).serves(("a", "b"))
    assert not index(("a", "b"), 2, 2).serves(("a", "b"))
    assert not index(("a", "b"), alike=False).serves(("a", "b"))


def test_a_unique_index_over_part_of_the_key_proves_it_unique():
    assert index(("b",)).proves_unique(("a", "b"))
    assert not index(("b", "c")).proves_unique(("a", "b"))
    assert not index(("a",), unique=False).proves_unique(("a",))


@pytest.mark.parametrize(
    ("default", "proven"),
    [
        ("nextval('t_id_seq'::regclass)", True),
        ("(nextval('\"My Seq\"'::regclass))::integer", True),
        ("nextval('t_id_seq'::regclass) + 1", False),
        ("abs(nextval('t_id_seq'::regclass))", False),
        ("(nextval('a'::regclass) * nextval('b'::regclass))", False),
    ],
)
def test_only_a_plain_nextval_is_taken_for_a_sequence(default, proven):
    source = Provenance("t", False, default, 1, "s", 1, 1, False)
    assert (next(_sequence_doubts([source], "id"), None) is None) == proven


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (psycopg.errors.UndefinedTable, PreflightError),
        (psycopg.errors.InsufficientPrivilege, MissingPrivilegeError),
        (psycopg.errors.QueryCanceled, CheckpointEtlError),
        (psycopg.errors.AdminShutdown, failures.LostConnectionError),
        (psycopg.errors.InvalidTextRepresentation, CheckpointEtlError),
        (psycopg.OperationalError, failures.LostConnectionError),
    ],
)
def test_errors_are_translated_by_code_and_quote_nothing(raised, expected):
    error = failures.translate(raised('near "secret"'), "source 'shop'")
    assert type(error) is expected
    assert "source 'shop'" in str(error)
    assert "secret" not in str(error)


# --- interruption --------------------------------------------------------------------------------


def test_a_call_returns_or_raises_as_if_it_ran_here():
    interruptible = Interruptible()
    assert interruptible.run(lambda: 42, lambda: None) == 42
    with pytest.raises(ZeroDivisionError):
        interruptible.run(lambda: 1 // 0, lambda: None)


def test_a_cancel_asks_the_driver_until_the_call_ends():
    interruptible, asked, ended = Interruptible(), [], threading.Event()

    def interrupt():
        asked.append(1)
        if len(asked) == 1:
            message = "the server did not answer"
            raise OSError(message)
        ended.set()

    threading.Timer(0.05, interruptible.cancel).start()
    with pytest.raises(CancelledError):
        interruptible.run(lambda: ended.wait(10), interrupt)
    assert len(asked) >= 2
    with pytest.raises(CancelledError):
        interruptible.run(lambda: 1, lambda: None)


def test_a_sleep_ends_soon_after_a_cancel():
    interruptible = Interruptible()
    threading.Timer(0.05, interruptible.cancel).start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        interruptible.sleep(30)
    assert time.monotonic() - started < 5
