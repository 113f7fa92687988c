"""Turns a user's callable into a transformer of whole chunks.

Two modes. ``batch``: the callable gets a pyarrow table and returns one; nothing is done per row.
``record``: it gets one row as a dict and returns a dict, a list of dicts (fan out) or None (drop it). With
declared columns the dict holds those alone, and what is returned is put over the row they came from.

A transform with state gets a second argument, a dict it may change in place. The state is JSON: it is
stored with each chunk and comes back from there, so that continuing and resuming are the same thing.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.callables import check_callable, check_columns, check_processes
from airflow_checkpoint_etl.errors import TransformError, invalid
from airflow_checkpoint_etl.record_calls import RecordCaller
from airflow_checkpoint_etl.records import remember_types
from airflow_checkpoint_etl.results import Results
from airflow_checkpoint_etl.values import slices
from airflow_checkpoint_etl.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_checkpoint_etl.callables import Mode
    from airflow_checkpoint_etl.protocol import Chunk
    from airflow_checkpoint_etl.quarantine import Rejects
    from airflow_checkpoint_etl.record_calls import Failure, Part

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

    def at_work(self) -> contextlib.AbstractContextManager[object]:
        """Hold what the transform needs while it is applied; entered before a connection is opened."""
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
        columns: per record: the columns that the callable gets; the others stay in Arrow and are
            carried. None: every column.
        processes: how many worker processes call it, per record and without state; None: this one.
    """

    _rejecting = False

    def __init__(
        self,
        function: Callable[..., Any],
        mode: Mode = "record",
        initial_state: Mapping[str, Any] | None = None,
        output_columns: Mapping[str, str] | None = None,
        cursor_columns: tuple[str, ...] = (),
        *,
        columns: Sequence[str] | None = None,
        processes: int | None = None,
    ) -> None:
        check_callable(function, mode, initial_state)
        self._columns = check_columns(columns, mode)
        check_processes(processes, mode, initial_state)
        self._function, self._mode = function, mode
        self._initial_state = initial_state
        self._output_columns = dict(output_columns or {})
        self._cursor_columns = cursor_columns
        self._caller = RecordCaller(function, rejecting=self._rejecting)
        self._name = self._caller.name
        self._processes = processes
        self._workers: Workers | None = None

    def cancel(self) -> None:
        """End before the next record."""
        self._caller.cancelled = True
        if self._workers is not None:
            self._workers.cancel()

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
            columns=self._columns,
            processes=self._processes,
        )

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Fork the worker processes, if there are to be any, and end them with the block.

        Entered before the stage opens a connection or starts a thread: a child shares neither. Within
        another one of this transformer it does nothing.
        """
        if self._processes is None or self._workers is not None:
            yield
            return
        with Workers(self._processes, self._caller) as workers:
            self._workers = workers
            try:
                yield
            finally:
                self._workers = None

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
            message = self._caller.raised(error, f"in {interval(chunk)}")
            raise TransformError(message) from None
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
        results = self._no_results(table)
        for part in self._parts(table, state):
            if part.failure is not None:
                raise self._failed(part.failure, table, chunk)
            for block in part.blocks:
                if results.blocks and results.required(block) != results.usual():
                    where = self._where(table, block.origins[0], chunk)
                    missing = sorted(results.usual() - results.required(block))
                    extra = sorted(results.required(block) - results.usual())
                    raise TransformError(self._uneven(missing, extra, where))
                results.blocks.append(block)
        return results.table()

    def _no_results(self, table: pa.Table) -> Results:
        return Results(table, self._columns is not None, self._output_columns)

    def _parts(self, table: pa.Table, state: State | None) -> Iterator[Part]:
        """Call the callable for every record, and yield what came of them, slice by slice."""
        names = self._names(table)
        if self._workers is not None:
            yield from self._workers.call(table.select(names))
            return
        for positions, columns in slices(table, names):
            yield self._caller.call(columns, positions, state)

    def _names(self, table: pa.Table) -> list[str]:
        """The columns a record has.

        Raises:
            ConfigurationError: a declared one is not in the chunk.
        """
        known: list[str] = table.column_names
        if self._columns is None:
            return known
        for name in self._columns:
            if name not in known:
                msg = "columns"
                rule = f"the extracted rows have no column {name!r}"
                raise invalid(msg, self._columns, rule, f"they have {', '.join(known)}")
        return list(self._columns)

    def _failed(self, failure: Failure, table: pa.Table, chunk: Chunk) -> TransformError:
        where = self._where(table, failure.position, chunk)
        return TransformError(failure.sentence.replace("{where}", where))

    def _where(self, table: pa.Table, position: int, chunk: Chunk) -> str:
        """Name a record by its cursor value as it was read, never by its content."""
        key = ", ".join(
            f"{name}={table.column(name)[position].as_py()}"
            for name in self._cursor_columns
            if name in table.column_names
        )
        return f"for the record {key or f'number {position + 1}'} of {interval(chunk)}"

    def _uneven(self, missing: list[str], extra: list[str], where: str) -> str:
        return (
            f"{self._name} returned other columns {where} than for the records before it (missing: "
            f"{missing}, new: {extra}); return the same columns for every record, with None where "
            "there is no value"
        )


def interval(chunk: Chunk) -> str:
    """Name a chunk for people by its number and its ends."""
    return f"chunk {chunk.seq} ({cursors.display(chunk.low)}, {cursors.display(chunk.high)}]"
