"""Rows by ADBC: binary COPY decoded into Arrow by C++, then made exactly what columns.py promises.

What the driver gives differs from the promise in three ways. Numerics arrive as opaque text and JSON as
an extension type: they are cast. Infinite dates and timestamps, and instants after the year 294246,
arrive *silently wrapped around* to values before any that PostgreSQL has, and 24:00 arrives as a time of
day that Arrow does not have: they are found by the smallest and largest value of every such column, and
are an error that names the column. No row is looked at in Python.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from airflow_checkpoint_etl import columns as carrying
from airflow_checkpoint_etl.errors import TypeMismatchError, ValueNotCarriedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_checkpoint_etl.sources.keyset import Column

FIRST_DAY: Final = -2_440_588
"""4714-11-24 BC, PostgreSQL's first date, in days from 1970."""

FIRST_MICROSECOND: Final = FIRST_DAY * 86_400_000_000
"""PostgreSQL's first timestamp, in microseconds from 1970."""

LAST_TIME: Final = 86_399_999_999
"""23:59:59.999999 in microseconds."""

_SMALLEST_BATCH: Final = 64 << 10
_LARGEST_BATCH: Final = 4 << 20
_BATCHES_PER_CHUNK: Final = 8
_BATCH_SIZE: Final = "adbc.postgresql.batch_size_hint_bytes"
_NUMERIC_MODIFIER: Final = b"POSTGRESQL:typmod"
_MODIFIER_HEADER: Final = 4


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one statement returned, as the driver gave it.

    Attributes:
        table: the rows.
        cut: whether rows were left unread because a bound was reached.
    """

    table: pa.Table
    cut: bool


def fetch(
    connection: Any,
    statement: str,
    max_bytes: int | None,
    max_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Fetched:
    """Run a statement and stream its rows into memory, up to about ``max_bytes`` or ``max_seconds``.

    Reading stops before the batch that would pass the bytes, and after the one that passed the time; the
    first batch is always kept, so that one row larger than the bound still moves on. The time counts from
    the first batch: what a statement takes to begin (a sort) comes again with the next one.

    Raises:
        Exception: whatever the driver raises; its text may quote the statement and rows.
    """
    with connection.cursor() as execution:
        if max_bytes is not None:
            hint = min(_LARGEST_BATCH, max(_SMALLEST_BATCH, max_bytes // _BATCHES_PER_CHUNK))
            execution.adbc_statement.set_options(**{_BATCH_SIZE: str(hint)})
        execution.execute(statement)
        reader = execution.fetch_record_batch()
        try:
            batches: list[pa.RecordBatch] = []
            size, until = 0, math.inf
            for batch in reader:
                size += batch.nbytes
                too_large = bool(batches) and max_bytes is not None and size > max_bytes
                if batch.num_rows and not too_large:
                    if not batches and max_seconds is not None:
                        until = clock() + max_seconds
                    batches.append(batch)
                if too_large or clock() > until:
                    _stop(connection, reader)
                    return Fetched(pa.Table.from_batches(batches, reader.schema), cut=True)
            return Fetched(pa.Table.from_batches(batches, reader.schema), cut=False)
        finally:
            reader.close()


def _stop(connection: Any, reader: Any) -> None:
    """End a statement whose remaining rows are not wanted, and wait for its end.

    Closing the reader alone would make the connection receive all of them.
    """
    connection.adbc_cancel()
    # The cancelled statement's error, or the few rows that were on the way already.
    with contextlib.suppress(Exception):
        for _ in reader:
            pass


def carried(table: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """Return the rows with exactly the fields of ``columns.field_of``.

    Raises:
        ValueNotCarriedError: a value does not fit its Arrow type; names the column and the option.
        TypeMismatchError: a column's type changed since it was looked up.
    """
    fields = [
        carrying.field_of(column.name, column.pg_type, as_text=column.as_text) for column in columns
    ]
    arrays = [
        _carried(table.column(place), table.schema.field(place), field)
        for place, field in enumerate(fields)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _carried(values: pa.ChunkedArray, found: pa.Field, wanted: pa.Field) -> pa.ChunkedArray:
    if pa.types.is_decimal(wanted.type):
        return _decimals(values, found, wanted)
    if isinstance(found.type, pa.JsonType):
        values = _storage(values)
    if values.type != wanted.type:
        raise _changed(wanted)
    _check_range(values, wanted)
    return values


def _storage(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array(
        [chunk.storage for chunk in values.chunks], type=values.type.storage_type
    )


def _decimals(values: pa.ChunkedArray, found: pa.Field, wanted: pa.Field) -> pa.ChunkedArray:
    modifier = int((found.metadata or {}).get(_NUMERIC_MODIFIER, b"-1")) - _MODIFIER_HEADER
    precision, scale = modifier >> 16, modifier & 0x7FF
    if (precision, scale) != (wanted.type.precision, wanted.type.scale):
        raise _changed(wanted)
    try:
        return pc.cast(_storage(values), wanted.type)
    except pa.ArrowInvalid:
        # NaN and infinity are all that a numeric(p,s) can hold and a decimal(p,s) cannot.
        raise _not_carried(wanted, "NaN or infinity") from None


def _check_range(values: pa.ChunkedArray, wanted: pa.Field) -> None:
    kind = wanted.type
    if pa.types.is_timestamp(kind):
        first, what = FIRST_MICROSECOND, "an infinite timestamp, or one after the year 294246"
    elif pa.types.is_date(kind):
        first, what = FIRST_DAY, "an infinite date"
    elif pa.types.is_time(kind):
        first, what = 0, "the time 24:00"
    else:
        return
    extremes = pc.min_max(values)
    smallest, largest = extremes["min"], extremes["max"]
    if not smallest.is_valid:
        return
    if smallest.value < first or (pa.types.is_time(kind) and largest.value > LAST_TIME):
        raise _not_carried(wanted, what)


def _not_carried(wanted: pa.Field, what: str) -> ValueNotCarriedError:
    message = (
        f"column {wanted.name} holds {what}, which Arrow's {wanted.type} cannot carry; read it as "
        f'text with text_columns=("{wanted.name}",)'
    )
    return ValueNotCarriedError(message)


def _changed(wanted: pa.Field) -> TypeMismatchError:
    message = (
        f"column {wanted.name} is no longer {carrying.pg_type_of(wanted)}, as it was when this task "
        "began; clear the task"
    )
    return TypeMismatchError(message)
