"""Records that cannot go on: what is kept of them, and how many of them a run accepts.

A rejected record is kept twice: as JSON for people, and in the very form it travelled in (an Arrow row)
for replaying it. Its reason names a type and a place in the code and never a value, unless the transform
raised :class:`Reject` with words of its own.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import TooManyRejectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

OnError = Literal["fail", "quarantine"]

_NAMED: Final = 5
"""How many rejected records an error names by their cursors."""

_FROM_TEXT: Final[dict[str, Callable[[str], Any]]] = {
    "i2": int,
    "i4": int,
    "i8": int,
    "num": Decimal,
    "uuid": uuid.UUID,
    "d": dt.date.fromisoformat,
    "ts": dt.datetime.fromisoformat,
    "tz": dt.datetime.fromisoformat,
}


class Reject(Exception):  # noqa: N818  a transform raises it as a verdict, not as a fault
    """Raise this in a transform to send the record to quarantine, with your own words as its reason.

    The words are stored in ``checkpoint_etl.quarantine.reason`` as they are, so leave values out of them
    that must not stand there. With ``on_error="fail"`` it fails the task as any exception does.
    """


@dataclass(frozen=True, slots=True)
class Rejects:
    """Records of one chunk that one stage rejected, in the order of the chunk.

    Attributes:
        records: the records, in the form the stage got them.
        cursors: where each of them is, canonical cursor text; empty where the record does not say.
        reasons: why each of them was rejected.
    """

    records: pa.Table
    cursors: tuple[str, ...]
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.reasons)


def rejects_of(
    table: pa.Table, reasons: dict[int, str], columns: Sequence[str], high: str
) -> Rejects | None:
    """Return the rejected rows of a table; None when there are none.

    Args:
        table: the rows a stage got.
        reasons: why, by position.
        columns: the cursor's columns.
        high: the chunk's upper end, which says of what types its cursor is.
    """
    if not reasons:
        return None
    positions = sorted(reasons)
    records = table.take(positions)
    return Rejects(
        records,
        tuple(_cursors(records, columns, high)),
        tuple(reasons[position] for position in positions),
    )


def _cursors(records: pa.Table, columns: Sequence[str], high: str) -> list[str]:
    if high == cursors.BEGIN or any(name not in records.column_names for name in columns):
        return [""] * records.num_rows
    tags = [tag for tag, _ in cursors.decode(high)]
    if len(tags) != len(columns):
        return [""] * records.num_rows
    values = [_values(records.column(name)) for name in columns]
    return [_cursor(tags, row) for row in zip(*values, strict=True)]


def _cursor(tags: Sequence[str], row: Sequence[Any]) -> str:
    try:
        read = [
            _FROM_TEXT[tag](value) if isinstance(value, str) and tag in _FROM_TEXT else value
            for tag, value in zip(tags, row, strict=True)
        ]
        return cursors.encode(tags, read)
    except (ValueError, ArithmeticError, TypeError):
        return ""  # a load's record may hold anything under the cursor's name


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column as Python values, as texts where Python has none for them."""
    import pyarrow as pa  # noqa: PLC0415  this module is read when a DAG is parsed

    try:
        values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        values = column.cast(pa.string()).to_pylist()
    return values


def payloads(records: pa.Table) -> list[str]:
    """Return each record as JSON text that PostgreSQL's jsonb takes, for people to read."""
    columns = [_values(column) for column in records.columns]
    names = records.column_names
    return [
        json.dumps(
            {
                name.replace("\0", "\ufffd"): _readable(value)
                for name, value in zip(names, row, strict=True)
            }
        )
        for row in (zip(*columns, strict=True) if columns else [()] * records.num_rows)
    ]


def _readable(value: Any) -> Any:  # noqa: PLR0911  one line per kind of value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")  # jsonb has no NUL
    if isinstance(value, bytes):
        return "base64:" + base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): _readable(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(held) for held in value]
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    return str(value).replace("\0", "\ufffd")


@dataclass(frozen=True, slots=True)
class Tally:
    """How many records a DAG run has read and how many of them were rejected, so far."""

    read: int = 0
    rejected: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.read + other.read, self.rejected + other.rejected)


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of records that cannot go on.

    Attributes:
        on_error: ``"fail"``: the task fails and nothing of the chunk is kept. ``"quarantine"``: the
            record is kept aside, and the others go on.
        max_rows: rejected records one DAG run accepts; None: any number.
        max_share: rejected records as a share of the rows read in the run, 0 to 1; None: any.
    """

    on_error: OnError = "fail"
    max_rows: int | None = None
    max_share: float | None = None

    @property
    def quarantines(self) -> bool:
        """Whether rejected records are kept aside."""
        return self.on_error == "quarantine"

    def check(self, tally: Tally, first: Sequence[str], where: str) -> None:
        """Check the run's rejected records, the chunk at hand included, before that chunk is kept.

        Args:
            tally: of the run, with the chunk at hand.
            first: the cursors of the records that this chunk adds.
            where: the stage, the lane and the chunk, for the message.

        Raises:
            TooManyRejectedError: there are more than the pipeline accepts.
        """
        limits = []
        if self.max_rows is not None and tally.rejected > self.max_rows:
            limits.append(f"max_rejected_rows={self.max_rows:,}")
        if self.max_share is not None and tally.rejected > self.max_share * tally.read:
            limits.append(f"max_rejected_share={self.max_share:g}")
        if not limits or not first:  # a chunk that adds none is no reason to stop
            return
        named = "; ".join(cursors.display(text) if text else "unknown" for text in first[:_NAMED])
        message = (
            f"{where}: {tally.rejected:,} of {tally.read:,} rows read in this DAG run are rejected, more "
            f"than {' and '.join(limits)} allows. This chunk would add {len(first):,}; the first are at "
            f"{named}. Nothing of the chunk was kept; mend the transform (or the target) or raise the "
            "limit, then clear transform with Downstream"
        )
        raise TooManyRejectedError(message)
