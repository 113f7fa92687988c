"""Worker processes that call a per-record callable, for one that needs more than one processor.

They are forked when a stage begins, before it opens a connection or starts a thread, so that a child
shares neither; and because a child is a copy, the callable need not be picklable (functions of a DAG file
are not: Airflow loads it under a name of its own). A slice of a chunk goes out as an Arrow stream and comes
back as columns of values.

The order is that of the chunk: slices go round the workers, each of which has one at a time, so that what
is under way is bounded too. No worker outlives its parent, whatever ends that: their pipe ends with it,
and a thread in each waits for just that while the callable is at work.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa

from airflow_checkpoint_etl.errors import CancelledError, CheckpointEtlError, TransformError
from airflow_checkpoint_etl.record_calls import Failure, Part
from airflow_checkpoint_etl.values import SLICE, rows_in, slices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from airflow_checkpoint_etl.record_calls import RecordCaller

_ROWS: Final = 2 * SLICE
_BYTES: Final = 4 << 20
"""Records that a worker is given at a time, and how large they are at most."""

_WATCH_SECONDS: Final = 0.2
_END_SECONDS: Final = 1.0
_ENDED: Final = 3
"""The exit code of a worker whose parent is gone."""


class Workers:
    """Worker processes, from the beginning of a ``with`` block to its end.

    Args:
        count: how many.
        caller: what they call.
    """

    def __init__(self, count: int, caller: RecordCaller) -> None:
        self._count, self._caller = count, caller
        self._workers: list[_Worker] = []
        self._cancelled = False

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                inherited = [worker.pipe for worker in self._workers]
                self._workers.append(_Worker(self._caller, inherited))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def cancel(self) -> None:
        """Have the running call raise CancelledError; safe from a signal handler."""
        self._cancelled = True

    def call(self, table: pa.Table) -> Iterator[Part]:
        """Call the callable for every row, and yield what came of them in their order.

        Raises:
            TransformError: a worker ended.
            ValueNotCarriedError: a value is none that Python has.
            CancelledError: cancelled meanwhile.
        """
        under_way: list[_Worker] = []
        size = rows_in(table, _ROWS, _BYTES)
        try:
            for number, first in enumerate(range(0, table.num_rows, size)):
                worker = self._workers[number % self._count]
                if worker in under_way:
                    under_way.remove(worker)
                    yield self._result(worker)
                worker.send(first, table.slice(first, size))
                under_way.append(worker)
            while under_way:
                yield self._result(under_way.pop(0))
        finally:
            # Left early: what is still to come is of a chunk that nobody wants.
            for worker in under_way:
                with contextlib.suppress(CheckpointEtlError):
                    self._result(worker)

    def _result(self, worker: _Worker) -> Part:
        while not worker.is_ready():
            if self._cancelled:
                raise CancelledError
        return worker.receive()

    def _end(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.end()
        self._workers = []


class _Worker:
    """One child process and our end of the pipe to it.

    Args:
        caller: what it calls.
        inherited: our ends of older workers' pipes, which this child has to close.
    """

    def __init__(self, caller: RecordCaller, inherited: Sequence[Any]) -> None:
        fork = multiprocessing.get_context("fork")
        self.pipe, its_end = fork.Pipe()
        self._name = caller.name
        self._process = fork.Process(
            target=_work,
            args=(its_end, caller, [*inherited, self.pipe]),
            name="checkpoint-etl-transform",
        )
        self._process.start()
        its_end.close()

    def send(self, first: int, rows: pa.Table) -> None:
        """Hand a slice over; ``first`` is its first row's position in the chunk."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        try:
            self.pipe.send(first)
            self.pipe.send_bytes(sink.getvalue())
        except OSError:
            raise self._gone() from None

    def is_ready(self) -> bool:
        """Wait a moment for a result, or for the worker's end."""
        return bool(connection.wait([self.pipe, self._process.sentinel], _WATCH_SECONDS))

    def receive(self) -> Part:
        """Return a result; raises what ended the slice, or that the worker is gone."""
        try:
            result = self.pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if isinstance(result, CheckpointEtlError):
            raise result
        part: Part = result
        return part

    def end(self) -> None:
        """Wait for the end that its closed pipe brings, not for long, and kill it then."""
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _gone(self) -> TransformError:
        self._process.join(_END_SECONDS)
        code = self._process.exitcode
        how = "is gone" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by signal {-code} (9: perhaps for want of memory)"
        message = (
            f"a worker process of {self._name} {how}; nothing of the chunk was kept. Lower processes or "
            "chunk_rows, or mend the transform, then clear this task"
        )
        return TransformError(message)


# --- in the child ------------------------------------------------------------------------------------


def _work(pipe: Any, caller: RecordCaller, inherited: Sequence[Any]) -> None:
    """Answer slices until the parent closes the pipe, or is gone."""
    # The parent's handlers are about the parent's stage; it ends its workers itself.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for end in inherited:  # else the pipe would not end with the parent
        end.close()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            first = pipe.recv()
            rows = pa.ipc.open_stream(pipe.recv_bytes()).read_all()
        except (EOFError, OSError):
            return
        result = _answer(caller, first, rows)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        try:
            pipe.send(result)
        except OSError:
            return
        except Exception as error:  # noqa: BLE001  whatever pickling the user's values raises
            sentence = (
                f"{caller.name} returned a value that cannot be handed over from a worker process "
                f"({type(error).__name__}) {{where}} or soon after; return plain values, or leave "
                "processes out"
            )
            pipe.send(Part(failure=Failure(first, sentence)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(_ENDED)


def _answer(caller: RecordCaller, first: int, rows: pa.Table) -> Part | CheckpointEtlError:
    whole = Part()
    try:
        for positions, columns in slices(rows, rows.column_names):
            part = caller.call(columns, [first + position for position in positions])
            whole.blocks += part.blocks
            whole.rejected |= part.rejected
            whole.failure = part.failure
            if whole.failure is not None:
                break
    except CheckpointEtlError as error:
        return error
    return whole
