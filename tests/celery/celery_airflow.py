"""A real Airflow with the CeleryExecutor: PostgreSQL for metadata and results, Valkey as the broker."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Self

import psutil

from airflow_checkpoint_etl.demo.airflow_process import COMPONENTS, AirflowProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow_checkpoint_etl.demo.servers import PostgresServer, ValkeyServer

WORKERS = ("worker_1", "worker_2")
TASKS_AT_ONCE = 3
"""Tasks that one worker runs at the same time."""

_BROKER_DATABASE = 5
_HEARTBEAT_SECONDS = 15


class CeleryAirflow(AirflowProcess):
    """Airflow with two Celery workers for as long as a ``with`` block.

    Args:
        dags: the DAG folder.
        connections: connection URIs by connection id.
        postgres: where metadata and results are.
        valkey: the broker.
    """

    def __init__(
        self,
        dags: Path,
        connections: Mapping[str, str],
        postgres: PostgresServer,
        valkey: ValkeyServer,
    ) -> None:
        postgres.create_database("airflow")
        database = postgres.airflow_uri("airflow").partition("://")[2]
        settings = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "16",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
            "AIRFLOW__CELERY__BROKER_URL": f"{valkey.airflow_uri().rstrip('/')}/{_BROKER_DATABASE}",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{database}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(TASKS_AT_ONCE),
            # A machine that is gone reports nothing: whoever waits for it, waits so long.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(_HEARTBEAT_SECONDS),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
            # On a busy machine a task waits that long for its turn too; twice would fail it for good.
            "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "20",
        }
        super().__init__(dags, connections, settings)

    def start(self) -> Self:
        """Start Airflow and the two workers.

        Raises:
            ServerError: a component ended; its log is in the message.
        """
        super().start()
        try:
            for name in WORKERS:
                self._spawn(name, self._command(name))
        except BaseException:
            self.stop()
            raise
        return self

    def _command(self, name: str) -> tuple[str, ...]:
        return (
            *("celery", "worker", "--celery-hostname", f"{name}@localhost"),
            *("--pid", str(self.home / f"{name}.pid"), "--skip-serve-logs"),
            *("--without-mingle", "--without-gossip"),
        )

    def kill_worker(self, name: str) -> set[int]:
        """SIGKILL a worker with all of its tasks, as if its machine had lost power."""
        leader = self._leaders.pop(name)
        members = _members_of(leader.pid)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        leader.wait()
        return members


def _members_of(session: int) -> set[int]:
    found = set()
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                found.add(pid)
    return found


assert set(WORKERS).isdisjoint(COMPONENTS)
