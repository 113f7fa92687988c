"""What the tests' deadline calls, in the triggerer: importable there, as a DAG file is not."""

from __future__ import annotations

import os
from pathlib import Path


async def say_late(dag_id: str, **_: object) -> None:
    """Leave word that a run is late."""
    Path(os.environ["E2E_FLAGS"], f"late.{dag_id}").touch()  # noqa: ASYNC240  an empty file
