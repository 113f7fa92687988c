"""Errors say what happened by themselves, cross process borders, and know whether trying again helps."""

from __future__ import annotations

import inspect
import pickle

import pytest

from airflow_checkpoint_etl import errors
from airflow_checkpoint_etl.errors import CheckpointEtlError, ConfigurationError, invalid

CLASSES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, CheckpointEtlError)
]

RETRYABLE = {
    "CancelledError",
    "CheckpointEtlError",
    "CorruptRecordError",
    "ManifestConflictError",
    "PlanOpenError",
    "SettleTimeoutError",
    "StageBusyError",
    "StageWaitingError",
    "StagedChunkError",
    "TransformError",
}


@pytest.mark.parametrize("error", CLASSES)
def test_the_default_message_is_the_first_thing_the_class_says_about_itself(error):
    assert str(error()) == inspect.cleandoc(error.__doc__)
    assert str(error()).endswith(".")


@pytest.mark.parametrize("error", CLASSES)
def test_a_message_of_its_own_replaces_the_default(error):
    assert str(error("load is at 40")) == "load is at 40"


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_survives_pickling(error):
    for raised in (error(), error("load is at 40")):
        again = pickle.loads(pickle.dumps(raised))
        assert type(again) is error
        assert str(again) == str(raised)


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_is_caught_as_one_of_ours(error):
    with pytest.raises(CheckpointEtlError):
        raise error


def test_retries_are_spent_only_where_trying_again_can_help():
    assert {error.__name__ for error in CLASSES if error.retryable} == RETRYABLE


def test_errors_are_also_what_python_calls_them():
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(errors.MissingDependencyError, ImportError)


def test_a_subclass_without_a_docstring_still_has_words():
    class NamelessError(CheckpointEtlError):
        pass

    assert str(NamelessError()) == inspect.cleandoc(CheckpointEtlError.__doc__)


def test_an_invalid_parameter_is_named_with_its_value_the_rule_and_the_next_move():
    error = invalid("settle", "wait", "must be one of auto, none", "choose one of them")
    assert isinstance(error, ConfigurationError)
    assert str(error) == "settle='wait': must be one of auto, none; choose one of them"
