"""The three stages in one call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import TaskGroup, task_group

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.operators.stages import (
    CheckpointExtractOperator,
    CheckpointLoadOperator,
    CheckpointTransformOperator,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_checkpoint_etl.pipeline import Pipeline

_GROUP_ID: Final = re.compile(r"[A-Za-z0-9_-]+")


def checkpoint_task_group(  # noqa: PLR0913  what a DAG author can say, by name
    group_id: str,
    pipeline: Pipeline,
    transform: Callable[..., Any] | None = None,
    *,
    part: str = "default",
    parts: Sequence[str] | None = None,
    follow: bool = False,
    extract_options: dict[str, Any] | None = None,
    transform_options: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Make a task group ``extract >> transform >> load``, and one per part when asked.

    Args:
        group_id: the group's id.
        pipeline: the pipeline.
        transform: the transform's callable; None passes the rows as they are.
        part: the part to work on.
        parts: several parts (or an upstream task's list of them): the group is mapped over them.
        follow: the stages run at once: transform and load work on what is staged while extract still
            works (see docs/follow.md). It takes up to three worker slots instead of one.
        extract_options: further parameters of the extract operator (on_clear, max_rows, ...).
        transform_options: further parameters of the transform operator (mode, initial_state, ...).
        options: parameters for all three operators (on_busy, retries, pool, ...).

    Returns:
        The task group, to be chained with ``>>``.

    Raises:
        ConfigurationError: ``follow`` with parts that only a running task knows, or with parts whose
            keys make no group id.
    """
    options["follow"] = follow

    def stages(part: str) -> None:
        extract = CheckpointExtractOperator(
            task_id="extract",
            pipeline=pipeline,
            part=part,
            **(extract_options or {}),
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

    if parts is None or not follow:
        group = task_group(group_id=group_id)(stages)
        return group(part) if parts is None else group.expand(part=parts)
    with TaskGroup(group_id=group_id) as groups:
        for name in _static(parts):
            task_group(group_id=name)(stages)(name)
    return groups


def _static(parts: Any) -> Sequence[str]:
    """Return parts that can be a group each.

    Airflow does not allow a task of a mapped group to start before those upstream of it have ended.
    """
    if isinstance(parts, (list, tuple)) and all(
        isinstance(name, str) and _GROUP_ID.fullmatch(name) for name in parts
    ):
        return parts
    msg = "parts"
    raise invalid(
        msg,
        parts,
        "with follow=True every part is a task group of its own, not a mapped one",
        "pass a list of keys made of letters, digits, '_' and '-', or leave follow out",
    )
