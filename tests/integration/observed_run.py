"""Runs a DAG that fails once, with everybody watching; prints what Airflow itself keeps, as JSON.

A process of its own: who listens is decided when Airflow is imported.
"""

from __future__ import annotations

import datetime as dt
import json
import sys

from airflow.sdk import DAG
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from airflow_checkpoint_etl import (
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_retry_policy,
    checkpoint_task_group,
)
from tests.airflow_dagbag import make_dag_bag, sync_bag_to_db

spans = InMemorySpanExporter()
failed: list[int] = []


def fail_once(record):
    if record["id"] == 500 and not failed:
        failed.append(record["id"])
        message = "the service that the transform asks did not answer"
        raise ConnectionError(message)
    return record


def make_dag() -> DAG:
    orders = Pipeline(
        pipeline_id="orders",
        source=PostgresSource(conn_id="shop", table="orders", chunk_rows=400),
        warehouse=PostgresWarehouse(conn_id="dwh", table="orders", create_table=True),
    )
    retries = {
        "retries": 1,
        "retry_delay": dt.timedelta(0),
        "retry_policy": checkpoint_retry_policy(),
    }
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    with DAG("observed", schedule=None, start_date=start, default_args=retries) as dag:
        checkpoint_task_group("orders", orders, fail_once)
    return dag


def prepare() -> None:
    from airflow.models.dagbundle import DagBundleModel
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics import stats_utils
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    initdb()
    with create_session() as session:
        session.add(DagBundleModel(name="testing"))
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)


def kept(run_id: str) -> dict:
    """What Airflow has stored about the run."""
    from airflow.models.asset import AssetEvent
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        states = session.scalars(
            select(TaskStateStoreModel).where(TaskStateStoreModel.run_id == run_id)
        ).all()
        links = session.scalars(
            select(XComModel).where(
                XComModel.run_id == run_id, XComModel.key == "_link_checkpoints"
            )
        ).all()
        told = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run_id)).all()
        return {
            "asset_events": [event.extra for event in told],
            "storage": {state.task_id: state.value for state in states},
            "links": {link.task_id: link.value for link in links},
        }


def main() -> None:
    prepare()
    dag = make_dag()
    bag = make_dag_bag("/dev/null", "testing")
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "testing", None)
    run = dag.test()
    told = {
        "state": str(run.state),
        "spans": [
            {
                "name": span.name,
                "attributes": dict(span.attributes),
                "seconds": (span.end_time - span.start_time) / 1e9,
            }
            for span in spans.get_finished_spans()
        ],
    }
    sys.stdout.write("\n" + json.dumps(told | kept(run.run_id)) + "\n")


main()
