"""The staged file of a chunk: written once, verified before a row of it is decoded."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.ahead import Ahead
from airflow_checkpoint_etl.collect import StagedName, staged_name, unfit_mark
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.frames import Frames
from airflow_checkpoint_etl.recovery import now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_checkpoint_etl.frames import Form
    from airflow_checkpoint_etl.ports import Claim, StagingArea
    from airflow_checkpoint_etl.ports.rows import Rows
    from airflow_checkpoint_etl.protocol import Chunk, Lane
    from airflow_checkpoint_etl.quarantine import Rejects
    from airflow_checkpoint_etl.staging.codec import StagedFile

log = logging.getLogger(__name__)


class ChunkFiles:
    """The files of one lane's chunks.

    Args:
        staging: where they are.
        lane: whose they are.
    """

    def __init__(self, staging: StagingArea, lane: Lane) -> None:
        self._staging, self._lane = staging, lane
        self._ahead: Ahead[StagedFile] | None = None

    @contextlib.contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Read the chunk that follows while the one at hand is worked on, until the block ends."""
        ahead: Ahead[StagedFile] = Ahead(f"fetch-{self._lane}")
        with ahead:
            self._ahead = ahead
            yield

    def forget(self) -> None:
        """Drop what was read ahead: the chunks are being cut anew."""
        if self._ahead is not None:
            self._ahead.discard()

    def put(self, claim: Claim, table: Rows, chunk: Chunk, rejects: Rejects | None = None) -> Chunk:
        """E2: write the file, durable; the chunk comes back with its name, size and digest."""
        from airflow_checkpoint_etl.staging import codec  # noqa: PLC0415  needs pyarrow

        data = codec.encode(table, rejects)
        digest = codec.digest(data)
        file = StagedName(
            chunk.incarnation, claim.stage.value, chunk.seq, claim.fence, int(time.time())
        )
        form: Form = "copy" if isinstance(table, Frames) else "arrow"
        name = staged_name(self._lane, claim.stage, file, digest, form)
        failpoint(f"{claim.stage}.before_stage")
        self._staging.put(name, data)
        failpoint(f"{claim.stage}.after_stage")
        return replace(chunk, name=name, size=len(data), digest=digest, staged_at=now())

    def get(self, chunk: Chunk, then: Chunk | None = None) -> StagedFile:
        """Read a chunk's file, and begin to read the one that is asked for next.

        Args:
            chunk: the chunk.
            then: the chunk that follows, where it is known already.

        Raises:
            StagedChunkError: the file is missing, damaged or another chunk's.
        """
        if self._ahead is None:
            return self._read(chunk)
        staged = self._ahead.take(chunk, partial(self._read, chunk))
        if then is not None:
            self._ahead.start(then, partial(self._read, then))
        return staged

    def _read(self, chunk: Chunk) -> StagedFile:
        from airflow_checkpoint_etl.staging import codec  # noqa: PLC0415  needs pyarrow

        codec.verify_size(chunk.name, self._staging.size(chunk.name), chunk.size)
        data = self._staging.get(chunk.name)
        codec.verify(chunk.name, data, chunk.digest)
        return codec.decode_file(data)

    def mark_unfit(self, chunk: Chunk) -> None:
        """Have the chunk staged anew when the stage that staged it runs again; best effort."""
        try:
            self._staging.put(unfit_mark(chunk.name), b"unfit")
        except Exception as error:  # noqa: BLE001  the fault that led here is the one to report
            log.warning(
                "%s: the staged file of chunk %s could not be marked as unfit (%s); delete %s by hand "
                "to have it staged anew",
                self._lane,
                chunk.seq,
                type(error).__name__,
                chunk.name,
            )
