"""Runs attempts of steps, each in a process of its own, as Airflow runs task tries.

Importing pyarrow, ADBC and the package takes two seconds; so one process does that once, opens no
connection, and forks a child per attempt. Requests and events are JSON lines on its standard input and
output; when its input ends it kills what it started and goes. An attempt's outcome, the failpoints it
passed and its log are files, so that they outlive a SIGKILL.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import selectors
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi  # noqa: F401  loaded once, before any fork
import pgpq  # noqa: F401

from airflow_checkpoint_etl import failpoints
from airflow_checkpoint_etl.staging import codec  # noqa: F401
from airflow_checkpoint_etl.warehouses import copying  # noqa: F401
from tests.chaos.harness_case import Case

log = logging.getLogger(__name__)


class Trace(Counter):
    """Counts passes of failpoints and writes each one down before it acts."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __setitem__(self, name: str, count: int) -> None:
        super().__setitem__(name, count)
        os.write(self._file, f"{name}\n".encode())


def run_attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Run one attempt and return its outcome: a summary, or an error."""
    failpoints._passes = Trace(request["trace"])
    os.environ[failpoints.ENVIRONMENT] = f"trace=on;{request['failpoint']}"
    case = Case(**request["case"])
    try:
        summary = case.act(request["step"], request["run"], request["try_number"])
    except BaseException as error:  # an attempt may end by anything
        log.exception("the attempt failed")
        return {
            "error": type(error).__name__,
            "message": str(error),
            "retryable": getattr(error, "retryable", True),
        }
    return {"summary": summary.as_xcom() if hasattr(summary, "as_xcom") else summary}


def child(request: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    logging.basicConfig(level=logging.INFO, stream=os.fdopen(2, "w"), force=True)
    outcome = Path(request["outcome"])
    written = outcome.with_suffix(".part")
    written.write_text(json.dumps(run_attempt(request)), encoding="utf-8")
    written.rename(outcome)
    logging.shutdown()


class ForkServer:
    """Forks an attempt per request and tells of every stop, continuation and end."""

    def __init__(self) -> None:
        self._running: dict[int, int] = {}
        self._buffer = b""

    def serve(self) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        os.set_blocking(read_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the one who started us
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        gc.freeze()  # a collection in a child would copy every page it shares with us
        self._say(event="ready")
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(read_end, selectors.EVENT_READ)
            try:
                while True:
                    for key, _ in selector.select():
                        if key.fd == 0:
                            if not self._take_requests():
                                return
                        else:
                            with contextlib.suppress(BlockingIOError):
                                os.read(read_end, 4096)
                            self._reap()
            finally:
                self._end_all()

    def _take_requests(self) -> bool:
        data = os.read(0, 1 << 20)
        if not data:
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                try:
                    child(request)
                finally:
                    os._exit(0)
            self._running[pid] = request["number"]
            self._say(event="started", number=request["number"], pid=pid)
        return True

    def _reap(self) -> None:
        while self._running:
            flags = os.WNOHANG | os.WUNTRACED | os.WCONTINUED
            try:
                pid, status = os.waitpid(-1, flags)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._say(event="stopped", number=self._running[pid])
            elif os.WIFCONTINUED(status):
                self._say(event="continued", number=self._running[pid])
            else:
                number = self._running.pop(pid)
                killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
                self._say(event="ended", number=number, signal=killed)

    def _end_all(self) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._running:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _say(self, **event: Any) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    ForkServer().serve()
