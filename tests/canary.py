"""A canary in the whole suite: the rows of most tests hold a name that no log and no error may tell.

``tests.support`` and the fault-injection cases put it into their sources' rows. While a test runs, every
record of the package's loggers is looked through, and every exception that leaves a stage, as a task log
would print it; so are the logs and messages of attempts in processes of their own.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW = "O'Brien"
"""In SQL, and so in the tests' own statements, its quote is doubled."""

_LOGGER = logging.getLogger("airflow_checkpoint_etl")


class Listener(logging.Handler):
    """Remembers every record in which the canary sings."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        told = logging.Formatter().format(record)
        if ROW in told:
            self.heard.append(f"{record.name}: {told}")


@contextlib.contextmanager
def listening(logger: logging.Logger = _LOGGER) -> Iterator[None]:
    """Fail at the end of the block if a logger of the package has told a row."""
    listener, level = Listener(), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
    assert not listener.heard, f"a log tells a row: {listener.heard}"


@contextlib.contextmanager
def silent_errors() -> Iterator[None]:
    """Fail if an exception that leaves the block tells a row, itself or by what it came from."""
    try:
        yield
    except Exception as error:
        check("".join(traceback.format_exception(error)))
        raise


def check(told: str) -> None:
    """Fail if a text tells a row."""
    place = told.find(ROW)
    assert place < 0, f"a row is told: ...{told[max(0, place - 300) : place + 100]}..."
