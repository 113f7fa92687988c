"""From values as the source returns them to the canonical text of a cursor."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import ValueNotCarriedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001  a timestamp without time zone has none

_FROM_TEXT: Final[dict[str, Callable[[str], Any]]] = {
    "i2": int,
    "i4": int,
    "i8": int,
    "num": Decimal,
    "txt": str,
    "uuid": uuid.UUID,
    "d": dt.date.fromisoformat,
    "ts": dt.datetime.fromisoformat,
    "tz": dt.datetime.fromisoformat,
}


def from_texts(names: Sequence[str], tags: Sequence[str], texts: Sequence[str]) -> str:
    """Return the cursor of one row from its key columns as PostgreSQL's text.

    Raises:
        ValueNotCarriedError: a value has no place in a cursor: NULL, NaN, infinity, BC.
    """
    values: list[Any] = []
    for name, tag, text in zip(names, tags, texts, strict=True):
        try:
            values.append(_FROM_TEXT[tag](text))
        except (ValueError, ArithmeticError, TypeError):
            raise _unfit(name) from None
    return _encode(names, tags, values)


def last_of(table: pa.Table, names: Sequence[str], tags: Sequence[str]) -> str:
    """Return the cursor of a table's last row.

    Raises:
        ValueNotCarriedError: a value has no place in a cursor: NULL, NaN, infinity, BC.
    """
    scalars = [table[name][table.num_rows - 1] for name in names]
    if any(not scalar.is_valid for scalar in scalars):
        raise _unfit(", ".join(names))
    try:
        values = [
            _from_scalar(name, tag, scalar)
            for name, tag, scalar in zip(names, tags, scalars, strict=True)
        ]
    except OverflowError:
        raise _unfit(", ".join(names)) from None
    return _encode(names, tags, values)


def _from_scalar(name: str, tag: str, scalar: Any) -> Any:
    # Instants by their count of microseconds: as_py() would need a time zone database for UTC.
    kind = str(scalar.type)
    if kind.startswith("timestamp"):
        moment = _EPOCH + dt.timedelta(microseconds=scalar.value)
        return moment.replace(tzinfo=dt.UTC) if tag == "tz" else moment
    if kind.startswith("date32"):
        return _EPOCH.date() + dt.timedelta(days=scalar.value)
    value = scalar.as_py()
    if isinstance(value, str):
        try:
            return _FROM_TEXT[tag](value)
        except (ValueError, ArithmeticError):
            raise _unfit(name) from None
    return value


def _encode(names: Sequence[str], tags: Sequence[str], values: Sequence[Any]) -> str:
    try:
        return cursors.encode(tags, values)
    except cursors.CursorError:
        raise _unfit(", ".join(names)) from None


def _unfit(name: str) -> ValueNotCarriedError:
    message = (
        f"cursor column {name} holds a value that has no place in a cursor: NULL, NaN, infinity, or "
        "a year before 1 or after 9999; leave such rows out with where="
    )
    return ValueNotCarriedError(message)
