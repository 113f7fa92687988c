"""The read model behind UI, command line and MCP server; nothing here writes, and no SQL is here.

``views`` are the values, ``words`` says in a sentence what a lane is up to, ``diagnosis`` what to do about
it, ``reading`` puts a lane together from the warehouse and the checkpoint store. A face gets
:class:`Insights` from ``hooks.insights``.
"""

from __future__ import annotations

from airflow_checkpoint_etl.insights.history import (
    Bucket,
    ChunkView,
    Count,
    EventView,
    QuarantineReason,
    QuarantineView,
    Rejected,
    RunView,
    Throughput,
    TryView,
)
from airflow_checkpoint_etl.insights.reading import Insights, WarehouseInsights
from airflow_checkpoint_etl.insights.views import (
    MOST,
    Condition,
    Diagnosis,
    FailureView,
    Lag,
    LaneInsight,
    LaneOfRun,
    LaneSummary,
    OwnerView,
    Page,
    Position,
    StageView,
    State,
    as_json,
)

__all__ = [
    "MOST",
    "Bucket",
    "ChunkView",
    "Condition",
    "Count",
    "Diagnosis",
    "EventView",
    "FailureView",
    "Insights",
    "Lag",
    "LaneInsight",
    "LaneOfRun",
    "LaneSummary",
    "OwnerView",
    "Page",
    "Position",
    "QuarantineReason",
    "QuarantineView",
    "Rejected",
    "RunView",
    "StageView",
    "State",
    "Throughput",
    "TryView",
    "WarehouseInsights",
    "as_json",
]
