"""What is read: the source, what preflight learnt about it, and what a read returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from airflow_checkpoint_etl.frames import Columns, Form
    from airflow_checkpoint_etl.guarantee import Promise
    from airflow_checkpoint_etl.ports.rows import Rows


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as its database names it, for lineage.

    Attributes:
        schema: its schema; empty where it has none.
        name: its name.
        columns: PostgreSQL types by column, in order.
    """

    schema: str
    name: str
    columns: Mapping[str, str]


@runtime_checkable
class Described(Protocol):
    """A source or warehouse that can say which table it works on."""

    def table_facts(self) -> TableFacts | None:
        """Return what was learnt about the table so far, without asking anybody; None when nothing."""
        ...


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What preflight learnt about the source.

    Attributes:
        identity: which database and relation this is, for noticing that it was replaced.
        promise: what reading it can promise, and on what grounds.
        start: the cursor to start at: BEGIN, or the encoded ``start_after``.
        accepts_reset: whether to go on when the source has gone back (a new timeline, say).
    """

    identity: Mapping[str, str]
    promise: Promise
    start: str
    accepts_reset: bool = False

    @property
    def settle(self) -> str:
        """The settle mode in force (``auto`` resolved)."""
        return self.promise.settle


@dataclass(frozen=True, slots=True)
class Read:
    """One chunk's rows as read from the source.

    Attributes:
        table: the rows in cursor order. In arrow form every field's metadata names its PostgreSQL
            type under ``b"pg_type"``.
        high: the cursor the read reached; the target itself when nothing is left below it.
    """

    table: Rows
    high: str


@dataclass(frozen=True, slots=True)
class Bound:
    """Where one run ends.

    Attributes:
        target: the highest cursor below which no more rows can appear.
        swept: how far late rows are to be swept in this run; empty where the source is not swept.
        settled: False when late transactions did not end in time and the run ends, as configured,
            at the last settled bound: it has caught up with nothing.
        behind: how many seconds before it was taken what the bound promises ends: rows that were
            committed since then may be above it.
    """

    target: str
    swept: str = ""
    settled: bool = True
    behind: float = 0.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rows from below the frontier that appeared late, as far as one chunk holds them.

    Attributes:
        table: the rows.
        swept: how far late rows are swept when they are loaded (a token of ``sweep.py``).
    """

    table: pa.Table
    swept: str


class Sink(Protocol):
    """What rows are copied into; whatever it raises ends the copying."""

    def begin(self, high: str, columns: Columns) -> None:
        """Hear of a chunk, before its first block: where it ends, and its columns."""
        ...

    def write(self, block: bytes, rows: int) -> None:
        """Take the next bytes of the binary COPY; ``rows`` is about how many have come so far."""
        ...

    def check(self) -> None:
        """Called while nothing comes."""
        ...


class Source(Protocol):
    """Rows in the order of a cursor, readable again by ``(low, high]``."""

    def preflight(self) -> SourceFacts:
        """Check names, types, order and privileges; raise PreflightError before anything is written."""
        ...

    def settle(self, after: str, waiting: Callable[[str], None] | None = None) -> Bound:
        """Return the bound for one run, whose target is ``after`` when there is nothing new.

        Args:
            after: where the run begins.
            waiting: is told in words what is waited for, and an empty text when that is over.

        Raises:
            SettleTimeoutError: late transactions did not end in time; names them.
            SourceResetError: the source has gone back behind ``after``: ids would be issued again.
        """
        ...

    def sweep(self, swept: str, goal: str, upto: str) -> Sweep:
        """Read late rows at or below ``upto``, from the token ``swept`` on the way to ``goal``."""
        ...

    def copied_columns(self) -> Columns | None:
        """Return the columns that a chunk in copy form has now; None when there is no such form."""
        ...

    def read(self, low: str, target: str, form: Form = "arrow") -> Read:
        """Read the next chunk of ``(low, target]``, bounded by rows and bytes."""
        ...

    def read_again(self, low: str, high: str, form: Form = "arrow") -> Read:
        """Read exactly ``(low, high]``."""
        ...

    def copy_out(self, low: str, target: str, sink: Sink) -> tuple[str, int]:
        """Copy the next chunk of ``(low, target]`` into a sink; return where it ended, and its rows.

        It is bounded by rows, and about by bytes.
        """
        ...

    def at_or_past(self, position: str, target: str) -> bool:
        """Whether ``position`` is at or past ``target``, in the source's own order."""
        ...

    def rows_after(self, low: str) -> int:
        """Estimate, without counting, how many rows are above ``low``."""
        ...

    def split(self, low: str, target: str, parts: int) -> tuple[str, ...]:
        """Cut ``(low, target]`` into at most ``parts`` ranges of about equal rows, without counting.

        Returns the cuts: fewer than ``parts`` cursors strictly between the ends, ascending in the
        source's own order; none where the source cannot tell.
        """
        ...

    def cancel(self) -> None:
        """Interrupt the running statement; safe from another thread."""
        ...

    def close(self) -> None:
        """Close the connection, if one is open."""
        ...
