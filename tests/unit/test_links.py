"""The button of a task that leads to its pipeline's page."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl import (
    CheckpointCollectOperator,
    CheckpointExtractOperator,
    CheckpointLoadOperator,
    CheckpointSensor,
    CheckpointTransformOperator,
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
)
from airflow_checkpoint_etl.get_provider_info import get_provider_info
from airflow_checkpoint_etl.operators.links import CheckpointsLink

ORDERS = Pipeline(
    pipeline_id="orders",
    source=PostgresSource(conn_id="shop", table="orders"),
    warehouse=PostgresWarehouse(conn_id="dwh", table="orders"),
)


@pytest.mark.parametrize(
    "operator",
    [
        CheckpointExtractOperator,
        CheckpointTransformOperator,
        CheckpointLoadOperator,
        CheckpointCollectOperator,
        CheckpointSensor,
    ],
)
def test_every_task_of_ours_has_the_link(operator):
    task = operator(task_id="task", pipeline=ORDERS)
    assert [link.name for link in task.operator_extra_links] == ["Checkpoints"]


@pytest.mark.parametrize(
    ("base", "before"),
    [
        ("http://localhost:8080", "http://localhost:8080"),
        ("https://x.org/airflow/", "https://x.org/airflow"),
        ("/", ""),
    ],
)
def test_it_leads_to_the_page_of_the_part_on_the_deployments_own_address(monkeypatch, base, before):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    task = CheckpointLoadOperator(task_id="load", pipeline=ORDERS, part="2026-01-01T00:00:00+00:00")
    assert CheckpointsLink().get_link(task, ti_key=None) == (
        f"{before}/plugin/checkpoints?warehouse=dwh&pipeline=orders"
        "&part=2026-01-01T00%3A00%3A00%2B00%3A00"
    )


def test_the_provider_registers_it_or_a_stored_dag_could_not_be_read():
    path = f"{CheckpointsLink.__module__}.{CheckpointsLink.__qualname__}"
    assert get_provider_info()["extra-links"] == [path]
