"""The operators inside Airflow's own task runner, by ``dag.test()``, on in-memory ports."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from airflow_checkpoint_etl import (
    CheckpointExtractOperator,
    CheckpointHook,
    CheckpointLoadOperator,
    CheckpointSensor,
    CheckpointTransformOperator,
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_task_group,
)
from airflow_checkpoint_etl.errors import ConfigurationError
from airflow_checkpoint_etl.testing import InMemorySource, memory

# What Airflow's own dependencies warn about while it runs a DAG is not this package's to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="session", autouse=True)
def airflow_database():
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(autouse=True)
def registered_bundle():
    """``dag.test()`` wants its DAG to come from a bundle."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    with create_session() as session:
        if not session.get(DagBundleModel, "testing"):
            session.add(DagBundleModel(name="testing"))


def run(dag):
    from tests.airflow_dagbag import make_dag_bag, sync_bag_to_db

    bag = make_dag_bag("/dev/null", "testing")
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "testing", None)
    return dag.test()


def states(dag_run):
    return {ti.task_id: str(ti.state) for ti in dag_run.get_task_instances()}


def orders(**options):
    return Pipeline(
        pipeline_id="orders",
        source=PostgresSource(conn_id="shop", table="orders", chunk_rows=2),
        warehouse=PostgresWarehouse(conn_id="dwh", table="orders"),
        **options,
    )


def chain(dag_id, pipeline, **transform):
    from airflow.sdk import DAG

    with DAG(dag_id, schedule=None, start_date=START) as dag:
        extract = CheckpointExtractOperator(task_id="extract", pipeline=pipeline)
        middle = CheckpointTransformOperator(task_id="transform", pipeline=pipeline, **transform)
        load = CheckpointLoadOperator(task_id="load", pipeline=pipeline)
        extract >> middle >> load
    return dag


ROWS = [{"id": n, "email": f"User{n}@Example.org"} for n in range(1, 6)]


def lower(record):
    return record | {"email": record["email"].lower()}


def test_the_chain_runs_in_memory_and_continues_in_the_next_run():
    pipeline = orders()
    dag = chain("memory_chain", pipeline, python_callable=lower)
    with memory(pipeline, rows=ROWS) as test:
        assert str(run(dag).state) == "success"
        assert [row["email"] for row in test.rows] == [f"user{n}@example.org" for n in range(1, 6)]
        assert [chunk.seq for chunk in test.warehouse.ledger] == [1, 2, 3]
        test.source.insert({"id": 6, "email": "X@Y"})
        assert str(run(dag).state) == "success"
        assert test.rows[-1] == {"id": 6, "email": "x@y"}
        assert len(test.rows) == 6


def test_xcom_is_a_small_summary_without_rows():
    pipeline = orders()
    dag = chain("memory_xcom", pipeline)
    with memory(pipeline, rows=ROWS):
        dag_run = run(dag)
    summary = dag_run.get_task_instance("load").xcom_pull(task_ids="load", dag_id="memory_xcom")
    assert summary["rows"] == 5
    assert summary["last"] == "i8:5"
    assert "User1" not in str(summary)


def test_the_asset_is_emitted_only_when_rows_were_loaded():
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    def events():
        with create_session() as session:
            query = select(func.count()).select_from(AssetEvent)
            return session.scalar(query.where(AssetEvent.source_dag_id == "memory_asset"))

    pipeline = orders()
    dag = chain("memory_asset", pipeline)
    with memory(pipeline, rows=ROWS):
        run(dag)
        assert events() == 1
        run(dag)
        assert events() == 1


def test_a_retry_inside_airflow_resumes():
    from airflow.sdk import DAG

    calls = []

    def flaky(record):
        calls.append(record["id"])
        if record["id"] == 3 and calls.count(3) == 1:
            raise ValueError
        return record

    pipeline = orders()
    with DAG("memory_retry", schedule=None, start_date=START) as dag:
        checkpoint_task_group(
            "orders",
            pipeline,
            flaky,
            retries=1,
            retry_delay=dt.timedelta(seconds=0),
        )
    with memory(pipeline, rows=ROWS) as test:
        assert str(run(dag).state) == "success"
        assert len(test.rows) == 5
    assert calls == [1, 2, 3, 3, 4, 5]


def test_a_task_stopped_before_its_connections_are_made_reads_nothing(monkeypatch):
    pipeline = orders()
    execute = CheckpointExtractOperator._execute

    def stopped_at_once(extract, context, waiting_since):
        extract.on_kill()
        return execute(extract, context, waiting_since)

    with memory(pipeline, rows=ROWS) as test:
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointExtractOperator, "_execute", stopped_at_once)
            patch.setattr(InMemorySource, "read", lambda *_: pytest.fail("it read the source"))
            assert str(run(chain("memory_stopped", pipeline)).state) == "failed"
        assert test.rows == []
        assert str(run(chain("memory_goes_on", pipeline)).state) == "success"
        assert len(test.rows) == 5


