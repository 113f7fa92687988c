"""How every column of a chunk gets into its target column: an allow-list, and nothing beside it.

Binary COPY into an unequal type is accepted by PostgreSQL and mangles the value in silence, so each
Arrow type has a list of target types it may go to, with the exact conversion that takes it there. A
column goes one of two ways:

* *directly*: the bytes are the target type's own, and binary COPY may write them into the target;
* *by a cast*: PostgreSQL's text travels, and PostgreSQL reads it. A type such as ``numeric(12,2)``
  rounds while it reads, so such a column has a :class:`LossCheck` that finds a value that changed.

A schema that has no way for some column raises nothing here: :func:`plan` returns every fault at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from airflow_checkpoint_etl.columns import MAX_DECIMAL_DIGITS, NOT_CARRIED, pg_type_of
from airflow_checkpoint_etl.pgtypes import (
    FRACTIONAL,
    LOSSY,
    PgType,
    fractional_digits,
    holds,
    numbers,
    parse,
    precision_and_scale,
)
from airflow_checkpoint_etl.warehouses import convert

if TYPE_CHECKING:
    from collections.abc import Iterable

_TEXT: Final = frozenset({"text", "character varying", "character", "name", "citext"})
_JSON: Final = frozenset({"json", "jsonb"})
_INTEGERS: Final = {"smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64()}
_FROM_ANY_TEXT: Final = frozenset(
    {
        "bigint", "bit", "bit varying", "boolean", "cidr", "date", "inet", "int4range", "int8range",
        "integer", "interval", "macaddr", "macaddr8", "numeric", "numrange", "smallint",
        "time with time zone", "time without time zone", "timestamp with time zone",
        "timestamp without time zone", "tsquery", "tsvector", "uuid", "xml",
    }
)  # fmt: skip
"""Types that a text of unknown origin may be cast to: their input refuses what it cannot keep."""
_ARRAYS_FROM_ANY_TEXT: Final = frozenset(
    {
        "bigint", "boolean", "character varying", "inet", "integer", "name", "numeric", "smallint",
        "text", "uuid",
    }
)  # fmt: skip
_WIDEST_INTEGER: Final = pa.decimal128(20, 0)


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of the target table.

    Attributes:
        name: the column's name.
        pg_type: its type as ``format_type`` spells it; possibly a domain.
        base_type: the type below any domains, with its length or precision.
        cast_type: ``base_type`` without its length or precision.
        enum: whether the base type is an enum.
        structured: whether the base type has parts of other types (composite, array of domains).
        required: whether it is NOT NULL and has no default.
        generated: whether the database alone may give it a value.
        collation: its collation, quoted, where it is not the type's own.
    """

    name: str
    pg_type: str
    base_type: str
    cast_type: str
    enum: bool = False
    structured: bool = False
    required: bool = False
    generated: bool = False
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class LossCheck:
    """A SQL condition over ``{value}`` that is true where a cast would change a value."""

    condition: str
    words: str


@dataclass(frozen=True, slots=True)
class Route:
    """The way of one column: what travels, how it is made, and whether PostgreSQL casts it."""

    wire: pa.DataType
    conversion: convert.Conversion
    jsonb: bool = False
    cast: bool = False
    check: LossCheck | None = None


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """One incoming column, its target column and the way between."""

    arrives: pa.DataType
    target: TargetColumn
    route: Route

    @property
    def name(self) -> str:
        """The column's name, the same on both sides."""
        return self.target.name


class _Unfit(Exception):  # noqa: N818  it never leaves this module
    """No way from here to there; the message is the next move."""


def plan(
    fields: Iterable[pa.Field], columns: Iterable[TargetColumn]
) -> tuple[tuple[ColumnPlan, ...], list[str]]:
    """Return the plan of every column that has one, and a sentence for every one that has none.

    Args:
        fields: the incoming rows' columns; their names are all among those of ``columns``.
        columns: the target's columns.
    """
    targets = {column.name: column for column in columns}
    plans: list[ColumnPlan] = []
    faults: list[str] = []
    for field in fields:
        target = targets[field.name]
        try:
            plans.append(ColumnPlan(field.type, target, _route(field, target)))
        except _Unfit as unfit:
            arrives = describe(field)
            faults.append(
                f'column "{field.name}": {arrives} arrives, the target has {target.pg_type}; {unfit}'
            )
    return tuple(plans), faults


def describe(field: pa.Field) -> str:
    """Say what a field carries: its Arrow type, and the PostgreSQL type it came from."""
    recorded = pg_type_of(field)
    return f"{field.type} (from {recorded})" if recorded else str(field.type)


def _route(field: pa.Field, target: TargetColumn) -> Route:
    recorded = pg_type_of(field)
    source = parse(recorded) if recorded else None
    base = parse(target.base_type)
    if source is not None and source.name in NOT_CARRIED:
        message = f"{source.name} means something else in another database; leave it out or cast it"
        raise _Unfit(message)
    if base.plain != "uuid" and getattr(field.type, "extension_name", "") == "arrow.uuid":
        message = "a uuid goes to uuid only: convert it in the transform or the source"
        raise _Unfit(message)
    arrives, first = _unwrap(field.type)
    route = _typed(arrives, source, base, target)
    if first is convert.keep:
        return route
    conversion = convert.chain(first, route.conversion)
    return Route(route.wire, conversion, route.jsonb, route.cast, route.check)


