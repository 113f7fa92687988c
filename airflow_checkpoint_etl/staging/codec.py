"""A staged chunk is one compressed file, and its digest is SHA-256.

In copy form the file is what :mod:`.frames` writes. In arrow form it is one of Arrow IPC streams: the
first stream is the chunk's rows. Where a transform rejected records, two more follow: the records as
they came in, and where they are and why. All are under the one digest.

The digest is of the stored bytes and is kept in the manifest. Verify first, decode then: a file whose
digest is right is a file this package wrote.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from airflow_checkpoint_etl.errors import StagedChunkError
from airflow_checkpoint_etl.frames import Frames
from airflow_checkpoint_etl.quarantine import Rejects
from airflow_checkpoint_etl.staging import frames
from airflow_checkpoint_etl.streams import MAX_DECODED, read_streams, write_streams

if TYPE_CHECKING:
    from airflow_checkpoint_etl.ports.rows import Rows

_RESTAGE: Final = "run the task that stages it again: clear it with Downstream"
_STREAMS: Final = (1, 3)
"""How many streams a file has: the rows, or the rows and two for rejected records."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    """What a staged file holds.

    Attributes:
        table: the chunk's rows, in the form in which they were staged.
        rejects: the records the transform rejected; None when there are none.
    """

    table: Rows
    rejects: Rejects | None = None


def encode(table: Rows, rejects: Rejects | None = None) -> bytes:
    """Return the bytes of a staged file: every row, and the schema's and its fields' metadata."""
    if isinstance(table, Frames):
        return frames.encode(table)
    tables = [table]
    if rejects is not None:
        why = pa.table(
            {
                "cursor": pa.array(rejects.cursors, pa.string()),
                "reason": pa.array(rejects.reasons, pa.string()),
            }
        )
        tables += [rejects.records, why]
    return write_streams(tables)


def decode(data: bytes, limit: int = MAX_DECODED) -> Rows:
    """Return the rows of a staged file; see :func:`decode_file`."""
    return decode_file(data, limit).table


def decode_file(data: bytes, limit: int = MAX_DECODED) -> StagedFile:
    """Return what a staged file holds.

    Args:
        data: the file; verify its digest first.
        limit: bytes its rows may take in memory together.

    Raises:
        StagedChunkError: it is no file of ours, is cut short, or grows above the limit.
    """
    if data.startswith(frames.MAGIC):
        return StagedFile(frames.decode(data, limit, _RESTAGE))
    streams = read_streams(data, limit, _RESTAGE)
    if len(streams) not in _STREAMS:
        message = f"a staged file of {len(data):,} bytes holds {len(streams)} streams; {_RESTAGE}"
        raise StagedChunkError(message)
    if len(streams) == 1:
        return StagedFile(streams[0])
    table, records, why = streams
    if records.num_rows != why.num_rows or why.column_names != ["cursor", "reason"]:
        message = f"the rejected records of a staged file do not fit together; {_RESTAGE}"
        raise StagedChunkError(message)
    cursors, reasons = (tuple(column.to_pylist()) for column in why.columns)
    return StagedFile(table, Rejects(records, cursors, reasons))


def digest(data: bytes) -> str:
    """Return the content digest of a staged file: SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def verify_size(name: str, size: int | None, expected: int) -> None:
    """Compare a staged file's size with the manifest's, before it is read: one that grew may be huge.

    Raises:
        StagedChunkError: it has another size; a missing file is left to the read.
    """
    if size is not None and size != expected:
        message = (
            f"staged file {name} has {size:,} bytes, the manifest says {expected:,}: it was damaged or "
            f"replaced; {_RESTAGE}"
        )
        raise StagedChunkError(message)


def verify(name: str, data: bytes, expected: str) -> None:
    """Check a staged file against the digest in the manifest.

    Raises:
        StagedChunkError: the file was damaged, cut short or replaced.
    """
    actual = digest(data)
    if actual != expected:
        message = (
            f"staged file {name} ({len(data):,} bytes) has the digest {actual[:12]}, the manifest "
            f"says {expected[:12]}: it was damaged or replaced; {_RESTAGE}"
        )
        raise StagedChunkError(message)
