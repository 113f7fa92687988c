"""The *Checkpoints* page and the task tab in Airflow's UI; the ``airflow.plugins`` entry point.

Every Airflow process imports plugins, workers included, so nothing heavy is imported here: FastAPI comes
with :mod:`airflow_checkpoint_etl.plugin.app`, which only the API server asks for.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowPlugin, conf

MOUNTED_AT: Final = "/checkpoints"
"""Where the API and the scripts are, below the API server's own path."""


def bundle_url(base_url: str) -> str:
    """Return where the scripts are, as a path from the root of the host.

    Airflow 3.2 imports it as it stands, and 3.3 resolves it against the page: a path that begins with the
    prefix which a proxy may give Airflow is right for both.

    Args:
        base_url: ``[api] base_url``.
    """
    return f"{urlsplit(base_url).path.rstrip('/')}{MOUNTED_AT}/static/main.js"


_BUNDLE: Final = bundle_url(conf.get("api", "base_url", fallback="") or "")


class CheckpointPlugin(AirflowPlugin):
    """Adds a page to the navigation, a tab to task instances, and the API behind both."""

    name = "checkpoint_etl"

    react_apps: list[dict[str, Any]] = [  # noqa: RUF012  as the base class has it
        {
            "name": "Checkpoints",
            "bundle_url": _BUNDLE,
            "destination": "nav",
            "category": "browse",
            "url_route": "checkpoints",
        },
        {
            # The name is what the component is registered under, and what the tab says.
            "name": "Checkpoint",
            "bundle_url": _BUNDLE,
            "destination": "task_instance",
            "url_route": "checkpoint",
        },
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]  # Airflow only reads it
        """The API, made when the API server asks for it."""
        from airflow_checkpoint_etl.plugin.app import make_app  # noqa: PLC0415

        return [{"app": make_app(), "url_prefix": MOUNTED_AT, "name": "Checkpoints"}]
