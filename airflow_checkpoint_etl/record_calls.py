"""Calling a per-record callable for a slice of a chunk, in this process or in a worker's.

What goes wrong is told apart from where: whoever has the chunk names the record by its cursor, and the
record's content and the exception's own text, which may quote it, are left behind here.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.errors import CancelledError
from airflow_checkpoint_etl.quarantine import Reject
from airflow_checkpoint_etl.results import block_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_checkpoint_etl.results import Block
    from airflow_checkpoint_etl.values import Columns

State = dict[str, Any]

NOT_OF_A_RECORD: Final = (MemoryError, OSError)
"""What the machine raises, not the record: a full disk, a refused connection, a timeout."""

KEPT_NOTHING: Final = (
    "Nothing of the chunk was kept; mend the transform, then clear this task; the rows stay as they were "
    "read"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a chunk cannot go on: a sentence that says ``{where}`` where the record is to be named."""

    position: int
    sentence: str


@dataclass(slots=True)
class Part:
    """What came of a slice.

    Attributes:
        blocks: the resulting rows.
        rejected: why records were rejected, by position.
        failure: what ended it before its end.
    """

    blocks: list[Block] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    failure: Failure | None = None


class _NoRecord(TypeError):  # noqa: N818  it never leaves this module
    """The callable returned something else than a record; holds the type's name."""


class _Rows:
    """Gathers a slice's rows, and closes a block where their columns change.

    Attributes:
        keys: the columns of the block at hand.
    """

    def __init__(self, columns: Columns, positions: Sequence[int]) -> None:
        self.keys: set[str] | None = None
        self._came, self._positions = columns, positions
        self._blocks: list[Block] = []
        self._rows: list[dict[str, Any]] = []
        self._places: list[int] = []

    def add(self, result: dict[str, Any] | list[dict[str, Any]], place: int) -> None:
        """Add what came of one record: a row with the present columns, or a list of any rows."""
        if isinstance(result, dict):
            self._rows.append(result)
            self._places.append(place)
            return
        for row in result:
            if row.keys() != self.keys:
                self._close()
                self.keys = set(row)
            self._rows.append(row)
            self._places.append(place)

    def blocks(self) -> list[Block]:
        """Return the blocks; nothing is added any more."""
        self._close()
        return self._blocks

    def _close(self) -> None:
        if self._rows:
            block = block_of(self._rows, self._places, self._came, self._positions)
            self._blocks.append(block)
            self._rows, self._places = [], []


class RecordCaller:
    """Calls a user's callable record by record.

    Args:
        function: the callable.
        rejecting: whether a record it fails on is rejected; else it fails the chunk.

    Attributes:
        cancelled: set it, from any thread, to end before the next record.
    """

    def __init__(self, function: Callable[..., Any], *, rejecting: bool = False) -> None:
        self.cancelled = False
        self.name = getattr(function, "__name__", type(function).__name__)
        self._function, self._rejecting = function, rejecting

    def call(self, columns: Columns, positions: Sequence[int], state: State | None = None) -> Part:
        """Call the callable for every record of a slice.

        Args:
            columns: the records' values.
            positions: the records' positions in the chunk.
            state: the transform's state, changed in place; None for one without.

        Raises:
            CancelledError: cancelled meanwhile.
        """
        part, made = Part(), _Rows(columns, positions)
        names, function = tuple(columns), self._function
        before = json.dumps(state) if state is not None and self._rejecting else ""
        for place, values in enumerate(zip(*columns.values(), strict=True)):
            if self.cancelled:
                raise CancelledError
            record = dict(zip(names, values))  # noqa: B905  as many names as values
            try:
                result = function(record) if state is None else function(record, state)
                if type(result) is not dict or result.keys() != made.keys:  # rarely
                    result = self._records(result)
                if before:
                    before = self._json(state)
            except Exception as error:  # noqa: BLE001  whatever the user's code raises
                if not self._rejecting or isinstance(error, NOT_OF_A_RECORD):
                    part.failure = Failure(positions[place], self._sentence(error))
                    break
                part.rejected[positions[place]] = self.reason(error)
                if before and state is not None:
                    state.clear()
                    state |= json.loads(before)
            else:
                made.add(result, place)
        part.blocks = made.blocks()
        return part

    def raised(self, error: Exception, where: str = "{where}") -> str:
        """Say what the callable raised, and never in the exception's own words."""
        place = self._place(error)
        raised = f"{self.name} raised {type(error).__name__}{place and f' {place},'}"
        return f"{raised} {where}. {KEPT_NOTHING}"

    def reason(self, error: Exception) -> str:
        """Say why a record is rejected."""
        if isinstance(error, Reject):
            words = str(error).replace("\0", "\ufffd")
            return words or "Reject"
        if isinstance(error, _NoRecord):
            return f"{self.name} returned something that is no record"
        if isinstance(error, _NoState):
            return f"{self.name} left a state that is not JSON"
        return f"{type(error).__name__} {self._place(error)}".rstrip()

    # --- inside ----------------------------------------------------------------------------------

    @staticmethod
    def _records(result: Any) -> list[dict[str, Any]]:
        if result is None:
            return []
        rows = result if isinstance(result, list) else [result]
        for row in rows:
            if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
                raise _NoRecord(type(row).__name__)
        return rows

    @staticmethod
    def _json(state: State | None) -> str:
        try:
            return json.dumps(state, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            raise _NoState from None

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, _NoRecord):
            return (
                f"{self.name} returned {error} {{where}}; it must return a dict of column names to "
                "values, a list of those, or None to drop the row"
            )
        return self.raised(error)

    def _place(self, error: Exception) -> str:
        """Say where the user's code raised: the exception's own text may quote the row."""
        frames = traceback.extract_tb(error.__traceback__)
        code = getattr(self._function, "__code__", None)
        own = [frame for frame in frames if code is None or frame.filename == code.co_filename]
        return f"in {own[-1].name}, line {own[-1].lineno}" if own else ""


class _NoState(ValueError):  # noqa: N818  it never leaves this module
    """The callable left a state that is not JSON."""
