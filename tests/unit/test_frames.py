"""Copied rows packed, staged and unpacked: to the byte, within bounds, and damaged ones refused."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest

from airflow_checkpoint_etl.errors import StagedChunkError
from airflow_checkpoint_etl.frames import BLOCK, FrameColumn, Packer
from airflow_checkpoint_etl.staging import codec, frames

COLUMNS = (
    FrameColumn("id", "bigint", "0 int8 -1 int8recv"),
    FrameColumn("größe", "numeric(12,2)", "0 numeric 786438 numeric_recv"),
)
ROWS = [b"PGCOPY\n\xff\r\n\0", bytes(range(256)) * 5000, b"", b"x" * 300_000, b"\xff\xff"]


def packed(pieces=ROWS, rows=7):
    packer = Packer()
    for piece in pieces:
        packer.add(piece)
    return packer.frames(COLUMNS, rows).packed()


def test_rows_come_out_as_they_went_in():
    made = codec.decode(codec.encode(packed()))
    assert (made.columns, made.num_rows, made.size) == (COLUMNS, 7, sum(map(len, ROWS)))
    assert b"".join(made.blocks()) == b"".join(ROWS)


def test_they_come_out_in_pieces_of_bounded_size():
    assert max(map(len, packed([b"\0" * (5 << 20)]).blocks())) <= BLOCK


def test_the_same_rows_make_the_same_file():
    assert codec.encode(packed()) == codec.encode(packed())


def test_no_rows_are_a_file_as_well():
    made = codec.decode(codec.encode(packed([b"head", b"\xff\xff"], 0)))
    assert made.num_rows == 0
    assert b"".join(made.blocks()) == b"head\xff\xff"


@pytest.mark.parametrize("length", [0, 5, 8, 11, 12, 40, -1])
def test_a_file_that_was_cut_short_is_refused(length):
    data = codec.encode(packed())
    with pytest.raises(StagedChunkError):
        b"".join(codec.decode(data[:length]).blocks())


@pytest.mark.parametrize(
    "head",
    [
        b"{",
        b"[]",
        b"{}",
        b'"x"',
        json.dumps({"columns": [], "rows": 1, "size": 1, "codec": "lz4"}).encode(),
        json.dumps({"columns": [["a"]], "rows": 1, "size": 1, "codec": "lz4"}).encode(),
        json.dumps({"columns": [["a", "b", 1]], "rows": 1, "size": 1, "codec": "lz4"}).encode(),
        json.dumps({"columns": [["a", "b", "c"]], "rows": -1, "size": 1, "codec": "lz4"}).encode(),
        json.dumps(
            {"columns": [["a", "b", "c"]], "rows": 1, "size": 1, "codec": "brotli"}
        ).encode(),
        b"\xff\xfe",
    ],
)
def test_a_head_that_is_none_is_refused(head):
    data = frames.MAGIC + struct.pack(">I", len(head)) + head
    with pytest.raises(StagedChunkError, match="holds no copied rows"):
        codec.decode(data)


def test_a_file_that_unpacks_to_more_than_the_limit_is_refused_before_it_is_unpacked():
    data = codec.encode(packed([b"\0" * (8 << 20)]))
    assert len(data) < 1 << 20
    with pytest.raises(StagedChunkError, match="unpacks to 8,388,608 bytes"):
        codec.decode(data, limit=4 << 20)


@pytest.mark.parametrize("difference", [-1, 1])
def test_rows_that_unpack_to_another_size_than_was_written_down_are_refused(difference):
    made = packed()
    wrong = replace(made, size=made.size + difference)
    with pytest.raises(StagedChunkError, match="do not unpack to"):
        b"".join(wrong.blocks())


def test_no_more_than_was_written_down_is_ever_unpacked():
    made = replace(packed([b"\0" * (64 << 20)]), size=1000)
    taken = []
    with pytest.raises(StagedChunkError, match="do not unpack to the 1,000 bytes"):
        taken.extend(made.blocks())
    assert sum(map(len, taken)) <= 1000


def test_a_column_whose_type_cannot_be_received_is_known():
    assert COLUMNS[1].binary
    assert not FrameColumn("x", "thing", "0 thing -1 -").binary
    assert not FrameColumn("x", "thing[]", "0 _thing -1 array_recv\n1 thing -1 -#16400").binary
