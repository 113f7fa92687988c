"""Exact, vectorised conversions of Arrow arrays; one that would change a value raises.

Every conversion takes an array and returns one of the type that travels. pyarrow's own errors print
values, so whoever calls these drops the text of a :class:`pyarrow.ArrowException`;
:class:`LossError` carries words only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

Conversion = Callable[[pa.Array], pa.Array]

# PostgreSQL's own ranges, in Arrow's units since 1970. The binary protocol spells infinity as the
# smallest and largest integer, so a value out of range could otherwise arrive as an infinity.
_FIRST_MICROSECOND: Final = -210_866_803_200_000_000
_LAST_MICROSECOND: Final = 2**63 - 1
_FIRST_DAY: Final = -2_440_588
_LAST_DAY: Final = 2_145_042_905
_DAY_MICROSECONDS: Final = 86_400_000_000
_MICROSECOND_DIGITS: Final = 6

_DATE = r"\d{4,7}-\d{1,2}-\d{1,2}"
_TIME = r"\d{1,2}:\d{2}(:\d{2}(\.\d{1,6})?)?"
_ZONE = r"\s?(Z|z|UTC|[+-]\d{1,2}(:?\d{2}(:?\d{2})?)?)"
_ISO: Final = {
    "date": rf"^({_DATE}( BC)?|-?infinity)$",
    "time without time zone": rf"^{_TIME}$",
    "time with time zone": rf"^{_TIME}{_ZONE}$",
    "timestamp without time zone": rf"^({_DATE}([T ]{_TIME})?( BC)?|-?infinity)$",
    "timestamp with time zone": rf"^({_DATE}[T ]{_TIME}{_ZONE}( BC)?|-?infinity)$",
    "interval": r"^[^.]*(\.\d{0,6}([^0-9.][^.]*)?)?$",
}


class LossError(ValueError):
    """A value would not survive; the text names no value."""


def keep(array: pa.Array) -> pa.Array:
    """Return the array as it is."""
    return array


def chain(*steps: Conversion) -> Conversion:
    """Return the conversion that does these, one after the other."""

    def convert(array: pa.Array) -> pa.Array:
        for step in steps:
            array = step(array)
        return array

    return convert


def storage(array: pa.ExtensionArray) -> pa.Array:
    """Return what an extension array is stored as."""
    return array.storage


def cast_to(wire: pa.DataType) -> Conversion:
    """Return a cast that raises where it would change a value."""

    def convert(array: pa.Array) -> pa.Array:
        return array if array.type == wire else pc.cast(array, wire, safe=True)

    return convert


def _within(first: int, last: int, integers: pa.DataType, words: str) -> Conversion:
    def convert(array: pa.Array) -> pa.Array:
        found = pc.min_max(array.view(integers))
        low, high = found["min"].as_py(), found["max"].as_py()
        if low is not None and (low < first or high > last):
            raise LossError(words)
        return array

    return convert


def _no_finer_than(digits: int, words: str) -> Conversion:
    unit = pa.scalar(10 ** (_MICROSECOND_DIGITS - digits), pa.int64())

    def convert(array: pa.Array) -> pa.Array:
        count = array.view(pa.int64())
        rounded = pc.multiply(pc.divide(count, unit), unit)
        if pc.any(pc.not_equal(count, rounded)).as_py():
            raise LossError(words)
        return array

    return convert


def timestamps(digits: int, zone: str | None) -> Conversion:
    """Return the conversion to microseconds that keeps ``digits`` fractional digits or raises."""
    steps: list[Conversion] = [
        cast_to(pa.timestamp("us", tz=zone)),
        _within(
            _FIRST_MICROSECOND,
            _LAST_MICROSECOND,
            pa.int64(),
            "a timestamp lies before 4714-11-24 BC, the first that PostgreSQL has",
        ),
    ]
    if digits < _MICROSECOND_DIGITS:
        words = f"a timestamp has more than {digits} fractional digits"
        steps.append(_no_finer_than(digits, words))
    return chain(*steps)


def times(digits: int) -> Conversion:
    """Return the conversion of times of day to microseconds; 24:00 is kept."""
    steps: list[Conversion] = [
        cast_to(pa.time64("us")),
        _within(0, _DAY_MICROSECONDS, pa.int64(), "a time lies outside 00:00 to 24:00"),
    ]
    if digits < _MICROSECOND_DIGITS:
        steps.append(_no_finer_than(digits, f"a time has more than {digits} fractional digits"))
    return chain(*steps)


dates: Final[Conversion] = chain(
    cast_to(pa.date32()),
    _within(_FIRST_DAY, _LAST_DAY, pa.int32(), "a date lies outside the range of PostgreSQL"),
)
"""The conversion of dates to days."""


def no_longer_than(length: int) -> Conversion:
    """Return a check that no text has more than ``length`` characters, trailing blanks included.

    PostgreSQL itself would cut trailing blanks off without an error.
    """

    def convert(array: pa.Array) -> pa.Array:
        longest = pc.max(pc.utf8_length(array)).as_py()
        if longest is not None and longest > length:
            words = f"a text has {longest:,} characters"
            raise LossError(words)
        return array

    return convert


def iso_text(name: str) -> Conversion | None:
    """Return a check for texts of a date or time type; None when the type needs none.

    PostgreSQL reads much more than ISO 8601, and reads some of it by dropping what it cannot keep:
    the offset of a text for a timestamp without time zone, the time of day of a text for a date,
    digits below a microsecond; and ``now`` means something else at every retry.
    """
    pattern = _ISO.get(name)
    if pattern is None:
        return None

    def convert(array: pa.Array) -> pa.Array:
        if not pc.all(pc.match_substring_regex(array, pattern), min_count=0).as_py():
            words = f"a text is no ISO 8601 {name}"
            if name.endswith("with time zone"):
                words += " with its offset"
            elif name != "interval":
                words += ", or has parts that the type would drop"
            else:
                words = "a text has more than 6 fractional digits"
            raise LossError(words)
        return array

    return convert
