"""Who may read and who may act: dependencies of every endpoint of the plugin.

Airflow authenticates no request to a mounted app by itself, and it has no CSRF token. So reading asks for
the right to view plugins, acting for the right to edit the DAG that loads the lane, and whatever changes
something must be JSON and must not come from another site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    AccessView,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_view
from fastapi import Depends, Header, HTTPException, Request, status

from airflow_checkpoint_etl.errors import CheckpointEtlError

if TYPE_CHECKING:
    from airflow_checkpoint_etl.insights import LaneSummary

reads = Depends(requires_access_view(AccessView.PLUGINS))
"""Anonymous requests get 401, and 403 who may not view plugins."""


def same_origin(
    request: Request,
    content_type: Annotated[str, Header()] = "",
    origin: Annotated[str | None, Header()] = None,
    sec_fetch_site: Annotated[str | None, Header()] = None,
) -> None:
    """Refuse what another site's page could make a browser send.

    Raises:
        HTTPException: 415 for a body that is no JSON; 403 for another origin.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(status.HTTP_415_UNSUPPORTED_MEDIA_TYPE, "send application/json")
    if sec_fetch_site not in {None, "same-origin", "none"}:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "the request comes from another site")
    if origin is not None and urlsplit(origin).netloc not in _hosts(request):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "the request comes from another origin")


def _hosts(request: Request) -> set[str]:
    """The names this server goes by: what the client asked for, and what Airflow is configured as."""
    from airflow.providers.common.compat.sdk import conf  # noqa: PLC0415

    configured = urlsplit(conf.get("api", "base_url", fallback="")).netloc
    return {host for host in (request.headers.get("host", ""), configured) if host}


def may_act(user: Any, dag_ids: set[str]) -> bool:
    """Whether a user may edit the task instances of every one of these DAGs."""
    return bool(dag_ids) and all(
        get_auth_manager().is_authorized_dag(
            method="PUT",
            access_entity=DagAccessEntity.TASK_INSTANCE,
            details=DagDetails(id=dag_id),
            user=user,
        )
        for dag_id in dag_ids
    )


def dags_of(summary: LaneSummary) -> set[str]:
    """The DAGs whose tasks have a lane's stages: acting on the lane is acting on them."""
    return {stage.owner.dag_id for stage in summary.stages if stage.owner is not None}


def check_may_act(user: Any, summary: LaneSummary) -> None:
    """Refuse a user who may not edit the DAGs that load a lane.

    Raises:
        HTTPException: 403.
    """
    if not may_act(user, dags_of(summary)):
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            f"acting on {summary.lane} needs the right to edit the task instances of its DAG",
        )


def refused(error: CheckpointEtlError) -> HTTPException:
    """Turn an error of the package into an answer: its message is made for people, without secrets."""
    return HTTPException(status.HTTP_409_CONFLICT, str(error))


User = GetUserDep
"""The signed-in user, as a parameter's type."""
