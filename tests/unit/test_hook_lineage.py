"""What Airflow's collector of hook lineage is told about COPY."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from airflow.providers.common.sql.hooks import lineage

from airflow_checkpoint_etl import Pipeline, PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.observability import hook_lineage
from airflow_checkpoint_etl.observability.hook_lineage import tell_copied
from tests.observers import finished

ORDERS = Pipeline(
    pipeline_id="orders",
    source=PostgresSource(conn_id="shop", table="public.orders"),
    warehouse=PostgresWarehouse(conn_id="dwh", table="analytics.orders"),
)


@pytest.fixture
def collected(monkeypatch):
    from airflow.providers.common.compat.sdk import HookLineageCollector

    collector = HookLineageCollector()
    if not hasattr(collector, "add_extra"):
        pytest.skip("this Airflow's collector knows datasets alone, and no statements")
    monkeypatch.setattr(lineage, "get_hook_lineage_collector", lambda: collector)
    monkeypatch.setattr(hook_lineage, "_somebody_reads", lambda: True)

    def extras():
        return [(each.context, each.key, each.value) for each in collector.collected_assets.extra]

    return extras


@pytest.mark.parametrize(
    ("stage", "conn_id", "statement"),
    [
        ("extract", "shop", "copy (select * from public.orders) to stdout"),
        ("load", "dwh", "copy analytics.orders from stdin"),
    ],
)
def test_an_attempt_tells_once_what_it_copied(collected, stage, conn_id, statement):
    tell_copied(ORDERS, stage, finished().summary)
    ((hook, key, value),) = collected()
    assert hook.get_conn_id() == conn_id
    assert key == "sql_job"
    assert value == {"sql": statement, "row_count": 990}


def test_a_transform_and_an_attempt_without_chunks_tell_nothing(collected):
    tell_copied(ORDERS, "transform", finished().summary)
    tell_copied(ORDERS, "load", finished(chunks=0).summary)
    assert collected() == []


def test_nobody_is_told_where_no_plugin_reads(monkeypatch):
    if find_spec("airflow.sdk.plugins_manager") is None:
        pytest.skip("before Airflow 3.2 it cannot be told whether a plugin reads")
    calls = []
    monkeypatch.setattr(lineage, "send_sql_hook_lineage", lambda **told: calls.append(told))
    tell_copied(ORDERS, "load", finished().summary)
    assert not calls


def test_an_older_sql_provider_has_no_such_lineage(monkeypatch):
    monkeypatch.setattr(hook_lineage, "_somebody_reads", lambda: True)
    monkeypatch.delattr(lineage, "send_sql_hook_lineage")
    tell_copied(ORDERS, "load", finished().summary)
