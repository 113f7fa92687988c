"""How often a stage asks its servers: per chunk a few times, and no more for larger chunks."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from tests import support

MOST = {"extract": 3, "transform": 5, "load": 11}
"""Round trips of psycopg's connections for one chunk, with every store in PostgreSQL."""


@pytest.fixture
def round_trips(monkeypatch):
    """Counts answers to statements, by libpq's own trace of every connection."""
    with tempfile.TemporaryDirectory() as directory:
        files = []

        def connector(dsn):
            def connect():
                connection = psycopg.connect(dsn)
                file = Path(directory, str(len(files))).open("w+b")  # noqa: SIM115  closed below
                files.append(file)
                connection.pgconn.trace(file.fileno())
                return connection

            return connect

        def count():
            found = Counter()
            for file in files:
                with Path(file.name).open(encoding="utf-8", errors="replace") as lines:
                    found.update("ReadyForQuery" in line for line in lines)
            return found[True]

        monkeypatch.setattr(support, "connector", connector)
        yield count
        for file in files:
            file.close()


def trips_of(world, stage, run, count):
    before = count()
    summary = world.stage(stage, run, function=lambda record: record)
    return count() - before, summary.chunks


@pytest.mark.parametrize("world", ["postgres"], indirect=True)
def test_a_chunk_costs_as_many_round_trips_whatever_it_holds(world, round_trips):
    found = {}
    for run, (chunk_rows, chunks) in enumerate([(250, 4), (500, 4), (500, 12)]):
        if run:
            world.insert(chunk_rows * chunks)
        world.source["chunk_rows"] = chunk_rows
        for stage in MOST:
            trips, done = trips_of(world, stage, f"run_{run}", round_trips)
            assert done == chunks
            found[stage, chunk_rows, chunks] = trips
    for stage, most in MOST.items():
        assert found[stage, 500, 4] <= found[stage, 250, 4], "larger chunks ask more often"
        per_chunk = (found[stage, 500, 12] - found[stage, 500, 4]) / 8
        assert 1 <= per_chunk <= most, f"{stage} asks {per_chunk} times per chunk"
