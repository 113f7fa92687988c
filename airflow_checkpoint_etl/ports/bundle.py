"""The four ports of a pipeline, together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_checkpoint_etl.ports.checkpoints import CheckpointStore
    from airflow_checkpoint_etl.ports.source import Source
    from airflow_checkpoint_etl.ports.staging import StagingArea
    from airflow_checkpoint_etl.ports.warehouse import Warehouse


@dataclass(frozen=True, slots=True)
class Ports:
    """The four ports of one pipeline, bound to one lane's connections."""

    source: Source
    staging: StagingArea
    checkpoints: CheckpointStore
    warehouse: Warehouse

    def close(self) -> None:
        """Close every connection; the first error is raised after all were tried."""
        errors: list[Exception] = []
        for port in (self.source, self.staging, self.checkpoints, self.warehouse):
            try:
                port.close()
            except Exception as error:  # noqa: BLE001  every port gets its chance to close
                errors.append(error)
        if errors:
            raise errors[0]

    def cancel(self) -> None:
        """Interrupt whatever statement is running, from another thread."""
        self.source.cancel()
        self.warehouse.cancel()
