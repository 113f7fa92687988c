"""Typed cursor values: the ordered position that says how far a read has come.

PURE: no IO, no clock, no logging.

A cursor is stored as *canonical type-tagged text*: ``i8:42``, ``tz:2026-01-01T00:00:00.000001Z``,
and a composite as a JSON array of such texts, ``["tz:...","i8:42"]``. The text is exact (no floats
anywhere: a double breaks above 2^53) and canonical (equal values have equal texts), so frontiers
are compared by text equality, in Python, in SQL and in Lua alike.

Order is another matter. Everything but text can be ordered here; text is ordered by the collation
of its column, which only the database knows, so :func:`compare` refuses it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BEGIN: Final = "begin"
"""The position before every value: where a lane starts when nothing was loaded yet."""

CursorValue = int | Decimal | str | uuid.UUID | dt.date | dt.datetime


class CursorError(ValueError):
    """A value or text is no valid cursor."""


class IncomparableError(CursorError):
    """The order of these cursors is known only to their database (text collation)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One type a cursor column may have: its tag, its PostgreSQL type and its two conversions."""

    tag: str
    sql_type: str
    encode: Callable[[Any], str]
    decode: Callable[[str], CursorValue]


def _integer(bits: int) -> tuple[Callable[[Any], str], Callable[[str], CursorValue]]:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def check(value: int) -> int:
        if not low <= value <= high:
            message = f"{value} is outside the range of a {bits}-bit integer [{low}, {high}]"
            raise CursorError(message)
        return value

    def encode(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            message = f"{type(value).__name__} is not an integer"
            raise CursorError(message)
        return str(check(value))

    def decode(text: str) -> CursorValue:
        if not re.fullmatch(r"-?(0|[1-9][0-9]*)", text) or text == "-0":
            message = f"{text!r} is not a canonical integer"
            raise CursorError(message)
        return check(int(text))

    return encode, decode


def _encode_numeric(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        message = f"{type(value).__name__} is not an exact number"
        raise CursorError(message)
    number = Decimal(value)
    if not number.is_finite():
        message = "NaN and infinity have no place in an order; a cursor must be finite"
        raise CursorError(message)
    # format() keeps every digit; Decimal.normalize() would round to the context's precision.
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


_NUMERIC: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?")


def _decode_numeric(text: str) -> CursorValue:
    # By form, before it becomes a number: written out, "1E+999999999" fills a gigabyte.
    if not _NUMERIC.fullmatch(text) or text == "-0":
        message = f"{text!r} is not the canonical form of a number"
        raise CursorError(message)
    return Decimal(text)


def _encode_text(value: Any) -> str:
    if not isinstance(value, str):
        message = f"{type(value).__name__} is not text"
        raise CursorError(message)
    return value


def _encode_date(value: Any) -> str:
    if isinstance(value, dt.datetime) or not isinstance(value, dt.date):
        message = f"{type(value).__name__} is not a date"
        raise CursorError(message)
    return value.isoformat()


def _iso(value: dt.datetime) -> str:
    return value.replace(tzinfo=None).isoformat(timespec="microseconds")


def _encode_timestamp(value: Any) -> str:
    if not isinstance(value, dt.datetime) or value.tzinfo is not None:
        message = "a timestamp cursor is a datetime without time zone"
        raise CursorError(message)
    return _iso(value)


def _encode_timestamptz(value: Any) -> str:
    if not isinstance(value, dt.datetime) or value.utcoffset() is None:
        message = "a timestamptz cursor is a datetime with a time zone"
        raise CursorError(message)
    try:
        return _iso(value.astimezone(dt.UTC)) + "Z"
    except OverflowError:
        message = f"{value} is outside the years 1 to 9999 in UTC"
        raise CursorError(message) from None


def _decode_timestamptz(text: str) -> CursorValue:
    return dt.datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=dt.UTC)


def _encode_uuid(value: Any) -> str:
    if not isinstance(value, uuid.UUID):
        message = f"{type(value).__name__} is not a uuid"
        raise CursorError(message)
    return str(value)


KINDS: Final[dict[str, Kind]] = {
    kind.tag: kind
    for kind in (
        Kind("i2", "int2", *_integer(16)),
        Kind("i4", "int4", *_integer(32)),
        Kind("i8", "int8", *_integer(64)),
        Kind("num", "numeric", _encode_numeric, _decode_numeric),
        Kind("txt", "text", _encode_text, str),
        Kind("uuid", "uuid", _encode_uuid, uuid.UUID),
        Kind("d", "date", _encode_date, dt.date.fromisoformat),
        Kind("ts", "timestamp", _encode_timestamp, dt.datetime.fromisoformat),
        Kind("tz", "timestamptz", _encode_timestamptz, _decode_timestamptz),
    )
}

KIND_BY_SQL_TYPE: Final[dict[str, Kind]] = {
    **{kind.sql_type: kind for kind in KINDS.values()},
    "varchar": KINDS["txt"],
}


def _encode_one(tag: str, value: Any) -> str:
    return f"{tag}:{KINDS[tag].encode(value)}"


def _decode_one(text: str) -> tuple[str, CursorValue]:
    tag, colon, body = text.partition(":")
    if not colon or tag not in KINDS:
        message = f"{text!r} is not a type-tagged cursor value; known tags: {', '.join(KINDS)}"
        raise CursorError(message)
    try:
        value = KINDS[tag].decode(body)
        canonical = KINDS[tag].encode(value)
    except ValueError as error:  # a CursorError is one too
        message = f"{text!r} is not a valid cursor value: {error}"
        raise CursorError(message) from error
    if canonical != body:
        message = f"{text!r} is not canonical; expected {tag}:{canonical}"
        raise CursorError(message)
    return tag, value


def encode(tags: Sequence[str], values: Sequence[Any]) -> str:
    """Return the canonical text of one position, given its columns' tags and values.

    Raises:
        CursorError: a value is NULL, not of its tag's type, out of range, or not finite.
    """
    if len(tags) != len(values) or not tags:
        message = f"a cursor of {len(tags)} column(s) got {len(values)} value(s)"
        raise CursorError(message)
    if any(value is None for value in values):
        message = "a cursor value is NULL; cursor columns must be NOT NULL"
        raise CursorError(message)
    texts = [_encode_one(tag, value) for tag, value in zip(tags, values, strict=True)]
    return texts[0] if len(texts) == 1 else _join(texts)


def _join(texts: Sequence[str]) -> str:
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def decode(text: str) -> tuple[tuple[str, CursorValue], ...]:
    """Return (tag, value) of every column of a canonical cursor text.

    Raises:
        CursorError: the text is :data:`BEGIN`, or no canonical cursor.
    """
    if not text.startswith("["):
        return (_decode_one(text),)
    try:
        parts = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{text!r} is not a composite cursor: {error}"
        raise CursorError(message) from error
    if len(parts) < 2 or not all(isinstance(part, str) for part in parts):  # noqa: PLR2004
        message = f"{text!r} is not a composite cursor of two or more values"
        raise CursorError(message)
    if _join(parts) != text:
        message = f"{text!r} is not canonical; expected {_join(parts)}"
        raise CursorError(message)
    return tuple(_decode_one(part) for part in parts)


def _order_of(tag: str) -> str:
    """Return which order a type's values are in; integers of every width are in one."""
    return "integer" if tag in {"i2", "i4", "i8"} else tag


