"""A whole pipeline in memory, for ``dag.test()``."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl.inmemory.source import InMemorySource
from airflow_checkpoint_etl.inmemory.stores import InMemoryCheckpointStore, InMemoryStagingArea
from airflow_checkpoint_etl.inmemory.warehouse import InMemoryWarehouse
from airflow_checkpoint_etl.ports import Ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_checkpoint_etl.pipeline import Pipeline


@dataclass(frozen=True)
class Memory:
    """What a test looks at: the four ports of one pipeline.

    Attributes:
        ports: source, staging area, checkpoint store and warehouse, all in memory.
    """

    ports: Ports

    @property
    def source(self) -> InMemorySource:
        """The source; ``insert`` adds rows."""
        assert isinstance(self.ports.source, InMemorySource)  # noqa: S101  made so below
        return self.ports.source

    @property
    def warehouse(self) -> InMemoryWarehouse:
        """The warehouse; ``rows`` and ``ledger`` say what was loaded."""
        assert isinstance(self.ports.warehouse, InMemoryWarehouse)  # noqa: S101  made so below
        return self.ports.warehouse

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows in the target."""
        return self.warehouse.rows


@contextlib.contextmanager
def memory(
    pipeline: Pipeline,
    rows: Iterable[Mapping[str, Any]] = (),
    columns: Mapping[str, str] | None = None,
) -> Iterator[Memory]:
    """Run a pipeline's operators against memory: no connection, no server.

    Inside the block, CheckpointHook hands out in-memory ports for this pipeline id in this process,
    which is where ``dag.test()`` runs its tasks. They keep the protocol's rules.

    Args:
        pipeline: the pipeline.
        rows: the source's rows.
        columns: PostgreSQL types by column, where values do not tell.

    Yields:
        A handle with ``rows`` (the target) and ``source.insert``.

    Example::

        with memory(orders, rows=[{"id": 1, "email": "A@X"}]) as test:
            dag.test()
            assert test.rows == [{"id": 1, "email": "a@x"}]
    """
    from airflow_checkpoint_etl.hooks import checkpoint  # noqa: PLC0415  the hook imports Airflow

    ports = Ports(
        source=InMemorySource(pipeline.source, rows, columns),
        staging=InMemoryStagingArea(),
        checkpoints=InMemoryCheckpointStore(),
        warehouse=InMemoryWarehouse(pipeline.warehouse, pipeline.source.cursor_columns),
    )
    with checkpoint.overridden(pipeline.pipeline_id, lambda: ports):
        yield Memory(ports)
