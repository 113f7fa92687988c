"""How a PostgreSQL column travels in an Arrow chunk: the one table both ends read.

A type that Arrow holds exactly travels as that Arrow type. Everything else travels as PostgreSQL's own
text (``column::text`` at the source, a cast at the target), which PostgreSQL reads back exactly. Every
field of a chunk carries its PostgreSQL type under the metadata key :data:`PG_TYPE`, spelled as
``format_type`` spells it. A value that fits neither way is an error that names the column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import pgtypes

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

_HELD: Final = {
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "real": "float32",
    "double precision": "float64",
    "boolean": "bool_",
    "bytea": "binary",
    "uuid": "uuid",
    "date": "date32",
    **dict.fromkeys(TEXT_TYPES, "string"),
}
"""Names of pyarrow's factories for the types that need no parameters."""


def base_name(pg_type: str) -> str:
    """Return a type's name without its length or precision: ``character varying``."""
    parsed = pgtypes.parse(pg_type)
    return parsed.name + ("[]" if parsed.array else "")


def arrow_type(pg_type: str) -> pa.DataType | None:
    """Return the Arrow type that holds every value of a PostgreSQL type; None: it travels as text.

    Infinite dates and timestamps and the time 24:00 are the known exceptions: Arrow cannot hold
    them, so reading one is an error that names the column and the option ``text_columns``.

    Args:
        pg_type: a type as ``format_type`` or as people spell it: ``numeric(12,2)``, ``timestamptz``.
    """
    import pyarrow as pa  # noqa: PLC0415  parsing a DAG must not import it

    if "." in pg_type.partition("(")[0]:
        return None  # a type of the user's own, whatever its name in its schema
    parsed = pgtypes.parse(pg_type)
    name = parsed.plain
    if name in _HELD:
        held: pa.DataType = getattr(pa, _HELD[name])()
        return held
    if name == "numeric":
        digits = pgtypes.precision_and_scale(parsed)
        fits = (
            digits is not None and digits[0] <= MAX_DECIMAL_DIGITS and 0 <= digits[1] <= digits[0]
        )
        return pa.decimal128(*digits) if digits is not None and fits else None
    # timestamp(3) and the like are stored rounded already; their values fit the plain type.
    return {
        "time without time zone": pa.time64("us"),
        "timestamp without time zone": pa.timestamp("us"),
        "timestamp with time zone": pa.timestamp("us", tz="UTC"),
    }.get(name)


def pg_type_of(field: pa.Field) -> str | None:
    """Return the PostgreSQL type recorded on a field, None when there is none."""
    metadata = field.metadata or {}
    return metadata[PG_TYPE].decode() if PG_TYPE in metadata else None


def field_of(name: str, pg_type: str, *, as_text: bool = False) -> pa.Field:
    """Return the Arrow field that carries a column of ``pg_type``."""
    import pyarrow as pa  # noqa: PLC0415  parsing a DAG must not import it

    carried = None if as_text else arrow_type(pg_type)
    return pa.field(name, carried or pa.string(), metadata={PG_TYPE: pg_type.encode()})
