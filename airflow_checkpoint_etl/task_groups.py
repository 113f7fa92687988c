"""The three stages in one call, and one range loaded in parts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import TaskGroup, task_group

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.operators.ranges import (
    CheckpointClosePlanOperator,
    CheckpointPartExtractOperator,
    CheckpointPartLoadOperator,
    CheckpointPartTransformOperator,
    CheckpointPlanOperator,
)
from airflow_checkpoint_etl.operators.stages import (
    CheckpointExtractOperator,
    CheckpointLoadOperator,
    CheckpointTransformOperator,
)
from airflow_checkpoint_etl.parts import Part, divided

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
    parts: Sequence[str] | Sequence[Part] | None = None,
    follow: bool = False,
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
        parts: several parts: the group is mapped over them. ``Part`` objects, each with its row filter;
            or keys (or an upstream task's list of them), which the source's templated ``where`` names.
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
    if isinstance(parts, (list, tuple)) and any(isinstance(one, Part) for one in parts):
        pipeline = divided(pipeline, parts)
        parts = [one.key for one in parts]
    options["follow"] = follow

    def stages(part: str) -> None:
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


def checkpoint_range_task_group(
    group_id: str,
    pipeline: Pipeline,
    transform: Callable[..., Any] | None = None,
    *,
    parts: int = 8,
    rows_per_part: int = 250_000,
    extract_options: dict[str, Any] | None = None,
    transform_options: dict[str, Any] | None = None,
    **options: Any,
) -> TaskGroup:
    """Make a task group that loads a large gap in parts at once, and a small one as ever.

    ``plan >> (extract >> transform >> load) for each part >> close``. The first load, or a gap of many
    rows, is cut into ranges of about equal rows; the increments of later runs are loaded by the main
    lane, in the same tasks. See docs/parts.md.

    Args:
        group_id: the group's id.
        pipeline: the pipeline.
        transform: the transform's callable, without state; None passes the rows as they are.
        parts: how many parts at most.
        rows_per_part: about how many rows a part has at least: a gap without two such parts is not cut.
        extract_options: further parameters of the extract operator (max_rows is better left out).
        transform_options: further parameters of the transform operator (mode, output_columns, ...).
        options: parameters for all operators (on_busy, retries, pool, ...).

    Returns:
        The task group, to be chained with ``>>``.

    Raises:
        ConfigurationError: the transform keeps a state, a clear is to reprocess, or stages are to follow
            each other.
    """
    on_clear = (extract_options or {}).get("on_clear", "resume")
    if on_clear == "reprocess":
        msg = "on_clear"
        raise invalid(
            msg,
            on_clear,
            "a planned range is taken back whole, which clearing one part cannot do",
            "leave it out, and rewind the pipeline (CheckpointHook.admin) where that is wanted",
        )
    if options.get("follow"):
        msg = "follow"
        raise invalid(
            msg,
            options["follow"],
            "the parts are a mapped group, in which no stage starts before the one before it has ended",
            "leave it out: the parts run beside each other",
        )
    with TaskGroup(group_id) as group:
        plan = CheckpointPlanOperator(
            task_id="plan", pipeline=pipeline, parts=parts, rows_per_part=rows_per_part, **options
        )

        @task_group(group_id="part")
        def of_part(part: str) -> None:
            named: dict[str, Any] = {
                "pipeline": pipeline,
                "part": part,
                "map_index_template": "{{ task.part }}",
            }
            extract = CheckpointPartExtractOperator(
                task_id="extract", **named, **(extract_options or {}), **options
            )
            transformed = CheckpointPartTransformOperator(
                task_id="transform",
                python_callable=transform,
                **named,
                **(transform_options or {}),
                **options,
            )
            load = CheckpointPartLoadOperator(task_id="load", **named, **options)
            extract >> transformed >> load

        close = CheckpointClosePlanOperator(task_id="close", pipeline=pipeline, **options)
        of_part.expand(part=plan.output) >> close
    return group