def test_a_decorated_function_is_a_transform():
    from airflow.sdk import DAG, task

    pipeline = orders()
    with DAG("memory_decorated", schedule=None, start_date=START) as dag:

        @task.checkpoint_transform(pipeline=pipeline, initial_state={"seen": 0})
        def number(record, state):
            state["seen"] += 1
            return record | {"number": state["seen"]}

        extract = CheckpointExtractOperator(task_id="extract", pipeline=pipeline)
        extract >> number() >> CheckpointLoadOperator(task_id="load", pipeline=pipeline)
    with memory(pipeline, rows=ROWS) as test:
        assert str(run(dag).state) == "success"
        assert [row["number"] for row in test.rows] == [1, 2, 3, 4, 5]


def test_a_group_hands_on_declared_columns_and_processes():
    from airflow.sdk import DAG

    pipeline = orders()
    got = []

    def shout(record):
        got.append(record)  # in a worker process: nothing of it comes back here
        return {"email": record["email"].upper()}

    with DAG("memory_columns", schedule=None, start_date=START) as dag:
        checkpoint_task_group(
            "group",
            pipeline,
            transform=shout,
            transform_options={"columns": ["email"], "processes": 2},
        )
    with memory(pipeline, rows=ROWS) as test:
        assert str(run(dag).state) == "success"
        assert test.rows == [row | {"email": row["email"].upper()} for row in ROWS]
    assert got == []


def test_a_column_that_the_source_does_not_read_is_refused_when_the_dag_is_parsed():
    source = PostgresSource(conn_id="shop", table="orders", columns=("email",))
    with pytest.raises(ConfigurationError, match="reads no column 'amount'; it reads email, id"):
        CheckpointTransformOperator(
            task_id="transform",
            pipeline=replace(orders(), source=source),
            python_callable=lower,
            columns=["amount"],
        )


def test_jinja_works_inside_a_pipeline():
    pipeline = orders()
    templated = Pipeline(
        pipeline_id="{{ dag.dag_id }}",
        source=PostgresSource(conn_id="shop", table="orders_{{ params.tenant }}"),
        warehouse=PostgresWarehouse(conn_id="dwh", table="{{ params.tenant }}"),
    )
    dag = chain("jinja_chain", templated)
    dag.params["tenant"] = "acme"
    rendered = Pipeline(
        pipeline_id="jinja_chain",
        source=PostgresSource(conn_id="shop", table="orders_acme"),
        warehouse=PostgresWarehouse(conn_id="dwh", table="acme"),
    )
    with memory(rendered, rows=ROWS) as test:
        assert str(run(dag).state) == "success"
        assert len(test.rows) == 5
    assert templated.fingerprint() != rendered.fingerprint()
    assert pipeline.pipeline_id == "orders"


def test_a_group_is_mapped_over_parts():
    from airflow.sdk import DAG

    pipeline = orders()
    with DAG("memory_parts", schedule=None, start_date=START) as dag:
        checkpoint_task_group("orders", pipeline, parts=["a", "b"])
    with memory(pipeline, rows=ROWS) as test:
        assert str(run(dag).state) == "success"
        assert len(test.rows) == 10


def test_an_unknown_connection_is_named_with_its_parameter():
    with pytest.raises(ConfigurationError, match=r"source\.conn_id='shop': there is no Airflow"):
        CheckpointHook(orders()).ports()


def test_a_checkpoint_connection_of_another_type_is_refused(monkeypatch):
    for name in ("SHOP", "DWH"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", "postgres://localhost/x")
    monkeypatch.setenv("AIRFLOW_CONN_CP", "http://localhost")
    with pytest.raises(ConfigurationError, match=r"type 'http'; checkpoints are kept in redis or"):
        CheckpointHook(orders(checkpoint_conn_id="cp")).ports()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CheckpointExtractOperator(task_id="x", pipeline="orders"), "must be a Pipeline"),
        (lambda: CheckpointExtractOperator(task_id="x", pipeline=orders(), part=""), "part="),
        (
            lambda: CheckpointExtractOperator(task_id="x", pipeline=orders(), on_busy="steal"),
            "on_busy=",
        ),
        (
            lambda: CheckpointExtractOperator(task_id="x", pipeline=orders(), max_rows=0),
            "max_rows=",
        ),
        (
            lambda: CheckpointTransformOperator(
                task_id="x", pipeline=orders(), python_callable=lambda: None
            ),
            "is called with a record but takes 0",
        ),
        (
            lambda: CheckpointTransformOperator(
                task_id="x", pipeline=orders(), python_callable=lower, mode="rows"
            ),
            "mode=",
        ),
        (
            lambda: CheckpointTransformOperator(
                task_id="x", pipeline=orders(), python_callable=lower, initial_state={"a": {1}}
            ),
            "initial_state=",
        ),
        (lambda: CheckpointSensor(task_id="x", pipeline=orders(), stage="read"), "stage="),
        (lambda: CheckpointSensor(task_id="x", pipeline=orders(), stage="extract"), "at_least="),
    ],
)
def test_bad_parameters_fail_when_the_dag_is_parsed(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
