"""The allow-list of Arrow types into PostgreSQL types, and the exactness of every conversion."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import pyarrow as pa
import pytest

from airflow_checkpoint_etl.columns import PG_TYPE
from airflow_checkpoint_etl.pgtypes import PgType, holds, parse
from airflow_checkpoint_etl.warehouses import convert
from airflow_checkpoint_etl.warehouses.wire import TargetColumn, plan


def target(pg_type, name="x", **facts):
    constrained = parse(pg_type)
    plain = f"{constrained.name}[]" if constrained.array else constrained.name
    return TargetColumn(name, pg_type, pg_type, plain, **facts)


def field(arrow, recorded=None, name="x"):
    metadata = {PG_TYPE: recorded.encode()} if recorded else None
    return pa.field(name, arrow, metadata=metadata)


def route(arrow, pg_type, recorded=None, **facts):
    plans, faults = plan([field(arrow, recorded)], [target(pg_type, **facts)])
    assert not faults, faults
    return plans[0].route


def fault(arrow, pg_type, recorded=None, **facts):
    plans, faults = plan([field(arrow, recorded)], [target(pg_type, **facts)])
    assert not plans
    return faults[0]


TZ = "timestamp with time zone"
TS = "timestamp without time zone"
TIME = "time without time zone"

ARROW_TYPES = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "decimal128": pa.decimal128(12, 2),
    "decimal256": pa.decimal256(50, 2),
    "date32": pa.date32(),
    "date64": pa.date64(),
    "time32": pa.time32("ms"),
    "time64": pa.time64("us"),
    "naive": pa.timestamp("us"),
    "zoned": pa.timestamp("us", tz="UTC"),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "binary16": pa.binary(16),
    "uuid": pa.uuid(),
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "json": pa.json_(),
    "null": pa.null(),
    "list": pa.list_(pa.int64()),
    "struct": pa.struct([("a", pa.int64())]),
    "map": pa.map_(pa.string(), pa.int64()),
    "duration": pa.duration("us"),
    "month_day_nano": pa.month_day_nano_interval(),
}
INTEGERS = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
TEXTS = {"string", "large_string", "string_view", "dictionary", "json"}
ALLOWED = {
    "smallint": INTEGERS | TEXTS,
    "integer": INTEGERS | TEXTS,
    "bigint": INTEGERS | TEXTS,
    "numeric": INTEGERS | {"decimal128", "decimal256"} | TEXTS,
    "numeric(12,2)": INTEGERS | {"decimal128", "decimal256"} | TEXTS,
    "real": {"float16", "float32"},
    "double precision": INTEGERS | {"float16", "float32", "float64"},
    "boolean": {"bool"} | TEXTS,
    "date": {"date32", "date64"} | TEXTS,
    TIME: {"time32", "time64"} | TEXTS,
    TS: {"naive"} | TEXTS,
    TZ: {"zoned"} | TEXTS,
    "bytea": {"binary", "large_binary", "binary_view", "binary16"},
    "uuid": {"binary16", "uuid"} | TEXTS,
    "text": TEXTS,
    "character varying(20)": TEXTS,
    "character(3)": TEXTS,
    "json": TEXTS,
    "jsonb": TEXTS,
    "interval": TEXTS,
    "text[]": TEXTS,
    "inet": TEXTS,
    "money": set(),
    "hstore": set(),
    "point": set(),
    "tsrange": set(),
    '"char"': set(),
    "oid": set(),
}


@pytest.mark.parametrize("pg_type", ALLOWED)
def test_only_listed_types_have_a_way(pg_type):
    ways = {
        name
        for name, arrow in ARROW_TYPES.items()
        if not plan([field(arrow)], [target(pg_type)])[1]
    }
    assert ways == ALLOWED[pg_type] | {"null"}


def test_every_fault_of_a_schema_is_found_at_once_and_named():
    fields = [
        field(pa.list_(pa.int64()), name="tags"),
        field(pa.int64(), name="fine"),
        field(pa.timestamp("us"), "timestamp without time zone", name="at"),
        field(pa.struct([("a", pa.int64())]), name="doc"),
    ]
    columns = [
        target("integer[]", "tags"),
        target("bigint", "fine"),
        target(TZ, "at"),
        target("jsonb", "doc"),
    ]
    plans, faults = plan(fields, columns)
    assert [each.name for each in plans] == ["fine"]
    assert faults == [
        (
            'column "tags": list<item: int64> arrives, the target has integer[]; '
            "give an array as PostgreSQL's text, such as '{1,2}', or as json text"
        ),
        (
            'column "at": timestamp[us] (from timestamp without time zone) arrives, the target has '
            "timestamp with time zone; a time without a zone names no instant: give it its time zone"
        ),
        (
            'column "doc": struct<a: int64> arrives, the target has jsonb; '
            "give it as text: json text for a json or jsonb column"
        ),
    ]


@pytest.mark.parametrize(
    ("arrow", "pg_type", "recorded"),
    [
        (pa.float64(), "real", "double precision"),
        (pa.date32(), "integer", "date"),
        (pa.date32(), TS, "date"),
        (pa.timestamp("us"), "date", TS),
        (pa.timestamp("us", tz="UTC"), TS, TZ),
        (pa.bool_(), "integer", "boolean"),
        (pa.bool_(), "text", "boolean"),
        (pa.int64(), "text", "bigint"),
        (pa.int64(), "real", "bigint"),
        (pa.float64(), "bigint", "double precision"),
        (pa.float64(), "numeric", "double precision"),
        (pa.decimal128(12, 2), "double precision", "numeric(12,2)"),
        (pa.binary(), "text", "bytea"),
        (pa.binary(8), "uuid", None),
        (pa.string(), "double precision", None),
        (pa.string(), "bytea", None),
        (pa.string(), "interval", "text"),
        (pa.string(), "uuid", "character varying(36)"),
        (pa.string(), "jsonb", "json"),
        (pa.string(), "json", "json[]"),
        (pa.string(), "numeric", "interval"),
        (pa.string(), "double precision", "numeric"),
        (pa.string(), "money", "money"),
        (pa.string(), "text", "money"),
        (pa.string(), "numeric(12,2)", "numeric(12,4)"),
        (pa.string(), "numeric(12,2)", "numeric(13,2)"),
        (pa.string(), "numeric(12,2)", "numeric"),
        (pa.string(), "numeric(12,2)[]", "numeric(12,4)[]"),
        (pa.string(), "numeric[]", "numeric"),
        (pa.string(), "character varying(5)", "character varying(6)"),
        (pa.string(), "character(5)", "character(6)"),
        (pa.string(), "bit(4)", "bit(5)"),
        (pa.string(), "bit varying(4)", "bit varying(5)"),
        (pa.string(), "bit varying(4)", "bit varying"),
        (pa.string(), "interval(3)", "interval"),
        (pa.string(), "interval day to second", "interval"),
        (pa.string(), "timestamp(3) with time zone", TZ),
        (pa.timestamp("us", tz="UTC"), "timestamp(3) with time zone", TZ),
        (pa.timestamp("us"), "timestamp(3) without time zone", "timestamp(4) without time zone"),
        (pa.time64("us"), "time(0) without time zone", TIME),
    ],
)
def test_a_way_that_could_change_a_value_is_refused(arrow, pg_type, recorded):
    assert f"the target has {pg_type}; " in fault(arrow, pg_type, recorded)


@pytest.mark.parametrize(
    ("pg_type", "recorded"),
    [
        ("numeric(14,4)", "numeric(12,2)"),
        ("numeric", "numeric(50,3)"),
        ("numeric(60,5)", "numeric(50,3)"),
        ("interval", "interval day to second(3)"),
        ("interval(3)", "interval(2)"),
        ("timestamp(3) with time zone", "timestamp(3) with time zone"),
        ("integer[]", "integer[]"),
        ("numeric(14,4)[]", "numeric(12,2)[]"),
        ("bit varying(8)", "bit varying(4)"),
        ("bit(4)", "bit(4)"),
        ("tsrange", "tsrange"),
        ("double precision", "double precision"),
        ("app.address", "address"),
        ("hstore", "public.hstore"),
        ("geometry(Point,4326)", "public.geometry(Point,4326)"),
        ("oid", "oid"),
        ('"char"', '"char"'),
    ],
)
def test_the_same_type_and_at_least_as_wide_is_cast_by_postgresql(pg_type, recorded):
    assert route(pa.string(), pg_type, recorded).cast


@pytest.mark.parametrize(
    "recorded", [None, "text", "jsonb", "interval", "numeric", "inet", "text[]"]
)
def test_any_text_goes_to_text_directly(recorded):
    assert not route(pa.string(), "text", recorded).cast


def test_an_enum_takes_texts_and_its_namesake_from_any_schema():
    assert not route(pa.string(), "app.mood", "mood", enum=True).cast
    assert not route(pa.string(), "mood", "text", enum=True).cast
    assert not route(pa.string(), "mood", None, enum=True).cast
    assert "cast it in the source query" in fault(pa.string(), "mood", "weather", enum=True)


def test_a_domain_takes_what_its_base_takes():
    price = TargetColumn("x", "price", "numeric(12,2)", "numeric")
    plans, faults = plan([field(pa.decimal128(12, 2), "numeric(12,2)")], [price])
    assert not faults
    assert plans[0].route.wire == pa.decimal128(12, 2)
    plans, faults = plan([field(pa.string(), "app.price")], [price])
    assert not faults
    assert plans[0].route.check is not None


def test_a_type_with_parts_is_read_back():
    check = route(pa.string(), "address", "app.address", structured=True).check
    assert check is not None
    assert check.condition == "({value}::address)::text is distinct from {value}"


def test_only_types_that_round_or_cut_are_looked_at_after_the_cast():
    assert route(pa.string(), "numeric", "numeric").check is None
    assert route(pa.string(), "inet", "inet").check is None
    assert route(pa.string(), "numeric(60,2)", "numeric(60,2)").check is not None
    assert route(pa.string(), "interval(2)", "interval(2)").check is not None


def test_jsonb_is_marked_for_its_own_encoding():
    assert route(pa.string(), "jsonb", "jsonb").jsonb
    assert route(pa.string(), "jsonb").jsonb
    assert not route(pa.string(), "json", "jsonb").jsonb


# --- conversions ---------------------------------------------------------------------------------


def converted(array, pg_type, recorded=None, **facts):
    return route(array.type, pg_type, recorded, **facts).conversion(array)


def loses(array, pg_type, recorded=None):
    with pytest.raises((pa.ArrowInvalid, convert.LossError)):
        converted(array, pg_type, recorded)


@pytest.mark.parametrize(
    ("values", "arrow", "pg_type", "wire"),
    [
        ([1, None, -32768], pa.int64(), "smallint", pa.int16()),
        ([2**64 - 1, None], pa.uint64(), "numeric", pa.decimal128(20, 0)),
        ([2**63 - 1, -(2**63)], pa.int64(), "numeric(19,0)", pa.decimal128(19, 0)),
        ([5], pa.int8(), "numeric(4,2)", pa.decimal128(4, 2)),
        ([2**53, -(2**53), None], pa.int64(), "double precision", pa.float64()),
        ([1.5, None, -0.0, math.inf], pa.float16(), "real", pa.float32()),
        ([Decimal("1.2300"), None], pa.decimal128(12, 4), "numeric(12,2)", pa.decimal128(12, 2)),
        ([Decimal("1.5"), None], pa.decimal256(50, 1), "numeric(12,2)", pa.decimal128(12, 2)),
        ([Decimal("1.23")], pa.decimal128(12, 2), "numeric", pa.decimal128(12, 2)),
        ([b"ab", None], pa.binary(2), "bytea", pa.binary()),
        (["a", None, "a"], pa.dictionary(pa.int8(), pa.string()), "text", pa.string()),
        (["a", None], pa.string_view(), "text", pa.string()),
        ([None, None], pa.null(), "interval", pa.string()),
    ],
)
def test_exact_conversions(values, arrow, pg_type, wire):
    array = pa.array(values, arrow)
    result = converted(array, pg_type)
    assert result.type == wire
    assert result.to_pylist() == array.to_pylist()


@pytest.mark.parametrize(
    ("array", "pg_type"),
    [
        (pa.array([32768]), "smallint"),
        (pa.array([2**31]), "integer"),
        (pa.array([2**63], pa.uint64()), "bigint"),
        (pa.array([2**53 + 1]), "double precision"),
        (pa.array([100]), "numeric(4,2)"),
        (pa.array([Decimal("1.2345")]), "numeric(12,2)"),
        (pa.array([Decimal("12345678901.00")]), "numeric(12,2)"),
        (pa.array([1], pa.int64()).cast(pa.timestamp("ns")), TS),
        (pa.array([1001], pa.int64()).cast(pa.timestamp("us")), "timestamp(3) without time zone"),
        (pa.array([-1], pa.int64()).cast(pa.timestamp("us")), "timestamp(5) without time zone"),
        (pa.array([-210_866_803_200_000_001], pa.int64()).cast(pa.timestamp("us")), TS),
        (pa.array([-(2**63) + 946_684_800_000_000], pa.int64()).cast(pa.timestamp("us")), TS),
        (pa.array([2**62], pa.int64()).cast(pa.timestamp("s")), TS),
        (pa.array([-(2**31) + 10957], pa.int32()).cast(pa.date32()), "date"),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), "date"),
        (pa.array([1001], pa.int64()).cast(pa.time64("us")), "time(3) without time zone"),
        (pa.array([-1], pa.int64()).cast(pa.time64("us")), TIME),
        (pa.array(["abcdef"]), "character varying(5)"),
        (pa.array(["abc   "]), "character varying(5)"),
        (pa.array(["abc   "]), "character(5)"),
    ],
)
def test_a_loss_raises(array, pg_type):
    loses(array, pg_type)


def test_values_that_fit_a_coarser_type_pass():
    moments = pa.array([-1000, 0, 1000, None], pa.int64()).cast(pa.timestamp("us"))
    kept = converted(moments, "timestamp(3) without time zone", "timestamp(3) without time zone")
    assert kept.equals(moments)
    kept = converted(moments, "timestamp(3) without time zone")  # of unknown origin: by its values
    assert kept.equals(moments)
    assert converted(pa.array(["é😀é"]), "character varying(3)").to_pylist() == ["é😀é"]


def test_24_00_is_kept():
    day = pa.array([86_400_000_000], pa.int64()).cast(pa.time64("us"))
    assert converted(day, TIME).equals(day)


def test_a_zone_is_a_way_to_write_the_same_instant():
    berlin = pa.array([0], pa.int64()).cast(pa.timestamp("us", tz="Europe/Berlin"))
    assert converted(berlin, TZ).cast(pa.int64()).to_pylist() == [0]


@pytest.mark.parametrize(
    ("pg_type", "good", "bad"),
    [
        ("date", ["2026-01-31", "0044-03-15 BC", "infinity", "5874897-12-31"], ["31.1.2026", "today", "2026-01-31 23:59"]),
        (TIME, ["24:00:00", "1:02", "01:02:03.123456"], ["01:02:03.1234567", "now", "2026-01-01 10:00", "10:00+02"]),
        ("time with time zone", ["10:00:00+05:30", "10:00Z"], ["10:00"]),
        (TS, ["2026-01-31", "2026-01-31T10:00:00.123456", "-infinity", "0044-03-15 10:00:00 BC"], ["2026-01-31 10:00:00+02", "2026-01-31T10:00:00Z", "now", "2026-01-31 10:00:00.1234567"]),
        (TZ, ["2026-01-31T10:00:00Z", "2026-01-31 10:00:00.5+05:30", "infinity", "0044-03-15 10:00:00+00 BC"], ["2026-01-31 10:00:00", "2026-01-31", "tomorrow"]),
        ("interval", ["1 mon -2 days +03:04:05.123456", "P1Y", "@ 1 minute 0.5 secs"], ["00:00:00.1234567"]),
    ],
)  # fmt: skip
def test_a_text_of_a_date_or_time_says_exactly_what_is_kept(pg_type, good, bad):
    assert converted(pa.array([*good, None]), pg_type).to_pylist() == [*good, None]
    assert converted(pa.array([None], pa.string()), pg_type).to_pylist() == [None]
    for text in bad:
        with pytest.raises(convert.LossError) as raised:
            converted(pa.array([text]), pg_type)
        assert text not in str(raised.value)


def test_decimals_of_any_context_are_untouched_by_it():
    with decimal.localcontext() as context:
        context.prec = 5
        value = Decimal("123456789012345678901234567890.12345678")
        array = pa.array([value], pa.decimal128(38, 8))
        assert converted(array, "numeric").to_pylist() == [value]


def test_wider_decimals_than_arrow_encodes_travel_as_text():
    for pg_type in ("numeric", "numeric(60,10)", "numeric(3,-2)"):
        way = route(pa.decimal256(50, 2), pg_type)
        assert way.cast
        assert way.wire == pa.string()


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("integer", PgType("integer")),
        ("int4", PgType("integer")),
        ("numeric(12,2)", PgType("numeric", "12,2")),
        ("numeric(3,-2)[]", PgType("numeric", "3,-2", array=True)),
        ("timestamp(3) with time zone", PgType("timestamp with time zone", "3")),
        (
            "timestamp(3) without time zone[]",
            PgType("timestamp without time zone", "3", array=True),
        ),
        ("interval day to second(2)", PgType("interval", "2", "day to second")),
        ("interval(3)", PgType("interval", "3")),
        ("character varying(5)[]", PgType("character varying", "5", array=True)),
        ("bpchar", PgType("character")),
        ('"bit"[]', PgType("bit", array=True)),
        ('"char"', PgType('"char"')),
        ("app.mood", PgType("mood")),
        ('"My Schema"."My.Type"', PgType('"My.Type"')),
        ('app."a(3)"', PgType('"a(3)"')),
        ("public.geometry(Point,4326)", PgType("geometry", "Point,4326")),
        ("int4) ; drop table x", PgType("int4) ; drop table x")),
    ],
)
def test_a_type_is_taken_apart(text, expected):
    assert parse(text) == expected


def test_wider_holds_narrower_and_not_the_other_way():
    assert holds(parse("numeric(14,4)"), parse("numeric(12,2)"))
    assert not holds(parse("numeric(12,2)"), parse("numeric(14,4)"))
    assert not holds(parse("numeric(14,4)"), parse("numeric"))
    assert holds(parse("interval"), parse("interval year to month"))
    assert not holds(parse("interval year to month"), parse("interval"))
