"""The transfer as an Airflow operator: for a pipeline of its own, or with GenericTransfer's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.operators.asset import pipeline_alias
from airflow_checkpoint_etl.operators.stages import CheckpointExtractOperator
from airflow_checkpoint_etl.pipeline import Pipeline
from airflow_checkpoint_etl.protocol import Stage
from airflow_checkpoint_etl.transfer import TransferRunner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.frames import Form
    from airflow_checkpoint_etl.operators.stages import Work
    from airflow_checkpoint_etl.ports import Ports
    from airflow_checkpoint_etl.progress import Summary


class CheckpointTransferOperator(CheckpointExtractOperator):
    """Copies rows from source to warehouse in one task: all three stages at once, nothing staged.

    It takes the extract operator's parameters (``max_rows``, ``max_seconds``, ``on_clear``,
    ``on_warehouse_restored``, ``on_busy``, ``part``, ...) and emits ``pipeline.asset`` as the load does.
    Source and target columns must be of equal types, and nothing is transformed.

    Either give a ``pipeline``, or GenericTransfer's parameters and a ``pipeline_id``.

    Args:
        pipeline: the pipeline.
        preoperator: SQL, or a list of it, to run in the warehouse before the very first rows, in their own
            transaction; it must leave the target empty (templated). Never on a resume or a later run.
        pipeline_id: GenericTransfer's form: a stable name for what is stored.
        sql: the SELECT to read (templated).
        source_conn_id: the connection to read through.
        destination_conn_id: the connection to load through.
        destination_table: the table to load into; created when it is missing.
        cursor: the column, or columns, of the SELECT that order its rows.
        unique: your promise that the cursor is unique in the SELECT's rows.
        settle_tables: the tables the SELECT reads, whose late writers are waited for.
        source_options: further parameters of :class:`PostgresSource`.
        warehouse_options: further parameters of :class:`PostgresWarehouse`.
        pipeline_options: further parameters of :class:`Pipeline`.
    """

    stage = Stage.LOAD
    straight = True
    template_fields: Sequence[str] = (*CheckpointExtractOperator.template_fields, "preoperator")
    template_ext: Sequence[str] = (".sql",)

    def __init__(  # noqa: PLR0913  GenericTransfer's parameters beside one's own
        self,
        *,
        pipeline: Pipeline | None = None,
        preoperator: str | Sequence[str] | None = None,
        pipeline_id: str | None = None,
        sql: str | None = None,
        source_conn_id: str | None = None,
        destination_conn_id: str | None = None,
        destination_table: str | None = None,
        cursor: str | tuple[str, ...] = "id",
        unique: bool = False,
        settle_tables: Sequence[str] = (),
        source_options: Mapping[str, Any] | None = None,
        warehouse_options: Mapping[str, Any] | None = None,
        pipeline_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        given = {
            "pipeline_id": pipeline_id,
            "sql": sql,
            "source_conn_id": source_conn_id,
            "destination_conn_id": destination_conn_id,
            "destination_table": destination_table,
        }
        if pipeline is None:
            for name, value in given.items():
                if not isinstance(value, str):
                    next_move = "pass a pipeline, or all of " + ", ".join(given)
                    raise invalid(name, value, "must be a string", next_move)
            pipeline = Pipeline(
                pipeline_id=str(pipeline_id),
                source=PostgresSource(
                    conn_id=str(source_conn_id),
                    query=sql,
                    cursor=cursor,
                    unique=unique,
                    settle_tables=tuple(settle_tables),
                    **(source_options or {}),
                ),
                warehouse=PostgresWarehouse(
                    conn_id=str(destination_conn_id),
                    table=str(destination_table),
                    **{"create_table": True} | dict(warehouse_options or {}),
                ),
                **(pipeline_options or {}),
            )
        elif named := [name for name, value in given.items() if value is not None]:
            raise invalid(
                named[0],
                given[named[0]],
                "the pipeline says this already",
                "leave it out, or leave out pipeline=",
            )
        super().__init__(pipeline=pipeline, transformed=False, **kwargs)
        self.preoperator = preoperator
        self._check()
        self._alias = pipeline_alias(pipeline.pipeline_id)
        self.outlets = [*(self.outlets or []), self._alias]

    def _check(self) -> None:
        pipeline = self.pipeline
        form: Form = pipeline.untransformed_form
        if form == "arrow":
            msg = "pipeline"
            raise invalid(
                msg,
                pipeline,
                "a transfer copies rows as they are: it has no form='arrow', no on_error='quarantine' and "
                "no settle='sweep'",
                "change the pipeline, or use the three stages",
            )
        if self.preoperator and pipeline.start_after is not None:
            msg = "preoperator"
            raise invalid(
                msg,
                self.preoperator,
                "with start_after= the target holds rows that count, which it would take away",
                "leave one of them out",
            )

    def _prepare(self, ports: Ports, attempt: Attempt) -> Work:
        if self.preoperator and self.part != "default":
            msg = "preoperator"
            raise invalid(
                msg,
                self.preoperator,
                f"part {self.part!r} shares the target with other parts, whose rows it would take away",
                "run it in a task of its own before them",
            )
        runner = TransferRunner(ports, attempt, _statements(self.preoperator))
        return runner, runner.transfer

    def _finished(self, context: Context, summary: Summary) -> None:
        super()._finished(context, summary)
        self._emit(context, self._alias, summary)


def _statements(preoperator: str | Sequence[str] | None) -> tuple[str, ...]:
    given = (preoperator,) if isinstance(preoperator, str) else tuple(preoperator or ())
    return tuple(statement for statement in given if statement.strip())
