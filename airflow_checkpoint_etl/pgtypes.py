"""PostgreSQL types as ``format_type`` spells them, taken apart and compared.

PURE: no IO. Two databases spell a type of their own differently (``mood``, ``app.mood``), and a type
without and with a length are one type here, so names are compared without schema and length, and the
lengths on their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_IDENTIFIER: Final = r'"(?:[^"]|"")+"'
_TYPE: Final = re.compile(
    rf'(?:(?:{_IDENTIFIER}|[^"\s().\[\]]+)\.)?'
    rf'(?P<name>{_IDENTIFIER}|[^"().\[\]]+?)\s*'
    r"(?:\((?P<modifier>[^()]*)\))?(?P<tail>[^()\[\]]*)(?P<array>(?:\[\])*)"
)
_ALIASES: Final = {
    '"bit"': "bit",
    "bool": "boolean",
    "bpchar": "character",
    "char": "character",
    "decimal": "numeric",
    "float4": "real",
    "float8": "double precision",
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "timetz": "time with time zone",
    "varbit": "bit varying",
    "varchar": "character varying",
}

FRACTIONAL: Final = frozenset(
    {
        "interval",
        "time with time zone",
        "time without time zone",
        "timestamp with time zone",
        "timestamp without time zone",
    }
)
"""Types whose modifier is a number of fractional digits, and which round to it in silence."""

LENGTHS: Final = frozenset({"character varying", "character", "bit varying"})
"""Types whose modifier is a largest length."""

LOSSY: Final = FRACTIONAL | LENGTHS | {"numeric", "bit"}
"""Built-in types whose modifier can make PostgreSQL round or cut a value without an error."""

MICROSECONDS: Final = 6
"""Fractional digits of a time or timestamp without a modifier."""


@dataclass(frozen=True, slots=True)
class PgType:
    """A type taken apart.

    Attributes:
        name: without schema, length and brackets: ``numeric``, ``timestamp with time zone``, ``mood``.
        modifier: what stands in parentheses: ``12,2``; empty when nothing does.
        fields: an interval's fields: ``day to second``; empty for every other type.
        array: whether it is an array.
    """

    name: str
    modifier: str = ""
    fields: str = ""
    array: bool = False

    @property
    def constrained(self) -> bool:
        """Whether a modifier limits the type's values."""
        return bool(self.modifier or self.fields)

    @property
    def plain(self) -> str:
        """The name of a type that is no array; an array has none of these names."""
        return "" if self.array else self.name

    def same(self, other: PgType) -> bool:
        """Whether both are one type, their lengths aside."""
        return self.name == other.name and self.array == other.array


def parse(pg_type: str) -> PgType:
    """Take a type apart; a spelling that is not understood becomes a name that equals only itself."""
    match = _TYPE.fullmatch(pg_type.strip())
    if match is None:
        return PgType(pg_type)
    name = f"{match['name']}{match['tail'].rstrip()}"
    fields = ""
    if name.startswith("interval "):
        name, _, fields = name.partition(" ")
    return PgType(
        _ALIASES.get(name, name),
        (match["modifier"] or "").replace(" ", ""),
        fields,
        bool(match["array"]),
    )


def numbers(modifier: str) -> tuple[int, ...]:
    """Return a modifier's numbers; ``numeric(5)`` and an empty one included."""
    return tuple(int(number) for number in modifier.split(",")) if modifier else ()


def precision_and_scale(numeric: PgType) -> tuple[int, int] | None:
    """Return (precision, scale) of a ``numeric``; None when it holds any number."""
    given = numbers(numeric.modifier)
    if not given:
        return None
    return (given[0], given[1]) if len(given) > 1 else (given[0], 0)


def fractional_digits(pg_type: PgType) -> int:
    """Return how many fractional digits of a second a time or timestamp type keeps."""
    given = numbers(pg_type.modifier)
    return given[0] if given else MICROSECONDS


def holds(target: PgType, source: PgType) -> bool:
    """Whether every value of ``source`` fits ``target`` unchanged; both are the same type."""
    if target.fields and target.fields != source.fields:
        return False
    if not target.modifier or target.modifier == source.modifier:
        return True
    if target.name == "numeric":
        wide, narrow = precision_and_scale(target), precision_and_scale(source)
        return (
            wide is not None
            and narrow is not None
            and wide[1] >= narrow[1]
            and wide[0] - wide[1] >= narrow[0] - narrow[1]
        )
    if target.name in FRACTIONAL:
        return fractional_digits(target) >= fractional_digits(source)
    if target.name in LENGTHS:
        return bool(source.modifier) and numbers(target.modifier) >= numbers(source.modifier)
    return False