def _unwrap(arrives: pa.DataType) -> tuple[pa.DataType, convert.Conversion]:
    """Return the type below a dictionary or a known extension, and the step that gets there."""
    if pa.types.is_dictionary(arrives):
        return arrives.value_type, convert.cast_to(arrives.value_type)
    if isinstance(arrives, pa.BaseExtensionType):
        if arrives.extension_name in {"arrow.uuid", "arrow.json"}:
            return arrives.storage_type, convert.storage
        message = "the extension type is not known here; convert it to a plain Arrow type"
        raise _Unfit(message)
    return arrives, convert.keep


def _typed(  # noqa: PLR0911, C901  one line per kind of Arrow type is the clearest table
    arrives: pa.DataType, source: PgType | None, base: PgType, target: TargetColumn
) -> Route:
    types = pa.types
    if types.is_null(arrives):
        # NULL has no bytes, so it may be written as any type.
        return Route(pa.string(), convert.cast_to(pa.string()))
    if types.is_boolean(arrives):
        return _only(arrives, base, {"boolean": pa.bool_()})
    if types.is_integer(arrives):
        return _integer(base)
    if types.is_float16(arrives) or types.is_float32(arrives):
        return _only(arrives, base, {"real": pa.float32(), "double precision": pa.float64()})
    if types.is_float64(arrives):
        return _only(arrives, base, {"double precision": pa.float64()})
    if types.is_decimal(arrives):
        return _decimal(arrives, base, target)
    if types.is_date(arrives):
        return _with(_only(arrives, base, {"date": pa.date32()}), convert.dates)
    if types.is_time(arrives):
        route = _only(arrives, base, {"time without time zone": pa.time64("us")})
        return _with(route, convert.times(_digits(source, base)))
    if types.is_timestamp(arrives):
        return _timestamp(arrives, source, base)
    if types.is_fixed_size_binary(arrives) and base.plain == "uuid":
        return _uuid(arrives)
    if (
        types.is_binary(arrives)
        or types.is_large_binary(arrives)
        or types.is_fixed_size_binary(arrives)
        or arrives == pa.binary_view()
    ):
        wire = pa.large_binary() if types.is_large_binary(arrives) else pa.binary()
        return _only(arrives, base, {"bytea": wire})
    if types.is_string(arrives) or types.is_large_string(arrives) or arrives == pa.string_view():
        wire = pa.large_string() if types.is_large_string(arrives) else pa.string()
        return _text(wire, source, base, target)
    raise _Unfit(_advice(arrives))


def _advice(arrives: pa.DataType) -> str:
    types = pa.types
    if types.is_list(arrives) or types.is_large_list(arrives) or types.is_fixed_size_list(arrives):
        return "give an array as PostgreSQL's text, such as '{1,2}', or as json text"
    if types.is_struct(arrives) or types.is_map(arrives):
        return "give it as text: json text for a json or jsonb column"
    if types.is_duration(arrives) or types.is_interval(arrives):
        return "give an interval as PostgreSQL's text, such as '1 day 02:00:00'"
    return "convert it to a type that the target has"


def _with(route: Route, conversion: convert.Conversion) -> Route:
    return Route(route.wire, conversion)


def _only(arrives: pa.DataType, base: PgType, allowed: dict[str, pa.DataType]) -> Route:
    wire = allowed.get(base.plain)
    if wire is None:
        only = " or ".join(allowed)
        message = f"{arrives} goes to {only} only: convert it in the transform or the source"
        raise _Unfit(message)
    return Route(wire, convert.cast_to(wire))


def _integer(base: PgType) -> Route:
    if base.plain in _INTEGERS:
        wire = _INTEGERS[base.plain]
        return Route(wire, convert.cast_to(wire))
    if base.plain == "double precision":
        return Route(pa.float64(), convert.cast_to(pa.float64()))
    limits = precision_and_scale(base) if base.plain == "numeric" else None
    if base.plain != "numeric" or (limits is not None and not _arrow_has(limits)):
        message = "an integer goes to smallint, integer, bigint, numeric or double precision only"
        raise _Unfit(message)
    widen = convert.cast_to(_WIDEST_INTEGER)
    if limits is None:
        return Route(_WIDEST_INTEGER, widen)
    wire = pa.decimal128(*limits)
    return Route(wire, convert.chain(widen, convert.cast_to(wire)))


def _arrow_has(limits: tuple[int, int]) -> bool:
    precision, scale = limits
    return precision <= MAX_DECIMAL_DIGITS and 0 <= scale <= precision


