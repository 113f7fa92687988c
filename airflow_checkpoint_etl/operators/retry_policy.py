"""The retry policy itself; to be imported on an Airflow that has retry policies (3.3) only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import RetryDecision, RetryPolicy

from airflow_checkpoint_etl.transience import Verdict, judge

if TYPE_CHECKING:
    import datetime as dt

    from airflow.sdk import Context


class CheckpointRetryPolicy(RetryPolicy):
    """Retries soon what passes by itself, fails at once what does not, and leaves the rest to the task.

    Args:
        delay: between two tries of what passes by itself; None for the task's ``retry_delay``.
    """

    def __init__(self, delay: dt.timedelta | None) -> None:
        self.delay = delay

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002  Airflow's signature
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,  # noqa: ARG002
    ) -> RetryDecision:
        """Decide by what the exception, or what it was raised from, means."""
        verdict, reason = judge(exception)
        if verdict is Verdict.TRANSIENT:
            return RetryDecision.retry(self.delay, reason)
        if verdict is Verdict.PERMANENT:
            return RetryDecision.fail(reason)
        return RetryDecision.default()

    def __repr__(self) -> str:
        return f"CheckpointRetryPolicy({self.delay})"
