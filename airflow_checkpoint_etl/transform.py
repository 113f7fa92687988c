"""Turns a user's callable into a transformer of whole chunks.

Two modes. ``batch``: the callable gets a pyarrow table and returns one; nothing is done per row.
``record``: it gets one row as a dict and returns a dict, a list of dicts (fan out) or None (drop it).

A transform with state gets a second argument, a dict it may change in place. The state is JSON: it is
stored with each chunk and comes back from there, so that continuing and resuming are the same thing.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.callables import check_callable
from airflow_checkpoint_etl.errors import CancelledError, TransformError
from airflow_checkpoint_etl.records import from_records, remember_types, to_records

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_checkpoint_etl.callables import Mode
    from airflow_checkpoint_etl.protocol import Chunk
    from airflow_checkpoint_etl.quarantine import Rejects

State = dict[str, Any]

MAX_STATE: Final = 1 << 20
"""Bytes a transform's state may have as JSON text: every manifest entry and ledger row carries it."""


@dataclass(frozen=True, slots=True)
class Transformed:
    """What a transform made of one chunk.

    Attributes:
        table: the transformed rows.
        state: the state after them, JSON text; None for a transform without state.
        rejects: the records that were rejected; None when there are none.
    """

    table: pa.Table
    state: str | None = None
    rejects: Rejects | None = None


class Transformer(Protocol):
    """Applies a transform to one chunk."""

    @property
    def stateful(self) -> bool:
        """Whether the transform carries a state from chunk to chunk."""
        ...

    def rejecting(self) -> Transformer:
        """Return the same transform for ``on_error="quarantine"``: it rejects records and goes on.

        Raises:
            ConfigurationError: it cannot tell which records are at fault.
        """
        ...

    def apply(self, table: pa.Table, state: str | None, chunk: Chunk) -> Transformed:
        """Return the transformed rows and the state after them.

        Args:
            table: the extracted rows.
            state: the state before the chunk, JSON text, or None.
            chunk: the chunk, for messages.

        Raises:
            TransformError: the callable raised or returned something else than rows.
            ValueNotCarriedError: a value does not fit.
            CancelledError: cancelled meanwhile.
        """
        ...

    def cancel(self) -> None:
        """End soon; called from another thread or a signal handler."""
        ...


