"""A chunk's rows as PostgreSQL's own binary COPY, compressed, with the columns they were copied from.

The bytes mean nothing without the types they were written from, and COPY reads them into other types
without a word: ``numeric(12,4)`` becomes ``numeric(12,2)`` by losing two digits. So the columns, taken
from the catalogs in the very transaction that copied the rows, never leave them, and whoever writes the
rows compares them with the target's first.

PURE apart from pyarrow, whose codec compresses: no IO.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from airflow_checkpoint_etl.errors import StagedChunkError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Form = Literal["auto", "arrow", "copy"]
"""How a pipeline's chunks are staged; see :class:`airflow_checkpoint_etl.pipeline.Pipeline`."""

CODEC: Final = "zstd"
"""What compresses the rows: LZ4 takes as long, both ways together, and leaves half as many bytes again."""

BLOCK: Final = 256 << 10
"""Bytes of a piece of a COPY: what is handed on at once, and what a queue holds several of."""

_AT_ONCE: Final = 4 << 20
"""Bytes that are compressed at once, while which the thread that reads has the interpreter."""


def joined(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the same bytes in fewer pieces: each has at least ``size`` bytes, but for the last one."""
    some, length = [], 0
    for piece in pieces:
        some.append(piece)
        length += len(piece)
        if length >= size:
            yield b"".join(some)
            some, length = [], 0
    if some:
        yield b"".join(some)


@dataclass(frozen=True, slots=True)
class FrameColumn:
    """One column of copied rows.

    Attributes:
        name: its name.
        pg_type: its type as ``format_type`` spells it, for people and for creating a table.
        structure: what its bytes are, down to the types within its type (``structures.sql``).
    """

    name: str
    pg_type: str
    structure: str

    @property
    def binary(self) -> bool:
        """Whether every type in it can be received in binary form."""
        return not any(
            line.split()[-1].partition("#")[0] == "-" for line in self.structure.splitlines()
        )


Columns = tuple[FrameColumn, ...]


@dataclass(frozen=True, slots=True)
class Frames:
    """The rows of one chunk as they came out of COPY.

    Attributes:
        columns: the columns, in order.
        num_rows: how many rows, as the server counted them.
        size: bytes of the COPY before it was compressed.
        codec: what compressed it: ``lz4`` or ``zstd``; empty while it is not compressed.
        data: the COPY, compressed; or its pieces, while they are not.
    """

    columns: Columns
    num_rows: int
    size: int
    codec: str
    data: memoryview | bytes | tuple[bytes, ...] = field(repr=False)

    def packed(self) -> Frames:
        """Return the same rows compressed."""
        if not isinstance(self.data, tuple):
            return self
        import pyarrow as pa  # noqa: PLC0415  parsing a DAG must not import it

        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, CODEC) as stream:
            for block in joined(self.data, _AT_ONCE):
                stream.write(block)
        return replace(self, codec=CODEC, data=memoryview(sink.getvalue()))

    def blocks(self) -> Iterator[bytes]:
        """Yield the COPY's bytes piece by piece; never more of them than ``size``.

        Raises:
            StagedChunkError: the data are damaged, or hold more or less than they should.
        """
        if isinstance(self.data, tuple):
            yield from self.data
            return
        import pyarrow as pa  # noqa: PLC0415  parsing a DAG must not import it

        left = self.size
        try:
            with pa.CompressedInputStream(pa.BufferReader(self.data), self.codec) as stream:
                while block := stream.read(min(BLOCK, left + 1)):
                    left -= len(block)
                    if left < 0:
                        break
                    yield block
        except (pa.ArrowException, OSError, ValueError):
            raise self._damaged() from None
        if left:
            raise self._damaged()

    def _damaged(self) -> StagedChunkError:
        return StagedChunkError(
            f"copied rows do not unpack to the {self.size:,} bytes they were packed from; "
            "clear extract with Downstream: it stages the chunk again"
        )


class Packer:
    """Keeps the pieces of one COPY as they come.

    They are compressed when they are staged, while another thread reads the next chunk.
    """

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self.size = 0

    def add(self, block: bytes) -> None:
        """Take the next piece."""
        self.size += len(block)
        self._blocks.append(block)

    def frames(self, columns: Columns, num_rows: int) -> Frames:
        """End the COPY and return it."""
        return Frames(columns, num_rows, self.size, "", tuple(self._blocks))
