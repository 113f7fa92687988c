"""Parts: keys by value, ranges that tile, filters that say the same for ever."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_checkpoint_etl import Part, Pipeline, PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import ConfigurationError
from airflow_checkpoint_etl.filters import check_filter
from airflow_checkpoint_etl.parameters import check_part
from airflow_checkpoint_etl.parts import divided
from airflow_checkpoint_etl.planner import Cutting
from airflow_checkpoint_etl.range_plans import RangePlan, is_planned, main_lane


def a_pipeline(**source):
    return Pipeline(
        pipeline_id="orders",
        source=PostgresSource(**{"conn_id": "shop", "table": "orders"} | source),
        warehouse=PostgresWarehouse(conn_id="dwh", table="orders"),
    )


def rendered(pipeline, part):
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, autoescape=False)
    task = {"part": part}
    return pipeline.render(lambda text: environment.from_string(text).render(task=task))


# --- range plans -------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 10**12), min_size=2, max_size=40, unique=True))
def test_the_parts_of_a_plan_tile_its_range(numbers):
    low, *bounds, target = (cursors.encode(["i8"], [number]) for number in sorted(numbers))
    plan = RangePlan(7, "token", "orders", low, target, tuple(bounds))
    parts = plan.parts
    assert (parts[0].low, parts[-1].high) == (low, target)
    assert all(one.high == other.low for one, other in itertools.pairwise(parts))
    assert len(set(plan.keys)) == len(parts) == len(bounds) + 1


def test_a_part_of_a_plan_is_keyed_by_its_value():
    plan = RangePlan(7, "token", "orders", "begin", "i8:9", ("i8:4",))
    assert plan.keys == RangePlan(7, "token", "orders", "begin", "i8:9", ("i8:4",)).keys
    assert not set(plan.keys) & set(
        RangePlan(7, "token", "orders", "begin", "i8:9", ("i8:5",)).keys
    )
    restored = RangePlan(7, "another", "orders", "begin", "i8:9", ("i8:4",))
    assert not set(plan.keys) & set(restored.keys), "a number issued again is another plan's"
    assert all(check_part(key) == key and is_planned(key) for key in plan.keys)


@pytest.mark.parametrize("key", ["default", "plan-7", "plan-7.1-of-2", "plan-7.1-of-2.xyz", "eu"])
def test_other_keys_are_no_plans(key):
    assert not is_planned(key)


def test_plans_are_made_over_the_default_part():
    assert str(main_lane("orders")) == "orders"


@pytest.mark.parametrize(
    ("rows", "parts"), [(0, 1), (99, 1), (199, 1), (200, 2), (350, 3), (10**9, 8)]
)
def test_a_range_is_cut_into_as_many_parts_as_it_has_rows_for(rows, parts):
    assert Cutting(parts=8, rows_per_part=100).count(rows) == parts


# --- static parts ------------------------------------------------------------------------------------


def test_each_part_reads_its_own_rows():
    regions = [Part("eu", "region = 'eu'"), Part("us", "region <> 'eu' -- the rest")]
    pipeline = divided(a_pipeline(), regions)
    assert rendered(pipeline, "eu").source.where == "region = 'eu'"
    assert rendered(pipeline, "us").source.where == "region <> 'eu' -- the rest"


def test_the_sources_own_filter_holds_for_every_part():
    pipeline = divided(a_pipeline(where="amount > 0 -- no refunds"), [Part("eu", "region = 'eu'")])
    assert (
        rendered(pipeline, "eu").source.where
        == "(\namount > 0 -- no refunds\n) and (\nregion = 'eu'\n)"
    )


def test_a_part_that_is_added_leaves_the_others_as_they_were():
    one, two = Part("eu", "region = 'eu'"), Part("us", "region = 'us'")
    before, after = divided(a_pipeline(), [one]), divided(a_pipeline(), [two, one])
    assert rendered(before, "eu").fingerprint() == rendered(after, "eu").fingerprint()


def test_two_parts_of_one_key_are_refused():
    with pytest.raises(ConfigurationError, match=r"parts=\['eu'\]: is there twice"):
        divided(a_pipeline(), [Part("eu", "a"), Part("eu", "b")])


@pytest.mark.parametrize(
    ("key", "where", "rule"),
    [
        ("e u", "true", "must hold letters"),
        ("eu", " ", "must be an SQL row filter"),
        ("plan-7.1-of-2.0123456789ab", "true", "is the key of a plan's part"),
        ("new", "created_at > now()", "says something else later"),
    ],
)
def test_a_part_that_cannot_work_is_refused(key, where, rule):
    with pytest.raises(ConfigurationError, match=rule):
        Part(key, where)


# --- filters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "created_at < now()",
        "created_at < NOW () - interval '1 day'",
        "day = current_date",
        "at < CURRENT_TIMESTAMP(0)",
        "at < localtimestamp",
        "random() < 0.1",
        "owner = current_user",
        "tenant = current_setting('app.tenant')",
        "day < 'today'::date",
        "day < date 'yesterday'",
    ],
)
def test_a_filter_that_says_something_else_later_is_refused(where):
    with pytest.raises(ConfigurationError, match="says something else later"):
        a_pipeline(where=where)


@pytest.mark.parametrize(
    "where",
    [
        None,
        "region = 'eu'",
        "hashint8(tenant_id) % 4 = 0",
        "note <> 'now()'",
        "status = 'today'",
        '"current_date" > 7',
        "known() and knowing",
        "a > 1 -- not now()",
        "a > 1 /* current_date\n */",
        "now_at > '2026-01-01'",
        "day = '{{ ds }}'",
    ],
)
def test_a_filter_over_columns_and_constants_is_taken(where):
    check_filter("where", where)
