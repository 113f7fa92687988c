"""What can be known about a transform's callable when the DAG file is parsed; imports no pyarrow."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_checkpoint_etl.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Callable

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
