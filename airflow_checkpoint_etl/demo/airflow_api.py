"""A small typed client of Airflow's REST API: what the demonstration and the tests ask a scheduler.

It speaks ``/api/v2`` of Airflow 3.1 and later to a server on loopback that asks for no login.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

TERMINAL: Final = frozenset({"success", "failed"})
"""States in which a DAG run stays until somebody acts."""

_POLL_SECONDS: Final = 0.2
_REQUEST_SECONDS: Final = 60.0  # a busy two-core machine builds the API's schema for many seconds
_LOCKED_SECONDS: Final = 60.0
_OK: Final = 200
_UNAUTHORIZED: Final = 401
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500

T = TypeVar("T")


class AirflowApiError(RuntimeError):
    """Airflow answered with an error, or a wait ended without what it waited for."""


@dataclass(frozen=True, slots=True)
class TaskTry:
    """One try of a task instance.

    Attributes:
        task_id: the task.
        map_index: -1 for a task that is not mapped.
        try_number: from 1; 0 before the first try is scheduled.
        state: Airflow's state, None before it has one.
        pid: the task-runner process, the child that runs the operator (not its supervisor).
        started: when the try started.
        ended: when it ended.
    """

    task_id: str
    map_index: int
    try_number: int
    state: str | None
    pid: int | None
    started: dt.datetime | None
    ended: dt.datetime | None

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Read one task instance of the API."""
        return cls(
            task_id=body["task_id"],
            map_index=body["map_index"],
            try_number=body["try_number"],
            state=body["state"],
            pid=body["pid"],
            started=_time(body["start_date"]),
            ended=_time(body["end_date"]),
        )


def _is_locked(response: httpx.Response) -> bool:
    """Whether SQLite refused the request's transaction, so that nothing of it was done.

    The server writes its audit log from its event loop. Another request's transaction then cannot
    end, and holds the database until SQLite gives the log's row up.
    """
    return response.status_code == _SERVER_ERROR and '"Database error"' in response.text


def _time(text: str | None) -> dt.datetime | None:
    return None if text is None else dt.datetime.fromisoformat(text)


