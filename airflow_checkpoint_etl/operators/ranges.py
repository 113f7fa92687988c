"""Loading one range in parts: the planning and the closing task, and the stages of a part.

``checkpoint_range_task_group`` chains them. Thin: they check parameters and make one call to the planner
or, as every stage, to the runner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    PlanEndedError,
    StageBusyError,
    invalid,
)
from airflow_checkpoint_etl.hooks.checkpoint import CheckpointHook
from airflow_checkpoint_etl.observer import SILENT
from airflow_checkpoint_etl.operators.asset import event_extra, pipeline_alias
from airflow_checkpoint_etl.operators.stages import (
    CheckpointExtractOperator,
    CheckpointLoadOperator,
    CheckpointStageOperator,
    CheckpointTransformOperator,
)
from airflow_checkpoint_etl.planner import Cutting, Planner
from airflow_checkpoint_etl.progress import Summary
from airflow_checkpoint_etl.protocol import Stage
from airflow_checkpoint_etl.range_plans import MAIN_PART, is_planned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.providers.openlineage.extractors.base import OperatorLineage
    from airflow.sdk import Context

    from airflow_checkpoint_etl.pipeline import Pipeline
    from airflow_checkpoint_etl.range_plans import ClosedPlan


class CheckpointPlannerOperator(CheckpointStageOperator):
    """What planning and closing share: they work on the main lane, and wait for it as a stage does.

    Args:
        pipeline: the pipeline; Jinja works in its strings.
        on_busy: what to do while another run works on the main lane: ``"wait"``, ``"skip"``, ``"fail"``.
        busy_timeout: seconds to wait at most before failing; None waits as long as it takes.
    """

    template_fields: Sequence[str] = ("pipeline",)
    stage = Stage.EXTRACT

    def __init__(self, *, pipeline: Pipeline, **kwargs: Any) -> None:
        super().__init__(pipeline=pipeline, part=MAIN_PART, **kwargs)
        self._planner: Planner | None = None

    def on_kill(self) -> None:
        """Cancel the running statement."""
        if self._planner is not None:
            self._planner.stop()

    def _execute(self, context: Context, waiting_since: str | None) -> Any:
        from airflow_checkpoint_etl.observability.lineage import Seen  # noqa: PLC0415

        try:
            ports = CheckpointHook(self.pipeline).ports()
            try:
                self._planner = Planner(ports, self._attempt(context, SILENT))
                self._seen = Seen()
                self._ask_guarantee(ports)
                return self._work(context, self._planner)
            finally:
                ports.close()
        except StageBusyError as busy:
            self._busy(busy, waiting_since)
        except CheckpointEtlError as error:
            if error.retryable:
                raise
            raise AirflowFailException(str(error)) from error

    def _work(self, context: Context, planner: Planner) -> Any:
        raise NotImplementedError

    def _lineage(self, seen: object) -> OperatorLineage[Any, Any]:  # noqa: ARG002  the base's
        """No row is read or written here: the parts' stages tell of theirs."""
        from airflow.providers.openlineage.extractors.base import OperatorLineage  # noqa: PLC0415

        return OperatorLineage()


class CheckpointPlanOperator(CheckpointPlannerOperator):
    """Cuts a large gap into ranges of about equal rows, and returns the keys of the parts to load.

    A gap without two parts' worth of rows is left to the main lane: then ``["default"]`` is returned. A
    plan that is open is returned as it is, by whatever DAG run it was made: nothing is planned twice.

    Args:
        parts: how many parts at most.
        rows_per_part: about how many rows a part has at least.
    """

    def __init__(self, *, parts: int = 8, rows_per_part: int = 250_000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("parts", parts), ("rows_per_part", rows_per_part)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise invalid(name, value, "must be a whole number, 1 or more", "pass a number")
        self.parts = parts
        self.rows_per_part = rows_per_part

    def _work(self, context: Context, planner: Planner) -> list[str]:  # noqa: ARG002  the base's
        return planner.plan(Cutting(self.parts, self.rows_per_part))


class CheckpointClosePlanOperator(CheckpointPlannerOperator):
    """Closes the open plan: every part is at its end, and the main lane moves over the whole range.

    Does nothing where no plan is open. Emits ``pipeline.asset`` when this DAG run has closed a plan, in
    whichever of its tries.
    """

    def __init__(self, *, pipeline: Pipeline, **kwargs: Any) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self._alias = pipeline_alias(pipeline.pipeline_id)
        self.outlets = [*(self.outlets or []), self._alias]

    def _work(self, context: Context, planner: Planner) -> dict[str, Any] | None:
        closed = planner.close()
        if closed is None:
            return None
        summary = {name: getattr(closed, name) for name in closed.__slots__}
        if closed.chunks:
            extra = event_extra(self._loaded(closed), self._seen.guarantee if self._seen else "")
            context["outlet_events"][self._alias].add(self.pipeline.asset, extra=extra)
        return summary

    def _loaded(self, closed: ClosedPlan) -> Summary:
        """The whole range as one load of the main lane."""
        return Summary(
            pipeline=self.pipeline.pipeline_id,
            part=MAIN_PART,
            stage=Stage.LOAD.value,
            chunks=closed.chunks,
            rows_in=closed.rows + closed.rejected,
            rows=closed.rows,
            first=closed.low,
            last=closed.target,
            target=closed.target,
            kept=0,
            seconds=0.0,
            rejected=closed.rejected,
            generation=closed.generation,
            first_chunk=closed.seq,
            last_chunk=closed.seq,
        )


# --- the stages of a part ----------------------------------------------------------------------------


class _OfPlan(CheckpointStageOperator):
    """A stage of a plan's part, or of the main lane where nothing was planned."""

    def _run(self, work: Callable[[], Summary]) -> Summary:
        try:
            return super()._run(work)
        except PlanEndedError as ended:
            if not ended.loaded:
                raise
            # Cleared alone, or retried after another DAG run has closed the plan: green means loaded.
            self.log.info("%s", ended)
            pipeline = self.pipeline.pipeline_id
            return Summary(pipeline, self.part, self.stage.value, 0, 0, 0, "", "", "", 0, 0.0)


class CheckpointPartExtractOperator(_OfPlan, CheckpointExtractOperator):
    """Extracts a plan's part: from its low to its end, without settling again."""


class CheckpointPartTransformOperator(_OfPlan, CheckpointTransformOperator):
    """Transforms a plan's part; a transform that keeps a state is refused."""

    def __init__(self, *, initial_state: Any = None, **kwargs: Any) -> None:
        if initial_state is not None:
            msg = "initial_state"
            raise invalid(
                msg,
                initial_state,
                "parts of a range are loaded in any order, so a state that goes from chunk to chunk has "
                "none there",
                "leave it out, or load with checkpoint_task_group",
            )
        super().__init__(**kwargs)


class CheckpointPartLoadOperator(_OfPlan, CheckpointLoadOperator):
    """Loads a plan's part. The asset event is the closing task's: until then nothing is caught up."""

    def _finished(self, context: Context, summary: Summary) -> None:
        if not is_planned(summary.part):
            super()._finished(context, summary)
