"""What a worker runs: one operator's ``execute``, with real hooks and a minimal context.

Imported in a child process, so that Airflow's own imports are done before the clock starts, as they are
when Airflow starts a task.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

# Airflow reads its configuration when it is imported; nothing here uses its database.
_HOME = os.environ.setdefault("AIRFLOW_HOME", tempfile.gettempdir() + "/checkpoint-etl-benchmarks")
os.environ |= {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__CHECKPOINT_ETL__FOLLOW_SECONDS": "3600",  # there is nobody to defer to
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
}

# Not a task's: a connection from the environment is looked up by way of it where no supervisor runs.
import airflow.sdk.execution_time.supervisor  # noqa: E402, F401

# The file of a DAG with a cron schedule has it; importing it starts a process to look at Python's own.
import croniter  # type: ignore[import-untyped]  # noqa: E402, F401
from airflow.sdk import DAG  # noqa: E402
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # noqa: E402
from airflow.sdk.listener import get_listener_manager  # noqa: E402

import airflow_checkpoint_etl as package  # noqa: E402
from benchmarks import functions  # noqa: E402

for _name in package.__all__:  # as the DAG file that Airflow has read by then
    getattr(package, _name)

get_listener_manager()  # every task's: it loads the plugins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
    tasks: Sequence[Mapping[str, Any]],
    index: int,
    made_from: Mapping[str, Any],
    states: str = "",
) -> dict[str, Any]:
    """Execute one task of a chain and return its summary.

    Args:
        tasks: the chain's tasks: each ``operator``, a class by its public name, and its ``options``;
            the option ``python_callable`` names one of :mod:`benchmarks.functions`.
        index: which of them is executed.
        made_from: the pipeline, as for :func:`pipeline`.
        states: a folder in which the tasks of the chain say that they have ended, for those that run
            beside each other; empty when they run one after the other.
    """
    made = pipeline(made_from)
    with DAG("benchmark", schedule=None):
        operators = [_operator(number, task, made) for number, task in enumerate(tasks)]
        for before, after in itertools.pairwise(operators):
            before >> after
    operator = operators[index]
    if states:
        _answer_states(Path(states))
    summary = operator.execute(context(operator.task_id))
    if states:
        (Path(states) / operator.task_id).touch()
    return dict(summary) if isinstance(summary, dict) else {}


def _operator(number: int, task: Mapping[str, Any], made: package.Pipeline) -> Any:
    options = dict(task["options"])
    if "python_callable" in options:
        options["python_callable"] = getattr(functions, options["python_callable"])
    make = getattr(package, task["operator"])
    return make(task_id=f"task_{number}_{options.get('part', 'default')}", pipeline=made, **options)


def _answer_states(folder: Path) -> None:
    """Answer what a task asks Airflow about the others: one that has not ended is running."""

    def get_task_states(
        *_: Any, task_ids: Sequence[str], run_ids: Sequence[str], **__: Any
    ) -> dict[str, dict[str, str]]:
        found = {
            task_id: "success" if (folder / task_id).exists() else "running" for task_id in task_ids
        }
        return dict.fromkeys(run_ids, found)

    patched: Any = RuntimeTaskInstance
    patched.get_task_states = staticmethod(get_task_states)
