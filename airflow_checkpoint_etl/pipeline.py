"""The value objects a DAG author writes: a pipeline; its source and its warehouse are in :mod:`.endpoints`.

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
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.frames import Form
from airflow_checkpoint_etl.parameters import (
    is_number,
    is_templated,
    parse_size,
    require_block,
    require_choice,
    require_not_negative,
    require_text,
)
from airflow_checkpoint_etl.quarantine import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
    from airflow_checkpoint_etl.quarantine import OnError

_PIPELINE_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")

T = TypeVar("T")


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
            _PIPELINE_ID.fullmatch(self.pipeline_id) or is_templated(self.pipeline_id)
        ):
            msg = "pipeline_id"
            raise invalid(
                msg,
                self.pipeline_id,
                "must start with a letter and hold letters, digits, '_', '-' and '.', at most 100",
                "choose a stable name such as 'orders'",
            )
        require_block("source", self.source)
        require_block("warehouse", self.warehouse)
        self._check_sweep()
        for name in ("checkpoint_conn_id", "staging_conn_id"):
            if getattr(self, name) is not None:
                require_text(name, getattr(self, name), "an Airflow connection id")
        require_text("staging", self.staging, '"checkpoint" or an object storage URL')
        if (
            self.staging != "checkpoint"
            and "://" not in self.staging
            and not is_templated(self.staging)
        ):
            msg = "staging"
            raise invalid(
                msg,
                self.staging,
                'must be "checkpoint" or an object storage URL',
                'pass "checkpoint", "s3://bucket/prefix" or "file:///path"',
            )
        require_not_negative("staging_grace", self.staging_grace)
        for name in ("max_staged_chunk", "max_staged_bytes"):
            object.__setattr__(self, name, parse_size(getattr(self, name), name))
        if self.start_after is not None:
            object.__setattr__(self, "start_after", self._start_values(self.start_after))
        self._check_limits()
        self._check_form()

    def _check_form(self) -> None:
        require_choice("form", self.form, get_args(Form))
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
        require_choice("on_error", self.on_error, ("fail", "quarantine"))
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
        if share is not None and (not is_number(share) or not 0 < share <= 1):
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
        return render_text(value) if is_templated(value) else value
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
