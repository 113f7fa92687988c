"""The link from a task to its pipeline's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from airflow.providers.common.compat.sdk import BaseOperatorLink, conf

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey


class CheckpointsLink(BaseOperatorLink):
    """Leads to the pipeline's page, where all of its lanes, runs and rejected records are."""

    name = "Checkpoints"
    xcom_key = "_link_checkpoints"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002  Airflow's signature
        """Return the page's address, on the Airflow that the task belongs to.

        Airflow asks at the end of the task, when its templates are rendered, and keeps the answer as an
        XCom.
        """
        pipeline: Any = getattr(operator, "pipeline", None)
        if pipeline is None:
            return ""
        question = {
            "warehouse": pipeline.warehouse.conn_id,
            "pipeline": pipeline.pipeline_id,
            "part": getattr(operator, "part", None) or "default",
        }
        base = conf.get("api", "base_url", fallback="/") or "/"
        return f"{base.rstrip('/')}/plugin/checkpoints?{urlencode(question)}"
