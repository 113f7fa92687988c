"""Between Arrow chunks and the Python records of a per-record transform, without changing a value."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from decimal import Decimal
from types import NoneType
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import pyarrow as pa

from airflow_checkpoint_etl.columns import PG_TYPE, base_name, field_of, pg_type_of
from airflow_checkpoint_etl.errors import ValueNotCarriedError
from airflow_checkpoint_etl.values import is_numeric_text, slices

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_JSON = frozenset({"json", "jsonb"})
_NATURAL: Final = (
    (pa.types.is_integer, frozenset({int, NoneType})),
    (pa.types.is_floating, frozenset({float, int, NoneType})),
    (pa.types.is_boolean, frozenset({bool, NoneType})),
    (pa.types.is_string, frozenset({str, NoneType})),
    (pa.types.is_large_string, frozenset({str, NoneType})),
    (pa.types.is_binary, frozenset({bytes, NoneType})),
    (pa.types.is_decimal, frozenset({Decimal, NoneType})),
    (pa.types.is_date32, frozenset({dt.date, NoneType})),
    (lambda kind: kind == pa.uuid(), frozenset({UUID, NoneType})),
)
"""Python types that an Arrow type takes as they are, or refuses aloud."""

_DATETIMES: Final = frozenset({dt.datetime, NoneType})


def to_records(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield each row as a dict of Python values; see :func:`~airflow_checkpoint_etl.values.to_python`.

    Raises:
        ValueNotCarriedError: a date or timestamp is outside Python's years 1 to 9999.
    """
    names = table.column_names
    for _, columns in slices(table, names):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(names, values))  # noqa: B905  as many names as values, by construction


def from_records(
    records: Sequence[Mapping[str, Any]], schema: pa.Schema, output_columns: Mapping[str, str]
) -> pa.Table:
    """Build a table from a transform's records.

    A column's type is, in this order: the one declared in ``output_columns``; that of the incoming
    column of the same name, where the values fit it; what the values themselves say.

    Args:
        records: rows with equal keys.
        schema: the incoming chunk's schema.
        output_columns: declared PostgreSQL types by column name.

    Raises:
        ValueNotCarriedError: a column's values are of mixed or unknown types.
    """
    if not records:
        return pa.table({})
    arrays, fields = [], []
    for name in records[0]:
        values = [record[name] for record in records]
        array, field = to_arrow(name, values, schema, output_columns.get(name))
        arrays.append(array)
        fields.append(field)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def to_arrow(
    name: str, values: list[Any], schema: pa.Schema, declared: str | None
) -> tuple[pa.Array, pa.Field]:
    """Build one column from its values; see :func:`from_records`.

    Raises:
        ValueNotCarriedError: the values are of mixed or unknown types, or do not fit ``declared``.
    """
    position = schema.get_field_index(name)
    known = (
        field_of(name, declared) if declared else schema.field(position) if position >= 0 else None
    )
    if known is not None:
        array = _as_field(values, known)
        if array is not None:
            return array, known
        if declared:
            message = (
                f'column "{name}" is declared {declared} in output_columns, but the transform returned '
                "values that do not fit it exactly; return values of that type or change the declaration"
            )
            raise ValueNotCarriedError(message)
    return _inferred(name, values)


def _as_field(values: list[Any], field: pa.Field) -> pa.Array | None:
    """Return the values as the field's type, None where one does not fit exactly."""
    pg_type = base_name(pg_type_of(field) or "")
    if pg_type in _JSON:
        values = _json_texts(field.name, values)
    elif is_numeric_text(field):
        values = [_numeric_text(value) for value in values]
    try:
        array = pa.array(values, type=field.type)
        return array if _is_exact(array, values) else None
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return None
    except (TypeError, ValueError, AttributeError):  # what pyarrow raises for foreign objects
        return None


def _is_exact(array: pa.Array, values: list[Any]) -> bool:
    """Whether an array holds the very values it was made from.

    pyarrow makes 1 of 1.5, a date of a datetime and UTC of a time without zone, and says nothing. Only a
    float that takes its column's precision is meant to change.
    """
    kind = array.type
    types = set(map(type, values))
    if any(is_kind(kind) and types <= natural for is_kind, natural in _NATURAL):
        return True
    if pa.types.is_timestamp(kind) and kind.unit == "us" and types <= _DATETIMES:
        # Any zone is the same instant in UTC; a time without a zone is none, and the reverse.
        return all((value.tzinfo is None) == (kind.tz is None) for value in values if value)
    held_values = array.to_pylist()
    return held_values == values or all(
        held is value or bool(held == value) or (held != held and value != value)  # noqa: PLR0124  NaN
        for held, value in zip(held_values, values, strict=True)
    )


