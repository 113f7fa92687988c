"""What every staging area checks in the same way, and the errors that say so."""

from __future__ import annotations

from typing import Final

from airflow_checkpoint_etl.errors import ChunkTooLargeError, StagedChunkError

OBJECT_STORAGE: Final = 'stage in object storage instead: staging="s3://bucket/prefix"'
"""The way out of every limit of a staging area inside a database."""


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` is a relative path that stays where it is put."""
    parts = name.split("/")
    if not name or "\x00" in name or any(part in {"", ".", ".."} for part in parts):
        message = f"{name!r} is no name of a staged file; use a relative path without dots"
        raise ValueError(message)


def check_cap(name: str, size: int, cap: int, where: str) -> None:
    """Raise ChunkTooLargeError when a file is larger than the area's cap, both in bytes."""
    if size > cap:
        message = (
            f"staged file {name} has {size:,} bytes, above the cap of {cap:,} for {where}; nothing "
            f"was stored; lower chunk_bytes, raise max_staged_chunk, or {OBJECT_STORAGE}"
        )
        raise ChunkTooLargeError(message)


def check_same(name: str, *, same: bool) -> None:
    """Raise StagedChunkError when a stored file of this name holds other bytes."""
    if not same:
        message = (
            f"staged file {name} exists already and holds other bytes; staged files never change, so "
            f"nothing was stored; run the task again, which stages under a new name"
        )
        raise StagedChunkError(message)


def missing(name: str, where: str) -> StagedChunkError:
    """Build the error for a file that is not there."""
    return StagedChunkError(
        f"staged file {name} is missing in {where}; run the task that stages it again: clear it with "
        f"Downstream"
    )
