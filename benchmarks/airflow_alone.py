"""A process with what Airflow's own task runner imports, and nothing of this package."""

from __future__ import annotations

import os
import runpy
import tempfile

os.environ.setdefault("AIRFLOW_HOME", tempfile.gettempdir() + "/checkpoint-etl-benchmarks")
os.environ |= {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
}

import airflow.providers.common.compat.sdk
import airflow.sdk.execution_time.task_runner
from airflow.sdk import DAG

ALONE = (airflow, DAG)
"""What was imported, so that nobody takes it for unused."""


def nothing() -> None:
    """Be there."""


def read(path: str) -> None:
    """Read a DAG file, as the DAG processor does."""
    runpy.run_path(path)
