"""The endpoints that act, each through ``admin`` and for those alone who may edit the lane's DAG.

All are POST with a JSON body, none acts on a GET. Airflow's audit log has who asked for what; the
warehouse's event table has what was done.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from typing import Any, Literal

from airflow.api_fastapi.logging.decorators import action_logging
from fastapi import APIRouter, Depends, HTTPException, status
from pydantic import BaseModel, Field

from airflow_checkpoint_etl.admin import Admin
from airflow_checkpoint_etl.errors import CheckpointEtlError
from airflow_checkpoint_etl.hooks.insights import Warehouses
from airflow_checkpoint_etl.insights import LaneInsight, as_json
from airflow_checkpoint_etl.plans import plan_rewind, read_cursor, told_rewind
from airflow_checkpoint_etl.plugin.guard import User, check_may_act, reads, refused, same_origin
from airflow_checkpoint_etl.plugin.reading import holding
from airflow_checkpoint_etl.protocol import Lane

router = APIRouter(prefix="/api/lane", dependencies=[reads, Depends(same_origin)])


class OnLane(BaseModel):
    """A lane, and why somebody acts on it."""

    warehouse: str = Field(max_length=250)
    pipeline: str = Field(max_length=100)
    part: str = Field(default="default", max_length=120)
    reason: str = Field(default="", max_length=1000)

    @property
    def lane(self) -> Lane:
        """The lane itself."""
        return Lane(self.pipeline, self.part)


class Tried(OnLane):
    """Something that is tried without effect first."""

    dry_run: bool = True


class Rewinding(Tried):
    """Where to rewind to; to do it, the pipeline's name and the life of the lane that was looked at."""

    to: str = Field(min_length=1, max_length=500)
    confirm: str = Field(default="", max_length=100)
    incarnation: str = Field(default="", max_length=100)


class Releasing(OnLane):
    """Which stage's lease to end."""

    stage: Literal["extract", "transform", "load"]


@contextlib.contextmanager
def _acting(user: Any, on: OnLane, *, dry_run: bool = False) -> Iterator[tuple[Admin, LaneInsight]]:
    """The commands over a lane for a user who may act on it; errors become answers."""
    with holding(on.warehouse, on.lane) as insights:
        insight = insights.lane(on.lane, newest=1)
    if insight is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"{on.lane} is gone")
    check_may_act(user, insight.summary)
    reason = on.reason.strip()
    if not reason and not dry_run:
        raise HTTPException(
            status.HTTP_422_UNPROCESSABLE_ENTITY, "say why, for the audit log: reason"
        )
    try:
        with Warehouses().admin(
            on.lane, actor=user.get_name(), reason=reason, conn_id=on.warehouse or None
        ) as admin:
            yield admin, insight
    except CheckpointEtlError as error:
        raise refused(error) from None


@router.post("/rewind", dependencies=[Depends(action_logging("checkpoints_rewind"))])
def rewind(asked: Rewinding, user: User) -> Any:
    """Go back to the chunk boundary at or below an id; a dry run says what that would touch."""
    with _acting(user, asked, dry_run=asked.dry_run) as (admin, seen):
        if not asked.dry_run and asked.confirm != asked.pipeline:
            raise HTTPException(
                status.HTTP_422_UNPROCESSABLE_ENTITY,
                f"type the pipeline's name, {asked.pipeline}, to confirm",
            )
        # As it is shown: the values of several columns are parted by a comma and a space.
        point = read_cursor(seen, asked.to.strip().split(", "))
        if asked.dry_run:
            return as_json(plan_rewind(admin, seen, point))
        boundary = admin.boundary(point)
        done = admin.rewind(boundary, incarnation=asked.incarnation, dry_run=False)
        return as_json(told_rewind(seen, point, done))


@router.post("/release", dependencies=[Depends(action_logging("checkpoints_release"))])
def release(asked: Releasing, user: User) -> dict[str, Any]:
    """End a stage's lease and fence its owner."""
    with _acting(user, asked) as (admin, _):
        return {"owner": admin.release(asked.stage)}


@router.post("/replay", dependencies=[Depends(action_logging("checkpoints_replay"))])
def replay(asked: Tried, user: User) -> dict[str, Any]:
    """Try again what the target had refused."""
    with _acting(user, asked, dry_run=asked.dry_run) as (admin, _):
        replayed = admin.replay_quarantine(dry_run=asked.dry_run)
    return {
        "records": replayed.records,
        "released": replayed.released,
        "rows": replayed.rows,
        "left": replayed.left,
    }


@router.post("/collect", dependencies=[Depends(action_logging("checkpoints_collect"))])
def collect(asked: OnLane, user: User) -> dict[str, Any]:
    """Delete what is staged and no longer needed, after the pipeline's own grace period."""
    with _acting(user, asked) as (admin, seen):
        grace = dt.timedelta(seconds=seen.settings.get("staging_grace", 900.0))
        return {"removed": admin.collect(grace)}
