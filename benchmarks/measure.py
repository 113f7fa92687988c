"""Starting, timing and ending the processes that are measured."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
READY_SECONDS: Final = 120.0
RUN_SECONDS: Final = 1800.0


class MeasurementError(RuntimeError):
    """What was to be measured failed; the message ends with what it printed last."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one function in one process took.

    Attributes:
        seconds: from its call to its return.
        cpu_seconds: of the process and its children; the servers' are not in it.
        peak_bytes: memory at its peak, above what the process had when the function was called.
        started: when it was called, in seconds since 1970.
        ended: when it returned.
        value: what it returned.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    started: float
    ended: float
    value: Any = None


class Child:
    """A process that waits to be told to run one function; as a context manager it is ended.

    Args:
        function: ``module:name``.
        arguments: its keyword arguments, JSON-ready.
        environment: variables on top of this process's own.
        python: the interpreter; another environment's for a peer.
    """

    def __init__(
        self,
        function: str,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
        python: Path | None = None,
    ) -> None:
        self._function = function
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._process = subprocess.Popen(
            [
                str(python or sys.executable),
                "-m",
                "benchmarks.child",
                function,
                json.dumps(arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=variables,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._said: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_talk, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def wait_ready(self) -> Self:
        """Wait until its imports are done."""
        self._answer(READY_SECONDS)
        return self

    def go(self) -> Self:
        """Let it call its function."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self

    def result(self, seconds: float = RUN_SECONDS) -> Measured:
        """Wait for the function's end.

        Raises:
            MeasurementError: it raised, or the process died.
        """
        outcome = json.loads(self._answer(seconds))
        if "error" in outcome:
            message = f"{self._function}: {outcome['error']}"
            raise MeasurementError(message)
        return Measured(**{name: outcome[name] for name in Measured.__slots__})

    def kill(self) -> None:
        """SIGKILL it and its children, as a lost worker would go, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        for reader in self._readers:
            reader.join(10)

    def _answer(self, seconds: float) -> str:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            message = f"{self._function} gave no answer within {seconds:.0f} s"
            raise MeasurementError(message) from None
        if not line:
            said = "".join(self._said)[-2000:]
            message = f"{self._function} died; it said last:\n{said}"
            raise MeasurementError(message)
        return line

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._readers[1].join(5)  # what it said last explains its end
        self._lines.put("")

    def _read_talk(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stderr:
                self._said.append(line)
                del self._said[:-200]


def measured(
    function: str,
    arguments: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    python: Path | None = None,
) -> Measured:
    """Run one function in a process of its own and return what it took."""
    with Child(function, arguments, environment, python) as child:
        return child.wait_ready().go().result()


def measured_together(
    functions: Sequence[tuple[str, Mapping[str, Any]]], environment: Mapping[str, str]
) -> list[Measured]:
    """Run several functions at once, each in its process, started when all are ready."""
    with _children(functions, environment) as children:
        for child in children:
            child.wait_ready()
        for child in children:
            child.go()
        return [child.result() for child in children]


@contextlib.contextmanager
def _children(
    functions: Sequence[tuple[str, Mapping[str, Any]]], environment: Mapping[str, str]
) -> Iterator[list[Child]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Child(function, arguments, environment))
            for function, arguments in functions
        ]
