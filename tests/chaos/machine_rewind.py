"""How the state machines rewind a pipeline: the one place to adapt to ``airflow_checkpoint_etl.admin``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support import World

CAN_REWIND = find_spec("airflow_checkpoint_etl.admin") is not None
"""Whether there is anything that can; the machines' rule ``rewind`` is enabled by it."""


def rewind(world: World, to: str) -> None:
    """Rewind the world's lane to a chunk boundary, given as canonical cursor text."""
    raise NotImplementedError(world, to)
