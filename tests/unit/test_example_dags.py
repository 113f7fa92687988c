"""The example DAGs: a scheduler parses them with no connection there and without heavy imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"
NAMES = ("orders_to_warehouse", "orders_file_staging", "orders_in_parts", "orders_report")

_PARSE = """
import runpy, sys
for path in sys.argv[1:]:
    runpy.run_path(path)
heavy = {"pyarrow", "psycopg", "redis", "adbc_driver_postgresql"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_parsing_needs_no_connection_and_imports_nothing_heavy():
    # In a process of its own: this one has imported everything already.
    result = subprocess.run(
        [sys.executable, "-c", _PARSE, *(str(DAGS / f"{name}.py") for name in NAMES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.fixture(scope="module")
def dags():
    """All examples in one DagBag, as the DAG processor loads them."""
    from tests.airflow_dagbag import make_dag_bag

    bag = make_dag_bag(str(DAGS), "examples")
    assert not bag.import_errors
    return bag.dags


def test_every_file_defines_the_dag_it_is_named_after(dags):
    assert set(dags) == set(NAMES) == {path.stem for path in DAGS.glob("*.py")}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_one_run_at_a_time_and_retries(dags, name):
    dag = dags[name]
    assert dag.max_active_runs == 1
    assert not dag.catchup
    assert dag.doc_md
    assert all(task.retries == 3 for task in dag.tasks)


@pytest.mark.parametrize("name", ["orders_to_warehouse", "orders_file_staging"])
def test_the_stages_are_chained(dags, name):
    dag = dags[name]
    assert dag.get_task("extract").downstream_task_ids == {"transform"}
    assert dag.get_task("transform").downstream_task_ids == {"load"}


def test_both_ways_of_cleaning_an_order_agree():
    import runpy
    from decimal import Decimal

    import pyarrow as pa

    by_record = runpy.run_path(str(DAGS / "orders_to_warehouse.py"))["clean_order"]
    by_batch = runpy.run_path(str(DAGS / "orders_file_staging.py"))["clean_orders"]
    order = {"id": 1, "customer": None, "email": "  Ab@C.org", "amount": Decimal("-1.25")} | {
        name: name for name in ("currency", "note", "items", "status", "created_at")
    }
    orders = [order, order | {"id": 2, "status": "test"}]
    table = pa.Table.from_pylist(orders).cast(
        pa.schema(
            [("id", pa.int64()), ("customer", pa.string()), ("email", pa.string())]
            + [("amount", pa.decimal128(12, 2))]
            + [
                (name, pa.string())
                for name in ("currency", "note", "items", "status", "created_at")
            ]
        )
    )
    cleaned = [row for row in map(by_record, orders) if row is not None]
    assert by_batch(table).to_pylist() == cleaned
    assert cleaned[0]["email"] == "ab@c.org"
    assert cleaned[0]["amount_cents"] == -125
