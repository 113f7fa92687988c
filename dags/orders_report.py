"""A daily total over orders that another DAG loads: wait for the data, not for the other DAG.

The sensor asks the ledger in the warehouse whether everything that was in the shop when this run began
has been loaded. It takes no worker slot while it waits, and it does not care which run, retry or
backfill of ``orders_to_warehouse`` did the loading.

It needs two connections of type postgres: ``shop`` and ``dwh``.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, task

from airflow_checkpoint_etl import CheckpointSensor, Pipeline, PostgresSource, PostgresWarehouse

# The ledger is found by warehouse and pipeline id; nothing is read or loaded through this object.
orders = Pipeline(
    pipeline_id="orders",
    source=PostgresSource(conn_id="shop", table="public.orders", cursor="id"),
    warehouse=PostgresWarehouse(conn_id="dwh", table="analytics.orders"),
)


@task
def total_by_currency() -> dict[str, int]:
    """Return the total of all orders in cents, by currency."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook  # noqa: PLC0415

    rows = PostgresHook("dwh").get_records(
        "select currency, sum(amount_cents)::bigint from analytics.orders group by 1 order by 1"
    )
    return {currency: int(cents) for currency, cents in rows}


with DAG(
    "orders_report",
    schedule="@daily",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": dt.timedelta(seconds=5)},
    doc_md=__doc__,
    tags=["checkpoint-etl"],
):
    orders_are_loaded = CheckpointSensor(
        task_id="orders_are_loaded",
        pipeline=orders,
        stage="load",
        deferrable=True,
        timeout=dt.timedelta(hours=6).total_seconds(),
    )

    orders_are_loaded >> total_by_currency()