def compare(left: str, right: str) -> int:
    """Return -1, 0 or 1 as ``left`` comes before, at or after ``right``.

    Raises:
        IncomparableError: the answer depends on a text collation.
        CursorError: the cursors are of different types. Integers of different widths are not: a
            column that outgrew its type is altered to a wider one, and its values stay.
    """
    if left == right:
        return 0
    if left == BEGIN:
        return -1
    if right == BEGIN:
        return 1
    lefts, rights = decode(left), decode(right)
    if [_order_of(tag) for tag, _ in lefts] != [_order_of(tag) for tag, _ in rights]:
        message = f"cursors of different types cannot be ordered: {left!r} and {right!r}"
        raise CursorError(message)
    for (tag, a), (_, b) in zip(lefts, rights, strict=True):
        if a == b:
            continue
        if tag == "txt":
            message = "text cursors are ordered by their column's collation; ask the database"
            raise IncomparableError(message)
        return -1 if a < b else 1  # type: ignore[operator]  # equal tags, so equal types
    return 0


@dataclass(frozen=True, slots=True)
class Bound:
    """One column of a keyset predicate, as data: compare the column with this value of this type."""

    sql_type: str
    text: str


def parse(tags: Sequence[str], texts: Sequence[str]) -> str:
    """Return the canonical cursor for values as people write them, e.g. ``2026-01-01`` for a date.

    Raises:
        CursorError: a text is no value of its tag's type, or the numbers of columns differ.
    """
    values: list[Any] = []
    for tag, text in zip(tags, texts, strict=False):
        try:
            if tag == "num":
                value: Any = Decimal(text)
            elif tag in {"i2", "i4", "i8"}:
                value = int(text)
            elif tag == "tz":
                value = dt.datetime.fromisoformat(text)
                value = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
            else:
                value = KINDS[tag].decode(text)
        except (ValueError, ArithmeticError) as error:
            message = f"{text!r} is not a {KINDS[tag].sql_type}"
            raise CursorError(message) from error
        values.append(value)
    if len(tags) != len(texts):
        message = f"the cursor has {len(tags)} column(s), but {len(texts)} value(s) were given"
        raise CursorError(message)
    return encode(tags, values)


