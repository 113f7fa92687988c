"""A checkpoint record comes back as it was written, or is corrupt; there is nothing in between."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_checkpoint_etl.checkpoints import record
from airflow_checkpoint_etl.errors import CorruptRecordError, SchemaVersionError
from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Frontier, Stage

CHUNK = Chunk(
    "9f3c",
    2**63 - 1,
    'txt:"ü"\n',
    "i8:9223372036854775807",
    10,
    9,
    "orders/x.arrow",
    1234,
    "ab" * 32,
    2**53 + 1,
    state='{"n":1}',
)
CHECKPOINT = Checkpoint(
    Stage.TRANSFORM, Frontier("9f3c", 2, 7, "i8:70", "cd" * 32), 10, 9, "2026-01-01T00:00:00Z", "{}"
)

_texts = st.text(st.characters(exclude_categories=()))
_numbers = st.integers(-(2**70), 2**70)
_states = st.none() | _texts
_chunks = st.builds(
    Chunk,
    **{
        field.name: {"int": _numbers, "str": _texts, "str | None": _states}[field.type]
        for field in dataclasses.fields(Chunk)
    },
)
_frontiers = st.builds(Frontier, _texts, _numbers, _numbers, _texts, _texts)
_checkpoints = st.builds(
    Checkpoint, st.sampled_from(Stage), _frontiers, _numbers, _numbers, _texts, _states
)


@given(_chunks)
def test_any_chunk_comes_back_as_it_was_written(chunk):
    text = record.encode_chunk(chunk)
    assert record.decode_chunk(text) == chunk
    assert record.decode_chunk(text.encode()) == chunk


@given(_checkpoints)
def test_any_checkpoint_comes_back_as_it_was_written(checkpoint):
    back = record.decode_checkpoint(record.encode_checkpoint(checkpoint))
    assert back == checkpoint
    assert type(back.stage) is Stage


def test_a_record_is_one_line_of_json_that_people_can_read():
    text = record.encode_chunk(CHUNK)
    assert "\n" not in text
    assert json.loads(text)["body"]["seq"] == 2**63 - 1


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_every_flipped_byte_of_a_record_is_seen(mask):
    for encode, decode, value in [
        (record.encode_chunk, record.decode_chunk, CHUNK),
        (record.encode_checkpoint, record.decode_checkpoint, CHECKPOINT),
    ]:
        text = encode(value).encode()
        for position in range(len(text)):
            damaged = bytearray(text)
            damaged[position] ^= mask
            with pytest.raises(CorruptRecordError):
                decode(bytes(damaged))


def test_every_truncation_of_a_record_is_seen():
    text = record.encode_chunk(CHUNK)
    for length in range(len(text)):
        with pytest.raises(CorruptRecordError):
            record.decode_chunk(text[:length])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        "[]",
        "1",
        '"x"',
        "NaN",
        '{"sha256":1}',
        "[" * 100_000,
        "9" * 5000,
        b"\xff",
        "ü",
    ],
)
def test_what_is_no_record_is_corrupt(text):
    with pytest.raises(CorruptRecordError):
        record.decode_chunk(text)
    with pytest.raises(CorruptRecordError):
        record.decode_checkpoint(text)


def test_a_record_written_otherwise_is_corrupt_though_it_means_the_same():
    text = record.encode_chunk(CHUNK)
    for other in (text + " ", json.dumps(json.loads(text)), text.replace("{", "{ ", 1)):
        with pytest.raises(CorruptRecordError):
            record.decode_chunk(other)


def test_a_checkpoint_is_no_chunk():
    with pytest.raises(CorruptRecordError, match="another kind"):
        record.decode_chunk(record.encode_checkpoint(CHECKPOINT))
    with pytest.raises(CorruptRecordError, match="another kind"):
        record.decode_checkpoint(record.encode_chunk(CHUNK))


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"seq": "1"}, "seq"),
        ({"seq": True}, "seq"),
        ({"seq": 1.0}, "seq"),
        ({"low": None}, "low"),
        ({"state": 7}, "state"),
        ({"more": 1}, "more"),
    ],
)
def test_fields_of_a_wrong_type_or_name_are_corrupt(body, wrong):
    values = record._values(CHUNK) | body
    with pytest.raises(CorruptRecordError, match=f"wrong fields: {wrong}"):
        record.decode_chunk(record._pack("chunk", values))


def test_a_missing_field_is_corrupt():
    values = record._values(CHUNK)
    del values["fence"]
    with pytest.raises(CorruptRecordError, match="wrong fields: fence"):
        record.decode_chunk(record._pack("chunk", values))


@pytest.mark.parametrize(
    "change", [{"stage": "other"}, {"stage": []}, {"frontier": None}, {"frontier": {}}]
)
def test_a_checkpoint_needs_a_stage_and_a_frontier(change):
    with pytest.raises(CorruptRecordError):
        record.decode_checkpoint(
            record._pack("checkpoint", record._checkpoint_body(CHECKPOINT) | change)
        )


def test_an_intact_record_of_a_newer_version_asks_for_an_upgrade(monkeypatch):
    monkeypatch.setattr(record, "VERSION", 2)
    text = record.encode_chunk(CHUNK)
    monkeypatch.undo()
    with pytest.raises(
        SchemaVersionError, match=r"version 2.*up to 1; upgrade airflow-checkpoint-etl"
    ):
        record.decode_chunk(text)


def test_a_damaged_version_is_damage_not_a_newer_version():
    text = record.encode_chunk(CHUNK)
    with pytest.raises(CorruptRecordError):
        record.decode_chunk(text.replace('"version":1', '"version":2'))


def test_the_errors_hold_nothing_of_the_record():
    text = record.encode_chunk(dataclasses.replace(CHUNK, state='{"secret":1}'))
    with pytest.raises(CorruptRecordError) as caught:
        record.decode_chunk(text.replace("secret", "sEcret"))
    assert "ecret" not in str(caught.value)


def test_the_checksum_of_a_head_depends_on_all_of_it():
    sums = {
        record.checksum(CHECKPOINT, 1, ""),
        record.checksum(CHECKPOINT, 2, ""),
        record.checksum(CHECKPOINT, 1, "x"),
        record.checksum(dataclasses.replace(CHECKPOINT, state=None), 1, ""),
        record.checksum(
            dataclasses.replace(
                CHECKPOINT, frontier=dataclasses.replace(CHECKPOINT.frontier, cursor="i8:71")
            ),
            1,
            "",
        ),
    }
    assert len(sums) == 5
