"""``@task.checkpoint_transform``: a decorated function as the transform of a pipeline."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory

from airflow_checkpoint_etl.operators.stages import CheckpointTransformOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk.bases.decorator import TaskDecorator


class _CheckpointTransformDecoratedOperator(  # type: ignore[misc]  # DecoratedOperator's is untyped
    DecoratedOperator, CheckpointTransformOperator
):
    """The transform operator around a decorated function."""

    custom_operator_name = "@task.checkpoint_transform"
    template_fields: Sequence[str] = CheckpointTransformOperator.template_fields
    template_fields_renderers: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Any = None,  # noqa: ARG002  there are none: rows come from the chunks
        op_kwargs: Any = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        # The function's parameters are the record (or batch) and the state, which come from the
        # chunks; the decorator checks its signature at parse, so it gets placeholders for them.
        placeholders = {
            name: None
            for name, parameter in inspect.signature(python_callable).parameters.items()
            if parameter.kind is not parameter.VAR_POSITIONAL
            and parameter.kind is not parameter.VAR_KEYWORD
        }
        super().__init__(
            kwargs_to_upstream={"python_callable": python_callable},
            python_callable=python_callable,
            op_args=[],
            op_kwargs=placeholders,
            **kwargs,
        )

    def _hook_apply_defaults(self, *args: Any, **kwargs: Any) -> Any:
        # Airflow's decorated operator adds an empty op_kwargs here, at every class of the chain;
        # the operators that execute chunks take none.
        return args, kwargs


def checkpoint_transform_task(
    python_callable: Callable[..., Any] | None = None, **kwargs: Any
) -> TaskDecorator:
    """Make a function a pipeline's transform; takes the parameters of the transform operator.

    Example::

        @task.checkpoint_transform(pipeline=orders)
        def clean(record):
            return record | {"email": record["email"].lower()}
    """
    return task_decorator_factory(
        python_callable=python_callable,
        decorated_operator_class=_CheckpointTransformDecoratedOperator,
        **kwargs,
    )
