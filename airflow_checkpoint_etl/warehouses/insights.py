"""The read model's half that is in the warehouse; implements ``insights.WarehouseInsights``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl.insights import EventView, Loaded, Position, Rejected, RunView
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.protocol import Lane

if TYPE_CHECKING:
    from airflow_checkpoint_etl.postgres import Session

SQL: Final = read_statements("airflow_checkpoint_etl.warehouses", "insights.sql")


class LedgerInsights:
    """Reads what the ledger knows of lanes, each in one snapshot.

    Args:
        session: for reading.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def lanes(self) -> list[Lane]:
        """Return every lane, by name."""
        return [Lane(*row) for row in self._session.rows(SQL["lanes"])]

    def loaded(self, lane: Lane, newest: int) -> Loaded | None:
        """Return what is known of a lane, at most ``newest`` of each kind; None for no such lane."""
        key = {"pipeline": lane.pipeline, "part": lane.part, "newest": newest}
        with self._session.transaction():
            self._session.rows("set transaction isolation level repeatable read, read only")
            row = self._session.row(SQL["lane"], key)
            if row is None:
                return None
            generation, incarnation, seq, at, rows, updated_at, settings = row
            quarantined: dict[str, int] = dict(self._session.rows(SQL["quarantined"], key))
            return Loaded(
                generation,
                incarnation,
                Position(seq, at, rows, updated_at.isoformat()),
                settings,
                quarantined,
                tuple(Rejected(*found) for found in self._session.rows(SQL["reasons"], key)),
                tuple(RunView(*found) for found in self._session.rows(SQL["runs"], key)),
                tuple(EventView(*found) for found in self._session.rows(SQL["events"], key)),
            )
