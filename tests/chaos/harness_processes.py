"""Attempts as processes: start, wait, stop, resume, kill, and drop their connections."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import psycopg
import redis

from tests import canary

if TYPE_CHECKING:
    from types import TracebackType

    from tests.chaos.harness_case import Case

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds after which an attempt that neither ends nor stops is a hang, and a finding."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        signal: the signal that ended the process; None when it ended by itself.
        summary: what the step returned.
        error: the name of the error it raised, with its message and whether a retry can help.
        trace: the failpoints it passed, in order.
        log: the end of its log.
    """

    signal: int | None = None
    summary: dict[str, Any] | None = None
    error: str | None = None
    message: str = ""
    retryable: bool = True
    trace: tuple[str, ...] = ()
    log: str = field(default="", repr=False)

    @property
    def succeeded(self) -> bool:
        return self.signal is None and self.error is None

    @property
    def killed(self) -> bool:
        return self.signal == signal.SIGKILL

    def explain(self) -> str:
        return f"{self}\n--- its log ---\n{self.log}"


class Try:
    """One attempt in its own process."""

    def __init__(self, number: int, directory: Path) -> None:
        self.number = number
        self.pid = 0
        self.started, self.stopped, self.ended = (threading.Event() for _ in range(3))
        self.exit_signal: int | None = None
        self.files = {name: directory / f"{number}.{name}" for name in ("outcome", "trace", "log")}

    def wait(self, seconds: float = PATIENCE) -> Outcome:
        """Return the outcome; an attempt that hangs is killed, and the wait fails."""
        if not self.ended.wait(seconds):
            log = self._read("log")
            self.kill()
            message = f"attempt {self.number} did not end within {seconds:g} s; its log:\n{log}"
            raise AssertionError(message)
        ended = self._read("outcome")
        outcome = Outcome(
            signal=self.exit_signal,
            trace=tuple(self._read("trace").split()),
            log=self._read("log")[-6000:],
            **(json.loads(ended) if ended and self.exit_signal is None else {}),
        )
        canary.check(self._read("log") + outcome.message)
        for file in self.files.values():
            file.unlink(missing_ok=True)
        return outcome

    def wait_stopped(self, seconds: float = PATIENCE) -> bool:
        """Wait until it stops (True) or ends (False)."""
        if not self.stopped.wait(seconds):
            self.kill()
            message = f"attempt {self.number} neither stopped nor ended within {seconds:g} s"
            raise AssertionError(message)
        return not self.ended.is_set()

    def trace(self) -> tuple[str, ...]:
        return tuple(self._read("trace").split())

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.ended.wait(PATIENCE)

    def _signal(self, number: int) -> None:
        self.started.wait(PATIENCE)
        # Between its end and our hearing of it lie microseconds, too few for its pid to be used again.
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _read(self, name: str) -> str:
        try:
            return self.files[name].read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    # --- its connections -----------------------------------------------------------------------

    def drop_connections(self, case: Case) -> int:
        """End every connection it has to PostgreSQL and Redis, from the server's side."""
        ports = [
            connection.laddr.port
            for connection in psutil.Process(self.pid).net_connections("tcp")
            if connection.raddr
        ]
        dropped = 0
        with psycopg.connect(case.warehouse_dsn, autocommit=True) as connection:
            ended = connection.execute(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
                "where client_port = any(%s) and pid <> pg_backend_pid()",
                (ports,),
            ).fetchall()
            dropped += len(ended)
        if case.redis_port is not None:
            with redis.Redis(port=case.redis_port) as client:
                for known in client.client_list():
                    if int(known["addr"].rpartition(":")[2]) in ports:
                        client.client_kill_filter(addr=known["addr"])
                        dropped += 1
        return dropped


class Attempts:
    """The process that forks attempts; used as a context manager it leaves none behind."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._tries: dict[int, Try] = {}
        self._ready = threading.Event()
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="checkpoint-etl-attempts-"))
        self._errors = (self._directory / "server.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if not self._ready.wait(PATIENCE) or self._process.poll() is not None:
            log = (self._directory / "server.log").read_text(errors="replace")
            self.__exit__(None, None, None)
            message = f"the process that forks attempts did not start:\n{log[-3000:]}"
            raise AssertionError(message)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(PATIENCE)
        self._process.stdout.close()
        self._errors.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(
        self, case: Case, step: str, run: str = "run_1", try_number: int = 1, failpoint: str = ""
    ) -> Try:
        """Start one attempt; ``failpoint`` is as CHECKPOINT_ETL_FAILPOINTS has it."""
        number = next(self._numbers)
        attempt = self._tries[number] = Try(number, self._directory)
        request = {
            "number": number,
            "case": case.as_json(),
            "step": step,
            "run": run,
            "try_number": try_number,
            "failpoint": failpoint,
            **{name: str(path) for name, path in attempt.files.items()},
        }
        with self._writing:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return attempt

    def run(
        self, case: Case, step: str, run: str = "run_1", try_number: int = 1, failpoint: str = ""
    ) -> Outcome:
        """Run one attempt to its end, whatever that is."""
        return self.start(case, step, run, try_number, failpoint).wait()

    def _listen(self) -> None:
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                self._ready.set()
                continue
            attempt = self._tries[event["number"]]
            if event["event"] == "started":
                attempt.pid = event["pid"]
                attempt.started.set()
            elif event["event"] == "stopped":
                attempt.stopped.set()
            elif event["event"] == "continued":
                attempt.stopped.clear()
            else:
                attempt.exit_signal = event["signal"]
                del self._tries[event["number"]]
                attempt.ended.set()
                attempt.stopped.set()
        self._ready.set()
