"""Renders the templated strings of a pipeline with the task's own Jinja environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def renderer(context: Mapping[str, Any]) -> Callable[[str], str]:
    """Return a function that renders one template in the task's context."""
    environment = context["task"].get_template_env(context.get("dag"))

    def render(text: str) -> str:
        return str(environment.from_string(text).render(**context))

    return render
