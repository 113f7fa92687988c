"""Where a pipeline reads and where it writes: value objects that a DAG author writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.filters import check_filter
from airflow_checkpoint_etl.parameters import (
    check_names,
    names_of,
    parse_size,
    require_choice,
    require_not_negative,
    require_positive,
    require_table,
    require_text,
)

SettleMode = Literal["auto", "locks", "transactions", "sweep", "lag", "none"]
OnSettleTimeout = Literal["fail", "finish"]
OnSourceReset = Literal["fail", "continue"]
WriteMode = Literal["append", "upsert"]
Lineage = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class PostgresSource:
    """A PostgreSQL table or query to read from, in the order of its cursor.

    Attributes:
        conn_id: the Airflow connection (type ``postgres``) to read through.
        table: the table, ``"schema.table"`` or ``"table"``; or give ``query``.
        query: a SELECT to read instead of a table; needs ``unique=True`` and ``settle_tables``.
        cursor: the column, or columns, that order the rows: NOT NULL, unique together, indexed,
            and growing with every insert (or update, for an ``updated_at`` cursor).
        columns: the columns to read; all of them when left out. The cursor's are always read.
        where: an SQL row filter; it must be immutable per row.
        unique: promise that the cursor is unique where no index proves it.
        settle: what is done about transactions that commit late. ``"auto"`` takes ``"locks"`` for
            integers from one sequence and ``"transactions"`` for timestamps, and refuses what the
            catalog does not prove. ``"locks"`` waits for the tables' writers, ``"transactions"`` for
            every transaction of the database. ``"sweep"`` waits for nobody and has every run look
            below its beginning for rows that appeared since: it works for ids made anywhere, needs
            ``write="upsert"`` and reads the table's row headers once per run. ``"lag"`` waits for
            ``settle_lag`` seconds and for nothing else; ``"none"`` does not wait. Both miss rows.
        settle_tables: the tables a ``query`` reads, whose writers must be waited for.
        settle_conn_id: when reading from a hot standby, the connection of its primary: late
            transactions are waited for there, and then for the standby to have replayed them.
        settle_lag: seconds that a run waits between taking its bound and reading, for ``"lag"``.
        settle_timeout: seconds to wait for late transactions.
        on_settle_timeout: ``"fail"`` fails the task after them; ``"finish"`` ends the run where the
            last one ended, with a warning that names who was waited for.
        on_source_reset: what is done when the source has gone back behind the checkpoint (restored,
            failed over, truncated with its sequence): ``"fail"``, or ``"continue"`` reading above it.
        chunk_rows: rows a chunk holds at most.
        chunk_bytes: bytes a chunk holds at most in memory, as a number or ``"32MiB"``.
        chunk_seconds: seconds that reading a chunk takes, more or less, from its first rows on: a slow
            source makes smaller chunks, so that a kill costs no more than that.
        text_columns: columns to carry as text, for values Arrow cannot hold (infinite dates).
        allow_sort: permit a source query that sorts because no index serves the order.
    """

    conn_id: str
    table: str | None = None
    query: str | None = None
    cursor: str | tuple[str, ...] = "id"
    columns: tuple[str, ...] | None = None
    where: str | None = None
    unique: bool = False
    settle: SettleMode = "auto"
    settle_tables: tuple[str, ...] = ()
    settle_conn_id: str | None = None
    settle_lag: float | None = None
    settle_timeout: float = 3600.0
    on_settle_timeout: OnSettleTimeout = "fail"
    on_source_reset: OnSourceReset = "fail"
    chunk_rows: int = 100_000
    chunk_bytes: int | str = "32MiB"
    chunk_seconds: float = 5.0
    text_columns: tuple[str, ...] = ()
    allow_sort: bool = False

    def __post_init__(self) -> None:
        """Normalise names to tuples and refuse what cannot work."""
        require_text("conn_id", self.conn_id, "an Airflow connection id")
        if (self.table is None) == (self.query is None):
            msg = "table"
            raise invalid(msg, self.table, "exactly one of table and query", "pass one of them")
        if self.query is not None:
            require_text("query", self.query, "a SELECT statement")
            if not self.unique:
                msg = "unique"
                raise invalid(
                    msg,
                    self.unique,
                    "no index can prove that a query's cursor is unique",
                    "make sure that it is and pass unique=True",
                )
            if not self.settle_tables and self.settle not in {"none", "lag", "sweep"}:
                msg = "settle_tables"
                raise invalid(
                    msg,
                    self.settle_tables,
                    "the writers to wait for are unknown for a query",
                    "name the tables it reads",
                )
        else:
            require_table("table", self.table)
        object.__setattr__(self, "cursor", names_of("cursor", self.cursor))
        check_names("cursor", self.cursor, self.cursor)
        if not self.cursor:
            msg = "cursor"
            raise invalid(msg, self.cursor, "is empty", "name the column that orders the rows")
        for name in ("columns", "text_columns", "settle_tables"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, names_of(name, value))
        check_names("columns", self.columns, self.columns or ())
        check_filter("where", self.where)
        check_names("text_columns", self.text_columns, self.text_columns)
        for table in self.settle_tables:
            require_table("settle_tables", table)
        self._check_settling()
        require_positive("chunk_rows", self.chunk_rows)
        require_positive("chunk_seconds", self.chunk_seconds)
        if not isinstance(self.chunk_rows, int):
            msg = "chunk_rows"
            raise invalid(
                msg,
                self.chunk_rows,
                "must be whole",
                "pass a number of rows, e.g. 100_000",
            )
        object.__setattr__(self, "chunk_bytes", parse_size(self.chunk_bytes, "chunk_bytes"))

    def _check_settling(self) -> None:
        require_choice("settle", self.settle, get_args(SettleMode))
        require_choice("on_settle_timeout", self.on_settle_timeout, get_args(OnSettleTimeout))
        require_choice("on_source_reset", self.on_source_reset, get_args(OnSourceReset))
        require_positive("settle_timeout", self.settle_timeout)
        if self.settle == "lag":
            require_positive("settle_lag", self.settle_lag)
        elif self.settle_lag is not None:
            msg = "settle_lag"
            raise invalid(
                msg,
                self.settle_lag,
                f'is for settle="lag" alone, and settle is {self.settle!r}',
                "leave it out",
            )
        if self.settle == "sweep" and self.query is not None:
            msg = "settle"
            raise invalid(
                msg,
                self.settle,
                "the rows of a query do not say which transaction wrote them",
                "name a table",
            )
        if self.settle_conn_id is not None:
            require_text("settle_conn_id", self.settle_conn_id, "an Airflow connection id")
            if self.settle in {"sweep", "lag", "none"}:
                msg = "settle_conn_id"
                raise invalid(
                    msg,
                    self.settle_conn_id,
                    f"nobody is waited for with settle={self.settle!r}",
                    'leave it out, or choose settle="auto"',
                )

    @property
    def cursor_columns(self) -> tuple[str, ...]:
        """The cursor's columns, always as a tuple."""
        return (self.cursor,) if isinstance(self.cursor, str) else self.cursor

    @property
    def read_columns(self) -> tuple[str, ...] | None:
        """The columns that are read, the cursor's among them; None: all that there are."""
        if self.columns is None:
            return None
        return tuple(dict.fromkeys((*self.columns, *self.cursor_columns)))

    @property
    def max_chunk_bytes(self) -> int:
        """``chunk_bytes`` as a number."""
        return parse_size(self.chunk_bytes, "chunk_bytes")

    def identity(self) -> dict[str, Any]:
        """What must not change under one pipeline id: source relation, cursor and filter."""
        return {
            "source": self.table or self.query,
            "cursor": list(self.cursor_columns),
            "where": self.where,
        }

    def __repr__(self) -> str:
        what = self.table or "query"
        return f"PostgresSource({self.conn_id}:{what} by {','.join(self.cursor_columns)})"


