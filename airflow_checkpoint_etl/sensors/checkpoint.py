"""Waits until a pipeline of another DAG has got somewhere."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, conf

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.hooks.checkpoint import Question, is_reached
from airflow_checkpoint_etl.operators.links import CheckpointsLink
from airflow_checkpoint_etl.parameters import check_part
from airflow_checkpoint_etl.pipeline import Pipeline
from airflow_checkpoint_etl.protocol import Stage
from airflow_checkpoint_etl.triggers.checkpoint import CheckpointReachedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class CheckpointSensor(BaseSensorOperator):
    """Waits until a lane has reached a cursor, or is caught up.

    Without ``at_least`` it waits until the load is *caught up*: loaded to a bound that was settled at
    or after ``not_before``, so that everything committed in the source before that moment is in the
    warehouse. With it, until the stage's frontier is at or past a cursor value.

    Args:
        pipeline: the pipeline to wait for; Jinja works in its strings.
        stage: ``"load"`` (asked of the warehouse), ``"extract"`` or ``"transform"``.
        part: the part's key (templated).
        at_least: a cursor value, or a tuple with one per cursor column, as text or numbers
            (templated). A time, for a timestamp cursor.
        not_before: a moment, ISO 8601 (templated); by default the start of this DAG run.
        deferrable: wait in the triggerer, without a worker slot.
    """

    template_fields: Sequence[str] = ("pipeline", "part", "at_least", "not_before")
    ui_color = "#f3ebfb"
    operator_extra_links = (CheckpointsLink(),)

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        stage: str = "load",
        part: str = "default",
        at_least: Any = None,
        not_before: str | dt.datetime | None = None,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(pipeline, Pipeline):
            msg = "pipeline"
            raise invalid(msg, pipeline, "must be a Pipeline", "pass Pipeline(...)")
        if stage not in list(Stage):
            msg = "stage"
            raise invalid(msg, stage, f"must be one of {', '.join(Stage)}", "choose one")
        if stage != Stage.LOAD and at_least is None:
            msg = "at_least"
            raise invalid(
                msg,
                at_least,
                f'only the load can be waited for to be caught up, not "{stage}"',
                'name a cursor value to reach, or use stage="load"',
            )
        if at_least is not None and not_before is not None:
            msg = "not_before"
            raise invalid(msg, not_before, "excludes at_least", "pass one of them")
        self.pipeline = pipeline
        self.stage = str(stage)
        self.part = check_part(part) if isinstance(part, str) else part
        self.at_least = at_least
        self.not_before = (
            not_before.isoformat() if isinstance(not_before, dt.datetime) else not_before
        )
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False)
            if deferrable is None
            else deferrable
        )

    def _question(self, context: Context) -> Question:
        at_least = self.at_least
        if at_least is not None:
            values = at_least if isinstance(at_least, (tuple, list)) else (at_least,)
            at_least = tuple(
                value.isoformat() if isinstance(value, dt.date) else str(value) for value in values
            )
        not_before = None
        if at_least is None:
            started = context["dag_run"].start_date or dt.datetime.now(dt.UTC)
            not_before = self.not_before or started.isoformat()
        return Question(
            warehouse_conn_id=self.pipeline.warehouse.conn_id,
            checkpoint_conn_id=self.pipeline.checkpoint_connection,
            pipeline=self.pipeline.pipeline_id,
            part=self.part,
            stage=self.stage,
            at_least=at_least,
            not_before=not_before,
        )

    def poke(self, context: Context) -> bool:
        """Look once."""
        return is_reached(self._question(context))

    def execute(self, context: Context) -> Any:
        """Look once; then wait, deferred or as the sensor's mode says."""
        if not self.deferrable:
            return super().execute(context)
        question = self._question(context)
        if is_reached(question):
            return None
        return self.defer(
            trigger=CheckpointReachedTrigger(
                warehouse_conn_id=question.warehouse_conn_id,
                checkpoint_conn_id=question.checkpoint_conn_id,
                pipeline_id=question.pipeline,
                part=question.part,
                stage=question.stage,
                at_least=list(question.at_least) if question.at_least is not None else None,
                not_before=question.not_before,
                poll_seconds=float(self.poke_interval),
            ),
            method_name="reached",
            timeout=dt.timedelta(seconds=float(self.timeout)),
        )

    def reached(self, context: Context, event: dict[str, Any]) -> None:  # noqa: ARG002  Airflow's
        """Go on after the trigger fired."""
        self.log.info("%s of %s is where it was waited for", self.stage, self.pipeline.pipeline_id)
