"""The CREATE TABLE statement for a missing target, from the schema of the rows that shall go there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from airflow_checkpoint_etl.columns import NOT_CARRIED, arrow_type, pg_type_of
from airflow_checkpoint_etl.pgtypes import parse
from airflow_checkpoint_etl.warehouses.catalog import LINEAGE_COLUMN, quoted, too_long

if TYPE_CHECKING:
    from airflow_checkpoint_etl.warehouses.catalog import Place

LINEAGE_SETTING: Final = "checkpoint_etl.chunk"
"""The setting in which a load's transaction says which ledger row its rows belong to."""

LINEAGE_DEFAULT: Final = f"nullif(current_setting('{LINEAGE_SETTING}', true), '')::bigint"
"""The default of a lineage column through which COPY can write straight into the table."""

_BY_ARROW_TYPE: Final = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.uint8(): "smallint",
    pa.uint16(): "integer",
    pa.uint32(): "bigint",
    pa.uint64(): "numeric(20,0)",
    pa.float16(): "real",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.date32(): "date",
    pa.date64(): "date",
    pa.binary(): "bytea",
    pa.large_binary(): "bytea",
    pa.binary_view(): "bytea",
    pa.string(): "text",
    pa.large_string(): "text",
    pa.string_view(): "text",
}
_MOST_COLUMNS: Final = 1600
_BY_EXTENSION: Final = {"arrow.uuid": "uuid", "arrow.json": "json"}


@dataclass(frozen=True, slots=True)
class NewTable:
    """A table to create.

    Attributes:
        statement: the CREATE TABLE statement.
        types: (column, type) of the types that were recorded, which this database may not have.
        faults: why it cannot be created; one sentence for every column that has no type.
    """

    statement: str
    types: tuple[tuple[str, str], ...]
    faults: tuple[str, ...]


def new_table(
    place: Place, schema: pa.Schema, key: tuple[str, ...] = (), *, lineage: bool
) -> NewTable:
    """Return the table that holds rows of this schema.

    A column keeps the PostgreSQL type recorded on it, or has the one that holds every value of its
    Arrow type. Only key columns are NOT NULL: what a later chunk brings is not known.

    Args:
        place: where it goes.
        schema: the rows' schema.
        key: the primary key's columns; none without an upsert.
        lineage: whether it gets the lineage column.
    """
    lines: list[str] = []
    types: list[tuple[str, str]] = []
    faults: list[str] = []
    for field in schema:
        pg_type, fault = _type_of(field)
        if too_long(field.name):
            fault = "the name is longer than the 63 bytes PostgreSQL keeps: rename it"
        if fault:
            faults.append(f'column "{field.name}": {fault}')
            pg_type = "?"
        elif pg_type == pg_type_of(field):
            types.append((field.name, pg_type))
        lines.append(f"{quoted(field.name)} {pg_type}")
    if lineage:
        lines.append(f"{quoted(LINEAGE_COLUMN)} bigint default {LINEAGE_DEFAULT}")
    if len(lines) > _MOST_COLUMNS:
        way_out = 'or pass lineage="never"' if lineage else "or load them into two tables"
        faults.append(
            f"{len(lines):,} columns{' with the lineage column' if lineage else ''} are more than the "
            f"{_MOST_COLUMNS:,} PostgreSQL allows: leave some out, {way_out}"
        )
    if key:
        lines.append(f"primary key ({', '.join(quoted(name) for name in key)})")
    body = ",\n    ".join(lines)
    statement = f"create table if not exists {place} (\n    {body}\n)"
    return NewTable(statement, tuple(types), tuple(faults))


def _type_of(field: pa.Field) -> tuple[str, str]:
    """Return (type, fault); one of them is empty."""
    recorded = pg_type_of(field)
    if recorded is not None and parse(recorded).name in NOT_CARRIED:
        return "", f"{recorded} means something else in another database; leave it out or cast it"
    if recorded is not None and (_is_text(field.type) or field.type == arrow_type(recorded)):
        return recorded, ""
    if pa.types.is_null(field.type):
        return "", (
            "it holds only None so far, which has no type; declare it on the transform: "
            f'output_columns={{"{field.name}": "text"}}'
        )
    arrives = field.type
    mapped = _mapped(arrives.value_type if pa.types.is_dictionary(arrives) else arrives)
    if mapped:
        return mapped, ""
    return "", f"{field.type} has no PostgreSQL type here; give it as text, e.g. as json"


def _is_text(arrives: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(arrives)
        or pa.types.is_large_string(arrives)
        or arrives == pa.string_view()
    )


def _mapped(arrives: pa.DataType) -> str | None:
    if isinstance(arrives, pa.BaseExtensionType):
        return _BY_EXTENSION.get(arrives.extension_name)
    if pa.types.is_decimal(arrives):
        return "numeric"  # a transform's decimals have another precision in every chunk
    if pa.types.is_timestamp(arrives):
        return f"timestamp {'with' if arrives.tz else 'without'} time zone"
    if pa.types.is_time(arrives):
        return "time without time zone"
    if pa.types.is_fixed_size_binary(arrives):
        return "bytea"
    return _BY_ARROW_TYPE.get(arrives)
