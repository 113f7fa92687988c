"""A preset for Airflow's retry policies."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from airflow_checkpoint_etl.operators.retry_policy import CheckpointRetryPolicy

SOON: Final = dt.timedelta(seconds=15)


def checkpoint_retry_policy(delay: dt.timedelta | None = SOON) -> CheckpointRetryPolicy | None:
    """Return a retry policy for the tasks of a pipeline, on an Airflow that has them (3.3).

    What passes by itself is tried again after ``delay``: a lost connection, a server that shuts down,
    a deadlock, a serialization failure, a lock timeout, too many connections, an unreachable Redis. What
    does not is failed at once, whatever ``retries`` says: wrong names, types, privileges, passwords and
    configuration. Everything else keeps the task's ``retries`` and ``retry_delay``. A policy never gives
    more tries than ``retries``.

    Pass it in ``default_args``, where an older Airflow ignores it. There, None is returned, and our own
    operators still fail at once on errors of their own that trying again cannot mend.

    Args:
        delay: between two tries of what passes by itself; None for the task's ``retry_delay``.

    Example::

        default_args={"retries": 5, "retry_policy": checkpoint_retry_policy()}
    """
    from airflow.providers.common.compat import sdk  # noqa: PLC0415  keeps this importable anywhere

    try:
        sdk.RetryPolicy  # noqa: B018  asks whether this Airflow has it
    except (AttributeError, ImportError):
        return None
    from airflow_checkpoint_etl.operators.retry_policy import (  # noqa: PLC0415
        CheckpointRetryPolicy,
    )

    return CheckpointRetryPolicy(delay)
