"""The same orders with one connection less: checkpoints in the warehouse, chunks as files on disk.

No ``checkpoint_conn_id``: checkpoints live in the warehouse's own database. Staged chunks are files
under a URL; with several workers it must be one that all of them reach, such as ``s3://bucket/path``.

The transform gets a whole chunk as a pyarrow table, which is some hundred times faster than a function
per row. It imports pyarrow inside, so that the scheduler, which only parses this file, need not.

It needs two connections of type postgres: ``shop`` and ``dwh``.
"""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from typing import TYPE_CHECKING

from airflow.sdk import DAG

from airflow_checkpoint_etl import (
    CheckpointExtractOperator,
    CheckpointLoadOperator,
    CheckpointTransformOperator,
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
)

if TYPE_CHECKING:
    import pyarrow as pa

STAGING = os.environ.get("ORDERS_STAGING", f"file://{tempfile.gettempdir()}/orders-staging")


def clean_orders(orders: pa.Table) -> pa.Table:
    """Return a chunk of orders as the warehouse wants it, without the shop's own test orders."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    orders = orders.filter(pc.not_equal(orders["status"], "test"))
    email = pc.utf8_lower(pc.utf8_trim(orders["email"], " "))
    cents = pc.cast(pc.multiply(orders["amount"], 100), pa.int64())
    return orders.set_column(orders.column_names.index("email"), "email", email).set_column(
        orders.column_names.index("amount"), "amount_cents", cents
    )


orders_by_file = Pipeline(
    pipeline_id="orders_by_file",
    source=PostgresSource(conn_id="shop", table="public.orders", cursor="id"),
    warehouse=PostgresWarehouse(conn_id="dwh", table="analytics.orders_by_file", create_table=True),
    staging=STAGING,
)

with DAG(
    "orders_file_staging",
    schedule="@daily",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": dt.timedelta(seconds=5)},
    doc_md=__doc__,
    tags=["checkpoint-etl"],
):
    extract = CheckpointExtractOperator(task_id="extract", pipeline=orders_by_file)
    transform = CheckpointTransformOperator(
        task_id="transform",
        pipeline=orders_by_file,
        python_callable=clean_orders,
        mode="batch",
        output_columns={"amount_cents": "bigint"},
    )
    load = CheckpointLoadOperator(task_id="load", pipeline=orders_by_file)

    extract >> transform >> load
