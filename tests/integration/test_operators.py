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
    Part,
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_range_task_group,
    checkpoint_task_group,
)
from airflow_checkpoint_etl.errors import ConfigurationError
from airflow_checkpoint_etl.hooks.checkpoint import overridden
from airflow_checkpoint_etl.operators.ranges import (
    CheckpointPartExtractOperator,
    CheckpointPartLoadOperator,
    CheckpointPartTransformOperator,
)
from airflow_checkpoint_etl.testing import InMemorySource, memory
from tests.ranges import PlannedWorld

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


def lower_customer(record):
    return {**record, "customer": (record["customer"] or "").lower()}


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


@pytest.mark.parametrize("attempt", range(3))  # dag.test() takes tasks in no particular order
def test_stages_that_run_at_once_come_one_after_the_other_where_one_task_runs_at_a_time(attempt):
    from airflow.sdk import DAG

    pipeline = orders()
    with DAG(f"memory_follow_{attempt}", schedule=None, start_date=START) as dag:
        checkpoint_task_group("etl", pipeline, lower, follow=True)
    with memory(pipeline, rows=ROWS) as test:
        dag_run = run(dag)
        assert set(states(dag_run).values()) == {"success"}
        assert [row["email"] for row in test.rows] == [f"user{n}@example.org" for n in range(1, 6)]


def test_stages_that_follow_end_as_the_stage_before_them():
    from airflow.sdk import DAG

    pipeline = orders()

    def refuse(record):
        raise ValueError

    with DAG("memory_follow_failed", schedule=None, start_date=START) as dag:
        checkpoint_task_group("etl", pipeline, refuse, follow=True)
    with memory(pipeline, rows=ROWS) as test:
        dag_run = run(dag)
        assert states(dag_run) == {
            "etl.extract": "success",
            "etl.transform": "failed",
            "etl.load": "failed",
        }
        assert str(dag_run.state) == "failed"
        assert not test.rows


def test_a_stage_that_follows_needs_its_stage_right_upstream():
    from airflow.sdk import DAG

    pipeline = orders()
    with DAG("memory_follow_alone", schedule=None, start_date=START) as dag:
        CheckpointLoadOperator(task_id="load", pipeline=pipeline, follow=True)
    with memory(pipeline, rows=ROWS):
        assert states(run(dag)) == {"load": "failed"}


def test_parts_that_run_at_once_are_groups_of_their_own():
    from airflow.sdk import DAG

    with DAG("follow_parts", schedule=None, start_date=START) as dag:
        checkpoint_task_group("etl", orders(), parts=["a", "b"], follow=True)
    assert set(dag.task_ids) == {
        f"etl.{part}.{stage}" for part in "ab" for stage in ("extract", "transform", "load")
    }
    assert dag.get_task("etl.a.load").trigger_rule == "always"
    assert dag.get_task("etl.a.extract").trigger_rule == "all_success"
    with (
        pytest.raises(ConfigurationError, match="a task group of its own"),
        DAG("follow_tenants", schedule=None, start_date=START),
    ):
        checkpoint_task_group("etl", orders(), parts=["tenant:7"], follow=True)


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


def test_a_range_group_in_memory_loads_by_the_main_lane():
    from airflow.sdk import DAG

    pipeline = orders()
    with DAG("memory_range", schedule=None, start_date=START) as dag:
        checkpoint_range_task_group("orders", pipeline, rows_per_part=1)
    with memory(pipeline, rows=ROWS) as test:
        assert str(run(dag).state) == "success"
        assert len(test.rows) == 5


def asset_events():
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(AssetEvent).order_by(AssetEvent.id)).all()
        return [(event.source_task_id, event.extra["rows"]) for event in found]


@pytest.mark.parametrize("world", ["postgres"], indirect=True)
def test_a_range_group_loads_parts_then_increments_and_tells_once_of_each(world):
    from airflow.sdk import DAG

    world.fetch("analyze orders", at="source")
    pipeline = world.configure()
    with DAG("ranged", schedule=None, start_date=START) as dag:
        checkpoint_range_task_group("orders", pipeline, lower_customer, parts=3, rows_per_part=300)
    before = len(asset_events())
    with overridden("orders", world.ports):
        first = run(dag)
        assert str(first.state) == "success"
        mapped = [ti.map_index for ti in first.get_task_instances() if ti.task_id.endswith("load")]
        assert sorted(mapped) == [0, 1, 2]
        world.insert(10)
        assert str(run(dag).state) == "success"
        assert str(run(dag).state) == "success"
    told = asset_events()[before:]
    assert told == [("orders.close", 1000), ("orders.part.load", 10)]
    ((rows, distinct),) = world.fetch("select count(*), count(distinct id) from orders_copy")
    assert (rows, distinct) == (1010, 1010)


@pytest.mark.parametrize("world", ["postgres"], indirect=True)
def test_a_part_whose_plan_was_closed_meanwhile_is_green(world):
    from airflow.sdk import DAG

    planned = PlannedWorld.of(world)
    (key, *_) = planned.plan()
    planned.everything()
    pipeline = world.configure()
    with DAG("late_part", schedule=None, start_date=START) as dag:
        extract = CheckpointPartExtractOperator(task_id="extract", pipeline=pipeline, part=key)
        transform = CheckpointPartTransformOperator(
            task_id="transform", pipeline=pipeline, part=key
        )
        load = CheckpointPartLoadOperator(task_id="load", pipeline=pipeline, part=key)
        extract >> transform >> load
    with overridden("orders", world.ports):
        assert str(run(dag).state) == "success"
    planned.assert_exact()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 0}, "parts=0"),
        ({"rows_per_part": 0}, "rows_per_part=0"),
        ({"follow": True}, "follow=True: the parts are a mapped group"),
        ({"transform_options": {"initial_state": {}}}, "initial_state={}: parts of a range"),
        ({"extract_options": {"on_clear": "reprocess"}}, "on_clear='reprocess': a planned range"),
    ],
)
def test_a_range_group_that_cannot_work_fails_when_the_dag_is_parsed(options, message):
    from airflow.sdk import DAG

    with (
        DAG("no_range", schedule=None, start_date=START),
        pytest.raises(ConfigurationError, match=message),
    ):
        checkpoint_range_task_group("orders", orders(), lower, **options)


def test_static_parts_with_filters_are_rendered_per_part():
    from airflow.sdk import DAG

    pipeline = orders()
    with DAG("static_parts", schedule=None, start_date=START) as dag:
        checkpoint_task_group(
            "orders", pipeline, parts=[Part("low", "id <= 2"), Part("high", "id > 2")]
        )
    task = dag.get_task("orders.extract")
    where = '{% if task.part == "low" %}id <= 2{% elif task.part == "high" %}id > 2{% endif %}'
    assert task.pipeline.source.where == where


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
