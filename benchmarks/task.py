"""What a worker runs: one operator's ``execute``, with real hooks and a minimal context.

Imported in a child process, so that Airflow's own imports are done before the clock starts, as they are
when Airflow starts a task.
"""

from __future__ import annotations

import os
import tempfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

# Airflow reads its configuration when it is imported; nothing here uses its database.
_HOME = os.environ.setdefault("AIRFLOW_HOME", tempfile.gettempdir() + "/checkpoint-etl-benchmarks")
os.environ |= {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
}

import airflow_checkpoint_etl as package  # noqa: E402
from benchmarks import functions  # noqa: E402

for _name in package.__all__:  # as the DAG file that Airflow has read by then
    getattr(package, _name)

if TYPE_CHECKING:
    from collections.abc import Mapping


class _OutletEvents(dict[Any, Any]):
    """Takes the asset events that an operator emits, and forgets them."""

    def __missing__(self, alias: object) -> SimpleNamespace:
        return SimpleNamespace(add=lambda *_args, **_options: None)


def context(task_id: str, run_id: str = "run_1", try_number: int = 1) -> dict[str, Any]:
    """Return what an operator of ours reads from Airflow's context."""
    ti = SimpleNamespace(
        dag_id="benchmark",
        run_id=run_id,
        task_id=task_id,
        map_index=-1,
        try_number=try_number,
        id="",
    )
    return {
        "ti": ti,
        "dag_run": SimpleNamespace(clear_number=0, run_id=run_id),
        "run_id": run_id,
        "outlet_events": _OutletEvents(),
    }


def pipeline(options: Mapping[str, Any]) -> package.Pipeline:
    """Make a pipeline from JSON: its own options, and those of ``source`` and ``warehouse``."""
    own = {name: value for name, value in options.items() if name not in {"source", "warehouse"}}
    source = {"conn_id": "shop", "table": "public.events", **options.get("source", {})}
    warehouse = {
        "conn_id": "dwh",
        "table": "public.events_copy",
        **options.get("warehouse", {}),
    }
    return package.Pipeline(
        **{"pipeline_id": "events", "checkpoint_conn_id": "redis", **own},
        source=package.PostgresSource(**source),
        warehouse=package.PostgresWarehouse(**warehouse),
    )


def run(
    operator: str,
    made_from: Mapping[str, Any],
    options: Mapping[str, Any],
    run_id: str = "run_1",
) -> Any:
    """Execute one operator and return its summary.

    Args:
        operator: the operator's class, by its public name.
        made_from: the pipeline, as for :func:`pipeline`.
        options: the operator's own; ``python_callable`` names one of :mod:`benchmarks.functions`.
        run_id: the DAG run's id.
    """
    arguments = dict(options)
    if "python_callable" in arguments:
        arguments["python_callable"] = getattr(functions, arguments["python_callable"])
    part = arguments.get("part", "default")
    task_id = f"{operator}_{part}"
    task = getattr(package, operator)(task_id=task_id, pipeline=pipeline(made_from), **arguments)
    summary = task.execute(context(task_id, run_id))
    return dict(summary) if isinstance(summary, dict) else {}
