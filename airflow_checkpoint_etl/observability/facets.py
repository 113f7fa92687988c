"""The run facet of our own: which chunks of which lane an attempt did. Imports OpenLineage's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
from openlineage.client.generated.base import RunFacet

from airflow_checkpoint_etl import __version__

if TYPE_CHECKING:
    from typing import Self

    from airflow_checkpoint_etl.observability.lineage import Seen
    from airflow_checkpoint_etl.protocol import Stage

_HOME: Final = "https://github.com/airflow-checkpoint-etl/airflow-checkpoint-etl"
PRODUCER: Final = f"{_HOME}/tree/v{__version__}"
SCHEMA_URL: Final = (
    f"{_HOME}/blob/main/docs/openlineage/CheckpointRunFacet.json#/$defs/CheckpointRunFacet"
)


@attrs.define
class CheckpointRunFacet(RunFacet):
    """Which chunks an attempt did; docs/openlineage/CheckpointRunFacet.json is its schema.

    Attributes:
        pipeline: the pipeline's id.
        part: the part's key.
        stage: the stage.
        chunks: chunks this attempt did.
        keptChunks: chunks of earlier tries that it found done.
        rejected: records that went to quarantine.
        generation: which life of the lane it worked in; None before it began.
        firstChunk: number of its first chunk.
        lastChunk: number of its last chunk.
        low: where it began (canonical cursor text, exclusive).
        high: where it is (inclusive).
        target: where the DAG run ends.
        guarantee: what the pipeline promises.
        error: the type of the error that ended it.
    """

    pipeline: str
    part: str
    stage: str
    chunks: int = 0
    keptChunks: int = 0  # noqa: N815  OpenLineage's facets are written so
    rejected: int = 0
    generation: int | None = None
    firstChunk: int | None = None  # noqa: N815
    lastChunk: int | None = None  # noqa: N815
    low: str | None = None
    high: str | None = None
    target: str | None = None
    guarantee: str | None = None
    error: str | None = None

    @staticmethod
    def _get_schema() -> str:
        return SCHEMA_URL

    @classmethod
    def of(cls, pipeline: str, part: str, stage: Stage, seen: Seen) -> Self:
        """Return the facet of an attempt."""
        began, last = seen.began, seen.last
        return cls(
            pipeline=pipeline,
            part=part,
            stage=stage.value,
            chunks=seen.chunks,
            keptChunks=began.kept if began else 0,
            rejected=seen.rejected,
            generation=began.generation if began else None,
            firstChunk=seen.first.seq if seen.first else None,
            lastChunk=last.seq if last else None,
            low=began.first if began else None,
            high=last.high if last else began.first if began else None,
            target=began.target if began else None,
            guarantee=seen.guarantee or None,
            error=seen.failure or None,
            producer=PRODUCER,
        )
