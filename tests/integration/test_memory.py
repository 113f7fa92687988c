"""The memory of a stage follows the chunk and neither the table nor the width of its rows."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import psycopg
import pytest

WIDE_ROWS = 160
ROW_BYTES = 1 << 20
CEILING = 250
"""Megabytes above what the process has when the stage begins."""

CHILD = """
import json, sys
from pathlib import Path
import adbc_driver_postgresql.dbapi, pgpq, pyarrow
from airflow_checkpoint_etl.warehouses import copying
from tests.support import World

def megabytes(what):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024

source, warehouse, port, stage = json.loads(sys.argv[1])
world = World(source, warehouse, port, source={"table": "wide", "chunk_rows": 100_000},
              warehouse={"table": "wide_copy"})
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = megabytes("VmRSS")
summary = world.stage(stage, function=(lambda record: record | {"n": record["n"] + 1}))
print(json.dumps([megabytes("VmHWM") - before, summary.rows, summary.chunks]))
"""


@pytest.fixture
def wide(world):
    """A table whose rows have a megabyte each, which no compression makes smaller."""
    with psycopg.connect(world.source_dsn) as connection:
        connection.execute(
            "create table wide (id bigint generated always as identity primary key, "
            "n integer not null, body text not null)"
        )
        connection.execute("alter table wide alter column body set storage external")
        with connection.cursor().copy("copy wide (n, body) from stdin") as copy:
            for number in range(WIDE_ROWS):
                body = base64.b64encode(os.urandom(ROW_BYTES * 3 // 4)).decode()
                copy.write_row((number, body))
    return world


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="the peak is reset through Linux's /proc",
)
def test_rows_of_a_megabyte_pass_in_bounded_memory(wide):
    for stage in ("extract", "transform", "load"):
        where = json.dumps([wide.source_dsn, wide.warehouse_dsn, wide.redis_port, stage])
        done = subprocess.run(
            [sys.executable, "-c", CHILD, where], check=True, capture_output=True, text=True
        )
        peak, rows, chunks = json.loads(done.stdout.splitlines()[-1])
        assert (rows, chunks) == (WIDE_ROWS, chunks)
        assert 4 <= chunks <= 12
        assert peak < CEILING, f"{stage} took {peak:.0f} MB"
    difference = wide.fetch("select count(*), sum(length(body)), sum(n) from wide_copy")
    (expected,) = wide.fetch(
        "select count(*), sum(length(body)), sum(n + 1) from wide", at="source"
    )
    assert difference == [expected]
