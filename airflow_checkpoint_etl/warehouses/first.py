"""What runs once before the first rows of a lane: a preoperator, in the first chunk's own transaction.

Committed with the lane's first chunk or not at all, it has run exactly once per life of a lane that
starts at its beginning. It never runs on a resume, where emptying the target would destroy chunks that
count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from airflow_checkpoint_etl.errors import PreflightError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.warehouses.catalog import rows
from airflow_checkpoint_etl.warehouses.ledger import SQL
from airflow_checkpoint_etl.warehouses.refusals import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.protocol import Lane
    from airflow_checkpoint_etl.warehouses.target import TargetTable


class FirstLoad:
    """Prepares the target within the caller's transaction.

    Args:
        connection: with the first chunk's transaction open.
        target: the target.
        lane: the lane whose first chunk it is.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], target: TargetTable, lane: Lane
    ) -> None:
        self._connection, self._target, self._lane = connection, target, lane

    def run(self, preoperator: Sequence[str]) -> None:
        """Run the statements; afterwards the target holds no row.

        Raises:
            PreflightError: a statement was refused, rows are left, or others load into the target too.
        """
        self._check_alone()
        failpoint("transfer.before_preoperator")
        for statement in preoperator:
            try:
                rows(self._connection, _contained(self._connection, statement))
            except psycopg.OperationalError as error:
                if error.sqlstate is None:
                    raise
                # Trying again may cure it: a lost connection, a lock, a deadlock, a timeout.
                message = (
                    f"{self._lane}: the preoperator ended with {described(error)}; its transaction is "
                    "rolled back"
                )
                raise type(error)(message) from None
            except psycopg.Error as error:
                message = (
                    f"{self._lane}: the preoperator was refused ({described(error)}); it runs inside the "
                    "first load's transaction. Nothing was written"
                )
                raise PreflightError(message) from None
        failpoint("transfer.after_preoperator")
        # Again: a statement may have waited for another pipeline's first load, and emptied it away.
        self._check_alone()
        if not self._target.is_empty(self._connection):
            message = (
                f"{self._lane}: rows are left in the target {self._target.config.table} after the "
                "preoperator: loading from the beginning would double them. Have it empty the table, or "
                "say with start_after= up to where the table is loaded and leave the preoperator out"
            )
            raise PreflightError(message)

    def _check_alone(self) -> None:
        facts = self._target.describe(self._connection)
        if facts is None:
            return
        parameters = {
            "target_oid": facts.oid,
            "pipeline": self._lane.pipeline,
            "part": self._lane.part,
        }
        others = [name for (name,) in rows(self._connection, SQL["other_loaders"], parameters)]
        if others:
            message = (
                f"{self._lane}: {', '.join(others)} also loaded into the target {facts}, and a preoperator "
                "could take those rows away; leave it out, or load into a table of its own"
            )
            raise PreflightError(message)


def _contained(connection: psycopg.Connection[Any], statement: str) -> sql.Composed:
    """Return a DO block that executes the statement.

    There the server refuses COMMIT and its kind, which would commit the lane without its rows.
    """
    body = sql.SQL("begin execute {}; end").format(sql.Literal(statement)).as_string(connection)
    return sql.SQL("do {}").format(sql.Literal(body))
