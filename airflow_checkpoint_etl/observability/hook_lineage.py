"""What a load copied, told to Airflow's collector of hook lineage, for whoever reads that."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_checkpoint_etl.pipeline import Pipeline
    from airflow_checkpoint_etl.progress import Summary


def tell_copied(pipeline: Pipeline, stage: str, summary: Summary) -> None:
    """Tell that an attempt read the source, or wrote the target, by COPY; best effort.

    Once for all of the attempt's chunks: the collector keeps what it is told in memory.

    Args:
        pipeline: the pipeline.
        stage: the stage at work; a transform talks to no database.
        summary: what the attempt did.
    """
    statements = {
        "extract": (
            pipeline.source.conn_id,
            f"copy ({pipeline.source.query or f'select * from {pipeline.source.table}'}) to stdout",
        ),
        "load": (pipeline.warehouse.conn_id, f"copy {pipeline.warehouse.table} from stdin"),
    }
    if stage not in statements or not summary.chunks:
        return
    # The function came with common.sql 1.31; whatever is wrong with lineage, the load is done.
    with contextlib.suppress(Exception):
        if not _somebody_reads():
            return
        from airflow.providers.common.sql.hooks.lineage import (  # noqa: PLC0415
            send_sql_hook_lineage,
        )
        from airflow.providers.postgres.hooks.postgres import PostgresHook  # noqa: PLC0415

        conn_id, statement = statements[stage]
        send_sql_hook_lineage(
            context=PostgresHook(postgres_conn_id=conn_id),
            sql=statement,
            row_count=summary.rows,
        )


def _somebody_reads() -> bool:
    """Whether a plugin reads hook lineage.

    The collector for nobody loads every provider's assets, and Airflow's ORM with them: a tenth of a
    second and 40 MB of a task, for nothing.
    """
    try:
        from airflow.sdk.plugins_manager import (  # noqa: PLC0415
            get_hook_lineage_readers_plugins,
        )
    except ImportError:  # before Airflow 3.2 it is elsewhere
        return True
    return bool(get_hook_lineage_readers_plugins())
