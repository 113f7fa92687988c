"""The canary of the whole suite is heard."""

from __future__ import annotations

import logging

import pytest

from tests import canary, support
from tests.chaos import harness_case

log = logging.getLogger("a_canary_of_its_own")  # the suite listens to the package's while this runs


def test_a_log_that_tells_a_row_is_heard():
    with pytest.raises(AssertionError, match="a log tells a row"), canary.listening(log):
        log.debug("row %s", canary.ROW)


def fail(words):
    try:
        int(words)
    except ValueError as error:
        message = "stopped"
        raise RuntimeError(message) from error


def test_an_error_that_comes_from_one_that_tells_a_row_is_heard():
    with pytest.raises(AssertionError, match="a row is told"), canary.silent_errors():
        fail(canary.ROW)


def test_silence_is_no_fault():
    with canary.listening(log):
        log.info("all is well")
    with pytest.raises(RuntimeError), canary.silent_errors():
        fail("anything else")


def test_the_rows_of_the_tests_hold_it():
    for rows in (support.INSERT, harness_case.ROWS):
        assert canary.ROW.replace("'", "''") in rows
        assert canary.ROW not in rows
