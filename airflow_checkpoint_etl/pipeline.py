"""The value objects a DAG author writes: a pipeline, its source, its warehouse.

They are frozen, hold connection ids and never connections, and validate themselves, so that bad
input fails when the DAG file is parsed. Strings in them are Jinja templates;
:meth:`Pipeline.resolve` returns the rendered copy for one task run. Their ``repr`` goes into the
serialised DAG: it is short, stable between parses and free of secrets.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeGuard, TypeVar, get_args

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.filters import check_filter
from airflow_checkpoint_etl.frames import Form
from airflow_checkpoint_etl.quarantine import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_checkpoint_etl.quarantine import OnError

_PIPELINE_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
_NAME_PART: Final = re.compile(r'"((?:[^"]|"")*)"|([^".]+)')
_LONGEST_NAME: Final = 63
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,119}")
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?\s*")
_UNITS: Final = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
}

SettleMode = Literal["auto", "locks", "transactions", "sweep", "lag", "none"]
OnSettleTimeout = Literal["fail", "finish"]
OnSourceReset = Literal["fail", "continue"]
WriteMode = Literal["append", "upsert"]
Lineage = Literal["auto", "always", "never"]

T = TypeVar("T")


def parse_size(value: int | str, parameter: str) -> int:
    """Return a size in bytes from a number of bytes or a text such as ``"32MiB"``.

    Raises:
        ConfigurationError: not a size, or not positive.
    """
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    size = (
        int(float(match[1]) * _UNITS[match[2] or "B"])
        if match
        else value
        if isinstance(value, int) and not isinstance(value, bool)
        else 0
    )
    if size <= 0:
        raise invalid(parameter, value, "not a positive size", 'write bytes or e.g. "32MiB"')
    return size


def _templated(text: str) -> bool:
    return "{{" in text or "{%" in text


def _require_text(parameter: str, value: Any, what: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise invalid(parameter, value, f"must be {what}", f"pass {what} as a string")


def _require_table(parameter: str, value: Any) -> None:
    _require_text(parameter, value, "a table name")
    if "\x00" in value:
        raise invalid(parameter, value, "holds a NUL, which no name can", "take it out")
    _check_names(parameter, value, [] if _templated(value) else name_parts(value))


def name_parts(name: str) -> list[str]:
    """Split the name of a table at its dots: ``sales."my.orders"`` is two parts."""
    return [
        quoted.replace('""', '"') or plain.strip() for quoted, plain in _NAME_PART.findall(name)
    ]


def _check_names(parameter: str, value: Any, names: Iterable[str]) -> None:
    """Refuse what PostgreSQL would cut off in silence: the rest may be the name of something else."""
    for name in names:
        if "\x00" in name:
            raise invalid(parameter, value, "holds a NUL, which no name can", "take it out")
        if len(name.encode(errors="replace")) > _LONGEST_NAME and not _templated(name):
            raise invalid(parameter, value, "PostgreSQL keeps 63 bytes of a name", "shorten it")


def _names(parameter: str, value: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    names = tuple(names) if isinstance(names, (tuple, list)) else (None,)
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise invalid(parameter, value, "must be column names", "pass a name or a tuple of names")
    if len(set(names)) != len(names):
        raise invalid(parameter, value, "names a column twice", "name every column once")
    return names


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive(parameter: str, value: float | None) -> None:
    if not _is_number(value) or not value > 0:  # "not >" refuses NaN too
        raise invalid(parameter, value, "must be positive", "pass a number above zero")


def _not_negative(parameter: str, value: float) -> None:
    if not _is_number(value) or not value >= 0:
        raise invalid(parameter, value, "must not be negative", "pass a number of seconds")


def _part_of(parameter: str, value: Any) -> None:
    if not callable(getattr(value, "identity", None)):
        raise invalid(parameter, value, f"is no {parameter}", f"pass a {parameter} object")


def _choice(parameter: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise invalid(
            parameter, value, f"must be one of {', '.join(choices)}", "choose one of them"
        )


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
        _require_text("conn_id", self.conn_id, "an Airflow connection id")
        if (self.table is None) == (self.query is None):
            msg = "table"
            raise invalid(msg, self.table, "exactly one of table and query", "pass one of them")
        if self.query is not None:
            _require_text("query", self.query, "a SELECT statement")
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
            _require_table("table", self.table)
        object.__setattr__(self, "cursor", _names("cursor", self.cursor))
        _check_names("cursor", self.cursor, self.cursor)
        if not self.cursor:
            msg = "cursor"
            raise invalid(msg, self.cursor, "is empty", "name the column that orders the rows")
        for name in ("columns", "text_columns", "settle_tables"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _names(name, value))
        _check_names("columns", self.columns, self.columns or ())
        check_filter("where", self.where)
        _check_names("text_columns", self.text_columns, self.text_columns)
        for table in self.settle_tables:
            _require_table("settle_tables", table)
        self._check_settling()
        _positive("chunk_rows", self.chunk_rows)
        _positive("chunk_seconds", self.chunk_seconds)
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
        _choice("settle", self.settle, get_args(SettleMode))
        _choice("on_settle_timeout", self.on_settle_timeout, get_args(OnSettleTimeout))
        _choice("on_source_reset", self.on_source_reset, get_args(OnSourceReset))
        _positive("settle_timeout", self.settle_timeout)
        if self.settle == "lag":
            _positive("settle_lag", self.settle_lag)
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
            _require_text("settle_conn_id", self.settle_conn_id, "an Airflow connection id")
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
        _require_text("conn_id", self.conn_id, "an Airflow connection id")
        _require_table("table", self.table)
        _choice("write", self.write, ("append", "upsert"))
        _choice("lineage", self.lineage, ("auto", "always", "never"))
        object.__setattr__(self, "key", _names("key", self.key))
        _check_names("key", self.key, self.key)
        if self.write == "upsert" and not self.key:
            msg = "key"
            raise invalid(msg, self.key, "upsert needs key columns", 'pass key=("id",)')
        if self.write == "append" and self.key:
            msg = "key"
            raise invalid(msg, self.key, "append takes no key", 'leave it out or write="upsert"')
        _positive("lock_timeout", self.lock_timeout)
        _not_negative("statement_timeout", self.statement_timeout)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The upsert's key columns, always as a tuple."""
        return (self.key,) if isinstance(self.key, str) else self.key

    def identity(self) -> dict[str, Any]:
        """What must not change under one pipeline id: the target and how it is written."""
        return {"target": self.table, "write": self.write, "key": list(self.key_columns)}

    def __repr__(self) -> str:
        return f"PostgresWarehouse({self.conn_id}:{self.table} {self.write})"


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One flow from a source to a warehouse table.

    Attributes:
        pipeline_id: a stable name you choose; never a dag or run id. Everything stored is under it.
        source: where the rows come from.
        warehouse: where they go, and where the ledger is kept.
        checkpoint_conn_id: a ``redis`` or ``postgres`` connection for checkpoints and the manifest;
            its type chooses the store. Left out: the warehouse's own connection.
        staging: where chunks wait between stages: ``"checkpoint"`` (in the checkpoint store), or an
            object storage URL: ``"s3://bucket/prefix"``, ``"gs://..."``, ``"file:///..."``.
        staging_conn_id: the Airflow connection for object storage.
        staging_grace: seconds a staged chunk is kept after its rows are durably loaded.
        max_staged_chunk: largest staged chunk accepted, in bytes or as ``"64MiB"``.
        max_staged_bytes: with stages that run at once (``follow=True``): bytes that may be staged and not
            yet loaded before extract and transform hold back, in bytes or as ``"1GiB"``. Files of loaded
            chunks, which stay for ``staging_grace``, do not count.
        start_after: begin after this cursor value (one value per cursor column, as text), beside a
            table that is already loaded up to there.
        on_error: what becomes of a record that the transform or the target refuses: ``"fail"`` the
            task, or ``"quarantine"`` the record and go on with the others (see docs/quarantine.md).
        max_rejected_rows: with ``"quarantine"``: rejected records one DAG run accepts; the task fails
            above that. None: any number.
        max_rejected_share: the same as a share of the rows read in the run, above 0 and up to 1.
        form: how chunks are staged. ``"arrow"``: as Arrow, which a transform reads. ``"copy"``: as they
            come out of the source's binary COPY, exact for every type and faster, for a pipeline
            without a transform whose source and target columns have equal types; anything else is
            refused. ``"auto"``: copied where ``checkpoint_task_group`` is given no transform and the
            types are equal, as Arrow everywhere else (see docs/forms.md).
    """

    pipeline_id: str
    source: PostgresSource
    warehouse: PostgresWarehouse
    checkpoint_conn_id: str | None = None
    staging: str = "checkpoint"
    staging_conn_id: str | None = None
    staging_grace: float = 900.0
    max_staged_chunk: int | str = "64MiB"
    max_staged_bytes: int | str = "1GiB"
    start_after: str | tuple[str, ...] | None = None
    on_error: OnError = "fail"
    max_rejected_rows: int | None = None
    max_rejected_share: float | None = None
    form: Form = "auto"

    template_fields = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not isinstance(self.pipeline_id, str) or not (
            _PIPELINE_ID.fullmatch(self.pipeline_id) or _templated(self.pipeline_id)
        ):
            msg = "pipeline_id"
            raise invalid(
                msg,
                self.pipeline_id,
                "must start with a letter and hold letters, digits, '_', '-' and '.', at most 100",
                "choose a stable name such as 'orders'",
            )
        _part_of("source", self.source)
        _part_of("warehouse", self.warehouse)
        self._check_sweep()
        for name in ("checkpoint_conn_id", "staging_conn_id"):
            if getattr(self, name) is not None:
                _require_text(name, getattr(self, name), "an Airflow connection id")
        _require_text("staging", self.staging, '"checkpoint" or an object storage URL')
        if (
            self.staging != "checkpoint"
            and "://" not in self.staging
            and not _templated(self.staging)
        ):
            msg = "staging"
            raise invalid(
                msg,
                self.staging,
                'must be "checkpoint" or an object storage URL',
                'pass "checkpoint", "s3://bucket/prefix" or "file:///path"',
            )
        _not_negative("staging_grace", self.staging_grace)
        for name in ("max_staged_chunk", "max_staged_bytes"):
            object.__setattr__(self, name, parse_size(getattr(self, name), name))
        if self.start_after is not None:
            object.__setattr__(self, "start_after", self._start_values(self.start_after))
        self._check_limits()
        self._check_form()

    def _check_form(self) -> None:
        _choice("form", self.form, get_args(Form))
        if self.form != "copy":
            return
        if self.on_error == "quarantine":
            msg = "form"
            raise invalid(
                msg,
                self.form,
                "copied rows are not looked at, so none of them can be put aside",
                "pass on_error='fail', or form='arrow'",
            )
        if getattr(self.source, "settle", None) == "sweep":
            msg = "form"
            raise invalid(
                msg,
                self.form,
                "late rows that a sweep finds are staged as Arrow",
                "choose another settle, or form='arrow'",
            )

    @property
    def untransformed_form(self) -> Form:
        """The form for an extract that knows that no transform follows."""
        sweeps = getattr(self.source, "settle", None) == "sweep"
        if self.form == "auto" and (sweeps or self.on_error == "quarantine"):
            return "arrow"
        return self.form

    def _check_limits(self) -> None:
        _choice("on_error", self.on_error, ("fail", "quarantine"))
        rows, share = self.max_rejected_rows, self.max_rejected_share
        if self.on_error == "fail" and (rows, share) != (None, None):
            msg = "max_rejected_rows" if rows is not None else "max_rejected_share"
            raise invalid(
                msg,
                share if rows is None else rows,
                "nothing is accepted with on_error='fail'",
                "leave it out, or pass on_error='quarantine'",
            )
        if rows is not None and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 0):
            msg = "max_rejected_rows"
            raise invalid(msg, rows, "must be a whole number, 0 or more", "pass a number of rows")
        if share is not None and (not _is_number(share) or not 0 < share <= 1):
            msg = "max_rejected_share"
            raise invalid(msg, share, "must be above 0 and at most 1", "pass a share, e.g. 0.01")

    @property
    def policy(self) -> Policy:
        """What becomes of records that cannot go on."""
        return Policy(self.on_error, self.max_rejected_rows, self.max_rejected_share)

    def _check_sweep(self) -> None:
        settle = getattr(self.source, "settle", None)
        if settle == "sweep" and getattr(self.warehouse, "write", None) != "upsert":
            msg = "settle"
            raise invalid(
                msg,
                settle,
                "a row that was loaded may be swept up and loaded once more",
                'pass write="upsert" and key= to the warehouse',
            )

    def _start_values(self, given: Any) -> tuple[str, ...]:
        values = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        columns = len(self.source.cursor_columns)
        if len(values) != columns:
            msg = "start_after"
            raise invalid(
                msg,
                given,
                f"the cursor has {columns} column(s)",
                "pass one value per cursor column",
            )
        if any(value is None or isinstance(value, (bool, float)) for value in values):
            msg = "start_after"
            raise invalid(
                msg,
                given,
                "a cursor value is exact and never NULL",
                "pass it as text, as PostgreSQL prints it",
            )
        return tuple(str(value) for value in values)

    @property
    def checkpoint_connection(self) -> str:
        """The connection id of the checkpoint store."""
        return self.checkpoint_conn_id or self.warehouse.conn_id

    @property
    def staged_chunk_cap(self) -> int:
        """``max_staged_chunk`` as a number of bytes."""
        return parse_size(self.max_staged_chunk, "max_staged_chunk")

    @property
    def staged_bytes_cap(self) -> int:
        """``max_staged_bytes`` as a number of bytes."""
        return parse_size(self.max_staged_bytes, "max_staged_bytes")

    @property
    def asset_uri(self) -> str:
        """The URI of the asset that a load of this pipeline updates."""
        return f"checkpoint-etl://{self.pipeline_id}"

    @property
    def asset(self) -> Any:
        """The Airflow asset that a load updates, for ``schedule=[pipeline.asset]``."""
        from airflow_checkpoint_etl.operators.asset import pipeline_asset  # noqa: PLC0415

        return pipeline_asset(self.pipeline_id, self.asset_uri)

    def fingerprint(self) -> str:
        """Digest of what must not change under one pipeline id (see ``identity`` of its parts)."""
        identity = {**self.source.identity(), **self.warehouse.identity()}
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """What people and admin commands are told about the pipeline; names only, never secrets."""
        source, warehouse = self.source, self.warehouse
        return {
            "source": source.table or "query",
            "source_conn_id": source.conn_id,
            "cursor": list(source.cursor_columns),
            "target": warehouse.table,
            "warehouse_conn_id": warehouse.conn_id,
            "write": warehouse.write,
            "key": list(warehouse.key_columns),
            "lineage": getattr(warehouse, "lineage", "auto"),
            "checkpoint_conn_id": self.checkpoint_connection,
            "staging": self.staging,
            "staging_conn_id": self.staging_conn_id,
            "staging_grace": self.staging_grace,
            "on_error": self.on_error,
            "form": self.form,
        }

    def render(self, render_text: Callable[[str], Any]) -> Pipeline:
        """Return a copy in which ``render_text`` was applied to every templated string."""
        return _render(self, render_text)

    def resolve(self, context: Mapping[str, Any]) -> Pipeline:
        """Return the rendered copy for one task run; Airflow's templater calls this.

        Raises:
            ConfigurationError: a rendered value is not valid.
        """
        from airflow_checkpoint_etl.operators.rendering import renderer  # noqa: PLC0415

        return self.render(renderer(context))

    def __repr__(self) -> str:
        return f"Pipeline({self.pipeline_id}: {self.source!r} -> {self.warehouse!r})"


def _render(value: T, render_text: Callable[[str], Any]) -> T:
    """Rebuild a value object with its templated strings rendered, validating it again."""
    if isinstance(value, str):
        return render_text(value) if _templated(value) else value
    if isinstance(value, tuple):
        items = tuple(_render(item, render_text) for item in value)
        return items if items != value else value  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            item.name: rendered
            for item in fields(value)
            if (rendered := _render(getattr(value, item.name), render_text))
            is not getattr(value, item.name)
        }
        return replace(value, **changed) if changed else value
    return value


def check_part(part: str) -> str:
    """Return ``part`` when it is a valid part key.

    Raises:
        ConfigurationError: it is empty, too long or holds other characters.
    """
    if not isinstance(part, str) or not (_PART.fullmatch(part) or _templated(part)):
        msg = "part"
        raise invalid(
            msg,
            part,
            "must hold letters, digits and '_.:+-', at most 120 characters",
            "key parts by value, e.g. part='tenant-7'; never by map index",
        )
    return part
