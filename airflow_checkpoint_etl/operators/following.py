"""Which tasks of a DAG run work beside each other, and how they are: asked of Airflow by a running task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.following import Following, Upstream, upstream_of
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from airflow_checkpoint_etl.operators.stages import CheckpointStageOperator
    from airflow_checkpoint_etl.settings import Settings


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The tasks beside a stage, by id; the same map index is meant.

    Attributes:
        dag_id: the DAG.
        run_id: the DAG run.
        map_index: the map index of the stage; -1 when it is not mapped.
        before: the task of the stage before; None for extract.
        after: the tasks of the stages that follow.
    """

    dag_id: str
    run_id: str
    map_index: int
    before: str | None
    after: tuple[str, ...]

    def state_of(self, task_id: str) -> Upstream:
        """Ask Airflow what has become of a task, from a task or from the triggerer."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: PLC0415

        states: dict[str, dict[str, Any]] = RuntimeTaskInstance.get_task_states(
            dag_id=self.dag_id,
            map_index=self.map_index,
            task_ids=[task_id],
            run_ids=[self.run_id],
        )
        # One task at one map index; the key of a mapped one has the index at its end.
        (state,) = states.get(self.run_id, {}).values() or (None,)
        return upstream_of(state)

    def is_followed(self) -> bool:
        """Whether every stage that follows still works: when one has ended, nobody loads any more."""
        return bool(self.after) and all(
            self.state_of(task_id) is Upstream.WORKING for task_id in self.after
        )


def neighbours_of(operator: CheckpointStageOperator, context: Context) -> Neighbours:
    """Find the stages of the same pipeline and part around an operator.

    Raises:
        ConfigurationError: a stage that follows has no stage before it in its DAG.
    """
    instance = context["ti"]
    before = operator.stage.before
    found = None
    if before is not None:
        found = next(_stages(operator, before, operator.get_direct_relatives(upstream=True)), None)
        if found is None:
            msg = "follow"
            raise invalid(
                msg,
                True,  # noqa: FBT003  the parameter's value
                f"{operator.task_id} has no {before} of pipeline {operator.pipeline.pipeline_id} right "
                "upstream to follow",
                f"chain the stages ({before} >> {operator.stage}), which must not be mapped, or leave "
                "follow out",
            )
    after: list[str] = []
    last = operator
    for stage in list(Stage)[list(Stage).index(operator.stage) + 1 :]:
        follower = next(
            _stages(operator, stage, last.get_direct_relatives(upstream=False), follow=True), None
        )
        if follower is None:
            break
        after.append(follower.task_id)
        last = follower
    return Neighbours(
        dag_id=instance.dag_id,
        run_id=str(instance.run_id),
        map_index=instance.map_index if instance.map_index is not None else -1,
        before=found.task_id if found is not None else None,
        # A bound that only the transform heeded would be none: extract waits for a load that follows.
        after=tuple(after) if last.stage is Stage.LOAD else (),
    )


def _stages(
    operator: CheckpointStageOperator, stage: Stage, relatives: Any, *, follow: bool = False
) -> Iterator[CheckpointStageOperator]:
    for relative in relatives:
        if (
            getattr(relative, "stage", None) is stage
            and relative.pipeline.pipeline_id in _ids(operator)
            and (not follow or relative.follow)
        ):
            yield relative


def _ids(operator: CheckpointStageOperator) -> set[str]:
    """The pipeline's id, rendered and as it was written: only this task's own copy is rendered."""
    return {operator.pipeline.pipeline_id, operator.declared_id}


def following_of(
    operator: CheckpointStageOperator, neighbours: Neighbours, settings: Settings
) -> Following:
    """Return how an attempt of an operator works beside its neighbours."""
    before = neighbours.before
    return Following(
        upstream=partial(neighbours.state_of, before) if before else lambda: Upstream.SUCCEEDED,
        upstream_name=before or "",
        is_followed=neighbours.is_followed,
        staged_bytes=operator.pipeline.staged_bytes_cap,
        patience=0.0 if is_in_process() else settings.follow_seconds,
    )


def is_in_process() -> bool:
    """Whether the task runs within ``dag.test()``, where tasks run one at a time."""
    from airflow.sdk.execution_time import task_runner  # noqa: PLC0415

    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return type(comms).__name__ == "InProcessSupervisorComms"
