"""Two pipelines for people to look at: one that goes well, and one whose target refuses rows."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG

from airflow_checkpoint_etl import (
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_task_group,
)

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def pipeline(name: str) -> Pipeline:
    return Pipeline(
        pipeline_id=name,
        source=PostgresSource(conn_id="shop", table=f"public.{name}", chunk_rows=500),
        warehouse=PostgresWarehouse(conn_id="dwh", table=f"public.{name}"),
        checkpoint_conn_id="checkpoints",
    )


for name in ("customers", "invoices"):
    with DAG(name, schedule=None, start_date=START) as made:
        checkpoint_task_group("etl", pipeline(name), retries=0)
    globals()[name] = made
