"""The endpoints that read; all of them from the read model, and none changes anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Query, status

from airflow_checkpoint_etl.errors import CheckpointEtlError, PreflightError
from airflow_checkpoint_etl.hooks.insights import Warehouses
from airflow_checkpoint_etl.insights import Condition, Insights, LaneSummary, Page, as_json
from airflow_checkpoint_etl.plugin.guard import User, dags_of, may_act, reads, refused
from airflow_checkpoint_etl.protocol import Lane

router = APIRouter(prefix="/api", dependencies=[reads])

PAGE: Final = 25
_LOOKED_AT: Final = 1000
"""Up to how many lanes are looked at for a page of those in one state."""

Warehouse = Annotated[str, Query(max_length=250)]
Pipeline = Annotated[str, Query(max_length=100)]
Part = Annotated[str, Query(max_length=120)]


@router.get("/pipelines")
def pipelines(
    search: Annotated[str, Query(max_length=200)] = "",
    state: Condition | None = None,
    after: Annotated[str, Query(max_length=1000)] = "",
) -> Any:
    """A page of lanes."""
    try:
        page = Warehouses().pipelines(search, after or None, PAGE, complete=True)
        if state is not None:
            page = _in_state(state, search, page)
    except CheckpointEtlError as error:
        return as_json(Page((), faults=(str(error),)))
    return as_json(page)


def _in_state(state: Condition, search: str, page: Page[LaneSummary]) -> Page[LaneSummary]:
    """Fill a page with lanes in one state, which only the read model knows."""
    found, looked = [], 0
    while True:
        found += [lane for lane in page.items if lane.state.condition is state]
        looked += len(page.items)
        if page.next_token is None or len(found) >= PAGE or looked >= _LOOKED_AT:
            return Page(tuple(found), page.next_token, page.faults)
        page = Warehouses().pipelines(search, page.next_token, PAGE, complete=True)


@router.get("/lane")
def lane(user: User, warehouse: Warehouse, pipeline: Pipeline, part: Part) -> dict[str, Any]:
    """A lane as a whole, and whether the user may act on it."""
    with holding(warehouse, Lane(pipeline, part)) as insights:
        insight = insights.lane(Lane(pipeline, part))
    if insight is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"{Lane(pipeline, part)} is gone")
    found: dict[str, Any] = as_json(insight)
    return found | {"may_act": may_act(user, dags_of(insight.summary))}


@router.get("/lane/chunks")
def chunks(
    warehouse: Warehouse,
    pipeline: Pipeline,
    part: Part,
    before: int | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = PAGE,
) -> Any:
    """A page of loaded chunks, the newest first."""
    with holding(warehouse, Lane(pipeline, part)) as insights:
        return as_json(insights.chunks(Lane(pipeline, part), before=before, limit=limit))


@router.get("/lane/throughput")
def throughput(warehouse: Warehouse, pipeline: Pipeline, part: Part) -> Any:
    """Rows loaded in the last day, half-hour by half-hour."""
    with holding(warehouse, Lane(pipeline, part)) as insights:
        return as_json(insights.throughput(Lane(pipeline, part)))


@router.get("/task")
def task(
    dag_id: Annotated[str, Query(max_length=250)],
    run_id: Annotated[str, Query(max_length=250)],
    task_id: Annotated[str, Query(max_length=250)] = "",
    map_index: int = -1,
) -> Any:
    """What a DAG run did on the lane whose stage a task has, or had last; else on all its lanes."""
    try:
        page = Warehouses().of_run(dag_id, run_id)
    except CheckpointEtlError as error:
        return as_json(Page((), faults=(str(error),)))
    task = (dag_id, run_id, task_id, map_index)
    mine = tuple(one for one in page.items if task in _tasks_of(one.summary))
    return as_json(replace(page, items=mine or page.items))


def _tasks_of(summary: LaneSummary) -> list[tuple[str, str, str, int]]:
    owners = [stage.owner for stage in summary.stages if stage.owner is not None]
    return [(owner.dag_id, owner.run_id, owner.task_id, owner.map_index) for owner in owners]


@contextlib.contextmanager
def holding(warehouse: str, lane: Lane) -> Iterator[Insights]:
    """The read model of a configured warehouse that holds the lane; errors become answers."""
    try:
        warehouses = Warehouses()
        if warehouse and warehouse not in warehouses.conn_ids:
            message = f"connection {warehouse!r} is not among [checkpoint_etl] warehouse_conn_ids"
            raise HTTPException(status.HTTP_404_NOT_FOUND, message)
        with warehouses.holding(lane, warehouse or None) as insights:
            yield insights
    except PreflightError as error:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from None
    except CheckpointEtlError as error:
        raise refused(error) from None
