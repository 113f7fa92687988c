"""What can be known about a transform's callable when the DAG file is parsed; imports no pyarrow."""

from __future__ import annotations

import inspect
import json
import multiprocessing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_checkpoint_etl.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Mode = Literal["record", "batch"]

MODES: Final = ("record", "batch")


def check_rejecting(mode: str, initial_state: object) -> None:
    """Check that rejected records can be told from others: one by one, or by halving a batch.

    Raises:
        ConfigurationError: a batch transform with state, which cannot be run on half a batch.
    """
    if mode == "batch" and initial_state is not None:
        msg = "on_error"
        raise invalid(
            msg,
            "quarantine",
            "a batch transform with state cannot be tried on parts of a batch to find the bad records",
            'use mode="record", drop initial_state, or pass on_error="fail"',
        )


def check_columns(
    columns: object, mode: str, known: Sequence[str] | None = None
) -> tuple[str, ...] | None:
    """Check the columns that a per-record transform declares, and return them as a tuple.

    Args:
        columns: a sequence of names; None: every column.
        mode: the transform's mode.
        known: the columns there will be, where that is known already.

    Raises:
        ConfigurationError: no sequence of names, empty, doubled or unknown names, or not per record.
    """
    if columns is None:
        return None
    msg = "columns"
    if mode != "record":
        rule = "a batch holds every column, at no cost"
        raise invalid(msg, columns, rule, 'leave it out, or pass mode="record"')
    names = tuple(columns) if isinstance(columns, (list, tuple)) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise invalid(msg, columns, "must be column names", 'pass a list, e.g. ["email", "amount"]')
    if len(set(names)) != len(names):
        raise invalid(msg, columns, "names a column twice", "name every column once")
    for name in names:
        if known is not None and name not in known:
            rule = f"the source reads no column {name!r}"
            raise invalid(msg, columns, rule, f"it reads {', '.join(known)}")
    return names


def check_processes(processes: object, mode: str, initial_state: object) -> None:
    """Check that a transform's records can be shared out among worker processes.

    Raises:
        ConfigurationError: no positive whole number, a batch transform, one with state, or a system
            that cannot fork.
    """
    if processes is None:
        return
    msg = "processes"
    if not isinstance(processes, int) or isinstance(processes, bool) or processes < 1:
        raise invalid(msg, processes, "must be a whole number, 1 or more", "pass e.g. 2, or None")
    if mode != "record":
        rule = "a batch is handed over as a whole, and pyarrow uses several threads by itself"
        raise invalid(msg, processes, rule, "leave it out")
    if initial_state is not None:
        rule = "a state goes from each record to the next, so records cannot be shared out"
        raise invalid(msg, processes, rule, "leave it out, or drop initial_state")
    if "fork" not in multiprocessing.get_all_start_methods():
        rule = "worker processes are forked, which this system does not do"
        raise invalid(msg, processes, rule, "leave it out")


def check_callable(function: Callable[..., Any], mode: str, initial_state: object) -> None:
    """Check at DAG parse what can be known about a transform.

    Raises:
        ConfigurationError: not callable, an unknown mode, a state that is no JSON object, or a number
            of parameters that does not fit.
    """
    if mode not in MODES:
        msg = "mode"
        raise invalid(msg, mode, f"must be one of {', '.join(MODES)}", "choose one of them")
    if not callable(function):
        msg = "python_callable"
        raise invalid(msg, function, "is not callable", "pass a function")
    if initial_state is not None:
        if not isinstance(initial_state, Mapping):
            msg = "initial_state"
            raise invalid(
                msg,
                initial_state,
                "must be a dict: the state is a JSON object",
                "pass a dict, e.g. {} or {'total': 0}",
            )
        try:
            json.dumps(dict(initial_state), allow_nan=False)
        except (TypeError, ValueError):
            msg = "initial_state"
            raise invalid(
                msg,
                type(initial_state).__name__,
                "holds values JSON cannot carry",
                "keep numbers, texts, booleans, lists and dicts in the state",
            ) from None
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return  # a builtin; it is found out when it is called
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    if any(parameter.kind == parameter.VAR_POSITIONAL for parameter in parameters):
        return
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    given = 1 if initial_state is None else 2
    if len(required) > given or len(positional) < given:
        first = "a record" if mode == "record" else "a pyarrow table"
        arguments = first if given == 1 else f"{first} and the state"
        msg = "python_callable"
        raise invalid(
            msg,
            getattr(function, "__name__", "callable"),
            f"is called with {arguments} but takes {len(positional)} argument(s)",
            "change its parameters"
            + ("" if initial_state is not None else ", or pass initial_state= for a second one"),
        )
