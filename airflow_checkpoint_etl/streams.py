"""Tables as Arrow IPC streams with Zstandard-compressed buffers, one after the other in one file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from airflow_checkpoint_etl.errors import StagedChunkError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DECODED: Final = 4 << 30
"""Bytes a decoded file may take in memory, unless the caller says otherwise."""

_LEVEL: Final = 1  # more costs time on both ends and saves little


def write_streams(tables: Iterable[pa.Table]) -> bytes:
    """Return the tables as one file: every row, and the schemas' and their fields' metadata."""
    # Its bytes are handed over as they are; Arrow's own sink would have them copied.
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=_LEVEL))
    for table in tables:
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    return sink.getvalue()


def read_streams(data: bytes, limit: int, next_move: str) -> list[pa.Table]:
    """Return the tables of a file.

    Args:
        data: the file; verify its digest first.
        limit: bytes its record batches may take in memory together.
        next_move: what to do about a file that cannot be read, for the message.

    Raises:
        StagedChunkError: it holds no Arrow stream, is cut short, or grows above the limit.
    """
    tables: list[pa.Table] = []
    size = 0
    source = pa.BufferReader(data)
    try:
        while not tables or source.tell() < len(data):
            batches: list[pa.RecordBatch] = []
            with pa.ipc.open_stream(source) as reader:
                for batch in reader:
                    size += batch.nbytes
                    if size > limit:
                        message = (
                            f"a staged file of {len(data):,} bytes decodes to more than {limit:,} "
                            f"bytes, which is refused; lower chunk_rows or chunk_bytes, then {next_move}"
                        )
                        raise StagedChunkError(message)
                    batches.append(batch)
                table = pa.Table.from_batches(batches, schema=reader.schema)
            table.validate()
            tables.append(table)
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"a staged file of {len(data):,} bytes is no readable Arrow stream; {next_move}"
        raise StagedChunkError(message) from error
    return tables
