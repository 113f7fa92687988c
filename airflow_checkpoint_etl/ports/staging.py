"""Where chunks wait between the stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class StagingArea(Protocol):
    """Where chunks wait between stages: immutable named files."""

    def preflight(self) -> None:
        """Check that the area can be reached and written; raise PreflightError."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Store a file durably. Raises ChunkTooLargeError above the area's cap.

        Storing the same bytes under the same name again is allowed; other bytes are refused.
        """
        ...

    def get(self, name: str) -> bytes:
        """Return a file. Raises StagedChunkError when it is missing."""
        ...

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is missing."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; missing ones are no error."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Return the names of stored files under a prefix, for collecting orphans."""
        ...

    def close(self) -> None:
        """Close the connection, if one is open."""
        ...
