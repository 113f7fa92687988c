"""What Airflow does before any task runs: parse the example DAGs, discover the provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PARSE = """
import json, runpy, sys
from airflow.sdk import BaseOperator
before = set(sys.modules)
names = runpy.run_path(sys.argv[1])
dags = [value.dag for value in names.values() if isinstance(value, BaseOperator)]
loaded = set(sys.modules) - before
print("RESULT" + json.dumps({
    "dags": sorted({dag.dag_id for dag in dags}),
    "heavy": sorted({"pyarrow", "psycopg", "redis", "adbc_driver_postgresql", "pgpq"} & loaded),
}))
"""


def run(*command):
    # No connection of whoever runs the tests may help.
    environment = {key: value for key, value in os.environ.items() if "AIRFLOW_CONN" not in key}
    return subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True, env=environment
    ).stdout


@pytest.mark.parametrize("name", ["orders_to_warehouse", "orders_file_staging", "orders_report"])
def test_an_example_dag_parses_without_connections_and_without_drivers(name):
    out = run("-c", PARSE, str(ROOT / "dags" / f"{name}.py"))
    result = json.loads(out.split("RESULT", 1)[1])
    assert name in result["dags"]
    assert result["heavy"] == []


def test_airflow_lists_the_provider():
    out = run("-m", "airflow", "providers", "list", "--output", "json")
    listed = json.loads(out[out.index("[\n") if "[\n" in out else out.index("[{") :])
    names = [provider["package_name"] for provider in listed]
    assert "airflow-checkpoint-etl" in names
