"""Airflow's own GenericTransfer, ordered and in pages (without ORDER BY its pages overlap)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from benchmarks import task  # isort: skip
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer

from benchmarks.table import COLUMNS, TARGET

if TYPE_CHECKING:
    from airflow.sdk import Context

PAGE: Final = 10_000


def run(rows: int) -> None:
    """Move rows with the operator's own paging."""
    transfer = GenericTransfer(
        task_id="transfer",
        sql=f"select * from public.events where id <= {rows} order by id",
        source_conn_id="shop",
        destination_conn_id="dwh",
        destination_table=TARGET,
        page_size=PAGE,
        insert_args={"commit_every": PAGE, "target_fields": list(COLUMNS)},
        deferrable=False,
    )
    transfer.execute(cast("Context", task.context("transfer")))