@dataclass(frozen=True, kw_only=True)
class PostgresWarehouse:
    """The PostgreSQL table to load into, and where the ledger is kept.

    Attributes:
        conn_id: the Airflow connection (type ``postgres``) to load through.
        table: the target table, ``"schema.table"`` or ``"table"``.
        write: ``"append"``, or ``"upsert"`` by ``key`` (the newest version, by cursor, wins).
        key: the key columns of an upsert; the target needs a unique index on exactly these.
        create_table: create a missing target from the transformed rows' schema.
        lineage: keep each row's ledger id in a column ``_ck_chunk``: ``"auto"`` does when the
            column exists or the table is created here.
        lock_timeout: seconds to wait for a lock before a load attempt fails.
        statement_timeout: seconds one load transaction's statement may take; 0 for no limit.
    """

    conn_id: str
    table: str
    write: WriteMode = "append"
    key: str | tuple[str, ...] = ()
    create_table: bool = False
    lineage: Lineage = "auto"
    lock_timeout: float = 30.0
    statement_timeout: float = 0.0

    def __post_init__(self) -> None:
        """Normalise names to tuples and refuse what cannot work."""
        require_text("conn_id", self.conn_id, "an Airflow connection id")
        require_table("table", self.table)
        require_choice("write", self.write, ("append", "upsert"))
        require_choice("lineage", self.lineage, ("auto", "always", "never"))
        object.__setattr__(self, "key", names_of("key", self.key))
        check_names("key", self.key, self.key)
        if self.write == "upsert" and not self.key:
            msg = "key"
            raise invalid(msg, self.key, "upsert needs key columns", 'pass key=("id",)')
        if self.write == "append" and self.key:
            msg = "key"
            raise invalid(msg, self.key, "append takes no key", 'leave it out or write="upsert"')
        require_positive("lock_timeout", self.lock_timeout)
        require_not_negative("statement_timeout", self.statement_timeout)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The upsert's key columns, always as a tuple."""
        return (self.key,) if isinstance(self.key, str) else self.key

    def identity(self) -> dict[str, Any]:
        """What must not change under one pipeline id: the target and how it is written."""
        return {"target": self.table, "write": self.write, "key": list(self.key_columns)}

    def __repr__(self) -> str:
        return f"PostgresWarehouse({self.conn_id}:{self.table} {self.write})"
