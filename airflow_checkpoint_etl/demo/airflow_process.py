"""A real Airflow in a temporary home on loopback: scheduler with LocalExecutor, SQLite, four processes.

The components are started one by one rather than with ``airflow standalone``: each has its own log, a
component that dies is noticed at once, and ending them needs no parent that forwards signals. Every
component leads its own *session*. A task runner leaves its supervisor's process group (Airflow 3.3),
so a group does not hold all descendants; a session does, and ``stop`` ends whole sessions by id.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psutil

from airflow_checkpoint_etl.demo.airflow_api import AirflowApi, AirflowApiError
from airflow_checkpoint_etl.demo.servers import HOST, ServerError, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from airflow_checkpoint_etl.demo.airflow_api import TaskTry

COMPONENTS: Final[Mapping[str, tuple[str, ...]]] = {
    # Task logs are read from the shared disk, so nothing needs to serve them over HTTP.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag_processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
    "api_server": ("api-server",),
}
"""Every component: its name in the health report, and its command."""

_START_SECONDS: Final = 240.0
_GRACE_SECONDS: Final = 5.0  # what a task runner itself gets between SIGTERM and SIGKILL
_POLL_SECONDS: Final = 0.1


def airflow_environment(
    home: Path,
    port: int,
    dags: Path,
    connections: Mapping[str, str],
    settings: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the full environment of every component.

    Args:
        home: the Airflow home.
        port: the API server's port on loopback.
        dags: the DAG folder.
        connections: connection URIs by connection id.
        settings: more variables; they win over the ones made here.
    """
    # Nothing of an Airflow that this shell is set up for may leak in.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW_")}
    package_root = Path(__file__).resolve().parents[2]
    path = [str(package_root), *inherited.get("PYTHONPATH", "").split(os.pathsep)]
    url = f"http://{HOST}:{port}"
    environment = {
        **inherited,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "NO_PROXY": f"{HOST},localhost",
        "no_proxy": f"{HOST},localhost",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        # Everybody on this machine is admin of a server that only this machine reaches.
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # The API server imports much at its first requests; on a busy machine that takes longer than
        # the default of 5 s, and a task that cannot report its start is lost.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        **{f"AIRFLOW_CONN_{name.upper()}": uri for name, uri in connections.items()},
    }
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        # Compiling Airflow anew in every process doubles the start; keep bytecode, but in the home.
        environment["PYTHONPYCACHEPREFIX"] = str(home / "bytecode")
    return {**environment, **(settings or {})}


class AirflowProcess:
    """Airflow for as long as a ``with`` block: ready when it begins, gone when it ends.

    Args:
        dags: the DAG folder.
        connections: connection URIs by connection id.
        settings: more environment variables, such as ``AIRFLOW__SECTION__KEY``.
        components: which components to run; only the triggerer can be left out.
    """

    def __init__(
        self,
        dags: Path,
        connections: Mapping[str, str],
        settings: Mapping[str, str] | None = None,
        components: Sequence[str] = tuple(COMPONENTS),
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="checkpoint-etl-airflow-"))
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.components = tuple(components)
        self.environment = airflow_environment(self.home, self.port, dags, connections, settings)
        self.api = AirflowApi(self.url, self._check_alive)
        self._leaders: dict[str, subprocess.Popen[bytes]] = {}

    # --- start -----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Make the metadata database, start the components and wait until all are healthy.

        Raises:
            ServerError: a component ended; its log is in the message.
            AirflowApiError: the components were not healthy in time.
        """
        try:
            self._migrate()
            for name in self.components:
                self._spawn(name, COMPONENTS[name])
            reporting = [name for name in self.components if name != "api_server"]
            self.api.wait_healthy(reporting, _START_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def _migrate(self) -> None:
        migration = self._spawn("migration", ("db", "migrate"))
        if migration.wait(_START_SECONDS) != 0:
            message = f"airflow db migrate failed; its log ends with:\n{self._tail('migration')}"
            raise ServerError(message)
        del self._leaders["migration"]
        # Four processes share the file: with a write-ahead log readers and the writer do not block
        # each other, and "database is locked" does not happen.
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db")) as database:
            database.execute("pragma journal_mode = wal")

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log_path(name).open("ab") as log:
            leader = subprocess.Popen(  # noqa: S603  the command is our own
                [sys.executable, "-m", "airflow", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=self.environment,
                start_new_session=True,
            )
        self._leaders[name] = leader
        return leader

    def _log_path(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _tail(self, name: str) -> str:
        return self._log_path(name).read_text(errors="replace")[-3000:]

    def _check_alive(self) -> None:
        for name, leader in self._leaders.items():
            if leader.poll() is not None:
                message = (
                    f"Airflow's {name} ended with {leader.returncode}; "
                    f"its log ends with:\n{self._tail(name)}"
                )
                raise ServerError(message)

    def _leads(self) -> set[int]:
        """The processes that lead the components' sessions."""
        return {leader.pid for leader in self._leaders.values()}

    # --- killing one task ------------------------------------------------------------------------

    def owns(self, pid: int) -> bool:
        """Whether a process was started by this Airflow."""
        try:
            return os.getsid(pid) in self._leads()
        except ProcessLookupError:
            return False

    def kill_task(self, running: TaskTry) -> None:
        """SIGKILL the process that runs an operator, as the kernel's out-of-memory killer would.

        The supervisor stays alive, reports the loss, and the scheduler tries the task again.

        Raises:
            AirflowApiError: the process is gone, or is none of this Airflow's.
        """
        os.kill(self._runner_of(running), signal.SIGKILL)

    def kill_supervisor(self, running: TaskTry) -> psutil.Process:
        """SIGKILL the supervisor of a task only, and return the task runner it leaves behind.

        The orphan goes on: nobody sends its heartbeats, reads its log or ends it. The scheduler tries
        the task again once ``[scheduler] task_instance_heartbeat_timeout`` has passed.

        Raises:
            AirflowApiError: the process is gone, or is none of this Airflow's.
        """
        orphan = psutil.Process(self._runner_of(running))
        supervisor = orphan.parent()
        # The executor's worker is the supervisor; a component itself is none.
        if supervisor is None or not self.owns(supervisor.pid) or supervisor.pid in self._leads():
            message = f"{running.task_id} has no supervisor to kill (pid {orphan.pid})"
            raise AirflowApiError(message)
        supervisor.kill()
        return orphan

    def _runner_of(self, running: TaskTry) -> int:
        if running.pid is None or not self.owns(running.pid):
            message = (
                f"{running.task_id} has no process of this Airflow to kill (pid {running.pid})"
            )
            raise AirflowApiError(message)
        return running.pid

    # --- stop ------------------------------------------------------------------------------------

    def _members(self) -> Iterator[int]:
        """The live processes of every component's session."""
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if self.owns(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    yield pid

    def _signal_members(self, number: int) -> None:
        for pid in self._members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait_for_end(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while any(leader.poll() is None for leader in self._leaders.values()) or any(
            True for _ in self._members()
        ):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def stop(self) -> None:
        """End every process: SIGTERM, a grace period, SIGKILL; then remove the home.

        An interrupt during the grace period cuts it short; nothing outlives this call.
        """
        self.api.close()
        try:
            if self._leaders:
                self._signal_members(signal.SIGTERM)
                self._wait_for_end(_GRACE_SECONDS)
        finally:
            while self._leaders:
                self._signal_members(signal.SIGKILL)
                if self._wait_for_end(1.0):
                    self._leaders.clear()
            shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
