"""What runs inside dlt's own environment; it imports nothing of this package."""

from __future__ import annotations

import os
import tempfile

import dlt
from dlt.sources.sql_database import sql_table


def run(source: str, target: str, rows: int) -> None:
    """Move a table with the sql_database source into a dataset of the warehouse."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-etl-dlt-") as home:
        os.environ |= {"DLT_DATA_DIR": home, "RUNTIME__DLTHUB_TELEMETRY": "false"}
        events = sql_table(
            credentials=source,
            schema="public",
            table="events",
            backend="pyarrow",
            chunk_size=50_000,
            query_adapter_callback=lambda query, table: query.where(table.c.id <= rows),
        )
        pipeline = dlt.pipeline(
            pipeline_name="benchmark",
            pipelines_dir=home,
            destination=dlt.destinations.postgres(target),
            dataset_name="dlt_peer",
        )
        pipeline.run(events, write_disposition="append", loader_file_format="csv")
