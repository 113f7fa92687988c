"""The ``[checkpoint_etl]`` section of airflow.cfg, read once and typed.

The options, their descriptions and their defaults are declared in ``get_provider_info``; the
defaults here are the same, for code that runs where providers are not discovered.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, fields
from typing import Final

from airflow.providers.common.compat.sdk import conf

from airflow_checkpoint_etl.errors import ConfigurationError

SECTION: Final = "checkpoint_etl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How checkpointed pipelines work on this deployment.

    Attributes:
        lease_seconds: how long a stage stays reserved for a task that no longer reports.
        progress_seconds: the least time between two progress reports of a running stage.
        busy_poll_seconds: how often a task that waits for a stage looks again.
        follow_seconds: how long a stage that runs beside others and has nothing to do waits in its
            worker slot before it gives it back.
    """

    lease_seconds: float = 60.0
    progress_seconds: float = 5.0
    busy_poll_seconds: float = 5.0
    follow_seconds: float = 10.0

    @classmethod
    def load(cls) -> Settings:
        """Read the section from Airflow's configuration.

        Raises:
            ConfigurationError: an option is not a positive number of seconds.
        """
        return cls(**{item.name: _seconds(item.name, item.default) for item in fields(cls)})

    @property
    def lease(self) -> dt.timedelta:
        """``lease_seconds`` as a duration."""
        return dt.timedelta(seconds=self.lease_seconds)


def warehouse_conn_ids() -> tuple[str, ...]:
    """Return the connections of the warehouses that UI, command line and MCP server look into.

    Raises:
        ConfigurationError: none is configured.
    """
    text = conf.get(SECTION, "warehouse_conn_ids", fallback="") or ""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        message = (
            f"[{SECTION}] warehouse_conn_ids is empty, so it is not known which warehouses to look into: "
            "name the Airflow connections of your warehouses there, separated by commas, or in "
            f"AIRFLOW__{SECTION.upper()}__WAREHOUSE_CONN_IDS"
        )
        raise ConfigurationError(message)
    return names


def _seconds(option: str, default: object) -> float:
    text = conf.get(SECTION, option, fallback=str(default))
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        message = (
            f"[{SECTION}] {option} = {text!r}: must be a positive number of seconds; "
            f"correct it in airflow.cfg or AIRFLOW__{SECTION.upper()}__{option.upper()}"
        )
        raise ConfigurationError(message)
    return seconds
