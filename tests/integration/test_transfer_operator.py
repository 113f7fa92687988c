"""The transfer operator inside Airflow's own task runner, on real servers and on in-memory ports."""

from __future__ import annotations

import datetime as dt
from urllib.parse import urlencode

import psycopg
import pytest

from airflow_checkpoint_etl import (
    CheckpointExtractOperator,
    CheckpointHook,
    CheckpointSensor,
    CheckpointTransferOperator,
    CheckpointTransformOperator,
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_task_group,
    failpoints,
)
from airflow_checkpoint_etl.errors import ConfigurationError
from airflow_checkpoint_etl.testing import memory
from tests.integration.test_operators import (  # noqa: F401  the fixtures are used by their names
    ROWS,
    START,
    airflow_database,
    orders,
    registered_bundle,
    run,
    states,
)
from tests.support import World

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def shop(new_database, monkeypatch):
    """A source and a warehouse behind Airflow connections; checkpoints are in the warehouse."""
    source, warehouse = new_database(), new_database()
    world = World(source.dsn, warehouse.dsn)
    for conn_id, dsn in (("shop", source.dsn), ("dwh", warehouse.dsn)):
        info = psycopg.conninfo.conninfo_to_dict(dsn)
        uri = f"postgres://{info['user']}@{info['host']}:{info['port']}/{info['dbname']}"
        monkeypatch.setenv(
            f"AIRFLOW_CONN_{conn_id.upper()}", f"{uri}?{urlencode({'connect_timeout': 5})}"
        )
    from tests.support import ORDERS

    world.fetch(ORDERS, at="source")
    world.insert(1000)
    return world


def real(**options):
    return Pipeline(
        **{"pipeline_id": "orders"} | options,
        source=PostgresSource(conn_id="shop", table="orders", chunk_rows=100),
        warehouse=PostgresWarehouse(conn_id="dwh", table="orders_copy", create_table=True),
    )


def dag_of(dag_id, **options):
    from airflow.sdk import DAG

    with DAG(dag_id, schedule=None, start_date=START) as dag:
        CheckpointTransferOperator(task_id="transfer", **options)
    return dag


def test_a_dag_of_one_transfer_loads_and_continues(shop):
    dag = dag_of("transfer_real", pipeline=real())
    assert str(run(dag).state) == "success"
    shop.insert(50)
    dag_run = run(dag)
    assert str(dag_run.state) == "success"
    shop.assert_exact()
    summary = dag_run.get_task_instance("transfer").xcom_pull(
        task_ids="transfer", dag_id="transfer_real"
    )
    assert (summary["stage"], summary["rows"], summary["last"]) == ("transfer", 50, "i8:1050")
    assert CheckpointHook(real()).checkpoint().frontier.cursor == "i8:1050"


def test_a_retry_inside_airflow_goes_on_where_the_first_try_stopped(shop, monkeypatch):
    failpoints.reset()
    monkeypatch.setenv(failpoints.ENVIRONMENT, "load.before_commit@4=raise")
    shop.fetch("create table prepared (n int)")
    dag = dag_of(
        "transfer_retry",
        pipeline=real(),
        preoperator=["truncate orders_copy", "insert into prepared values ({{ 1 + 1 }})"],
        retries=1,
        retry_delay=dt.timedelta(0),
    )
    assert str(run(dag).state) == "success"
    shop.assert_exact()
    assert shop.fetch("select n from prepared") == [(2,)]
    assert shop.fetch(
        "select try_number, count(*) from checkpoint_etl.ledger group by 1 order by 1"
    ) == [
        (1, 3),
        (2, 7),
    ]


def test_generic_transfers_parameters_are_taken(shop):
    shop.fetch(
        "create table orders_copy (id bigint, amount numeric(12,2)); insert into orders_copy values (-1, 0)"
    )
    dag = dag_of(
        "transfer_generic",
        pipeline_id="orders_generic",
        sql="select id, amount from orders where amount < {{ params.most }}",
        source_conn_id="shop",
        destination_conn_id="dwh",
        destination_table="orders_copy",
        preoperator="truncate orders_copy",
        cursor="id",
        unique=True,
        settle_tables=["orders"],
        params={"most": 5},
    )
    assert str(run(dag).state) == "success"
    shop.insert(1000)
    assert str(run(dag).state) == "success"
    shop.assert_exact("id, amount", source="(select id, amount from orders where amount < 5) as o")