class CallableTransformer:
    """Applies a user's callable, per record or per batch.

    Args:
        function: the callable.
        mode: ``"record"`` or ``"batch"``.
        initial_state: the state before the first chunk; None for a transform without state.
        output_columns: PostgreSQL types of columns the transform makes, by name; needed only where
            values do not tell (all None, or a list for an array column).
        cursor_columns: the cursor's columns, to name a failing record by.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        mode: Mode = "record",
        initial_state: Mapping[str, Any] | None = None,
        output_columns: Mapping[str, str] | None = None,
        cursor_columns: tuple[str, ...] = (),
    ) -> None:
        check_callable(function, mode, initial_state)
        self._function, self._mode = function, mode
        self._initial_state = initial_state
        self._output_columns = dict(output_columns or {})
        self._cursor_columns = cursor_columns
        self._name = getattr(function, "__name__", type(function).__name__)
        self._cancelled = False

    def cancel(self) -> None:
        """End before the next record."""
        self._cancelled = True

    @property
    def stateful(self) -> bool:
        """Whether the transform carries a state from chunk to chunk."""
        return self._initial_state is not None

    def rejecting(self) -> Transformer:
        """Return the same transform, rejecting the records it cannot carry on."""
        from airflow_checkpoint_etl.rejecting import RejectingTransformer  # noqa: PLC0415  a cycle

        return RejectingTransformer(
            self._function,
            self._mode,
            self._initial_state,
            self._output_columns,
            self._cursor_columns,
        )

    def apply(self, table: pa.Table, state: str | None, chunk: Chunk) -> Transformed:
        """Return the transformed rows and the state after them; see :class:`Transformer`."""
        current = self._open_state(state)
        if self._mode == "batch":
            result = self._apply_batch(table, current, chunk)
        else:
            result = self._apply_records(table, current, chunk)
        return Transformed(result, self._close_state(current, chunk))

    # --- state ---------------------------------------------------------------------------------

    def _open_state(self, stored: str | None) -> State | None:
        if self._initial_state is None:
            return None
        text = stored if stored is not None else json.dumps(dict(self._initial_state))
        opened: State = json.loads(text)
        return opened

    def _close_state(self, state: State | None, chunk: Chunk) -> str | None:
        if state is None:
            return None
        try:
            text = json.dumps(state, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            message = (
                f"{self._name}: the state after chunk {chunk.seq} is not JSON ({type(error).__name__}); "
                "keep only numbers, texts, booleans, lists and dicts in it"
            )
            raise TransformError(message) from None
        if len(text) > MAX_STATE:  # ASCII, so characters are bytes
            message = (
                f"{self._name}: the state after chunk {chunk.seq} has {len(text):,} bytes as JSON, more "
                f"than {MAX_STATE:,}; every chunk's manifest entry and ledger row carries it. Keep "
                "totals in it rather than rows, or join with a table in the warehouse instead"
            )
            raise TransformError(message)
        return text

    # --- rows ----------------------------------------------------------------------------------

    def _apply_batch(self, table: pa.Table, state: State | None, chunk: Chunk) -> pa.Table:
        try:
            result = self._function(table) if state is None else self._function(table, state)
        except Exception as error:  # noqa: BLE001  whatever the user's code raises
            raise TransformError(self._raised(error, f"in {interval(chunk)}")) from None
        return self._checked_batch(result, table, chunk)

    def _checked_batch(self, result: Any, table: pa.Table, chunk: Chunk) -> pa.Table:
        if isinstance(result, pa.RecordBatch):
            result = pa.Table.from_batches([result])
        if not isinstance(result, pa.Table):
            message = (
                f"{self._name} returned {type(result).__name__} for {interval(chunk)}; with "
                'mode="batch" it must return a pyarrow.Table'
            )
            raise TransformError(message)
        return remember_types(result, table.schema, self._output_columns)

    def _apply_records(self, table: pa.Table, state: State | None, chunk: Chunk) -> pa.Table:
        results: list[dict[str, Any]] = []
        names: set[str] | None = None
        for position, record in enumerate(to_records(table)):
            if self._cancelled:
                raise CancelledError
            try:
                result = self._function(record) if state is None else self._function(record, state)
            except Exception as error:  # noqa: BLE001  whatever the user's code raises
                where = self._where(table, position, chunk)
                raise TransformError(self._raised(error, where)) from None
            if type(result) is dict and result.keys() == names:  # nearly always
                results.append(result)
                continue
            for row in self._rows(result, table, position, chunk):
                if names is None:
                    names = set(row)
                elif row.keys() != names:
                    where = self._where(table, position, chunk)
                    raise TransformError(self._uneven(row, names, where))
                results.append(row)
        return from_records(results, table.schema, self._output_columns)

    def _rows(
        self, result: Any, table: pa.Table, position: int, chunk: Chunk
    ) -> list[dict[str, Any]]:
        if result is None:
            return []
        rows = result if isinstance(result, list) else [result]
        for row in rows:
            if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
                where = self._where(table, position, chunk)
                message = (
                    f"{self._name} returned {type(row).__name__} {where}; it must return a dict of "
                    "column names to values, a list of those, or None to drop the row"
                )
                raise TransformError(message)
        return rows

    def _where(self, table: pa.Table, position: int, chunk: Chunk) -> str:
        """Name a record by its cursor value as it was read, never by its content."""
        key = ", ".join(
            f"{name}={table.column(name)[position].as_py()}"
            for name in self._cursor_columns
            if name in table.column_names
        )
        return f"for the record {key or f'number {position + 1}'} of {interval(chunk)}"

    def _uneven(self, row: dict[str, Any], names: set[str], where: str) -> str:
        missing, extra = sorted(names - row.keys()), sorted(row.keys() - names)
        return (
            f"{self._name} returned other columns {where} than for the records before it (missing: "
            f"{missing}, new: {extra}); return the same columns for every record, with None where "
            "there is no value"
        )

    def _raised(self, error: Exception, where: str) -> str:
        place = self._place(error)
        return (
            f"{self._name} raised {type(error).__name__}{place and f' {place},'} {where}. Nothing of "
            "the chunk was kept; mend the transform, then clear this task; the rows stay as they were read"
        )

    def _place(self, error: Exception) -> str:
        """Say where the user's code raised: the exception's own text may quote the row."""
        frames = traceback.extract_tb(error.__traceback__)
        code = getattr(self._function, "__code__", None)
        own = [frame for frame in frames if code is None or frame.filename == code.co_filename]
        return f"in {own[-1].name}, line {own[-1].lineno}" if own else ""


def interval(chunk: Chunk) -> str:
    """Name a chunk for people by its number and its ends."""
    return f"chunk {chunk.seq} ({cursors.display(chunk.low)}, {cursors.display(chunk.high)}]"
