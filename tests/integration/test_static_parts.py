"""Static parts of one pipeline, and two pipelines, that load into one table."""

from __future__ import annotations

import dataclasses

import pytest

from airflow_checkpoint_etl.errors import PipelineChangedError
from airflow_checkpoint_etl.parts import Part, divided
from tests.support import ORDERS, World

PARTS = (Part("small", "amount < 5"), Part("large", "amount >= 5"))


@pytest.fixture
def shop(new_database):
    made = World(new_database().dsn, new_database().dsn)
    made.fetch(ORDERS, at="source")
    made.insert(1000)
    return made


def of_part(world, key, parts=PARTS):
    """The world of one static part: its pipeline as the part's tasks render it."""
    from jinja2 import Environment

    where = divided(world.configure(), parts).source.where
    rendered = Environment(autoescape=False).from_string(where).render(task={"part": key})
    return dataclasses.replace(world, part=key, source=world.source | {"where": rendered})


def loaded_by(world, part, pipeline="orders"):
    ((rows,),) = world.fetch(
        "select coalesce(sum(rows), 0)::int from checkpoint_etl.ledger"
        f" where pipeline = '{pipeline}' and part = '{part}' and rewound_at is null"
    )
    return rows


def test_two_static_parts_load_their_own_rows_run_after_run(shop):
    for run in ("run_1", "run_2"):
        for part in PARTS:
            of_part(shop, part.key).run(run)
        shop.assert_exact()
        shop.insert(100)
    small = shop.fetch("select count(*) from orders_copy where amount < 5")
    assert [(loaded_by(shop, "small"),)] == small
    assert loaded_by(shop, "large") == 1100 - loaded_by(shop, "small")


def test_a_part_is_rewound_without_the_other(shop):
    for part in PARTS:
        of_part(shop, part.key).run()
    before = loaded_by(shop, "large")
    with of_part(shop, "small").admin() as admin:
        assert admin.rewind("begin", dry_run=False).deleted == 1000 - before
    assert loaded_by(shop, "large") == before
    of_part(shop, "small").run("run_2")
    shop.assert_exact()


def test_another_filter_stops_its_own_part_only(shop):
    for part in PARTS:
        of_part(shop, part.key).run()
    changed = (Part("small", "amount < 6"), PARTS[1])
    with pytest.raises(PipelineChangedError, match="filter is not the one"):
        of_part(shop, "small", changed).run("run_2")
    of_part(shop, "large", changed).run("run_2")


def test_two_pipelines_load_into_one_table(shop):
    worlds = [
        dataclasses.replace(
            of_part(shop, part.key), part="default", pipeline={"pipeline_id": f"orders_{part.key}"}
        )
        for part in PARTS
    ]
    for stage in ("extract", "transform", "load"):
        for world in worlds:
            world.stage(stage)
    shop.assert_exact()
    with worlds[0].admin() as admin:
        deleted = admin.rewind("begin", dry_run=False).deleted
    assert shop.fetch("select count(*) from orders_copy") == [(1000 - deleted,)]
    assert loaded_by(shop, "default", "orders_large") == 1000 - deleted
    worlds[0].run("run_2")
    shop.assert_exact()