def test_a_transfer_emits_the_asset_and_satisfies_a_sensor(shop):
    from airflow.models.asset import AssetEvent
    from airflow.sdk import DAG
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    pipeline = real()
    with DAG("transfer_seen", schedule=None, start_date=START) as dag:
        transfer = CheckpointTransferOperator(task_id="transfer", pipeline=pipeline)
        sensors = [
            CheckpointSensor(
                task_id=f"sees_{stage}",
                pipeline=pipeline,
                stage=stage,
                at_least="1000",
                deferrable=False,
                poke_interval=0.1,
                timeout=10,
            )
            for stage in ("extract", "load")
        ]
        transfer >> sensors
    assert set(states(run(dag)).values()) == {"success"}
    with create_session() as session:
        query = select(func.count()).select_from(AssetEvent)
        assert session.scalar(query.where(AssetEvent.source_dag_id == "transfer_seen")) == 1


def test_a_group_without_a_transform_copies_and_one_with_a_transform_does_not(shop):
    from airflow.sdk import DAG

    for number, transform in enumerate([None, lambda record: record]):
        pipeline = real(pipeline_id=f"group_{number}", start_after=None if number == 0 else "1000")
        with DAG(f"group_{number}", schedule=None, start_date=START) as dag:
            checkpoint_task_group("orders", pipeline, transform)
        shop.insert(100)
        assert str(run(dag).state) == "success"
    names = shop.fetch(
        "select distinct split_part(name, '/', 1), split_part(name, '.', 2) from checkpoint_etl.staged"
    )
    assert sorted(names) == [("group_0", "copy"), ("group_1", "arrow")]


def test_a_transfer_runs_in_memory():
    pipeline = orders()
    dag = dag_of("transfer_memory", pipeline=pipeline)
    with memory(pipeline, rows=ROWS) as test:
        assert str(run(dag).state) == "success"
        assert [row["id"] for row in test.rows] == [1, 2, 3, 4, 5]
        test.source.insert({"id": 6, "email": "X@Y"})
        assert str(run(dag).state) == "success"
        assert len(test.rows) == 6


# --- what is refused when the DAG is parsed -------------------------------------------------------

GENERIC = {
    "pipeline_id": "p",
    "sql": "select 1 as id",
    "source_conn_id": "s",
    "destination_conn_id": "d",
    "destination_table": "t",
    "unique": True,
    "settle_tables": ["t"],
}


@pytest.mark.parametrize(
    "missing", ["pipeline_id", "sql", "source_conn_id", "destination_conn_id", "destination_table"]
)
def test_generic_parameters_come_together(missing):
    given = {name: value for name, value in GENERIC.items() if name != missing}
    with pytest.raises(ConfigurationError, match=f"{missing}=None"):
        CheckpointTransferOperator(task_id="t", **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline": orders(form="arrow")}, "copies rows as they are"),
        ({"pipeline": orders(on_error="quarantine")}, "copies rows as they are"),
        ({"pipeline": orders(), "sql": "select 1"}, "the pipeline says this already"),
        ({"pipeline": orders(start_after="5"), "preoperator": "truncate t"}, "start_after="),
        ({"pipeline": "orders"}, "must be a Pipeline"),
    ],
)
def test_what_a_transfer_cannot_do_is_refused_at_parse(options, message):
    with pytest.raises(ConfigurationError, match=message):
        CheckpointTransferOperator(task_id="t", **options)


def test_copy_form_refuses_a_transform_at_parse():
    pipeline = orders(form="copy")
    CheckpointExtractOperator(task_id="e", pipeline=pipeline)
    CheckpointTransformOperator(task_id="t", pipeline=pipeline)
    with pytest.raises(ConfigurationError, match="cannot be read by a transform"):
        CheckpointTransformOperator(
            task_id="u", pipeline=pipeline, python_callable=lambda record: record
        )


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ({}, {"on_error": "quarantine"}, "none of them can be put aside"),
        ({"settle": "sweep"}, {}, "staged as Arrow"),
        ({}, {"form": "parquet"}, "must be one of auto, arrow, copy"),
    ],
)
def test_copy_form_refuses_what_it_cannot_do(source, options, message):
    with pytest.raises(ConfigurationError, match=message):
        Pipeline(
            **{"pipeline_id": "p", "form": "copy"} | options,
            source=PostgresSource(conn_id="s", table="t", **source),
            warehouse=PostgresWarehouse(conn_id="d", table="t", write="upsert", key="id"),
        )


@pytest.mark.parametrize(
    ("form", "transformed", "staged"),
    [
        ("auto", True, "arrow"),
        ("auto", False, "auto"),
        ("arrow", False, "arrow"),
        ("copy", True, "copy"),
    ],
)
def test_an_extract_copies_only_where_it_knows_that_nothing_is_transformed(
    form, transformed, staged
):
    operator = CheckpointExtractOperator(
        task_id="e", pipeline=orders(form=form), transformed=transformed
    )
    assert operator._options()["form"] == staged
