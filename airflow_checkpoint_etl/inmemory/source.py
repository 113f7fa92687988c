"""Rows in a list, read in the order of their cursor, as the real source reads them."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.columns import field_of
from airflow_checkpoint_etl.errors import PreflightError
from airflow_checkpoint_etl.guarantee import Promise
from airflow_checkpoint_etl.ports import Bound, Read, SourceFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pyarrow as pa

    from airflow_checkpoint_etl.endpoints import PostgresSource
    from airflow_checkpoint_etl.frames import Form
    from airflow_checkpoint_etl.ports import Sink, Sweep

_PG_TYPES: Final[dict[type, str]] = {
    bool: "boolean",
    int: "bigint",
    float: "double precision",
    str: "text",
    bytes: "bytea",
    Decimal: "numeric",
    uuid.UUID: "uuid",
    dt.date: "date",
    dict: "jsonb",
}
_KINDS: Final = {
    "boolean": "",
    "bigint": "i8",
    "text": "txt",
    "numeric": "num",
    "uuid": "uuid",
    "date": "d",
    "timestamp without time zone": "ts",
    "timestamp with time zone": "tz",
}


class InMemorySource:
    """A source over a list of rows; every row is settled at once.

    Args:
        config: the pipeline's source, for its cursor, columns and chunk size.
        rows: the rows, dicts with equal keys.
        columns: PostgreSQL types by column; inferred from the values where left out.
    """

    def __init__(
        self,
        config: PostgresSource,
        rows: Iterable[Mapping[str, Any]] = (),
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._rows = [dict(row) for row in rows]
        self._columns = dict(columns or {})

    def insert(self, *rows: Mapping[str, Any]) -> None:
        """Add rows, as committed inserts would."""
        self._rows += [dict(row) for row in rows]

    # --- the port ------------------------------------------------------------------------------

    def preflight(self) -> SourceFacts:
        """Check that the cursor's columns are there and their values unique."""
        for row in self._rows:
            missing = [name for name in self._config.cursor_columns if row.get(name) is None]
            if missing:
                message = f"cursor column {missing[0]} is missing or None in a row; give it a value"
                raise PreflightError(message)
        positions = [self._position(row) for row in self._rows]
        if len(set(positions)) != len(positions):
            message = (
                f"the cursor {', '.join(self._config.cursor_columns)} is not unique in the rows; "
                "add a column that makes it unique"
            )
            raise PreflightError(message)
        return SourceFacts({}, Promise("memory", self._config.cursor_columns), cursors.BEGIN)

    def settle(self, after: str, waiting: Callable[[str], None] | None = None) -> Bound:  # noqa: ARG002
        """Return the last row's position; ``after`` when there is none beyond it."""
        ordered = self._ordered()
        last = self._position(ordered[-1]) if ordered else after
        return Bound(last if not self.at_or_past(after, last) else after)

    def sweep(self, swept: str, goal: str, upto: str) -> Sweep:
        """Refuse: rows in a list are all settled, so there is nothing to sweep."""
        message = f"rows in memory are never swept (from {swept!r} to {goal!r} below {upto})"
        raise PreflightError(message)

    def copied_columns(self) -> None:
        """Rows in a list have no copy form."""

    def copy_out(self, low: str, target: str, sink: Sink) -> tuple[str, int]:
        """Refuse: there is no copy form."""
        message = f"rows in memory cannot be copied out (from {low} to {target} into {sink!r})"
        raise PreflightError(message)

    def read(self, low: str, target: str, form: Form = "arrow") -> Read:  # noqa: ARG002  see above
        """Read the next chunk of ``(low, target]``."""
        rows = self._between(low, target)
        chunk = rows[: self._config.chunk_rows]
        high = target if len(chunk) == len(rows) else self._position(chunk[-1])
        return Read(self._table(chunk), high)

    def read_again(self, low: str, high: str, form: Form = "arrow") -> Read:  # noqa: ARG002
        """Read exactly ``(low, high]``."""
        return Read(self._table(self._between(low, high)), high)

    def at_or_past(self, position: str, target: str) -> bool:
        """Whether ``position`` is at or past ``target``; text is ordered by code point."""
        return self._key(position) >= self._key(target)

    def rows_after(self, low: str) -> int:
        """Return how many rows are above ``low``."""
        start = self._key(low)
        return sum(1 for row in self._rows if self._key(self._position(row)) > start)

    def split(self, low: str, target: str, parts: int) -> tuple[str, ...]:
        """Cut ``(low, target]`` into ranges of equal rows."""
        found = [self._position(row) for row in self._between(low, target)]
        cuts = [found[len(found) * cut // parts - 1] for cut in range(1, parts)]
        return tuple(cut for cut in dict.fromkeys(cuts) if cut != target)

    def cancel(self) -> None:
        """Nothing here runs for long."""

    def close(self) -> None:
        """There is no connection."""

    # --- rows ----------------------------------------------------------------------------------

    def _ordered(self) -> list[dict[str, Any]]:
        return sorted(self._rows, key=lambda row: self._key(self._position(row)))

    def _between(self, low: str, high: str) -> list[dict[str, Any]]:
        start, end = self._key(low), self._key(high)
        return [row for row in self._ordered() if start < self._key(self._position(row)) <= end]

    def _position(self, row: Mapping[str, Any]) -> str:
        names = self._config.cursor_columns
        tags = [_KINDS.get(self._type_of(name), "") for name in names]
        return cursors.encode(tags, [row[name] for name in names])

    @staticmethod
    def _key(position: str) -> tuple[Any, ...]:
        if position == cursors.BEGIN:
            return ()
        return tuple(value for _, value in cursors.decode(position))

    def _type_of(self, name: str) -> str:
        if name in self._columns:
            return self._columns[name]
        value = next((row[name] for row in self._rows if row.get(name) is not None), None)
        if isinstance(value, dt.datetime):
            return f"timestamp with{'' if value.tzinfo else 'out'} time zone"
        return _PG_TYPES.get(type(value), "text")

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415

        from airflow_checkpoint_etl.records import from_records  # noqa: PLC0415

        names = list(self._config.columns or (self._rows[0] if self._rows else ()))
        names += [name for name in self._config.cursor_columns if name not in names]
        schema = pa.schema([field_of(name, self._type_of(name)) for name in names])
        records = [{name: row.get(name) for name in names} for row in rows]
        return from_records(records, schema, {}) if records else schema.empty_table()
