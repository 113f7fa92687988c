"""A staged chunk is an Arrow IPC stream with Zstandard-compressed buffers, and its digest is SHA-256.

The digest is of the stored bytes and is kept in the manifest. Verify first, decode then: a file whose
digest is right is a file this package wrote.
"""

from __future__ import annotations

import hashlib
from typing import Final

import pyarrow as pa

from airflow_checkpoint_etl.errors import StagedChunkError

MAX_DECODED: Final = 4 << 30
"""Bytes a decoded chunk may take in memory, unless the caller says otherwise."""

_LEVEL: Final = 1  # more costs time on both ends and saves little
_RESTAGE: Final = "run the task that stages it again: clear it with Downstream"


def encode(table: pa.Table) -> bytes:
    """Return the bytes of a staged file: every row, and the schema's and its fields' metadata."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=_LEVEL))
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode(data: bytes, limit: int = MAX_DECODED) -> pa.Table:
    """Return the table of a staged file.

    Args:
        data: the file; verify its digest first.
        limit: bytes its record batches may take in memory together.

    Raises:
        StagedChunkError: it is no Arrow stream, is cut short, or grows above the limit.
    """
    batches: list[pa.RecordBatch] = []
    size = 0
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            for batch in reader:
                size += batch.nbytes
                if size > limit:
                    message = (
                        f"a staged file of {len(data):,} bytes decodes to more than {limit:,} bytes, "
                        f"which is refused; lower chunk_rows or chunk_bytes, then {_RESTAGE}"
                    )
                    raise StagedChunkError(message)
                batches.append(batch)
            table = pa.Table.from_batches(batches, schema=reader.schema)
        table.validate()
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"a staged file of {len(data):,} bytes is no readable Arrow stream; {_RESTAGE}"
        raise StagedChunkError(message) from error
    return table


def digest(data: bytes) -> str:
    """Return the content digest of a staged file: SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


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
