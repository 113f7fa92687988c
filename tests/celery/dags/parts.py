"""Eight static parts of one table, as a mapped task group, slow enough for a worker to die in the middle."""

from __future__ import annotations

import datetime as dt
import time

from airflow.sdk import DAG

from airflow_checkpoint_etl import (
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_task_group,
)

PARTS = 8

orders = Pipeline(
    pipeline_id="orders",
    source=PostgresSource(
        conn_id="shop",
        table="public.orders",
        where=f"id % {PARTS} = {{{{ task.part }}}}",
        chunk_rows=250,
    ),
    warehouse=PostgresWarehouse(conn_id="dwh", table="public.orders"),
    checkpoint_conn_id="checkpoints",
)


def slowly(table):
    time.sleep(0.3)
    return table


with DAG("parts", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)):
    checkpoint_task_group(
        "etl",
        orders,
        slowly,
        parts=[str(part) for part in range(PARTS)],
        transform_options={"mode": "batch"},
        retries=3,
        retry_delay=dt.timedelta(seconds=1),
    )
