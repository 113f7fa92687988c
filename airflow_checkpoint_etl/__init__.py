"""Checkpointed, exactly-once ETL for Apache Airflow.

The names below are imported on first use, so that parsing a DAG file stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Part": "airflow_checkpoint_etl.parts",
    "Pipeline": "airflow_checkpoint_etl.pipeline",
    "PostgresSource": "airflow_checkpoint_etl.endpoints",
    "PostgresWarehouse": "airflow_checkpoint_etl.endpoints",
    "Reject": "airflow_checkpoint_etl.quarantine",
    "CheckpointExtractOperator": "airflow_checkpoint_etl.operators.stages",
    "CheckpointTransformOperator": "airflow_checkpoint_etl.operators.stages",
    "CheckpointLoadOperator": "airflow_checkpoint_etl.operators.stages",
    "CheckpointCollectOperator": "airflow_checkpoint_etl.operators.collect",
    "CheckpointTransferOperator": "airflow_checkpoint_etl.operators.transfer",
    "CheckpointSensor": "airflow_checkpoint_etl.sensors.checkpoint",
    "CheckpointHook": "airflow_checkpoint_etl.hooks.checkpoint",
    "checkpoint_range_task_group": "airflow_checkpoint_etl.task_groups",
    "checkpoint_retry_policy": "airflow_checkpoint_etl.retries",
    "checkpoint_task_group": "airflow_checkpoint_etl.task_groups",
}

if TYPE_CHECKING:
    from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
    from airflow_checkpoint_etl.hooks.checkpoint import CheckpointHook
    from airflow_checkpoint_etl.operators.collect import CheckpointCollectOperator
    from airflow_checkpoint_etl.operators.stages import (
        CheckpointExtractOperator,
        CheckpointLoadOperator,
        CheckpointTransformOperator,
    )
    from airflow_checkpoint_etl.operators.transfer import CheckpointTransferOperator
    from airflow_checkpoint_etl.parts import Part
    from airflow_checkpoint_etl.pipeline import Pipeline
    from airflow_checkpoint_etl.quarantine import Reject
    from airflow_checkpoint_etl.retries import checkpoint_retry_policy
    from airflow_checkpoint_etl.sensors.checkpoint import CheckpointSensor
    from airflow_checkpoint_etl.task_groups import (
        checkpoint_range_task_group,
        checkpoint_task_group,
    )

__all__ = [
    "CheckpointCollectOperator",
    "CheckpointExtractOperator",
    "CheckpointHook",
    "CheckpointLoadOperator",
    "CheckpointSensor",
    "CheckpointTransferOperator",
    "CheckpointTransformOperator",
    "Part",
    "Pipeline",
    "PostgresSource",
    "PostgresWarehouse",
    "Reject",
    "__version__",
    "checkpoint_range_task_group",
    "checkpoint_retry_policy",
    "checkpoint_task_group",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_HOMES[name]), name)
