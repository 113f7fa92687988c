"""What Airflow's provider discovery asks for; the ``apache_airflow_provider`` entry point.

Plain data, and no import of anything heavy: every Airflow process calls this at start.
"""

from __future__ import annotations

from typing import Any, Final

PACKAGE: Final = "airflow_checkpoint_etl"
INTEGRATION: Final = "Checkpoint ETL"


def _modules(*names: str) -> list[dict[str, Any]]:
    return [
        {
            "integration-name": INTEGRATION,
            "python-modules": [f"{PACKAGE}.{name}" for name in names],
        }
    ]


def _seconds(description: str, default: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": default,
    }


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata; it satisfies Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-checkpoint-etl",
        "name": "Checkpoint ETL",
        "description": (
            "Checkpointed ETL: every chunk of source rows reaches the warehouse exactly once, and "
            "a retry continues from the stored last ID."
        ),
        "integrations": [
            {
                "integration-name": INTEGRATION,
                "external-doc-url": (
                    "https://github.com/airflow-checkpoint-etl/airflow-checkpoint-etl/tree/main/docs"
                ),
                "tags": ["software"],
            }
        ],
        "operators": _modules(
            "operators.stages", "operators.ranges", "operators.collect", "operators.transfer"
        ),
        "hooks": _modules("hooks.checkpoint"),
        "sensors": _modules("sensors.checkpoint"),
        "triggers": _modules("triggers.checkpoint", "triggers.following"),
        "cli": [f"{PACKAGE}.cli.definition.get_checkpoint_cli_commands"],
        "task-decorators": [
            {
                "name": "checkpoint_transform",
                "class-name": f"{PACKAGE}.decorators.transform.checkpoint_transform_task",
            }
        ],
        "extra-links": [f"{PACKAGE}.operators.links.CheckpointsLink"],
        "config": {
            "checkpoint_etl": {
                "description": "How checkpointed pipelines work on this deployment.",
                "options": {
                    "lease_seconds": _seconds(
                        "How long a stage stays reserved for a task that no longer reports. "
                        "Another run takes the stage over when the lease has expired; a retry of "
                        "the same task need not wait for it. It never affects correctness.",
                        "60",
                    ),
                    "progress_seconds": _seconds(
                        "The least time between two progress reports of a running stage.",
                        "5",
                    ),
                    "busy_poll_seconds": _seconds(
                        "How often a task that waits for a stage owned by another run, and a "
                        "deferred checkpoint sensor, look again.",
                        "5",
                    ),
                    "follow_seconds": _seconds(
                        "How long a stage that follows another one (follow=True) and finds nothing "
                        "to do waits in its worker slot before it defers.",
                        "10",
                    ),
                    "warehouse_conn_ids": {
                        "description": (
                            "The connections, separated by commas, of the warehouses that the UI page, "
                            "the command line and the MCP server look into. Running pipelines does not "
                            "need it."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "dwh,dwh_eu",
                        "default": "",
                    },
                },
            }
        },
    }
