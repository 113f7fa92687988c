"""OpenLineage: what a task read and wrote, how much, and which chunks of which lane.

Extract leads from the source table to the staging area, transform from there to there, load from there to
the target table, so that a lineage graph has the whole way. Everything here is called by Airflow's
OpenLineage provider and imports it lazily; without the provider it is never called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.observer import Began, ChunkDone, Failed
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors.base import OperatorLineage
    from openlineage.client.event_v2 import Dataset

    from airflow_checkpoint_etl.observer import Event
    from airflow_checkpoint_etl.pipeline import Pipeline
    from airflow_checkpoint_etl.ports import TableFacts
    from airflow_checkpoint_etl.protocol import Chunk

SCHEME: Final = "checkpoint-etl"
_STAGED_BEFORE: Final = {Stage.TRANSFORM: Stage.EXTRACT, Stage.LOAD: Stage.TRANSFORM}


@dataclass(slots=True)
class Seen:
    """An observer that keeps what the events of lineage tell.

    Attributes:
        began: the attempt's beginning; None before it.
        first: its first chunk; None before it.
        last: its last chunk so far.
        chunks: how many it did.
        rows_in: rows that came in.
        rows: rows that went out.
        rejected: records that went to quarantine.
        size: bytes of the chunks' staged files.
        failure: the type of the error that ended it; empty for none.
        source: what is known of the source table.
        target: what is known of the target table.
        guarantee: what the pipeline promised when its extract ran last.
    """

    began: Began | None = None
    first: Chunk | None = None
    last: Chunk | None = None
    chunks: int = 0
    rows_in: int = 0
    rows: int = 0
    rejected: int = 0
    size: int = 0
    failure: str = ""
    source: TableFacts | None = None
    target: TableFacts | None = None
    guarantee: str = ""

    def notice(self, event: Event) -> None:
        """Keep what an event tells."""
        match event:
            case Began():
                self.began = event
            case ChunkDone():
                self.first = self.first or event.chunk
                self.last = event.chunk
                self.chunks += 1
                self.rows_in += event.chunk.rows_in
                self.rows += event.rows
                self.rejected += event.rejected
                self.size += event.chunk.size
            case Failed():
                self.failure = event.error

    def close(self) -> None:
        """Hold on: lineage is asked for when the task is over."""


def operator_lineage(
    pipeline: Pipeline, part: str, stage: Stage, seen: Seen | None, *, straight: bool = False
) -> OperatorLineage[Any, Any]:
    """Return what a task of a pipeline reads and writes.

    Args:
        pipeline: the pipeline, with its templates rendered.
        part: the part.
        stage: the task's stage.
        seen: what the attempt did; None when it has not started.
        straight: whether the task reads the source itself, as a transfer does.
    """
    from airflow.providers.openlineage.extractors.base import OperatorLineage  # noqa: PLC0415
    from openlineage.client.facet_v2 import sql_job  # noqa: PLC0415

    from airflow_checkpoint_etl.observability.facets import CheckpointRunFacet  # noqa: PLC0415

    seen = seen or Seen()
    before = None if straight else _STAGED_BEFORE.get(stage)
    inputs = [_staged(pipeline, part, before)] if before else _source(pipeline, seen)
    outputs = [_target(pipeline, seen) if stage is Stage.LOAD else _staged(pipeline, part, stage)]
    job_facets: dict[str, Any] = {}
    if before is None and pipeline.source.query:
        job_facets["sql"] = sql_job.SQLJobFacet(query=pipeline.source.query)
    return OperatorLineage(
        inputs=[_read(dataset, seen, alone=len(inputs) == 1) for dataset in inputs],
        outputs=[_written(dataset, seen) for dataset in outputs],
        run_facets={
            "checkpointEtl": CheckpointRunFacet.of(pipeline.pipeline_id, part, stage, seen)
        },
        job_facets=job_facets,
    )


# --- datasets ------------------------------------------------------------------------------------


def _staged(pipeline: Pipeline, part: str, stage: Stage) -> Dataset:
    from openlineage.client.event_v2 import Dataset  # noqa: PLC0415

    return Dataset(namespace=f"{SCHEME}://{pipeline.pipeline_id}", name=f"{part}/{stage.value}")


def _source(pipeline: Pipeline, seen: Seen) -> list[Dataset]:
    """The source table; of a query, the tables that it says it reads."""
    source = pipeline.source
    if source.table is not None:
        return [_table(source.conn_id, source.table, seen.source)]
    return [_table(source.conn_id, name, None) for name in source.settle_tables]


def _target(pipeline: Pipeline, seen: Seen) -> Dataset:
    return _table(pipeline.warehouse.conn_id, pipeline.warehouse.table, seen.target)


def _table(conn_id: str, name: str, facts: TableFacts | None) -> Dataset:
    """A table by its OpenLineage name, as PostgresHook would give it."""
    from airflow.providers.openlineage.sqlparser import SQLParser  # noqa: PLC0415
    from airflow.providers.postgres.hooks.postgres import PostgresHook  # noqa: PLC0415
    from openlineage.client.event_v2 import Dataset  # noqa: PLC0415
    from openlineage.client.facet_v2 import schema_dataset  # noqa: PLC0415

    hook = PostgresHook(postgres_conn_id=conn_id)
    database = hook.get_openlineage_database_info(hook.get_connection(conn_id))
    schema, table = (facts.schema, facts.name) if facts else _names(hook, name)
    facets: dict[str, Any] = {}
    if facts is not None:
        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=column, type=kind)
            for column, kind in facts.columns.items()
        ]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    return Dataset(
        namespace=SQLParser.create_namespace(database),
        name=".".join(part for part in (database.database, schema, table) if part),
        facets=facets,
    )


def _names(hook: Any, name: str) -> tuple[str, str]:
    """Schema and name of a table as it is written; a name alone is in the connection's own schema."""
    from airflow_checkpoint_etl.parameters import name_parts  # noqa: PLC0415

    parts = name_parts(name)
    if len(parts) > 1:
        return parts[-2], parts[-1]
    try:
        schema = hook.get_openlineage_default_schema()
    except Exception:  # noqa: BLE001  the server may be what the task fails of
        schema = None
    return schema or "public", parts[-1]


# --- how much ------------------------------------------------------------------------------------


def _read(dataset: Dataset, seen: Seen, *, alone: bool) -> Dataset:
    from openlineage.client.event_v2 import InputDataset  # noqa: PLC0415
    from openlineage.client.facet_v2 import input_statistics_input_dataset  # noqa: PLC0415

    statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
        rowCount=seen.rows_in
    )
    return InputDataset(
        namespace=dataset.namespace,
        name=dataset.name,
        facets=dataset.facets,
        # How many rows came from which of several tables, a query does not tell.
        inputFacets={"inputStatistics": statistics} if seen.began and alone else {},
    )


def _written(dataset: Dataset, seen: Seen) -> Dataset:
    from openlineage.client.event_v2 import OutputDataset  # noqa: PLC0415
    from openlineage.client.facet_v2 import output_statistics_output_dataset  # noqa: PLC0415

    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=seen.rows, size=seen.size
    )
    return OutputDataset(
        namespace=dataset.namespace,
        name=dataset.name,
        facets=dataset.facets,
        outputFacets={"outputStatistics": statistics} if seen.began else {},
    )
