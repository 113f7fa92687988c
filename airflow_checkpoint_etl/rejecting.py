"""A transform under ``on_error="quarantine"``: bad records are rejected, the others go on.

Per record, a rejected one leaves the state as it was before it. A batch that raises is halved until the
records at fault stand alone, so a batch callable must treat its rows independently of one another. What
is no record's fault (memory, files, the network) fails the task as ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from dataclasses import field as attribute
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_checkpoint_etl.callables import check_rejecting
from airflow_checkpoint_etl.errors import CancelledError, TransformError, ValueNotCarriedError
from airflow_checkpoint_etl.quarantine import rejects_of
from airflow_checkpoint_etl.record_calls import NOT_OF_A_RECORD
from airflow_checkpoint_etl.transform import CallableTransformer, Transformed, interval
from airflow_checkpoint_etl.values import to_python

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_checkpoint_etl.protocol import Chunk
    from airflow_checkpoint_etl.results import Results


@dataclass(slots=True)
class _Pass:
    """One pass over a chunk's records.

    Attributes:
        results: the resulting rows.
        rejected: why records were rejected, by position.
        state: the state after the pass, JSON text.
    """

    results: Results
    rejected: dict[int, str] = attribute(default_factory=dict)
    state: str | None = None


class RejectingTransformer(CallableTransformer):
    """Applies a user's callable and rejects the records it fails on; parameters as its parent's.

    Raises:
        ConfigurationError: a batch transform with state.
    """

    _rejecting = True

    def __init__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        super().__init__(function, *arguments, **options)
        check_rejecting(self._mode, self._initial_state)

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
            if self._caller.cancelled:
                raise CancelledError
            start, stop = waiting.pop()
            piece = table.slice(start, stop - start)
            try:
                result = self._function(piece)
            except NOT_OF_A_RECORD as error:
                message = self._caller.raised(error, f"in {interval(chunk)}")
                raise TransformError(message) from None
            except Exception as error:  # noqa: BLE001  whatever the user's code raises
                if stop - start <= 1:
                    reasons[start] = self._caller.reason(error)
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
        unfit: dict[int, str] = {}
        made = self._pass(table, state, unfit, chunk)
        while True:
            found = self._unfit(made.results)
            if not found:
                break
            unfit |= found
            if self.stateful:
                made = self._pass(table, state, unfit, chunk)
            else:
                made.results = made.results.without(found)
        return made.results.table(), made.state, made.rejected | unfit

    def _pass(
        self, table: pa.Table, stored: str | None, unfit: Mapping[int, str], chunk: Chunk
    ) -> _Pass:
        unfit = {**unfit, **self._unreadable(table)}
        made = _Pass(self._no_results(table), rejected=dict(unfit))
        state = self._open_state(stored)
        positions = [place for place in range(table.num_rows) if place not in unfit]
        fit = table.take(positions) if unfit else table
        for part in self._parts(fit, state):
            if part.failure is not None:
                raise self._failed(part.failure, fit, chunk)
            made.rejected |= {positions[place]: why for place, why in part.rejected.items()}
            made.results.blocks.extend(
                replace(block, origins=[positions[place] for place in block.origins])
                for block in part.blocks
            )
        made.state = self._close_state(state, chunk)
        return made

    def _unfit(self, results: Results) -> dict[int, str]:
        """Records with other columns than most, else with values that the others leave no type for."""
        usual = results.usual()
        odd = {
            origin: f"{self._name} returned other columns than for most records (missing: "
            f"{sorted(usual - columns)}, new: {sorted(columns - usual)})"
            for block in results.blocks
            if (columns := results.required(block)) != usual
            for origin in block.origins
        }
        return odd or results.misfits()

    def _unreadable(self, table: pa.Table) -> dict[int, str]:
        """Records with a value that Python does not have, such as a date in the year 10000."""
        return {
            place: "a date or timestamp lies outside the years 1 to 9999 that Python has"
            for name in self._names(table)
            for place in _unreadable_places(table.column(name), table.schema.field(name))
        }


def _unreadable_places(column: pa.ChunkedArray, field: pa.Field) -> list[int]:
    """Halve the rows until those that cannot be read stand alone."""
    if not (pa.types.is_date(field.type) or pa.types.is_timestamp(field.type)):
        return []
    found: list[int] = []
    waiting = [(0, len(column))]
    while waiting:
        start, stop = waiting.pop()
        if _is_readable(column.slice(start, stop - start), field):
            continue
        if stop - start == 1:
            found.append(start)
        else:
            middle = (start + stop) // 2
            waiting += [(middle, stop), (start, middle)]
    return found


def _is_readable(column: pa.ChunkedArray, field: pa.Field) -> bool:
    """Whether Python has every one of these dates: it does if it has the first and the last."""
    extremes = pc.min_max(column)
    try:
        for end in ("min", "max"):
            to_python(pa.chunked_array([pa.array([extremes[end]], field.type)]), field)
    except ValueNotCarriedError:
        return False
    return True
