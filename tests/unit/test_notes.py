"""What may be said of an error to people who look at a stage: never a row value nor a password."""

from __future__ import annotations

import psycopg
import pytest
import redis

from airflow_checkpoint_etl.errors import StagedChunkError
from airflow_checkpoint_etl.notes import LONGEST, told
from airflow_checkpoint_etl.protocol import IllegalMove

SECRET = "CANARY5f1e"


def test_this_packages_own_errors_are_quoted():
    assert told(StagedChunkError("chunk 7 is\n  gone")) == "chunk 7 is gone"
    assert told(IllegalMove("chunk 9 is not the next one")) == "chunk 9 is not the next one"


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.UniqueViolation(f"Key (email)=({SECRET}) already exists."),
        psycopg.errors.InvalidTextRepresentation(f'invalid input syntax: "{SECRET}"'),
        ValueError(SECRET),
        KeyError(SECRET),
        OSError(2, SECRET),
        redis.exceptions.ResponseError(SECRET),
        StagedChunkError(f"cannot read s3://key:{SECRET}@host/bucket"),
        psycopg.OperationalError(f"cannot connect to postgres://user:{SECRET}@host/db"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_values_and_passwords_are_not(error):
    assert SECRET not in told(error)


def test_of_a_database_error_the_code_is_told():
    words = told(psycopg.errors.UniqueViolation("Key (id)=(7)"))
    assert words == "UniqueViolation (SQLSTATE 23505); the task's log has the details"


def test_of_a_lost_connection_the_reason_is_told():
    error = redis.exceptions.ConnectionError("Error 111 connecting to 127.0.0.1:6379.")
    assert told(error) == "ConnectionError: Error 111 connecting to 127.0.0.1:6379."
    lost = psycopg.OperationalError("connection failed: refused\nIs the server running?")
    assert told(lost) == "OperationalError: connection failed: refused"


def test_a_message_is_cut_at_its_longest():
    assert len(told(StagedChunkError("x" * 9999))) == LONGEST
