"""Tokens of a sweep, what goes on from them, and transformed chunks that a new cut replaces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.protocol import Chunk
from airflow_checkpoint_etl.recovery import _up_to_date
from airflow_checkpoint_etl.sources import sweeping
from airflow_checkpoint_etl.sweep import SweepError, Swept, is_swept, parse


@pytest.mark.parametrize(
    ("token", "swept"),
    [
        ("", Swept()),
        ("712", Swept(712)),
        ("712>900@i8:5000", Swept(712, 900, "i8:5000")),
        (">900@txt:a@b\n>c", Swept(None, 900, "txt:a@b\n>c")),
    ],
)
def test_a_token_is_read_as_it_is_written(token, swept):
    assert parse(token) == swept
    assert str(swept) == token


@pytest.mark.parametrize("token", ["x", "1>", "1>2", "1>2@", "-1"])
def test_anything_else_is_no_token(token):
    with pytest.raises(SweepError):
        parse(token)


def test_a_goal_is_reached_by_what_is_finished_and_not_by_what_is_begun():
    assert is_swept("", "")
    assert is_swept("900", "900")
    assert not is_swept("712>900@i8:1", "900")
    assert is_swept("712>900@i8:1", "712")
    assert not is_swept("", "900")


def test_a_sweep_that_was_begun_goes_on_to_its_own_goal():
    assert sweeping.underway("712", "900") == Swept(712, 900, BEGIN)
    begun = sweeping.underway("712>900@i8:1", "950")
    assert begun == Swept(712, 900, "i8:1")
    assert sweeping.come_to(begun, "i8:7") == "712>900@i8:7"
    assert sweeping.done_with(begun) == "900"


def test_only_a_lane_that_has_read_something_can_have_missed_something():
    assert sweeping.is_first(sweeping.underway("", "900"), "i8:5")
    assert sweeping.is_first(sweeping.underway("712", "900"), BEGIN)
    assert not sweeping.is_first(sweeping.underway("712", "900"), "i8:5")


def chunk(seq, swept_in="", swept="", digest="a", high="i8:5"):
    return Chunk(
        "life", seq, "i8:5", high, 0, 0, "", 0, digest, 1, "", "", swept_in=swept_in, swept=swept
    )


def test_a_transformed_sweep_is_kept_only_while_its_extracted_chunk_is_the_same():
    sources = {1: chunk(1, "7", "7>9@i8:2"), 2: chunk(2, "7>9@i8:2", "9"), 3: chunk(3, high="i8:9")}
    kept = tuple(replace(source, input_digest=source.digest) for source in sources.values())
    assert _up_to_date(kept, sources) == 3
    assert _up_to_date(kept, sources | {3: chunk(3, high="i8:8", digest="b")}) == 3  # rows tile
    assert _up_to_date(kept, sources | {2: chunk(2, "7>9@i8:2", "9", digest="b")}) == 1
    assert _up_to_date(kept, {1: chunk(1, "7", "9")}) == 0  # empty as well, and further
    assert _up_to_date(kept, sources | {3: chunk(3, "9", "11")}) == 2
    assert _up_to_date(kept, {}) == 3  # loaded and collected, or lost: nothing to compare with
