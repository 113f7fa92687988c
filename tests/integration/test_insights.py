"""The read model on real servers: frontiers, quarantine, runs and events of a lane."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl.insights import Condition, Insights, as_json
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Lane, Stage
from airflow_checkpoint_etl.warehouses.insights import LedgerInsights
from tests.support import connector

ORDERS = Lane("orders")


@pytest.fixture
def insights(world):
    """Reads the world's warehouse as a face would."""
    session = Session(connector(world.warehouse_dsn), "checkpoint_etl read")

    def newest_in_source(settings):
        source = world.ports().source
        try:
            return source.newest()
        finally:
            source.close()

    yield Insights(
        LedgerInsights(session),
        "dwh",
        lambda settings: world.ports().checkpoints,
        newest_in_source,
    )
    session.close()


def test_a_lane_is_seen_as_a_whole(world, insights):
    world.pipeline = {"on_error": "quarantine"}

    def picky(record):
        if record["id"] % 100 == 3:
            raise ValueError
        return record

    world.run(function=picky)
    world.insert(50)
    world.stage("extract", "run_2")
    seen = insights.lane(ORDERS, newest=4)
    assert seen.summary.guarantee.startswith("exactly-once")
    assert seen.summary.generation == 1
    extract, transform, load = seen.summary.stages
    assert load.position.cursor == transform.position.cursor == "i8:1000"
    assert load.position.rows == 990
    assert (extract.position.seq, extract.position.shown) == (11, "1,050")
    assert (extract.staged_chunks, extract.staged_rows) == (1, 50)
    assert seen.staged_bytes == extract.staged_bytes > 0
    quarantine = seen.quarantine
    assert (quarantine.total.number, quarantine.total.is_capped) == (10, False)
    assert [(found.stage, found.count) for found in quarantine.reasons] == [("transform", 10)]
    assert [(found.cursor, found.chunk) for found in quarantine.records] == [
        ("i8:903", 10),
        ("i8:803", 9),
        ("i8:703", 8),
        ("i8:603", 7),
    ]
    assert quarantine.next_before is not None
    newer, older = seen.runs
    assert (older.run_id, older.done, older.chunks, older.rows, older.rejected) == (
        "run_1",
        True,
        10,
        990,
        10,
    )
    assert (newer.run_id, newer.done, newer.chunks, newer.target) == ("run_2", False, 0, "i8:1050")
    assert seen.summary.lag.ids == 50
    assert seen.summary.state.condition is Condition.WAITING
    assert seen.summary.state.words.startswith(
        "waiting for a free slot: run run_2 is at 1,000 of 1,050"
    )


def test_what_was_done_to_a_lane_is_seen(world, insights):
    world.run()
    with world.admin() as admin:
        admin.rewind("i8:500", dry_run=False)
    seen = insights.lane(ORDERS)
    assert seen.summary.generation == 2
    assert [stage.stage for stage in seen.summary.stages if stage.position] == [Stage.LOAD]
    assert [(event.kind, event.actor) for event in seen.events] == [("rewind", "ann")]
    assert seen.runs[0].chunks == 5
    assert seen.summary.state.condition is Condition.IDLE


def test_an_unknown_lane_is_none_and_so_is_one_without_a_ledger(world, insights):
    assert insights.lane(ORDERS) is None
    assert insights.pipelines() == []
    world.run()
    assert insights.lane(Lane("unheard_of")) is None
    assert insights.explain(Lane("unheard_of")) is None
    assert not insights.knows(Lane("unheard_of"))


def test_lanes_are_listed_by_name_searched_and_paged(world, insights):
    for pipeline_id in ("b", "a", "c_d"):
        world.pipeline = {"pipeline_id": pipeline_id}
        world.warehouse = {"table": f"target_{pipeline_id}"}
        world.run()
    assert [found.pipeline for found in insights.pipelines()] == ["a", "b", "c_d"]
    first = insights.pipelines(limit=2)
    assert [found.pipeline for found in insights.pipelines(after=first[-1].lane)] == ["c_d"]
    assert [found.pipeline for found in insights.pipelines("TARGET_B")] == ["b"]
    assert [found.pipeline for found in insights.pipelines("_")] == [
        "a",
        "b",
        "c_d",
    ]  # the target's
    assert insights.pipelines("no such thing") == []


def test_chunks_are_paged_from_the_newest(world, insights):
    world.run()
    page = insights.chunks(ORDERS, limit=4)
    assert [chunk.seq for chunk in page.items] == [10, 9, 8, 7]
    rest = insights.chunks(ORDERS, before=int(page.next_token), limit=200)
    assert [chunk.seq for chunk in rest.items] == [6, 5, 4, 3, 2, 1]
    assert rest.next_token is None
    assert all(chunk.seconds >= 0 and chunk.rows == 100 for chunk in page.items)
    assert insights.lane(ORDERS).summary.rows_per_second > 0


def test_throughput_has_a_bucket_for_every_span_of_time(world, insights):
    world.run()
    seen = insights.throughput(ORDERS, seconds=3600, buckets=60)
    assert len(seen.buckets) == 60
    assert sum(bucket.rows for bucket in seen.buckets) == 1000
    assert sum(bucket.chunks for bucket in seen.buckets) == 10
    assert not seen.is_cut


def test_the_source_is_asked_only_on_request(world, insights):
    world.run()
    world.insert(25)
    assert insights.lane(ORDERS).summary.lag.source_cursor is None
    lag = insights.lane(ORDERS, ask_source=True).summary.lag
    assert (lag.source_shown, lag.source_ids, lag.ids) == ("1,025", 25, 0)
    assert lag.seconds < 600


def test_a_view_as_json_has_fields_and_properties(world, insights):
    world.run()
    seen = as_json(insights.lane(ORDERS))
    assert seen["summary"]["position"]["shown"] == "1,000"
    assert seen["summary"]["state"]["condition"] == "caught_up"
    assert [stage["stage"] for stage in seen["summary"]["stages"]] == [
        "extract",
        "transform",
        "load",
    ]
