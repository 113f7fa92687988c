"""Worker processes for a per-record transform: order, failures, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from airflow_checkpoint_etl.columns import field_of
from airflow_checkpoint_etl.errors import CancelledError, ConfigurationError, TransformError
from airflow_checkpoint_etl.protocol import Chunk
from airflow_checkpoint_etl.transform import CallableTransformer

CHUNK = Chunk("i", 3, "i8:0", "i8:9", 9, 9, "", 0, "", 1)
ROWS = 20_000
ROOT = Path(__file__).parents[2]


def table_of(rows=ROWS):
    fields = [field_of("id", "bigint"), field_of("name", "text")]
    arrays = [pa.array(range(rows), pa.int64()), pa.array([f"secret {n}" for n in range(rows)])]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def transformer_of(function, **options):
    return CallableTransformer(function, cursor_columns=("id",), processes=2, **options)


def children():
    """What this process has started and what still lives; servers of other tests may be among it."""
    return set(psutil.Process().children())


@pytest.fixture(autouse=True)
def others():
    """The children that were there before the test."""
    return children()


def test_rows_keep_their_order_and_come_from_several_processes():
    transformer = transformer_of(lambda record: record | {"by": os.getpid()})
    with transformer.at_work():
        for _ in range(2):  # chunk after chunk
            made = transformer.apply(table_of(), None, CHUNK).table
            assert made["id"].to_pylist() == list(range(ROWS))
            assert len(set(made["by"].to_pylist()) - {os.getpid()}) == 2


def test_the_result_is_that_of_one_process():
    def some(record):
        number = record["id"]
        return None if number % 7 == 0 else [{"name": f"n{number}"}] * (number % 3)

    alone = CallableTransformer(some, columns=["id"]).apply(table_of(), None, CHUNK).table
    transformer = transformer_of(some, columns=["id"])
    with transformer.at_work():
        assert transformer.apply(table_of(), None, CHUNK).table.equals(alone)


def test_a_failure_names_the_record_by_its_cursor_and_never_by_its_content():
    def fail(record):
        if record["id"] == 13_007:
            raise ValueError(record["name"])
        return record

    transformer = transformer_of(fail)
    with transformer.at_work():
        with pytest.raises(
            TransformError, match=r"ValueError in fail, line \d+, .* id=13007 of chunk 3"
        ) as caught:
            transformer.apply(table_of(), None, CHUNK)
        assert "secret" not in str(caught.value)
        # The pipes hold nothing of the chunk that failed.
        assert transformer.apply(table_of(9000), None, CHUNK).table.num_rows == 9000


def test_records_are_rejected_in_workers_too():
    def odd(record):
        return {"name": 1 / (record["id"] % 5000)}

    transformer = transformer_of(odd, output_columns={"name": "double precision"}).rejecting()
    with transformer.at_work():
        made = transformer.apply(table_of(), None, CHUNK)
    assert made.rejects.records["id"].to_pylist() == [0, 5000, 10_000, 15_000]
    assert set(made.rejects.reasons) == {made.rejects.reasons[0]}
    assert made.rejects.reasons[0].startswith("ZeroDivisionError in odd")
    assert made.table.num_rows == ROWS - 4


def test_a_worker_that_is_killed_is_an_error_and_not_a_hang(others):
    def die(record):
        if record["id"] == 9000:
            os.kill(os.getpid(), signal.SIGKILL)
        return record

    transformer = transformer_of(die)
    with (
        transformer.at_work(),
        pytest.raises(TransformError, match="worker process of die was ended by signal 9"),
    ):
        transformer.apply(table_of(), None, CHUNK)
    assert children() <= others


def test_a_value_that_cannot_be_handed_over_is_an_error():
    transformer = transformer_of(lambda record: {"id": record["id"], "name": lambda: record})
    with transformer.at_work(), pytest.raises(TransformError, match=r"cannot be handed over.*id=0"):
        transformer.apply(table_of(), None, CHUNK)


def test_a_cancel_ends_the_call_and_the_workers_soon(others):
    def slow(record):
        time.sleep(60)
        return record

    transformer = transformer_of(slow)
    started = time.monotonic()
    threading.Timer(0.5, transformer.cancel).start()
    with pytest.raises(CancelledError), transformer.at_work():
        transformer.apply(table_of(), None, CHUNK)
    assert time.monotonic() - started < 30
    assert children() <= others


ORPHANS = """
import os, sys, time
from tests.unit.test_workers import CHUNK, table_of, transformer_of
def slow(record):
    time.sleep(600)
transformer = transformer_of(slow)
with transformer.at_work():
    print(*[child.pid for child in __import__("psutil").Process().children()], flush=True)
    transformer.apply(table_of(), None, CHUNK)
"""


def test_no_worker_outlives_a_parent_that_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        workers = [psutil.Process(pid) for pid in pids]
        parent.kill()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=20)
    for left in alive:
        left.kill()
    assert alive == []


def test_without_at_work_the_callable_is_called_in_this_process():
    transformer = transformer_of(lambda record: record | {"by": os.getpid()})
    made = transformer.apply(table_of(10), None, CHUNK).table
    assert set(made["by"].to_pylist()) == {os.getpid()}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"processes": 0}, "whole number"),
        ({"processes": True}, "whole number"),
        ({"processes": 2, "initial_state": {}}, "state"),
        ({"processes": 2, "mode": "batch"}, "batch"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(options, why):
    def any_callable(*_):
        return None

    with pytest.raises(ConfigurationError, match=f"processes=.*{why}"):
        CallableTransformer(any_callable, **options)
