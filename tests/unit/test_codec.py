"""A staged chunk comes back exactly, and damage to it is always seen."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest

from airflow_checkpoint_etl.columns import PG_TYPE, arrow_type, field_of, pg_type_of
from airflow_checkpoint_etl.errors import StagedChunkError
from airflow_checkpoint_etl.staging import codec

# ruff: noqa: DTZ001  a timestamp without time zone has none

VALUES = {
    "smallint": [-(2**15), 2**15 - 1, None],
    "integer": [-(2**31), 2**31 - 1, None],
    "bigint": [-(2**63), 2**63 - 1, None],
    "real": [1.5, float("inf"), None],
    "double precision": [0.1, float("-inf"), None],
    "boolean": [True, False, None],
    "bytea": [b"\x00\xff", b"", None],
    "uuid": [uuid.UUID(int=1).bytes, uuid.UUID(int=2**128 - 1).bytes, None],
    "date": [dt.date(1, 1, 1), dt.date(9999, 12, 31), None],
    "time without time zone": [dt.time(0), dt.time(23, 59, 59, 999999), None],
    "timestamp without time zone": [
        dt.datetime(1, 1, 1),
        dt.datetime(2026, 1, 1, 0, 0, 0, 1),
        None,
    ],
    "timestamp(3) without time zone": [dt.datetime(2026, 1, 1), None, None],
    "timestamp with time zone": [dt.datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC), None, None],
    "numeric(12,2)": [Decimal("-9999999999.99"), Decimal("0.01"), None],
    "numeric(38,38)": [Decimal("0." + "9" * 38), None, None],
    "text": ["", 'ü "\n\\N', None],
    "character varying(20)": ["a", None, None],
    "character(3)": ["a  ", None, None],
    "name": ["a", None, None],
    "json": ['{"a": 1e400}', None, None],
    "jsonb": ["null", '"x"', None],
    "numeric": ["NaN", "1" * 100, None],
    "interval": ["1 mon", None, None],
    "integer[]": ["{1,NULL}", None, None],
    "inet": ["::1", None, None],
}


def _table():
    fields = [field_of(f"column {number}", pg_type) for number, pg_type in enumerate(VALUES)]
    arrays = []
    for field, values in zip(fields, VALUES.values(), strict=True):
        storage = getattr(field.type, "storage_type", field.type)
        array = pa.array(values, storage)
        is_extension = isinstance(field.type, pa.BaseExtensionType)
        arrays.append(pa.ExtensionArray.from_storage(field.type, array) if is_extension else array)
    schema = pa.schema(fields, metadata={b"made by": b"test \x00\xff"})
    return pa.Table.from_arrays(arrays, schema=schema)


def test_every_type_comes_back_exactly_with_its_metadata():
    table = _table()
    back = codec.decode(codec.encode(table))
    assert back.schema.equals(table.schema, check_metadata=True)
    assert back.equals(table, check_metadata=True)
    assert [pg_type_of(field) for field in back.schema] == list(VALUES)
    assert back.schema.metadata == {b"made by": b"test \x00\xff"}
    for field in back.schema:
        carried = arrow_type(field.metadata[PG_TYPE].decode()) or pa.string()
        assert field.type == carried


def test_floating_point_values_keep_every_bit():
    import struct

    bits = [0x7FF8000000000001, 0x8000000000000000, 0x0000000000000001]
    raw = struct.pack("<3Q", *bits)
    array = pa.Array.from_buffers(pa.float64(), 3, [None, pa.py_buffer(raw)])
    back = codec.decode(codec.encode(pa.table({"x": array})))
    assert back["x"].chunk(0).buffers()[1].to_pybytes()[:24] == raw


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.array([], pa.int64())}),
        pa.table({}),
        pa.Table.from_batches([], schema=pa.schema([pa.field("a", pa.string())])),
        pa.concat_tables([pa.table({"a": [1, 2]}), pa.table({"a": [3]})]),
        pa.table({"a": list(range(1000))}).slice(10, 5),
    ],
)
def test_empty_sliced_and_chunked_tables_come_back(table):
    back = codec.decode(codec.encode(table))
    assert back.equals(table)
    assert back.num_rows == table.num_rows


def test_a_slice_does_not_drag_its_whole_table_along():
    table = pa.table({"a": pa.array(os.urandom(1000) for _ in range(1000))})
    assert len(codec.encode(table.slice(0, 1))) < 5000


def test_repetitive_rows_are_stored_much_smaller():
    table = pa.table({"a": ["the same text again and again"] * 10_000})
    assert len(codec.encode(table)) < table.nbytes / 10


def test_the_same_table_has_the_same_bytes():
    assert codec.encode(_table()) == codec.encode(_table())


def test_the_digest_is_sha256_in_hex():
    assert codec.digest(b"abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_every_256th_flipped_byte_is_seen_before_decoding():
    data = codec.encode(pa.table({"a": pa.array(os.urandom(64) for _ in range(2000))}))
    digest = codec.digest(data)
    codec.verify("orders/x.arrow", data, digest)
    for position in range(0, len(data), 256):
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        with pytest.raises(StagedChunkError, match=r"orders/x\.arrow .* damaged or replaced"):
            codec.verify("orders/x.arrow", bytes(damaged), digest)


def test_a_file_that_was_cut_short_is_seen():
    data = codec.encode(_table())
    for length in (0, 1, 8, len(data) // 2, len(data) - 1):
        with pytest.raises(StagedChunkError, match="clear it with Downstream"):
            codec.verify("x", data[:length], codec.digest(data))


@pytest.mark.parametrize("data", [b"", b"\x00", b"no arrow", b"\xff" * 1000])
def test_what_is_no_arrow_stream_is_a_clear_error(data):
    with pytest.raises(StagedChunkError, match="no readable Arrow stream"):
        codec.decode(data)


def test_a_file_that_grows_above_the_limit_is_refused():
    table = pa.table({"a": pa.array([0] * 1_000_000, pa.int64())})
    data = codec.encode(table)
    assert len(data) < 100_000
    assert codec.decode(data, limit=8_000_000).num_rows == 1_000_000
    with pytest.raises(StagedChunkError, match=r"more than 7,999,999 bytes, which is refused"):
        codec.decode(data, limit=7_999_999)
