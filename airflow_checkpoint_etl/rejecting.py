"""A transform under ``on_error="quarantine"``: bad records are rejected, the others go on.

Per record, a rejected one leaves the state as it was before it. A batch that raises is halved until the
records at fault stand alone, so a batch callable must treat its rows independently of one another. What
is no record's fault (memory, files, the network) fails the task as ever.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_checkpoint_etl.callables import check_rejecting
from airflow_checkpoint_etl.errors import CancelledError, TransformError, ValueNotCarriedError
from airflow_checkpoint_etl.quarantine import Reject, rejects_of
from airflow_checkpoint_etl.records import from_records, misfits, to_records
from airflow_checkpoint_etl.transform import CallableTransformer, Transformed, interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_checkpoint_etl.callables import Mode
    from airflow_checkpoint_etl.protocol import Chunk

_NOT_OF_A_RECORD = (MemoryError, OSError)
"""What the machine raises, not the record: a full disk, a refused connection, a timeout."""


@dataclass(slots=True)
class _Pass:
    """One pass over a chunk's records.

    Attributes:
        rows: the resulting rows.
        origins: for each of them, the position of the record it was made from.
        rejected: why records were rejected, by position.
        state: the state after the pass, JSON text.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    state: str | None = None


class RejectingTransformer(CallableTransformer):
    """Applies a user's callable and rejects the records it fails on; parameters as its parent's.

    Raises:
        ConfigurationError: a batch transform with state.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        mode: Mode = "record",
        initial_state: Mapping[str, Any] | None = None,
        output_columns: Mapping[str, str] | None = None,
        cursor_columns: tuple[str, ...] = (),
    ) -> None:
        super().__init__(function, mode, initial_state, output_columns, cursor_columns)
        check_rejecting(mode, initial_state)

    def rejecting(self) -> RejectingTransformer:
        """Return itself."""
        return self

    def apply(self, table: pa.Table, state: str | None, chunk: Chunk) -> Transformed:
        """Return the transformed rows, the state after them and the rejected records."""
        if self._mode == "batch":
            reasons: dict[int, str] = {}
            result, after = self._halve(table, reasons, chunk), None
        else:
            result, after, reasons = self._each(table, state, chunk)
        rejects = rejects_of(table, reasons, self._cursor_columns, chunk.high)
        return Transformed(result, after, rejects)

    # --- batches -------------------------------------------------------------------------------

    def _halve(self, table: pa.Table, reasons: dict[int, str], chunk: Chunk) -> pa.Table:
        pieces: list[pa.Table] = []
        waiting = [(0, table.num_rows)]
        while waiting:
            if self._cancelled:
                raise CancelledError
            start, stop = waiting.pop()
            piece = table.slice(start, stop - start)
            try:
                result = self._function(piece)
            except _NOT_OF_A_RECORD as error:
                raise TransformError(self._raised(error, f"in {interval(chunk)}")) from None
            except Exception as error:  # noqa: BLE001  whatever the user's code raises
                if stop - start <= 1:
                    reasons[start] = self._reason(error)
                    continue
                middle = (start + stop) // 2
                waiting += [
                    (middle, stop),
                    (start, middle),
                ]  # the last is next: rows keep their order
                continue
            pieces.append(self._checked_batch(result, piece, chunk))
        if not pieces:
            return pa.table({})
        try:
            return pa.concat_tables(pieces, promote_options="default").combine_chunks()
        except pa.ArrowException as error:
            message = (
                f"{self._name} returned other columns for one part of {interval(chunk)} than for another "
                f"({type(error).__name__}); return the same columns and types whatever rows come"
            )
            raise TransformError(message) from None

    # --- records -------------------------------------------------------------------------------

    def _each(
        self, table: pa.Table, state: str | None, chunk: Chunk
    ) -> tuple[pa.Table, str | None, dict[int, str]]:
        """Pass over the records until what is left fits together.

        Without state the rows of records found unfit are taken out of the result; with state, what
        came after such a record may rest on it, so the chunk is passed again without it.
        """
        unfit = _unreadable(table)
        made = self._pass(table, state, unfit, chunk)
        while True:
            found = self._unfit(made, table)
            if not found:
                break
            unfit |= found
            if self.stateful:
                made = self._pass(table, state, unfit, chunk)
                continue
            left = [place for place, origin in enumerate(made.origins) if origin not in found]
            made.rows = [made.rows[place] for place in left]
            made.origins = [made.origins[place] for place in left]
        result = from_records(made.rows, table.schema, self._output_columns)
        return result, made.state, made.rejected | unfit

    def _pass(
        self, table: pa.Table, stored: str | None, unfit: dict[int, str], chunk: Chunk
    ) -> _Pass:
        made = _Pass()
        state = self._open_state(stored)
        before = None if state is None else _json_text(state)
        positions = [place for place in range(table.num_rows) if place not in unfit]
        fit = table.take(positions) if unfit else table
        for position, record in zip(positions, to_records(fit), strict=True):
            if self._cancelled:
                raise CancelledError
            try:
                result = self._function(record) if state is None else self._function(record, state)
                rows = self._rows(result, table, position, chunk)
            except _NOT_OF_A_RECORD as error:
                raise TransformError(
                    self._raised(error, self._where(table, position, chunk))
                ) from None
            except TransformError:  # of _rows: it names the record, which has a column here
                made.rejected[position] = f"{self._name} returned something that is no record"
            except Exception as error:  # noqa: BLE001  whatever the user's code raises
                made.rejected[position] = self._reason(error)
            else:
                after = None if state is None else _json_text(state)
                if state is not None and after is None:
                    made.rejected[position] = f"{self._name} left a state that is not JSON"
                else:
                    made.rows += rows
                    made.origins += [position] * len(rows)
                    before = after
            if position in made.rejected and state is not None and before is not None:
                state.clear()
                state |= json.loads(before)
        made.state = self._close_state(state, chunk)
        return made

    def _unfit(self, made: _Pass, table: pa.Table) -> dict[int, str]:
        """Records with other columns than most, else with values that the others leave no type for."""
        columns = Counter(frozenset(row) for row in made.rows)
        if len(columns) > 1:
            usual = columns.most_common(1)[0][0]
            return {
                origin: f"{self._name} returned other columns than for most records (missing: "
                f"{sorted(usual - row.keys())}, new: {sorted(row.keys() - usual)})"
                for row, origin in zip(made.rows, made.origins, strict=True)
                if row.keys() != usual
            }
        odd = misfits(made.rows, table.schema, self._output_columns)
        return {made.origins[place]: reason for place, reason in odd.items()}

    def _reason(self, error: Exception) -> str:
        if isinstance(error, Reject):
            words = str(error).replace("\0", "\ufffd")
            return words or "Reject"
        return f"{type(error).__name__} {self._place(error)}".rstrip()


def _unreadable(table: pa.Table) -> dict[int, str]:
    """Records with a value that Python does not have, such as a date in the year 10000."""
    if _is_readable(table):
        return {}
    return {
        place: "a date or timestamp lies outside the years 1 to 9999 that Python has"
        for place in range(table.num_rows)
        if not _is_readable(table.slice(place, 1))
    }


def _is_readable(table: pa.Table) -> bool:
    try:
        next(to_records(table), None)  # columns are converted before the first record comes
    except ValueNotCarriedError:
        return False
    return True


def _json_text(state: dict[str, Any]) -> str | None:
    """Return the state as JSON text; None when it is not JSON."""
    try:
        return json.dumps(state, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None
