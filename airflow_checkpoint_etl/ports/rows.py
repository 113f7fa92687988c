"""A chunk's rows, in either form."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_checkpoint_etl.frames import Frames

    Rows: TypeAlias = pa.Table | Frames
    """A chunk's rows, in arrow form or in copy form."""
