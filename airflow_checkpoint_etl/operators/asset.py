"""The Airflow asset that stands for a pipeline's target."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import Asset, AssetAlias


def pipeline_asset(pipeline_id: str, uri: str) -> Asset:
    """Return the asset that a load updates; schedule a DAG on it with ``schedule=[pipeline.asset]``."""
    return Asset(name=f"checkpoint-etl {pipeline_id}", uri=uri)


def pipeline_alias(pipeline_id: str) -> AssetAlias:
    """Return the alias a load emits through: a plain outlet would fire on empty runs too."""
    return AssetAlias(name=f"checkpoint-etl {pipeline_id}")
