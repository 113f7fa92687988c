"""Eight parts on two Celery workers, one of which loses power: every row arrives exactly once.

Needs ``pip install -c constraints.txt -e ".[celery,test]"``; run with ``pytest -m celery tests/celery``.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest
import redis

from airflow_checkpoint_etl.collect import lane_prefix, read_name
from airflow_checkpoint_etl.demo.servers import HOST, PostgresServer, ValkeyServer
from airflow_checkpoint_etl.protocol import Lane
from airflow_checkpoint_etl.staging.redis import RedisStagingArea
from tests.celery.celery_airflow import CeleryAirflow
from tests.memory import FAST, in_memory
from tests.support import INSERT, ORDERS, World

pytestmark = [
    pytest.mark.celery,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(1200),
]

ROWS = 16_000
PARTS = 8
CHUNKS = ROWS // PARTS // 250
STAGES = ("extract", "transform", "load")


@pytest.fixture
def servers():
    with (
        in_memory(lambda: PostgresServer(settings=FAST)) as postgres,
        in_memory(ValkeyServer) as valkey,
    ):
        shop, dwh = postgres.create_database("shop"), postgres.create_database("dwh")
        with psycopg.connect(shop, autocommit=True) as connection:
            connection.execute(ORDERS)
            connection.execute(INSERT.format(ROWS))
        with psycopg.connect(dwh, autocommit=True) as connection:
            connection.execute(ORDERS.replace("generated always as identity primary key", ""))
            connection.execute(
                "create function slow() returns trigger language plpgsql as"
                " $$ begin perform pg_sleep(0.2); return null; end $$"
            )
            connection.execute(
                "create trigger slow after insert on orders for each statement execute function slow()"
            )
        yield postgres, valkey


def ledger(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        if connection.execute("select to_regclass('checkpoint_etl.ledger')").fetchone() == (None,):
            return []
        return connection.execute(
            "select part, seq, rows, try_number from checkpoint_etl.ledger order by part, id"
        ).fetchall()


def files(valkey):
    """How many files each part's stages have staged per chunk; none is collected yet."""
    client = redis.Redis(host=HOST, port=valkey.port)
    staging = RedisStagingArea(lambda: client, 64 << 20)
    staged = Counter()
    for part in range(PARTS):
        lane = Lane("orders", str(part))
        for name in staging.names(lane_prefix(lane)):
            file = read_name(lane, name)
            staged[part, file.stage, file.seq] += 1
    staging.close()
    return staged


def test_a_celery_worker_that_loses_power_costs_the_chunks_at_hand_and_no_row(servers):
    postgres, valkey = servers
    shop, dwh = postgres.dsn("shop"), postgres.dsn("dwh")
    connections = {
        "shop": postgres.airflow_uri("shop"),
        "dwh": postgres.airflow_uri("dwh"),
        "checkpoints": valkey.airflow_uri(),
    }
    dags = Path(__file__).parent / "dags"
    with in_memory(lambda: CeleryAirflow(dags, connections, postgres, valkey)) as airflow:
        api = airflow.api
        api.wait_parsed("parts")
        api.unpause("parts")
        run_id = api.trigger("parts")
        deadline = time.monotonic() + 400
        while len(ledger(dwh)) < 6:
            assert time.monotonic() < deadline, "nothing is being loaded"
            time.sleep(0.05)
        killed = airflow.kill_worker("worker_1")
        before = ledger(dwh)
        assert len(killed) > 1, "it had tasks at work"
        assert len(before) < PARTS * CHUNKS
        ended = api.wait_run("parts", run_id, 500)
        tasks = api.tasks("parts", run_id)
        assert ended == "success", [task for task in tasks if task.state != "success"]
        tries = {
            (int(task.map_index), task.task_id.removeprefix("etl.")): task.try_number
            for task in tasks
        }

    after = ledger(dwh)
    for part in range(PARTS):
        mine = [row for row in after if row[0] == str(part)]
        assert [seq for _, seq, _, _ in mine] == list(range(1, CHUNKS + 1)), "every chunk once"
        assert sum(rows for _, _, rows, _ in mine) == ROWS // PARTS
    assert set(before) <= set(after), "what was loaded stays as it was loaded"
    World(shop, dwh).assert_exact(target="orders")

    again = {task for task, number in tries.items() if number > 1}
    assert again, "the killed tasks were tried again"
    staged = files(valkey)
    for (part, stage, seq), count in staged.items():
        if count > 1:
            assert (part, stage) in again, (
                f"{stage} of part {part} staged chunk {seq} {count} times"
            )
    for part, stage in again:
        if stage != "load":
            extra = sum(
                count - 1 for (one, at, _), count in staged.items() if (one, at) == (part, stage)
            )
            assert extra <= tries[part, stage] - 1, "a kill costs the chunk at hand"
    print(f"\ntried again: {sorted(again)}")  # noqa: T201  what -s shows
