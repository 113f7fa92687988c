"""Columns of a chunk as lists of Python values: what a record is made of.

A chunk is taken in slices: the values and records of one are gone before those of the next are made, so
that they stay in the processor's cache and Python's garbage collector has little to look through. That is
worth a factor of three. The conversions by type give exactly what ``to_pylist`` gives, in a fraction of
its time.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, SafeUUID

import pyarrow as pa
import pyarrow.compute as pc

from airflow_checkpoint_etl.columns import base_name, pg_type_of
from airflow_checkpoint_etl.errors import ValueNotCarriedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Columns = dict[str, list[Any]]
"""Values by column; the lists are of one length."""

SLICE: Final = 2000
"""Records that are made at a time, at most."""

_SLICE_BYTES: Final = 4 << 20
"""Bytes in Arrow of the records that are made at a time, more or less."""

_ZONES: Final = frozenset({None, "UTC"})
_set_int: Final = UUID.__dict__["int"].__set__
_set_safe: Final = UUID.__dict__["is_safe"].__set__


def rows_in(table: pa.Table, rows: int, size: int) -> int:
    """Return how many rows to take at a time: at most ``rows``, and of about ``size`` bytes."""
    per_row: int = table.nbytes // max(1, table.num_rows)
    return max(1, min(rows, size // max(1, per_row)))


def slices(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[range, Columns]]:
    """Yield a chunk's rows slice by slice: their positions, and their values by column.

    Raises:
        ValueNotCarriedError: a value is none that Python has; see :func:`to_python`.
    """
    wanted = table.select(list(names))
    size = rows_in(wanted, SLICE, _SLICE_BYTES)
    for first in range(0, table.num_rows, size):
        piece = wanted.slice(first, size)
        yield range(first, first + piece.num_rows), to_columns(piece)


def to_columns(table: pa.Table) -> Columns:
    """Return every column's values."""
    return {
        field.name: to_python(column, field)
        for field, column in zip(table.schema, table.columns, strict=True)
    }


def to_python(column: pa.ChunkedArray, field: pa.Field) -> list[Any]:
    """Return a column's values.

    timestamptz comes as an aware datetime in UTC, numeric as Decimal, uuid as UUID; json, jsonb and
    whatever Arrow does not hold (intervals, arrays) as PostgreSQL's own text.

    Raises:
        ValueNotCarriedError: a date or timestamp is outside Python's years 1 to 9999.
    """
    try:
        return _to_python(column, field)
    except (OverflowError, ValueError, pa.ArrowInvalid):
        message = (
            f'column "{field.name}" holds a {field.type} outside what Python can represent; name it in '
            f'the source\'s text_columns=({field.name!r},) to get it as text, or use mode="batch"'
        )
        raise ValueNotCarriedError(message) from None


def _to_python(column: pa.ChunkedArray, field: pa.Field) -> list[Any]:
    kind = field.type
    if pa.types.is_timestamp(kind) and kind.unit == "us" and kind.tz in _ZONES:
        return _datetimes(column, kind.tz)
    if pa.types.is_decimal128(kind):
        return _each(Decimal, column.cast(pa.string()))
    if getattr(kind, "extension_name", "") == "arrow.uuid":
        storage = pa.chunked_array([chunk.storage for chunk in column.chunks], pa.binary(16))
        return [None if held is None else _uuid(held) for held in storage.to_pylist()]
    if is_numeric_text(field):
        return _each(Decimal, column)
    values: list[Any] = column.to_pylist()
    return values


def is_numeric_text(field: pa.Field) -> bool:
    """Whether a numeric travels as text because its digits are not bounded."""
    return pa.types.is_string(field.type) and base_name(pg_type_of(field) or "") == "numeric"


def _each(make: type, column: pa.ChunkedArray) -> list[Any]:
    texts = column.to_pylist()
    if column.null_count:
        return [None if text is None else make(text) for text in texts]
    return list(map(make, texts))


def _datetimes(column: pa.ChunkedArray, zone: str | None) -> list[dt.datetime | None]:
    """Make datetimes from their parts, which Arrow takes apart all at once."""
    # Without its zone, which is UTC: no time zone database is asked.
    plain = column.cast(pa.timestamp("us"))
    if plain.null_count:
        plain = pc.fill_null(plain, pa.scalar(0, pa.timestamp("us")))
    parts = [
        part(plain).to_pylist()
        for part in (pc.year, pc.month, pc.day, pc.hour, pc.minute, pc.second)
    ]
    below = pc.add(pc.multiply(pc.millisecond(plain), 1000), pc.microsecond(plain)).to_pylist()
    made: Iterable[dt.datetime] = map(dt.datetime, *parts, below, repeat(dt.UTC if zone else None))
    if not column.null_count:
        return list(made)
    valid = column.is_valid().to_pylist()
    return [value if held else None for value, held in zip(made, valid, strict=True)]


def _uuid(held: bytes) -> UUID:
    """Do what ``UUID(bytes=held)`` does without its checks of what it was given."""
    made = object.__new__(UUID)
    _set_int(made, int.from_bytes(held))
    _set_safe(made, SafeUUID.unknown)
    return made
