"""The staged file of a chunk in copy form: a line that says what it is, its columns, and the copied rows.

``CKCOPY1``, a line feed, the length of the head (4 bytes, big-endian), the head as JSON, and the compressed
COPY to the end of the file. The first bytes tell it from an Arrow file, so a lane may hold both kinds.
"""

from __future__ import annotations

import json
import struct
from typing import Final

from airflow_checkpoint_etl.errors import StagedChunkError
from airflow_checkpoint_etl.frames import FrameColumn, Frames

MAGIC: Final = b"CKCOPY1\n"

_LENGTH: Final = struct.Struct(">I")
_START: Final = len(MAGIC) + _LENGTH.size
_CODECS: Final = ("lz4", "zstd")


def encode(frames: Frames) -> bytes:
    """Return the bytes of a staged file."""
    frames = frames.packed()
    assert not isinstance(frames.data, tuple)  # noqa: S101  packed rows are one piece
    head = {
        "columns": [[column.name, column.pg_type, column.structure] for column in frames.columns],
        "rows": frames.num_rows,
        "size": frames.size,
        "codec": frames.codec,
    }
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join([MAGIC, _LENGTH.pack(len(text)), text, frames.data])


def decode(data: bytes, limit: int, next_move: str) -> Frames:
    """Return what a staged file holds; its rows are unpacked later, piece by piece.

    Args:
        data: the file; verify its digest first.
        limit: bytes its rows may have when they are unpacked.
        next_move: what to do about a file that cannot be read, for the message.

    Raises:
        StagedChunkError: it is no such file, is cut short, or unpacks to more than the limit.
    """
    try:
        (length,) = _LENGTH.unpack_from(data, len(MAGIC))
        head = json.loads(data[_START : _START + length])
        columns = tuple(FrameColumn(*map(_text, column)) for column in head["columns"])
        rows, size, codec = int(head["rows"]), int(head["size"]), head["codec"]
        if codec not in _CODECS or not columns or rows < 0 or size < 0:
            raise ValueError  # noqa: TRY301  one way out for everything that is not as encode writes it
    except (KeyError, TypeError, ValueError, struct.error):
        message = f"a staged file of {len(data):,} bytes holds no copied rows; {next_move}"
        raise StagedChunkError(message) from None
    if size > limit:
        message = (
            f"a staged file of {len(data):,} bytes unpacks to {size:,} bytes, more than the {limit:,} "
            f"that are accepted; lower chunk_rows or chunk_bytes, then {next_move}"
        )
        raise StagedChunkError(message)
    return Frames(columns, rows, size, codec, memoryview(data)[_START + length :])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