def bounds(text: str) -> tuple[Bound, ...]:
    """Return the values of a cursor as (type, text) pairs, for a database adapter to quote.

    ``(a, b) > (x, y)`` is the whole keyset predicate; see Markus Winand, "We need tool support for
    keyset pagination" (use-the-index-luke.com/no-offset). :data:`BEGIN` has no bounds.
    """
    if text == BEGIN:
        return ()
    return tuple(
        Bound(KINDS[tag].sql_type, KINDS[tag].encode(value)) for tag, value in decode(text)
    )


def display(text: str) -> str:
    """Return a cursor for people: ``812,000`` or ``2026-01-01 00:00:00+00:00, 42``."""
    if text == BEGIN:
        return "the beginning"

    def one(value: CursorValue) -> str:
        if isinstance(value, Decimal):
            return f"{value:,f}"  # never 1E-10
        return f"{value:,}" if isinstance(value, int) else str(value)

    return ", ".join(one(value) for _, value in decode(text))


_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001  only differences from it are used


def share(low: str, at: str, high: str) -> float | None:
    """Return how far ``at`` is on the way from ``low`` to ``high``, 0 to 1; None where unknown.

    Only the first column counts. Starting at :data:`BEGIN`, numbers count from zero; where dates
    begin is unknown.
    """

    def number(text: str) -> Fraction | None:
        # Exact: as floats, neighbouring big integers are equal and wide numerics are infinite.
        if text == BEGIN:
            return Fraction(0)
        value = decode(text)[0][1]
        if isinstance(value, dt.datetime):
            return Fraction((value.replace(tzinfo=None) - _EPOCH) // dt.timedelta(microseconds=1))
        if isinstance(value, dt.date):
            return Fraction(value.toordinal())
        return Fraction(value) if isinstance(value, (int, Decimal)) else None

    if BEGIN in {at, high} or (low == BEGIN and isinstance(decode(high)[0][1], dt.date)):
        return None
    start, here, end = number(low), number(at), number(high)
    if start is None or here is None or end is None or end <= start:
        return None
    return float(max(Fraction(0), min(Fraction(1), (here - start) / (end - start))))
