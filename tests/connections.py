"""The world's servers as Airflow connections, for what finds them by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from tests.support import World


def uri(dsn: str) -> str:
    """Return a PostgreSQL connection string as an Airflow connection's URI."""
    told = conninfo_to_dict(dsn)
    return f"postgres://{told['user']}@{told['host']}:{told['port']}/{told['dbname']}"


def environment(world: World) -> dict[str, str]:
    """Return the variables under which the world's pipelines and warehouse are found."""
    checkpoints = (
        f"redis://127.0.0.1:{world.redis_port}" if world.redis_port else uri(world.warehouse_dsn)
    )
    return {
        "AIRFLOW_CONN_SHOP": uri(world.source_dsn),
        "AIRFLOW_CONN_DWH": uri(world.warehouse_dsn),
        "AIRFLOW_CONN_CHECKPOINTS": checkpoints,
        "AIRFLOW__CHECKPOINT_ETL__WAREHOUSE_CONN_IDS": "dwh",
    }
