"""The read model on real servers: frontiers, quarantine, runs and events of a lane."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl.insights import lane_insight
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Lane, Stage
from airflow_checkpoint_etl.warehouses.insights import LedgerInsights
from tests.support import connector


@pytest.fixture
def look(world):
    """Reads a lane of the world as a face would."""
    session = Session(connector(world.warehouse_dsn), "checkpoint_etl read")
    ports = world.ports()

    def read(lane=Lane("orders"), newest=20):  # noqa: B008  frozen
        return lane_insight(LedgerInsights(session), ports.checkpoints, lane, newest)

    yield read
    session.close()
    ports.close()


def test_a_lane_is_seen_as_a_whole(world, look):
    world.pipeline = {"on_error": "quarantine"}

    def picky(record):
        if record["id"] % 100 == 3:
            raise ValueError
        return record

    world.run(function=picky)
    world.insert(50)
    world.stage("extract", "run_2")
    seen = look(newest=4)
    assert seen.guarantee.startswith("exactly-once")
    assert seen.loaded.generation == 1
    assert seen.positions[Stage.LOAD].cursor == seen.positions[Stage.TRANSFORM].cursor == "i8:1000"
    assert seen.positions[Stage.LOAD].rows == 990
    assert (seen.positions[Stage.EXTRACT].seq, seen.positions[Stage.EXTRACT].shown) == (11, "1,050")
    assert seen.loaded.quarantined == {"transform": 10}
    assert [(found.cursor, found.chunk) for found in seen.loaded.reasons] == [
        ("i8:903", 10),
        ("i8:803", 9),
        ("i8:703", 8),
        ("i8:603", 7),
    ]
    newer, older = seen.loaded.runs
    assert (older.run_id, older.done, older.chunks, older.rows, older.rejected) == (
        "run_1",
        True,
        10,
        990,
        10,
    )
    assert (newer.run_id, newer.done, newer.chunks, newer.target) == ("run_2", False, 0, "i8:1050")


def test_what_was_done_to_a_lane_is_seen(world, look):
    world.run()
    with world.admin() as admin:
        admin.rewind("i8:500", dry_run=False)
    seen = look()
    assert seen.loaded.generation == 2
    assert list(seen.positions) == [Stage.LOAD]
    assert [(event.kind, event.actor) for event in seen.loaded.events] == [("rewind", "ann")]
    assert seen.loaded.runs[0].chunks == 5


def test_an_unknown_lane_is_none(world, look):
    world.run()
    assert look(Lane("unheard_of")) is None
