"""Rejecting without servers: limits, what is kept of a record, the staged file, whom a misfit is blamed on."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest

from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.errors import (
    ConfigurationError,
    StagedChunkError,
    TooManyRejectedError,
    TransformError,
)
from airflow_checkpoint_etl.pipeline import Pipeline
from airflow_checkpoint_etl.protocol import Chunk
from airflow_checkpoint_etl.quarantine import Policy, Tally, payloads, rejects_of
from airflow_checkpoint_etl.staging import codec
from airflow_checkpoint_etl.streams import write_streams
from airflow_checkpoint_etl.transform import CallableTransformer

CHUNK = Chunk("life", 1, "begin", "i8:9", 9, 9, "name", 1, "digest", 1)
ROWS = pa.table({"id": list(range(1, 10)), "name": [f"n{n}" for n in range(1, 10)]})


def pipeline(**options):
    return Pipeline(
        pipeline_id="orders",
        source=PostgresSource(conn_id="shop", table="orders"),
        warehouse=PostgresWarehouse(conn_id="dwh", table="orders"),
        **options,
    )


def rejecting(function, **options):
    return CallableTransformer(function, cursor_columns=("id",), **options).rejecting()


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"on_error": "ignore"},
        {"max_rejected_rows": 1},
        {"max_rejected_share": 0.5},
        {"on_error": "quarantine", "max_rejected_rows": -1},
        {"on_error": "quarantine", "max_rejected_rows": 1.5},
        {"on_error": "quarantine", "max_rejected_rows": True},
        {"on_error": "quarantine", "max_rejected_share": 0},
        {"on_error": "quarantine", "max_rejected_share": 1.1},
        {"on_error": "quarantine", "max_rejected_share": float("nan")},
    ],
)
def test_bad_limits_are_refused_when_the_dag_is_parsed(options):
    with pytest.raises(ConfigurationError):
        pipeline(**options)


def test_a_pipeline_says_what_becomes_of_bad_records():
    assert not pipeline().policy.quarantines
    made = pipeline(on_error="quarantine", max_rejected_rows=0, max_rejected_share=1)
    assert made.policy == Policy("quarantine", 0, 1)


def test_a_batch_with_state_cannot_be_halved():
    with pytest.raises(ConfigurationError, match="batch transform with state"):
        rejecting(lambda table, state: table, mode="batch", initial_state={})


# --- limits --------------------------------------------------------------------------------------


def test_limits_are_passed_only_above_them():
    policy = Policy("quarantine", max_rows=3, max_share=0.1)
    policy.check(Tally(30, 3), ["i8:1"], "here")
    with pytest.raises(TooManyRejectedError, match="max_rejected_rows=3"):
        policy.check(Tally(1000, 4), ["i8:1"], "here")
    with pytest.raises(TooManyRejectedError, match=r"max_rejected_share=0\.1"):
        policy.check(Tally(29, 3), ["i8:1"], "here")


def test_a_limit_names_the_first_cursors_and_no_more():
    with pytest.raises(TooManyRejectedError, match=r"at 0; 1; 2; 3; unknown\. Nothing"):
        Policy("quarantine", 1).check(
            Tally(9, 9), ["i8:0", "i8:1", "i8:2", "i8:3", "", "i8:5"], "here"
        )


# --- what is kept --------------------------------------------------------------------------------


def test_a_payload_is_json_whatever_the_values():
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    records = pa.table(
        {
            "nul": ["a\0b"],
            "number": [Decimal("1.50")],
            "nan": [float("nan")],
            "bytes": [b"\xff"],
            "uuid": pa.array([uuid.UUID(int=1).bytes], pa.uuid()),
            "moment": pa.array([moment], pa.timestamp("us", tz="UTC")),
            "late": pa.array([2**62], pa.int64()).cast(pa.timestamp("us")),
            "list": [[1, None]],
            "none": pa.nulls(1),
        }
    )
    (text,) = payloads(records)
    found = json.loads(text)
    assert "\\u0000" not in text
    assert found["nul"] == "a\ufffdb"
    assert (found["number"], found["nan"], found["bytes"]) == ("1.50", "nan", "base64:/w==")
    assert (found["uuid"], found["moment"]) == (str(uuid.UUID(int=1)), moment.isoformat())
    assert (found["list"], found["none"]) == ([1, None], None)


@pytest.mark.parametrize(
    ("values", "high", "texts"),
    [
        (pa.array([1, 2]), "i8:9", ("i8:1", "i8:2")),
        (pa.array(["1.50", "x"]), "num:9", ("num:1.5", "")),
        (pa.array([None, 2]), "i8:9", ("", "i8:2")),
        (pa.array([1, 2]), "begin", ("", "")),
    ],
)
def test_a_rejected_record_is_named_by_its_cursor_where_it_has_one(values, high, texts):
    found = rejects_of(pa.table({"id": values}), {0: "a", 1: "b"}, ["id"], high)
    assert found.cursors == texts


def test_rejected_records_travel_in_the_staged_file():
    rejects = rejects_of(ROWS, {8: "late", 2: "early"}, ["id"], "i8:9")
    found = codec.decode_file(codec.encode(ROWS.slice(0, 1), rejects))
    assert found.table.equals(ROWS.slice(0, 1))
    assert found.rejects.records.equals(ROWS.take([2, 8]))
    assert found.rejects.cursors == ("i8:3", "i8:9")
    assert found.rejects.reasons == ("early", "late")
    assert codec.decode_file(codec.encode(ROWS)).rejects is None


@pytest.mark.parametrize("count", [2, 4])
def test_a_file_with_other_streams_is_refused(count):
    with pytest.raises(StagedChunkError, match="streams"):
        codec.decode_file(write_streams([ROWS] * count))


def test_the_limit_holds_for_all_streams_together():
    rejects = rejects_of(ROWS, dict.fromkeys(range(9), "bad"), ["id"], "i8:9")
    data = codec.encode(ROWS, rejects)
    with pytest.raises(StagedChunkError, match="refused"):
        codec.decode_file(data, limit=ROWS.nbytes + 10)


# --- whom a misfit is blamed on --------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["text", object(), dt.date(2026, 1, 1), {"a": float("nan")}])
def test_the_odd_value_of_a_new_column_is_rejected(bad):
    made = rejecting(lambda row: {"id": row["id"], "new": bad if row["id"] == 4 else 1.5}).apply(
        ROWS, None, CHUNK
    )
    assert made.rejects.cursors == ("i8:4",)
    assert 'column "new"' in made.rejects.reasons[0]
    assert made.table.num_rows == 8


def test_the_odd_columns_are_rejected_even_of_the_first_record():
    made = rejecting(lambda row: {"id": 1, "b": 2} if row["id"] == 1 else {"id": 1}).apply(
        ROWS, None, CHUNK
    )
    assert made.rejects.cursors == ("i8:1",)
    assert made.table.column_names == ["id"]


def test_a_date_that_python_does_not_have_is_rejected():
    far = pa.array([0] * 8 + [2**62], pa.int64()).cast(pa.timestamp("us"))
    made = rejecting(lambda row: row).apply(ROWS.append_column("at", far), None, CHUNK)
    assert made.rejects.cursors == ("i8:9",)
    assert made.table.num_rows == 8


def test_a_misfit_found_late_leaves_no_trace_in_the_state():
    def count(row, state):
        state["n"] = state.get("n", 0) + 1
        return {"id": row["id"], "n": "odd" if row["id"] == 5 else state["n"]}

    made = rejecting(count, initial_state={}).apply(ROWS, None, CHUNK)
    assert made.table.column("n").to_pylist() == list(range(1, 9))
    assert made.state == '{"n":8}'


def test_the_same_chunk_is_rejected_alike_again():
    def fickle(row):
        return {"id": row["id"], "v": [1, "a", None][row["id"] % 3]}

    one, two = (rejecting(fickle).apply(ROWS, None, CHUNK) for _ in range(2))
    assert one.table.equals(two.table)
    assert one.rejects.cursors == two.rejects.cursors
    assert len(one.rejects) == 3


def test_a_batch_that_returns_no_table_is_a_fault_of_the_code():
    with pytest.raises(TransformError, match=r"pyarrow\.Table"):
        rejecting(lambda table: None, mode="batch").apply(ROWS, None, CHUNK)


def test_halves_of_a_batch_keep_their_order():
    def batch(table):
        if 4 in table.column("id").to_pylist():
            raise ValueError
        return table

    made = rejecting(batch, mode="batch").apply(ROWS, None, CHUNK)
    assert made.table.column("id").to_pylist() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert made.rejects.cursors == ("i8:4",)