def _decimal(arrives: pa.DataType, base: PgType, target: TargetColumn) -> Route:
    if base.plain != "numeric":
        message = "a decimal goes to numeric only: convert it in the transform or the source"
        raise _Unfit(message)
    limits = precision_and_scale(base)
    if limits is not None and _arrow_has(limits):
        wire = pa.decimal128(*limits)
        return Route(wire, convert.cast_to(wire))
    if limits is None and _arrow_has((arrives.precision, arrives.scale)):
        wire = pa.decimal128(arrives.precision, arrives.scale)
        return Route(wire, convert.cast_to(wire))
    return _cast(pa.string(), convert.cast_to(pa.string()), base, target)


def _digits(source: PgType | None, base: PgType) -> int:
    """Return the fractional digits to hold a time to; refuse a type that is known to have more."""
    digits = fractional_digits(base)
    if source is not None and source.same(base) and not holds(base, source):
        message = (
            f"its values may have {fractional_digits(source)} fractional digits: widen the target "
            "column, or round them and declare the new type in output_columns"
        )
        raise _Unfit(message)
    return digits


def _timestamp(arrives: pa.DataType, source: PgType | None, base: PgType) -> Route:
    zoned = arrives.tz is not None
    name = f"timestamp {'with' if zoned else 'without'} time zone"
    if base.plain != name:
        if base.plain in {"timestamp with time zone", "timestamp without time zone"}:
            message = (
                "convert it to the zone meant and drop the zone there"
                if zoned
                else "a time without a zone names no instant: give it its time zone"
            )
        else:
            message = f"a timestamp goes to {name} only: convert it in the transform or the source"
        raise _Unfit(message)
    zone = "UTC" if zoned else None
    return Route(pa.timestamp("us", tz=zone), convert.timestamps(_digits(source, base), zone))


def _uuid(arrives: pa.DataType) -> Route:
    wire = pa.binary(16)
    if arrives != wire:
        message = f"a uuid has 16 bytes, not {arrives.byte_width}"
        raise _Unfit(message)
    return Route(wire, convert.keep)


def _text(wire: pa.DataType, source: PgType | None, base: PgType, target: TargetColumn) -> Route:
    as_text = convert.cast_to(wire)
    of_text = source is None or (source.name in _TEXT and not source.array)
    if base.plain in _TEXT:
        return _into_text(as_text, wire, source, base)
    if base.plain in _JSON:
        if source is None or of_text or source.plain in {base.name, "jsonb"}:
            return Route(wire, as_text, jsonb=base.name == "jsonb")
        message = (
            "cast it in the source query: jsonb drops blanks, doubled keys and the keys' order"
        )
        raise _Unfit(message if source == PgType("json") else _same_type(source))
    # A domain may go by its own name or by that of the type below it.
    itself = source is not None and (source.same(base) or source.same(parse(target.pg_type)))
    if target.enum and not base.array and (of_text or itself):
        return Route(wire, as_text)  # the server refuses an unknown label
    if source is not None and itself:
        if source.same(base) and not holds(base, source):
            message = f"the target is narrower than {target.cast_type} of the source: widen it"
            raise _Unfit(message)
        return _cast(wire, as_text, base, target)
    allowed = _ARRAYS_FROM_ANY_TEXT if base.array else _FROM_ANY_TEXT
    if source is None and base.name in allowed:
        return _cast(wire, as_text, base, target)
    raise _Unfit(_same_type(source))


def _same_type(source: PgType | None) -> str:
    if source is None:
        return "declare what the text holds with output_columns={column: type}"
    return "cast it in the source query, or declare its new type in output_columns"


def _into_text(
    as_text: convert.Conversion, wire: pa.DataType, source: PgType | None, base: PgType
) -> Route:
    if not base.modifier:
        return Route(wire, as_text)
    if (
        source is not None
        and source.name == base.name
        and source.modifier
        and not holds(base, source)
    ):
        message = f"its values may have {source.modifier} characters: widen the target column"
        raise _Unfit(message)
    (length,) = numbers(base.modifier)
    return Route(wire, convert.chain(as_text, convert.no_longer_than(length)))


def _cast(
    wire: pa.DataType, as_text: convert.Conversion, base: PgType, target: TargetColumn
) -> Route:
    """Let PostgreSQL read the text, and look for values that its reading changed."""
    guard = convert.iso_text(base.plain)
    conversion = as_text if guard is None else convert.chain(as_text, guard)
    check = None
    if target.structured:
        condition = f"({{value}}::{_sql(target.cast_type)})::text is distinct from {{value}}"
        check = LossCheck(condition, "is not read back as the same text")
    elif base.name in LOSSY and base.constrained:
        wide, narrow = _sql(target.cast_type), _sql(target.base_type)
        condition = f"{{value}}::{wide} is distinct from {{value}}::{narrow}"
        finer = base.name in FRACTIONAL or base.name == "numeric"
        check = LossCheck(condition, "would be rounded" if finer else "would be cut or padded")
    return Route(wire, conversion, cast=True, check=check)


def _sql(pg_type: str) -> str:
    """Return a catalog's type name for use in a format template."""
    return pg_type.replace("{", "{{").replace("}", "}}")
