"""Columns travel as the Arrow type that holds every value of them, or as PostgreSQL's own text."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_checkpoint_etl.columns import (
    MAX_DECIMAL_DIGITS,
    NOT_CARRIED,
    PG_TYPE,
    TEXT_TYPES,
    arrow_type,
    base_name,
    field_of,
    pg_type_of,
)


@pytest.mark.parametrize(
    ("pg_type", "carried"),
    [
        ("smallint", pa.int16()),
        ("integer", pa.int32()),
        ("bigint", pa.int64()),
        ("real", pa.float32()),
        ("double precision", pa.float64()),
        ("boolean", pa.bool_()),
        ("bytea", pa.binary()),
        ("uuid", pa.uuid()),
        ("date", pa.date32()),
        ("time without time zone", pa.time64("us")),
        ("time(3) without time zone", pa.time64("us")),
        ("timestamp without time zone", pa.timestamp("us")),
        ("timestamp(0) without time zone", pa.timestamp("us")),
        ("timestamp with time zone", pa.timestamp("us", tz="UTC")),
        ("timestamp(3) with time zone", pa.timestamp("us", tz="UTC")),
        ("numeric(12,2)", pa.decimal128(12, 2)),
        ("numeric(38,38)", pa.decimal128(38, 38)),
        ("numeric(1,0)", pa.decimal128(1, 0)),
        ("text", pa.string()),
        ("character varying", pa.string()),
        ("character varying(20)", pa.string()),
        ("character(3)", pa.string()),
        ("name", pa.string()),
        ("json", pa.string()),
        ("jsonb", pa.string()),
    ],
)
def test_a_type_that_arrow_holds_exactly_travels_as_that(pg_type, carried):
    assert arrow_type(pg_type) == carried


@pytest.mark.parametrize(
    "pg_type",
    [
        "numeric",
        f"numeric({MAX_DECIMAL_DIGITS + 1},0)",
        "numeric(5,-2)",
        "numeric(2,5)",
        "integer[]",
        "character varying(10)[]",
        "text[]",
        "interval",
        "interval(3)",
        "time with time zone",
        "inet",
        "int4range",
        "bit(8)",
        "xml",
        '"char"',
        '"integer"',
        "shop.text",
        "mood",
    ],
)
def test_everything_else_travels_as_text(pg_type):
    assert arrow_type(pg_type) is None
    assert field_of("x", pg_type).type == pa.string()


@pytest.mark.parametrize(
    ("pg_type", "plain"),
    [
        ("character varying(20)", "character varying"),
        ("numeric(12,2)", "numeric"),
        ("numeric(5,-2)", "numeric"),
        ("timestamp(3) with time zone", "timestamp with time zone"),
        ("character varying(10)[]", "character varying[]"),
        ("bigint", "bigint"),
    ],
)
def test_a_base_name_has_neither_length_nor_precision(pg_type, plain):
    assert base_name(pg_type) == plain


@pytest.mark.parametrize(
    "pg_type", ["bigint", "numeric(12,2)", "character varying(20)", "integer[]"]
)
def test_a_field_remembers_its_type_as_postgres_spells_it(pg_type):
    field = field_of("amount", pg_type)
    assert field.name == "amount"
    assert field.metadata == {PG_TYPE: pg_type.encode()}
    assert pg_type_of(field) == pg_type
    assert field.nullable


def test_a_column_can_be_told_to_travel_as_text():
    field = field_of("at", "timestamp with time zone", as_text=True)
    assert field.type == pa.string()
    assert pg_type_of(field) == "timestamp with time zone"


def test_a_field_from_elsewhere_has_no_postgres_type():
    assert pg_type_of(pa.field("x", pa.int64())) is None
    assert pg_type_of(pa.field("x", pa.int64(), metadata={"unit": "cm"})) is None


def test_a_field_survives_being_written_and_read():
    schema = pa.schema([field_of("id", "bigint"), field_of("tags", "text[]")])
    again = pa.ipc.read_schema(schema.serialize())
    assert [pg_type_of(field) for field in again] == ["bigint", "text[]"]


def test_what_means_something_else_in_another_database_is_not_in_the_table():
    assert not NOT_CARRIED & TEXT_TYPES
    assert all(arrow_type(pg_type) is None for pg_type in NOT_CARRIED)
