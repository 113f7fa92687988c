"""How the state machines rewind a pipeline: as a person would, through the lane's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support import World


def rewind(world: World, to: str) -> None:
    """Rewind the world's lane to a chunk boundary, given as canonical cursor text."""
    with world.admin() as admin:
        # Of an upsert too, so that the target is again what the cursor says.
        admin.rewind(to, delete_rows=True, dry_run=False)
