"""One pipeline per test, slow enough to be killed in the middle of every stage."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path

from airflow.sdk import DAG

from airflow_checkpoint_etl import (
    CheckpointSensor,
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_task_group,
)

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FLAGS = Path(os.environ["E2E_FLAGS"])
CHUNK = 500


def pipeline(name: str, store: str, **options) -> Pipeline:
    return Pipeline(
        pipeline_id=name,
        source=PostgresSource(
            conn_id="shop",
            table=f"public.{name}",
            chunk_rows=CHUNK,
            # One short sleep per chunk: true for every row, and slow enough to be caught at it.
            where=f"case when id % {CHUNK} = 0 then pg_sleep(0.1) is not null else true end",
        ),
        warehouse=PostgresWarehouse(conn_id="dwh", table=f"public.{name}"),
        checkpoint_conn_id="checkpoints" if store == "redis" else None,
        **options,
    )


def slowly(table):
    time.sleep(0.1)
    return table


def dag(name: str, store: str, transform=slowly, mode: str = "batch", **options):
    with DAG(name, schedule=None, start_date=START, **options) as made:
        checkpoint_task_group(
            "etl",
            pipeline(name, store),
            transform,
            transform_options={"mode": mode},
            retries=2,
            retry_delay=dt.timedelta(seconds=1),
        )
    return made


for stage in ("extract", "transform", "load"):
    for store in ("redis", "postgres"):
        globals()[f"kill_{stage}_{store}"] = dag(f"kill_{stage}_{store}", store)


def fails_while_flagged(table):
    if (FLAGS / "fail").exists():
        raise RuntimeError
    return table


with DAG("clear_failed", schedule=None, start_date=START) as clear_failed:
    checkpoint_task_group(
        "etl",
        pipeline("clear_failed", "redis"),
        fails_while_flagged,
        transform_options={"mode": "batch"},
        retries=0,
    )

again = dag("again", "postgres", None)
twice = dag("twice", "redis", None, max_active_runs=2)

with DAG("waits", schedule=None, start_date=START) as waits:
    awaited = pipeline("awaited", "postgres")
    # A sensor that is rescheduled at once races with the executor's report of its last try.
    CheckpointSensor(task_id="deferred", pipeline=awaited, deferrable=True, poke_interval=1)
    CheckpointSensor(task_id="rescheduled", pipeline=awaited, mode="reschedule", poke_interval=15)
    CheckpointSensor(
        task_id="poked",
        pipeline=awaited,
        stage="extract",
        at_least="{{ dag_run.conf['at_least'] }}",
        poke_interval=1,
    )

with DAG("follows", schedule=[awaited.asset], start_date=START) as follows:
    CheckpointSensor(task_id="is_there", pipeline=awaited, at_least=1)

awaited_dag = dag("awaited", "postgres", None)
