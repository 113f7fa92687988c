"""The three stages in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import task_group

from airflow_checkpoint_etl.operators.stages import (
    CheckpointExtractOperator,
    CheckpointLoadOperator,
    CheckpointTransformOperator,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_checkpoint_etl.pipeline import Pipeline


def checkpoint_task_group(
    group_id: str,
    pipeline: Pipeline,
    transform: Callable[..., Any] | None = None,
    *,
    part: str = "default",
    parts: Sequence[str] | None = None,
    extract_options: dict[str, Any] | None = None,
    transform_options: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Make a task group ``extract >> transform >> load``, and one per part when asked.

    Args:
        group_id: the group's id.
        pipeline: the pipeline.
        transform: the transform's callable; None passes the rows as they are, and they are staged in
            copy form where source and target are alike (see docs/forms.md).
        part: the part to work on.
        parts: several parts (or an upstream task's list of them): the group is mapped over them.
        extract_options: further parameters of the extract operator (on_clear, max_rows, ...).
        transform_options: further parameters of the transform operator (mode, initial_state, ...).
        options: parameters for all three operators (on_busy, retries, pool, ...).

    Returns:
        The task group, to be chained with ``>>``.
    """

    @task_group(group_id=group_id)
    def group(part: str) -> None:
        extract = CheckpointExtractOperator(
            task_id="extract",
            pipeline=pipeline,
            part=part,
            **{"transformed": transform is not None} | (extract_options or {}),
            **options,
        )
        transformed = CheckpointTransformOperator(
            task_id="transform",
            pipeline=pipeline,
            part=part,
            python_callable=transform,
            **(transform_options or {}),
            **options,
        )
        load = CheckpointLoadOperator(task_id="load", pipeline=pipeline, part=part, **options)
        extract >> transformed >> load

    return group(part) if parts is None else group.expand(part=parts)