def _inferred(name: str, values: list[Any]) -> tuple[pa.Array, pa.Field]:
    if any(isinstance(value, dict) for value in values):
        return pa.array(_json_texts(name, values), pa.string()), field_of(name, "jsonb")
    try:
        array = pa.array(values)
        if not _is_exact(array, values):
            raise pa.ArrowInvalid  # noqa: TRY301  one place turns it into the error
    except (
        pa.ArrowInvalid,
        pa.ArrowTypeError,
        pa.ArrowNotImplementedError,
        OverflowError,
        TypeError,
        ValueError,  # half a surrogate pair, whose error quotes the text
        AttributeError,
        RecursionError,
    ) as error:
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        message = (
            f'column "{name}" of the transform\'s records holds {", ".join(kinds)}, which no one type '
            f"carries exactly ({type(error).__name__}); return one type, or declare it with "
            f"output_columns={{{name!r}: ...}}"
        )
        raise ValueNotCarriedError(message) from None
    return array, pa.field(name, array.type)


def _json_texts(name: str, values: list[Any]) -> list[Any]:
    try:
        return [_json_text(value) for value in values]
    except (TypeError, ValueError, RecursionError) as error:
        message = (
            f'column "{name}" of the transform\'s records holds a dict or list that is not JSON '
            f"({type(error).__name__}); keep finite numbers, texts, booleans, None, lists and dicts in it"
        )
        raise ValueNotCarriedError(message) from None


def misfits(
    columns: Mapping[str, list[Any]], schema: pa.Schema, output_columns: Mapping[str, str]
) -> dict[int, str]:
    """Say at which places is a value that its column's other values leave no type for, and why.

    Looked for only where a column as a whole has no type: empty when :func:`to_arrow` would do.
    """
    found: dict[int, str] = {}
    for name, values in columns.items():
        declared = output_columns.get(name)
        try:
            to_arrow(name, values, schema, declared)
        except ValueNotCarriedError:
            for position in _odd_ones(name, values, schema, declared):
                kind = type(values[position]).__name__
                found.setdefault(position, f'column "{name}": {kind} that its type does not carry')
    return found


def _odd_ones(
    name: str, values: list[Any], schema: pa.Schema, declared: str | None
) -> Sequence[int]:
    """Return the positions of the values to blame: they fit neither the column nor most others."""
    position = schema.get_field_index(name)
    known = (
        field_of(name, declared) if declared else schema.field(position) if position >= 0 else None
    )
    given = [place for place, value in enumerate(values) if value is not None]
    if known is not None:
        odd = [place for place in given if not _fits(values[place], known)]
        if declared or len(odd) < len(given):
            return odd
    kinds = Counter(_kind(values[place]) for place in given)
    usual = kinds.most_common(1)[0][0] if kinds else None
    odd = [place for place in given if _kind(values[place]) != usual]
    return odd or [place for place in given if not _is_carried(name, values[place])]


def _fits(value: Any, field: pa.Field) -> bool:
    try:
        return _as_field([value], field) is not None
    except ValueNotCarriedError:
        return False


def _kind(value: Any) -> object:
    if isinstance(value, (dt.datetime, dt.time)):
        return type(value), value.tzinfo is None
    return float if type(value) is int else type(value)  # they go together


def _is_carried(name: str, value: Any) -> bool:
    try:
        _inferred(name, [value])
    except ValueNotCarriedError:
        return False
    return True


def _json_text(value: Any) -> Any:
    """Return JSON text for dicts and lists; a str is JSON text already, as it came from the source."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _numeric_text(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return value  # None stays; anything else does not fit and is found by the caller
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def remember_types(
    table: pa.Table, schema: pa.Schema, output_columns: Mapping[str, str]
) -> pa.Table:
    """Put PostgreSQL types back on a batch transform's result, where Arrow's own steps lost them.

    A declared column gets its declared type; a column that has the name and Arrow type of an incoming
    one is taken to have its PostgreSQL type too.
    """
    fields = []
    for field in table.schema:
        position = schema.get_field_index(field.name)
        if field.name in output_columns:
            pg_type = output_columns[field.name]
            fields.append(field.with_metadata({PG_TYPE: pg_type.encode()}))
        elif position >= 0 and schema.field(position).type == field.type:
            fields.append(field.with_metadata(schema.field(position).metadata))
        else:
            fields.append(field)
    return table.cast(pa.schema(fields)) if fields else table
