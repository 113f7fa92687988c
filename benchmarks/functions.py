"""The transforms that are measured: each does to the rows what ``table.TRANSFORMED`` says in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def per_batch(table: pa.Table) -> pa.Table:
    """Change two columns of a whole chunk with Arrow's own functions."""
    import pyarrow.compute as pc  # noqa: PLC0415

    quantity = pc.add(table["quantity"], 1).cast(table.schema.field("quantity").type)
    note = pc.replace_substring(table["note"], pattern="note", replacement="remark")
    table = table.set_column(table.schema.get_field_index("quantity"), "quantity", quantity)
    return table.set_column(table.schema.get_field_index("note"), "note", note)


def per_record(record: dict[str, Any]) -> dict[str, Any]:
    """Change two columns of a row that is a dict."""
    note = record["note"]
    return record | {
        "quantity": record["quantity"] + 1,
        "note": note.replace("note", "remark") if note is not None else None,
    }
