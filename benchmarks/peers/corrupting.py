"""The negative control of the content check: it changes one value on the way."""

from __future__ import annotations

import psycopg

from benchmarks.peers import naive


def run(source: str, target: str, redis_port: int, rows: int) -> None:
    """Move rows as the pattern by hand does, and make one score a little larger."""
    naive.run(source, target, redis_port, rows)
    with psycopg.connect(target) as connection:
        connection.execute("update public.events_copy set score = score + 1e-9 where id = 7")
