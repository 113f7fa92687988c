"""Which errors are tried again, failed at once, or left to the task."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import psycopg
import pytest
import redis

from airflow_checkpoint_etl import checkpoint_retry_policy, errors
from airflow_checkpoint_etl.retries import SOON
from airflow_checkpoint_etl.sources.failures import LostConnectionError
from airflow_checkpoint_etl.transience import Verdict, judge

# Airflow 3.3 has retry policies; an older one has nothing to test but that nothing is there.
policies = pytest.importorskip("airflow.sdk.definitions.retry_policy")
RetryAction = policies.RetryAction

SOON_AGAIN = [
    psycopg.errors.AdminShutdown(),
    psycopg.errors.CrashShutdown(),
    psycopg.errors.CannotConnectNow(),
    psycopg.errors.ConnectionFailure(),
    psycopg.errors.DeadlockDetected(),
    psycopg.errors.SerializationFailure(),
    psycopg.errors.LockNotAvailable(),
    psycopg.errors.TooManyConnections(),
    psycopg.errors.IdleInTransactionSessionTimeout(),
    psycopg.errors.ReadOnlySqlTransaction(),
    psycopg.OperationalError("the connection is closed"),
    redis.exceptions.ConnectionError(),
    redis.exceptions.TimeoutError(),
    redis.exceptions.BusyLoadingError(),
    redis.exceptions.ReadOnlyError(),
    LostConnectionError(),
]
NEVER = [
    psycopg.errors.UndefinedTable(),
    psycopg.errors.UndefinedColumn(),
    psycopg.errors.InsufficientPrivilege(),
    psycopg.errors.InvalidPassword(),
    psycopg.errors.InvalidCatalogName(),
    psycopg.errors.SyntaxError(),
    redis.exceptions.AuthenticationError(),
    redis.exceptions.NoPermissionError(),
    errors.ConfigurationError(),
    errors.PreflightError(),
    errors.TypeMismatchError(),
    errors.PipelineChangedError(),
    errors.FencedError(),
]
AS_THE_TASK_SAYS = [
    ValueError(),
    psycopg.errors.UniqueViolation(),
    psycopg.errors.QueryCanceled(),
    redis.exceptions.ResponseError(),
    errors.TransformError(),
    errors.SettleTimeoutError(),
    errors.StageBusyError(),
]


def name(error):
    return type(error).__name__


@pytest.mark.parametrize("error", SOON_AGAIN, ids=name)
def test_what_passes_by_itself_is_tried_again_soon(error):
    decision = checkpoint_retry_policy().evaluate(error, 1, 3)
    assert decision.action is RetryAction.RETRY
    assert decision.retry_delay == SOON
    assert decision.reason


@pytest.mark.parametrize("error", NEVER, ids=name)
def test_what_somebody_has_to_change_is_failed_at_once(error):
    decision = checkpoint_retry_policy().evaluate(error, 1, 3)
    assert decision.action is RetryAction.FAIL
    assert decision.reason


@pytest.mark.parametrize("error", AS_THE_TASK_SAYS, ids=name)
def test_the_rest_is_left_to_the_task(error):
    assert checkpoint_retry_policy().evaluate(error, 1, 3).action is RetryAction.DEFAULT


def raised(error, cause):
    try:
        try:
            raise cause
        except type(cause) as inner:
            raise error from inner
    except type(error) as outer:
        return outer


def test_what_an_error_was_raised_from_is_asked_too():
    error = raised(errors.TransformError(), psycopg.errors.AdminShutdown())
    assert judge(error)[0] is Verdict.TRANSIENT


def test_an_error_that_knows_is_not_overruled_by_what_it_was_raised_from():
    error = raised(errors.PreflightError(), psycopg.errors.AdminShutdown())
    assert judge(error)[0] is Verdict.PERMANENT


def test_an_error_raised_from_nothing_hides_what_was_before():
    def work():
        try:
            raise psycopg.errors.AdminShutdown
        except psycopg.Error:
            raise errors.TransformError from None

    with pytest.raises(errors.TransformError) as raised:
        work()
    assert judge(raised.value)[0] is Verdict.UNKNOWN


def test_errors_that_were_raised_from_each_other_are_asked_once():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert judge(first)[0] is Verdict.UNKNOWN


def test_the_reason_names_no_value():
    error = psycopg.errors.UndefinedTable('relation "secret_table" does not exist')
    assert "secret" not in checkpoint_retry_policy().evaluate(error, 1, 3).reason


def test_the_delay_is_a_parameter():
    def delay(given):
        policy = checkpoint_retry_policy(given)
        return policy.evaluate(psycopg.errors.DeadlockDetected(), 1, 3).retry_delay

    assert delay(dt.timedelta(minutes=2)) == dt.timedelta(minutes=2)
    assert delay(None) is None


def test_an_older_airflow_has_no_policy(monkeypatch):
    from airflow.providers.common import compat

    # There the module does not know the name.
    monkeypatch.setattr(compat, "sdk", SimpleNamespace(), raising=False)
    assert checkpoint_retry_policy() is None
