"""Runs one function in a process of its own, as a task would run, and reports what it took.

``python -m benchmarks.child module:function '{"argument": ...}'``: imports the function, says ``ready``,
waits for a line, calls the function, and prints one line of JSON. What an import costs before ``ready`` is
not counted: in Airflow it belongs to the start of the task. Standard library only, because peers run it in
virtual environments of their own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_KIB = 1024 if sys.platform != "darwin" else 1


def _memory(field: str) -> int:
    """Bytes that /proc says of this process; 0 where there is no /proc."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _largest_child() -> int:
    """Bytes of the largest child that has ended; one that was forked to start a program had all of ours."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _KIB


def _peak_since(before: int, child_before: int) -> int:
    """Bytes above ``before`` that this process had at its peak, and those of its largest new child."""
    peak = _memory("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    child = _largest_child()
    return max(peak - before, 0) + (child if child > child_before else 0)


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Run the function that the command line names."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the function prints is no answer
    module, _, name = sys.argv[1].partition(":")
    arguments = json.loads(sys.argv[2])
    function = getattr(importlib.import_module(module), name)
    answers.write("ready\n")
    sys.stdin.readline()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # the peak starts anew from here
    before = _memory("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    child = _largest_child()
    cpu, started, clock = _cpu(), time.time(), time.perf_counter()
    outcome: dict[str, object]
    try:
        outcome = {"value": function(**arguments)}
    except BaseException as error:  # noqa: BLE001  the parent decides what it means
        traceback.print_exc()
        outcome = {"error": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - clock
    outcome |= {
        "seconds": seconds,
        "cpu_seconds": _cpu() - cpu,
        "peak_bytes": _peak_since(before, child),
        "started": started,
        "ended": started + seconds,
    }
    answers.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
