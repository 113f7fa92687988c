"""Collection as a task of its own, for pipelines whose loads seldom run or whose stages were abandoned."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.hooks.checkpoint import CheckpointHook
from airflow_checkpoint_etl.operators.links import CheckpointsLink
from airflow_checkpoint_etl.parameters import check_part
from airflow_checkpoint_etl.pipeline import Pipeline
from airflow_checkpoint_etl.protocol import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class CheckpointCollectOperator(BaseOperator):
    """Deletes staged files that nobody needs: of loaded chunks, of dead lives, and orphans.

    Every load does this for its own lane at its end; this task does it without a load. It can run
    beside any stage, and twice is the same as once. Returns the number of files deleted.

    Args:
        pipeline: the pipeline; Jinja works in its strings.
        part: the part whose lane is cleaned (templated).
        grace: seconds a file is kept after its rows are loaded, or after it was staged in vain; None
            for the pipeline's ``staging_grace``.
    """

    template_fields: Sequence[str] = ("pipeline", "part")
    ui_color = "#e8f1fb"
    operator_extra_links = (CheckpointsLink(),)

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        part: str = "default",
        grace: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(pipeline, Pipeline):
            msg = "pipeline"
            raise invalid(msg, pipeline, "must be a Pipeline", "pass Pipeline(...)")
        if grace is not None and grace < 0:
            msg = "grace"
            raise invalid(msg, grace, "must not be negative", "pass seconds, or None")
        self.pipeline = pipeline
        self.part = check_part(part) if isinstance(part, str) else part
        self.grace = grace

    def execute(self, context: Context) -> int:  # noqa: ARG002  Airflow's signature
        """Collect, and return how many files were deleted."""
        from airflow_checkpoint_etl.collect import collect  # noqa: PLC0415

        seconds = self.pipeline.staging_grace if self.grace is None else self.grace
        ports = CheckpointHook(self.pipeline).ports()
        try:
            lane = Lane(self.pipeline.pipeline_id, check_part(self.part))
            return collect(ports, lane, dt.timedelta(seconds=seconds))
        finally:
            ports.close()
