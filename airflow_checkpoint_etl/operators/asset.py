"""The Airflow asset that stands for a pipeline's target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow_checkpoint_etl.progress import Summary


def pipeline_asset(pipeline_id: str, uri: str) -> Asset:
    """Return the asset that a load updates; schedule a DAG on it with ``schedule=[pipeline.asset]``."""
    return Asset(name=f"checkpoint-etl {pipeline_id}", uri=uri)


def pipeline_alias(pipeline_id: str) -> AssetAlias:
    """Return the alias a load emits through: a plain outlet would fire on empty runs too."""
    return AssetAlias(name=f"checkpoint-etl {pipeline_id}")


def event_extra(summary: Summary, guarantee: str) -> dict[str, Any]:
    """Return what an event of the asset tells a DAG that is scheduled on it.

    ``first`` and ``last`` are canonical cursor text; rows are those between them. Chunks are those of the
    try that ended the run: what its earlier tries had loaded is counted in ``kept_chunks``.

    Args:
        summary: what the load did.
        guarantee: what the pipeline promises, of which the level is told (``exactly-once``, say); empty
            where that is not known.
    """
    return {
        "part": summary.part,
        "first": summary.first,
        "last": summary.last,
        "rows": summary.rows,
        "rejected": summary.rejected,
        "first_chunk": summary.first_chunk,
        "last_chunk": summary.last_chunk,
        "chunks": summary.chunks,
        "kept_chunks": summary.kept,
        "generation": summary.generation,
        "guarantee": guarantee.partition(":")[0],
    }
