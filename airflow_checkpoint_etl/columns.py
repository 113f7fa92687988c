"""How a PostgreSQL column travels in an Arrow chunk: the one table both ends read.

A type that Arrow holds exactly travels as that Arrow type. Everything else travels as PostgreSQL's own
text (``column::text`` at the source, a cast at the target), which PostgreSQL reads back exactly. Every
field of a chunk carries its PostgreSQL type under the metadata key :data:`PG_TYPE`, spelled as
``format_type`` spells it. A value that fits neither way is an error that names the column.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

PG_TYPE: Final = b"pg_type"
"""Field metadata key: the PostgreSQL type, as ``pg_catalog.format_type`` spells it."""

MAX_DECIMAL_DIGITS: Final = 38
"""Digits of the widest Arrow decimal that the binary encoder writes (decimal128)."""

TEXT_TYPES: Final = frozenset({"text", "character varying", "character", "name", "json", "jsonb"})
"""Types whose own values are text, so that travelling as text changes nothing."""

NOT_CARRIED: Final = frozenset(
    {
        "money",  # its text depends on the server's lc_monetary
        "regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper",
        "regoperator", "regproc", "regprocedure", "regrole", "regtype",  # oids of one database
    }
)  # fmt: skip
"""Types whose values mean something else in another database; refused by name."""

_NUMERIC: Final = re.compile(r"numeric\((\d+),(-?\d+)\)")
_TYPMOD: Final = re.compile(r"\(\d+(,-?\d+)?\)")


def base_name(pg_type: str) -> str:
    """Return a formatted type without its length or precision: ``character varying``."""
    return _TYPMOD.sub("", pg_type)


def arrow_type(pg_type: str) -> pa.DataType | None:
    """Return the Arrow type that holds every value of a PostgreSQL type; None: it travels as text.

    Infinite dates and timestamps and the time 24:00 are the known exceptions: Arrow cannot hold
    them, so reading one is an error that names the column and the option ``text_columns``.
    """
    import pyarrow as pa  # noqa: PLC0415  parsing a DAG must not import it

    numeric = _NUMERIC.fullmatch(pg_type)
    if numeric:
        precision, scale = int(numeric[1]), int(numeric[2])
        fits = precision <= MAX_DECIMAL_DIGITS and 0 <= scale <= precision
        return pa.decimal128(precision, scale) if fits else None
    if "(" in pg_type and base_name(pg_type) not in TEXT_TYPES:
        # timestamp(3) and the like are stored rounded already; their values fit the plain type.
        pg_type = base_name(pg_type)
    return {
        "smallint": pa.int16(),
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "real": pa.float32(),
        "double precision": pa.float64(),
        "boolean": pa.bool_(),
        "bytea": pa.binary(),
        "uuid": pa.uuid(),
        "date": pa.date32(),
        "time without time zone": pa.time64("us"),
        "timestamp without time zone": pa.timestamp("us"),
        "timestamp with time zone": pa.timestamp("us", tz="UTC"),
        **dict.fromkeys(TEXT_TYPES, pa.string()),
    }.get(base_name(pg_type) if base_name(pg_type) in TEXT_TYPES else pg_type)


def pg_type_of(field: pa.Field) -> str | None:
    """Return the PostgreSQL type recorded on a field, None when there is none."""
    metadata = field.metadata or {}
    return metadata[PG_TYPE].decode() if PG_TYPE in metadata else None


def field_of(name: str, pg_type: str, *, as_text: bool = False) -> pa.Field:
    """Return the Arrow field that carries a column of ``pg_type``."""
    import pyarrow as pa  # noqa: PLC0415  parsing a DAG must not import it

    carried = None if as_text else arrow_type(pg_type)
    return pa.field(name, carried or pa.string(), metadata={PG_TYPE: pg_type.encode()})
