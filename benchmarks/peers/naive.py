"""The pattern that people write first: ``id > last`` -> Redis -> map -> Redis -> executemany."""

from __future__ import annotations

import json
from typing import Final

import psycopg
import redis
from psycopg.rows import dict_row

PAGE: Final = 10_000
_INSERT: Final = """
insert into public.events_copy
    (id, created_at, quantity, amount, score, active, body, note, payload, token)
values (%(id)s, %(created_at)s, %(quantity)s, %(amount)s, %(score)s, %(active)s, %(body)s, %(note)s,
        %(payload)s, %(token)s)
"""


def run(source: str, target: str, redis_port: int, rows: int) -> None:
    """Move rows page by page; checkpoint after each."""
    client = redis.Redis(port=redis_port)
    last_id = int(client.get("checkpoint:last_id") or 0)
    with (
        psycopg.connect(source, row_factory=dict_row) as reader,
        psycopg.connect(target) as writer,
    ):
        while True:
            page = reader.execute(
                "select * from public.events where id > %s and id <= %s order by id limit %s",
                (last_id, rows, PAGE),
            ).fetchall()
            if not page:
                return
            client.set("extracted", json.dumps(page, default=str))
            records = [dict(record) for record in json.loads(client.get("extracted") or "[]")]
            client.set("transformed", json.dumps(records))
            loaded = json.loads(client.get("transformed") or "[]")
            with writer.cursor() as command:
                command.executemany(
                    _INSERT, [one | {"payload": json.dumps(one["payload"])} for one in loaded]
                )
            writer.commit()
            last_id = page[-1]["id"]
            client.set("checkpoint:last_id", last_id)
