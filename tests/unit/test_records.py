"""Between Arrow and Python records: nothing changes on the way there and back."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_checkpoint_etl.columns import field_of
from airflow_checkpoint_etl.errors import ValueNotCarriedError
from airflow_checkpoint_etl.records import from_records, to_records

VALUES = {
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "double precision": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "text": st.text(),
    "bytea": st.binary(),
    "uuid": st.uuids(),
    "date": st.dates(),
    "numeric(12,2)": st.decimals(-(10**9), 10**9, places=2),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=7),
    "timestamp without time zone": st.datetimes(),
    "timestamp with time zone": st.datetimes(timezones=st.just(dt.UTC)),
    "time without time zone": st.times(),
}


@pytest.mark.parametrize("pg_type", VALUES)
@given(data=st.data())
def test_every_value_survives_the_way_to_records_and_back(pg_type, data):
    values = data.draw(st.lists(st.none() | VALUES[pg_type], min_size=1, max_size=20))
    schema = pa.schema([field_of("c", pg_type)])
    table = from_records([{"c": value} for value in values], schema, {})
    assert table.schema.equals(schema, check_metadata=True)
    assert [record["c"] for record in to_records(table)] == values


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_timestamps_come_as_pyarrow_itself_gives_them(zone):
    pg_type = f"timestamp with{'' if zone else 'out'} time zone"
    micros = [0, -1, 1, 1_767_225_600_123_457, -62_135_596_800_000_000, None]
    column = pa.array(micros, pa.int64()).cast(pa.timestamp("us", tz=zone))
    table = pa.Table.from_arrays([column], schema=pa.schema([field_of("c", pg_type)]))
    assert [record["c"] for record in to_records(table)] == column.to_pylist()


def test_a_timestamp_python_cannot_represent_is_an_error_that_names_the_column():
    column = pa.array([-(10**17)], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    field = field_of("since", "timestamp with time zone")
    table = pa.Table.from_arrays([column], schema=pa.schema([field]))
    with pytest.raises(ValueNotCarriedError, match=r'"since".*text_columns'):
        list(to_records(table))


@pytest.mark.parametrize(
    ("pg_type", "value"),
    [
        ("timestamp with time zone", dt.datetime(2026, 1, 1)),  # noqa: DTZ001  that is the point
        ("timestamp without time zone", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        ("bigint", 1.5),
        ("date", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        ("numeric(12,2)", Decimal("1.234")),
    ],
)
def test_a_value_is_not_changed_to_fit_the_incoming_type(pg_type, value):
    schema = pa.schema([field_of("c", pg_type)])
    table = from_records([{"c": value}], schema, {})
    assert table.schema.field("c").type != schema.field("c").type
    with pytest.raises(ValueNotCarriedError, match="output_columns"):
        from_records([{"c": value}], schema, {"c": pg_type})


def test_dicts_become_json_and_texts_stay_as_they_are():
    schema = pa.schema([field_of("known", "jsonb")])
    rows = [{"known": {"é": [1]}, "new": {"a": 1}}, {"known": '{"n": 1e400}', "new": None}]
    table = from_records(rows, schema, {})
    assert table.column("known").to_pylist() == ['{"é": [1]}', '{"n": 1e400}']
    assert table.column("new").to_pylist() == ['{"a": 1}', None]
    assert table.schema.field("new").metadata == {b"pg_type": b"jsonb"}


def test_a_column_of_mixed_types_names_the_types_and_the_way_out():
    with pytest.raises(ValueNotCarriedError, match=r'"c".*int, str.*output_columns'):
        from_records([{"c": 1}, {"c": "x"}], pa.schema([]), {})


def test_a_declared_type_may_be_spelled_as_people_do():
    table = from_records(
        [{"c": uuid.UUID(int=1), "n": 5}], pa.schema([]), {"c": "uuid", "n": "int4"}
    )
    assert table.schema.field("n").type == pa.int32()