class AirflowApi:
    """Requests to one Airflow; every ``wait_`` method raises AirflowApiError when time is up.

    Args:
        base_url: the API server's address, without a path.
        check: called on every round of a wait; it raises when waiting has become pointless.
    """

    def __init__(self, base_url: str, check: Callable[[], None] = lambda: None) -> None:
        self.base_url = base_url
        self._check = check
        # No proxy of the environment may come between this process and its own loopback server.
        self._client = httpx.Client(
            base_url=f"{base_url}/api/v2", timeout=_REQUEST_SECONDS, trust_env=False
        )

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **options)
            if response.status_code == _UNAUTHORIZED and self._log_in():
                response = self._client.request(method, path, **options)
        except httpx.TransportError as error:
            message = f"{method} {path}: no answer from {self.base_url} ({type(error).__name__})"
            raise AirflowApiError(message) from error
        return response

    def _log_in(self) -> bool:
        """Get a token, which a server that takes everybody for admin gives to everybody.

        Airflow 3.3 lets requests without one pass; 3.1 does not.
        """
        response = self._client.get(f"{self.base_url}/auth/token")
        if response.is_error:
            return False
        self._client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
        return True

    def sign_in(self, token: str) -> None:
        """Send this token with every request, to a server that knows its users."""
        self._client.headers["Authorization"] = f"Bearer {token}"

    def _request(self, method: str, path: str, **options: Any) -> Any:
        deadline = time.monotonic() + _LOCKED_SECONDS
        response = self._send(method, path, **options)
        while _is_locked(response) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            response = self._send(method, path, **options)
        if response.is_error:
            message = f"{method} {path} answered {response.status_code}: {response.text[:1000]}"
            raise AirflowApiError(message)
        return response.json() if response.content else None

    def wait(self, what: str, look: Callable[[], T | None], seconds: float) -> T:
        """Return what ``look`` finds, asking again until it is not None."""
        deadline = time.monotonic() + seconds
        while True:
            self._check()
            found = look()
            if found is not None:
                return found
            if time.monotonic() > deadline:
                message = f"{what}: not after {seconds:g} s"
                raise AirflowApiError(message)
            time.sleep(_POLL_SECONDS)

    # --- Airflow as a whole ----------------------------------------------------------------------

    def health(self) -> dict[str, str | None]:
        """Return every component's status; empty while the API server does not answer."""
        try:
            response = self._send("GET", "/monitor/health")
        except AirflowApiError:
            return {}
        if response.status_code != _OK:
            return {}
        return {name: (facts or {}).get("status") for name, facts in response.json().items()}

    def wait_healthy(self, components: Sequence[str], seconds: float) -> None:
        """Wait until all of these components report to be healthy."""

        def look() -> bool | None:
            status = self.health()
            return all(status.get(name) == "healthy" for name in components) or None

        self.wait(f"{', '.join(components)} healthy", look, seconds)

    def import_errors(self) -> dict[str, str]:
        """Return the traceback of every DAG file that cannot be imported, by file name."""
        errors = self._request("GET", "/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    # --- connections -----------------------------------------------------------------------------

    def add_connection(self, conn_id: str, conn_type: str, **fields: str | int) -> None:
        """Store a connection in the metadata database, as the form for it does.

        Args:
            conn_id: the connection's id.
            conn_type: its type, such as ``"postgres"``.
            fields: any of host, port, login, password, schema and extra.
        """
        body = {"connection_id": conn_id, "conn_type": conn_type, **fields}
        self._request("POST", "/connections", json=body)

    # --- DAGs ------------------------------------------------------------------------------------

    def wait_parsed(self, dag_id: str, seconds: float = 120.0) -> None:
        """Wait until a DAG can be run.

        Raises:
            AirflowApiError: also when a DAG file cannot be imported, with its traceback.
        """

        def look() -> bool | None:
            if self._send("GET", f"/dags/{dag_id}").status_code != _NOT_FOUND:
                return True
            for name, trace in self.import_errors().items():
                message = f"DAG file {name} cannot be imported:\n{trace}"
                raise AirflowApiError(message)
            return None

        self.wait(f"DAG {dag_id} parsed", look, seconds)

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run this DAG."""
        self._request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    # --- runs ------------------------------------------------------------------------------------

    def trigger(
        self,
        dag_id: str,
        *,
        run_id: str | None = None,
        conf: Mapping[str, Any] | None = None,
        logical_date: dt.datetime | None = None,
    ) -> str:
        """Start a DAG run and return its id."""
        body = {
            "dag_run_id": run_id,
            "conf": dict(conf or {}),
            "logical_date": logical_date.isoformat() if logical_date else None,
        }
        return str(self._request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def wait_started(self, dag_id: str, seconds: float) -> str:
        """Wait until a run of a DAG has started and return its id; the first when there are more."""

        def look() -> str | None:
            path = f"/dags/{dag_id}/dagRuns"
            body = self._request("GET", path, params={"order_by": "start_date"})
            started = [run["dag_run_id"] for run in body["dag_runs"] if run["start_date"]]
            return started[0] if started else None

        return self.wait(f"a run of {dag_id} started", look, seconds)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return a DAG run's state."""
        return str(self._request("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_run(self, dag_id: str, run_id: str, seconds: float) -> str:
        """Wait until a DAG run has ended and return its state."""

        def look() -> str | None:
            state = self.run_state(dag_id, run_id)
            return state if state in TERMINAL else None

        return self.wait(f"{dag_id} {run_id} ended", look, seconds)

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        """Set a DAG run's state, as the button does; of a run marked failed, the tasks are ended.

        Args:
            dag_id: the DAG.
            run_id: its run.
            state: ``"success"``, ``"failed"`` or ``"queued"``.
        """
        self._request("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": state})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a DAG run with its task instances and XComs; Airflow refuses one that runs."""
        self._request("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")

    # --- task instances --------------------------------------------------------------------------

    def tasks(self, dag_id: str, run_id: str) -> list[TaskTry]:
        """Return the newest try of every task instance of a run."""
        body = self._request("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")
        return [TaskTry.from_json(item) for item in body["task_instances"]]

    def task(self, dag_id: str, run_id: str, task_id: str) -> TaskTry:
        """Return the newest try of one task that is not mapped."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return TaskTry.from_json(self._request("GET", path))

    def tries(self, dag_id: str, run_id: str, task_id: str) -> list[TaskTry]:
        """Return every try of one task, the oldest first."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/tries"
        found = [TaskTry.from_json(item) for item in self._request("GET", path)["task_instances"]]
        return sorted(found, key=lambda one: one.try_number)

    def wait_running(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, seconds: float = 120.0
    ) -> TaskTry:
        """Wait until one try of a task runs and its process is known.

        Raises:
            AirflowApiError: also when the run ended, or a later try began, before that was seen.
        """

        def look() -> TaskTry | None:
            one = self.task(dag_id, run_id, task_id)
            if one.try_number == try_number and one.state == "running" and one.pid:
                return one
            if one.try_number > try_number or self.run_state(dag_id, run_id) in TERMINAL:
                message = (
                    f"{dag_id}.{task_id} was to be seen running at try {try_number}, "
                    f"but it is {one.state} at try {one.try_number}"
                )
                raise AirflowApiError(message)
            return None

        return self.wait(f"{dag_id}.{task_id} running", look, seconds)

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Set a task's state, as the button does; a running try is told to end.

        Args:
            dag_id: the DAG.
            run_id: its run.
            task_id: a task that is not mapped.
            state: ``"success"``, ``"failed"`` or ``"skipped"``.
        """
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self._request("PATCH", path, json={"new_state": state})

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """Return the log of one try as text, one event per line."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        body = self._request(
            "GET", path, params={"full_content": "true"}, headers={"Accept": "application/json"}
        )
        lines = (
            line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
            for line in body["content"]
        )
        return "\n".join(lines)

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Sequence[str] | None = None,
        *,
        downstream: bool = False,
    ) -> list[str]:
        """Clear tasks of a run, as the button does, and return the ids that were cleared.

        Args:
            dag_id: the DAG.
            run_id: its run.
            task_ids: which tasks; all of them when left out.
            downstream: clear everything downstream of them too.
        """
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "reset_dag_runs": True,
            "include_downstream": downstream,
            **({} if task_ids is None else {"task_ids": list(task_ids)}),
        }
        cleared = self._request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)
        return sorted(item["task_id"] for item in cleared["task_instances"])

    # --- audit -----------------------------------------------------------------------------------

    def audit_log(self, event: str) -> list[Mapping[str, Any]]:
        """Return the audit log's entries of one kind, the newest first."""
        params = {"event": event, "order_by": "-when"}
        return list(self._request("GET", "/eventLogs", params=params)["event_logs"])

    # --- end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
