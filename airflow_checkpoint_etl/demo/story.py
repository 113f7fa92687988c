"""The demonstration's steps: servers, orders, a real Airflow, a kill in the middle, a retry, a proof."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg

from airflow_checkpoint_etl.demo import orders, proof
from airflow_checkpoint_etl.demo.airflow_api import TERMINAL, AirflowApiError
from airflow_checkpoint_etl.demo.airflow_process import AirflowProcess
from airflow_checkpoint_etl.demo.servers import PostgresServer, ServerError, ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_checkpoint_etl.demo.airflow_api import AirflowApi, TaskTry

DAG_ID: Final = "orders_to_warehouse"

_KILL_AFTER: Final = 1 / 3
"""Which share of the rows the first try of the load may commit before it is killed."""
_POLL_SECONDS: Final = 0.02
_LOOK_SECONDS: Final = 2.0
_TASKS: Final = ("extract", "transform", "load")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story plays.

    Attributes:
        source_dsn: the shop's database.
        warehouse_dsn: the warehouse's.
        airflow: the running Airflow.
    """

    source_dsn: str
    warehouse_dsn: str
    airflow: AirflowProcess


def find_dags() -> Path:
    """Return the folder of the example DAGs: beside the package in a clone, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "demo" / "dags", package.parent / "dags"):
        if (folder / "orders_to_warehouse.py").exists():
            return folder
    message = f"the example DAGs are neither beside nor inside {package}"
    raise ServerError(message)


@contextlib.contextmanager
def set_up(rows: int, checkpoints: str, say: Say) -> Iterator[Stage]:
    """Start PostgreSQL, Airflow and, for its checkpoints, Valkey; end them all with the block.

    Args:
        rows: how many orders to make.
        checkpoints: ``"redis"`` or ``"postgres"``: where the example DAG keeps its checkpoints. The
            DAG is the same; the type of its connection ``checkpoints`` makes the difference.
        say: told what happens.
    """
    with contextlib.ExitStack() as stack:
        say("starting PostgreSQL" + (" and Valkey" if checkpoints == "redis" else ""))
        postgres = stack.enter_context(PostgresServer())
        if checkpoints == "redis":
            store = stack.enter_context(ValkeyServer()).airflow_uri()
        else:
            postgres.create_database("checkpoints")
            store = postgres.airflow_uri("checkpoints")
        source_dsn = postgres.create_database("shop")
        warehouse_dsn = postgres.create_database("dwh")
        say(f"making {rows:,} orders")
        with psycopg.connect(source_dsn) as connection:
            orders.create_orders(connection, rows)
        with psycopg.connect(warehouse_dsn) as connection:
            orders.create_target_schema(connection)
        connections = {
            "shop": postgres.airflow_uri("shop"),
            "dwh": postgres.airflow_uri("dwh"),
            "checkpoints": store,
        }
        say("starting Airflow: scheduler, DAG processor, triggerer, API server")
        settings = {
            "AIRFLOW__CHECKPOINT_ETL__PROGRESS_SECONDS": "1",
            "AIRFLOW__CHECKPOINT_ETL__WAREHOUSE_CONN_IDS": "dwh",
        }
        airflow = stack.enter_context(AirflowProcess(find_dags(), connections, settings))
        yield Stage(source_dsn, warehouse_dsn, airflow)


def play(stage: Stage, rows: int, say: Say, seconds: float) -> proof.Proof:
    """Run the example DAG, kill its load midway, let Airflow try again, and compare.

    Args:
        stage: where to play.
        rows: how many orders the source holds.
        say: told what happens.
        seconds: how long each wait may take.

    Raises:
        ServerError: the run failed; the end of its last task's log is in the message.
    """
    api = stage.airflow.api
    say(f"waiting until Airflow has parsed {DAG_ID}")
    api.wait_parsed(DAG_ID)
    api.unpause(DAG_ID)
    api.trigger(DAG_ID)
    # Unpausing may have made a run of the schedule too; one runs at a time, and the first one counts.
    run_id = api.wait_started(DAG_ID, seconds)
    started = time.monotonic()
    say(f"{run_id}: extract, then transform")
    try:
        _kill_load(stage, run_id, rows, say, seconds)
        state = api.wait_run(DAG_ID, run_id, seconds)
    except AirflowApiError as error:
        if api.run_state(DAG_ID, run_id) == "failed":
            raise ServerError(_why(api, run_id)) from error
        raise
    if state != "success":
        raise ServerError(_why(api, run_id))
    took = time.monotonic() - started
    tries = [one for name in _TASKS for one in api.tries(DAG_ID, run_id, name)]
    say("comparing source and warehouse, row by row and both ways")
    comparison = orders.compare(stage.source_dsn, stage.warehouse_dsn)
    return proof.collect(stage.warehouse_dsn, run_id, tries, comparison, took)


def _kill_load(stage: Stage, run_id: str, rows: int, say: Say, seconds: float) -> None:
    """Wait for the load, and SIGKILL its process once a share of the rows is committed."""
    task = stage.airflow.api.wait_running(DAG_ID, run_id, "load", seconds=seconds)
    say(f"load is running, as process {task.pid}")
    chunks = _kill_midway(stage, run_id, task, rows, seconds)
    if chunks is None:
        say("the load ended before it could be killed")
    else:
        say(f"kill -9 {task.pid} after {chunks} committed chunks; Airflow will try again")


def _kill_midway(stage: Stage, run_id: str, task: TaskTry, rows: int, seconds: float) -> int | None:
    """Kill at the right moment; return how many chunks are committed, None when the run has ended."""
    begun = time.monotonic()
    look_at = begun + _LOOK_SECONDS
    with psycopg.connect(stage.warehouse_dsn, autocommit=True) as connection:
        while time.monotonic() < begun + seconds:
            read, chunks = proof.committed(connection)
            if read >= rows * _KILL_AFTER:
                stage.airflow.kill_task(task)
                return chunks
            if time.monotonic() > look_at:
                if stage.airflow.api.run_state(DAG_ID, run_id) in TERMINAL:
                    return None
                look_at = time.monotonic() + _LOOK_SECONDS
            time.sleep(_POLL_SECONDS)
    message = f"the load did not commit a third of the rows in {seconds:g} s"
    raise ServerError(message)


def _why(api: AirflowApi, run_id: str) -> str:
    """Return the end of the log of the task at which a run failed."""
    for name in _TASKS:
        last = api.tries(DAG_ID, run_id, name)[-1]
        if last.state == "failed":
            trouble = api.log(DAG_ID, run_id, name, last.try_number)[-3000:]
            return f"{name} failed at try {last.try_number}; its log ends with:\n{trouble}"
    return f"{run_id} failed"
