"""Where a stage's attempts leave their notes: in the stage's row, overwritten each time.

Only that an attempt was fenced goes into the lane's history: its stage's row is another one's by then.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.notes import as_json
from airflow_checkpoint_etl.warehouses.ledger import SQL

if TYPE_CHECKING:
    from airflow_checkpoint_etl.ports import Note
    from airflow_checkpoint_etl.postgres import Session
    from airflow_checkpoint_etl.protocol import Lane, Owner, Stage


def leave(
    session: Session, lane: Lane, stage: Stage, owner: Owner, note: Note, fence: int | None
) -> None:
    """Write a note; see ``ports.Warehouse.note``."""
    if note.fenced:
        named = {"pipeline": lane.pipeline, "part": lane.part, "stage": stage.value}
        session.rows(SQL["note_fenced"], named | {"actor": str(owner), "fence": fence})
        return
    failure = json.dumps(as_json(note.failure), sort_keys=True) if note.failure else None
    session.rows(
        SQL["note_stage"],
        {
            "pipeline": lane.pipeline,
            "part": lane.part,
            "stage": stage.value,
            "dag_id": owner.dag_id,
            "run_id": owner.run_id,
            "task_id": owner.task_id,
            "map_index": owner.map_index,
            "note": note.waiting or None,
            "failure": failure,
            "moved": note.moved,
            "fence": fence,
        },
    )
