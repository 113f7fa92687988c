"""A table of many orders: the first load in parts at once, every later run as one increment."""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.sdk import DAG

from airflow_checkpoint_etl import (
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_range_task_group,
)

DOC = """
### Orders, first in parts

The first run finds many rows above the checkpoint. *plan* waits for late transactions once, cuts the
table into up to eight ranges of about equal rows (from PostgreSQL's statistics, without counting), and
the three stages run for each of them at once. *close* moves the pipeline's checkpoint over the whole
range, when every part is loaded.

Later runs find few rows. *plan* then hands out the one part `default`, and the same tasks load the
increment.

* **A part's task failed:** its retry, or a clear of it, resumes that part. The others do not notice.
* **The run was given up:** the next run goes on with the plan and with the parts that are not loaded yet.
* **The plan is not what you want:** abandon it with `CheckpointHook(orders).admin(...)`; see docs/parts.md.

| connection | type | what it is |
|---|---|---|
| `shop` | postgres | the source, with the table `public.orders` |
| `dwh` | postgres | the warehouse, with the schema `analytics` |
"""

orders = Pipeline(
    pipeline_id="orders_in_parts",
    source=PostgresSource(conn_id="shop", table="public.orders", cursor="id"),
    warehouse=PostgresWarehouse(
        conn_id="dwh", table="analytics.orders_in_parts", create_table=True
    ),
)


def lower_email(order: dict[str, Any]) -> dict[str, Any]:
    """Return the order with its address in lower case. A transform of a range keeps no state."""
    return order | {"email": (order["email"] or "").strip().lower()}


with DAG(
    dag_id="orders_in_parts",
    schedule="@hourly",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": dt.timedelta(minutes=1)},
    doc_md=DOC,
    tags=["checkpoint-etl", "example"],
):
    checkpoint_range_task_group("etl", orders, lower_email, parts=8, rows_per_part=250_000)
