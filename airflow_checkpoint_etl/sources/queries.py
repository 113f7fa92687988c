"""Named SQL: statements kept in .sql files beside this module, each under a ``-- name:`` line."""

from __future__ import annotations

from functools import cache

from airflow_checkpoint_etl.postgres import read_statements


@cache
def load(file: str) -> dict[str, bytes]:
    """Return the statements of a file by name, as bytes, which psycopg takes for trusted SQL."""
    statements = read_statements("airflow_checkpoint_etl.sources", file)
    return {name: statement.encode() for name, statement in statements.items()}
