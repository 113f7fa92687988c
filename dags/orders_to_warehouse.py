"""Every hour: the shop's new orders, cleaned, in the warehouse, each of them exactly once.

The first DAG to read. Three tasks, one after the other, over one pipeline:

* **extract** reads ``public.orders`` in the order of its ``id``, in chunks, and stages them;
* **transform** applies ``clean_order`` to every order of every staged chunk;
* **load** copies each chunk into ``analytics.orders``, in one transaction with its checkpoint.

Retry or clear any of them, kill a worker, lose Redis: the task goes on after the last id it stored.

It needs three connections: ``shop`` and ``dwh`` (type postgres), and ``checkpoints`` (type redis).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.sdk import DAG

from airflow_checkpoint_etl import (
    CheckpointExtractOperator,
    CheckpointLoadOperator,
    CheckpointTransformOperator,
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
)


def clean_order(order: dict[str, Any]) -> dict[str, Any] | None:
    """Return one order as the warehouse wants it; None leaves it out."""
    if order["status"] == "test":
        return None
    return {
        "id": order["id"],
        "customer": order["customer"],
        "email": order["email"].strip(" ").lower(),
        "amount_cents": int(order["amount"] * 100),  # numeric arrives as Decimal, so this is exact
        "currency": order["currency"],
        "note": order["note"],
        "items": order["items"],
        "status": order["status"],
        "created_at": order["created_at"],
    }


orders = Pipeline(
    pipeline_id="orders",  # checkpoints are kept under this name: it never changes
    source=PostgresSource(
        conn_id="shop",
        table="public.orders",
        cursor="id",
        chunk_rows=10_000,  # small, so that there is something to watch; the default is 100,000
    ),
    warehouse=PostgresWarehouse(conn_id="dwh", table="analytics.orders", create_table=True),
    checkpoint_conn_id="checkpoints",
)

with DAG(
    "orders_to_warehouse",
    schedule="@hourly",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    # A retry costs nothing but the chunk that was in flight, so there is no reason to wait long.
    default_args={"retries": 3, "retry_delay": dt.timedelta(seconds=5)},
    doc_md=__doc__,
    tags=["checkpoint-etl"],
):
    extract = CheckpointExtractOperator(task_id="extract", pipeline=orders)
    transform = CheckpointTransformOperator(
        task_id="transform",
        pipeline=orders,
        python_callable=clean_order,
        output_columns={"amount_cents": "bigint"},
    )
    load = CheckpointLoadOperator(task_id="load", pipeline=orders)

    extract >> transform >> load
