"""Keyset pages through Airflow's PostgresHook, as people write it by hand."""

from __future__ import annotations

from typing import Final

# Airflow is set up, and its hooks imported, before the clock starts.
from benchmarks import task  # noqa: F401  isort: skip
from airflow.providers.postgres.hooks.postgres import PostgresHook

from benchmarks.table import COLUMNS, TARGET

PAGE: Final = 10_000


def run(rows: int) -> None:
    """Move rows page by page with ``get_records`` and ``insert_rows``."""
    source, target = PostgresHook("shop"), PostgresHook("dwh")
    last_id = 0
    while True:
        page = source.get_records(
            "select * from public.events where id > %s and id <= %s order by id limit %s",
            parameters=(last_id, rows, PAGE),
        )
        if not page:
            return
        target.insert_rows(TARGET, page, target_fields=list(COLUMNS), commit_every=PAGE)
        last_id = page[-1][0]
