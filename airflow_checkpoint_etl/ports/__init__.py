"""The interfaces between the runner and the world: source, staging area, checkpoint store, warehouse.

Adapters take connection *factories*, never Airflow: the hook is the composition root. pyarrow appears
in annotations only, so that importing this package (as parsing a DAG does) does not import pyarrow.
"""

from __future__ import annotations

from airflow_checkpoint_etl.ports.admin import (
    Replayed,
    ReplayRequest,
    RewindRequest,
    Rewound,
    WarehouseAdmin,
)
from airflow_checkpoint_etl.ports.bundle import Ports
from airflow_checkpoint_etl.ports.checkpoints import CheckpointStore, StageRecord
from airflow_checkpoint_etl.ports.lane import Claim, Failure, Floor, LaneSpec, LaneState, Note, Run
from airflow_checkpoint_etl.ports.source import (
    Bound,
    Described,
    Read,
    Sink,
    Source,
    SourceFacts,
    Sweep,
    TableFacts,
)
from airflow_checkpoint_etl.ports.staging import StagingArea
from airflow_checkpoint_etl.ports.warehouse import Loaded, Passage, Warehouse

__all__ = [
    "Bound",
    "CheckpointStore",
    "Claim",
    "Described",
    "Failure",
    "Floor",
    "LaneSpec",
    "LaneState",
    "Loaded",
    "Note",
    "Passage",
    "Ports",
    "Read",
    "ReplayRequest",
    "Replayed",
    "RewindRequest",
    "Rewound",
    "Run",
    "Sink",
    "Source",
    "SourceFacts",
    "StageRecord",
    "StagingArea",
    "Sweep",
    "TableFacts",
    "Warehouse",
    "WarehouseAdmin",
]
