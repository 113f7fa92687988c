"""One real Airflow for all end-to-end tests."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest
import redis

from airflow_checkpoint_etl.checkpoints.postgres import PostgresCheckpointStore
from airflow_checkpoint_etl.checkpoints.redis import RedisCheckpointStore
from airflow_checkpoint_etl.demo.airflow_process import AirflowProcess
from airflow_checkpoint_etl.demo.servers import HOST, PostgresServer, ValkeyServer
from airflow_checkpoint_etl.protocol import Lane, Stage
from tests.memory import FAST, in_memory
from tests.support import INSERT, ORDERS, World, connector

ROWS = 15_000


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks at the marks in the same hook
def pytest_collection_modifyitems(items):
    """Keep the tests that share one Airflow in one worker."""
    for item in items:
        if "e2e" in item.keywords:
            item.add_marker(pytest.mark.xdist_group("e2e"))


class Stack:
    """Servers, Airflow, and one source table and one target per pipeline."""

    def __init__(
        self, postgres: PostgresServer, valkey: ValkeyServer, airflow: AirflowProcess
    ) -> None:
        self.shop, self.dwh = postgres.dsn("shop"), postgres.dsn("dwh")
        self.valkey, self.airflow, self.api = valkey, airflow, airflow.api

    def world(self, name: str) -> Table:
        return Table(self, name)


class Table:
    """One pipeline's source and target, and where its stages are."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack, self.name = stack, name
        self.api = stack.api
        with psycopg.connect(stack.shop, autocommit=True) as connection:
            connection.execute(ORDERS.replace("table orders", f"table {name}"))
            connection.execute(INSERT.format(ROWS).replace("into orders", f"into {name}"))
            connection.execute(f"analyze {name}")
        with psycopg.connect(stack.dwh, autocommit=True) as connection:
            connection.execute(
                ORDERS.replace("table orders", f"table {name}").replace("primary key", "")
            )
            connection.execute(f"alter table {name} alter id drop identity if exists")
            connection.execute(
                "create or replace function slow() returns trigger language plpgsql as"
                " $$ begin perform pg_sleep(0.1); return null; end $$"
            )
            connection.execute(
                f"create trigger slow after insert on {name} for each statement execute function slow()"
            )

    def insert(self, rows: int) -> None:
        with psycopg.connect(self.stack.shop, autocommit=True) as connection:
            connection.execute(INSERT.format(rows).replace("into orders", f"into {self.name}"))

    def seq(self, stage: str) -> int:
        """The stage's last chunk, as its own store has it."""
        lane = Lane(self.name)
        if stage == "load":
            with psycopg.connect(self.stack.dwh, autocommit=True) as connection:
                row = connection.execute(
                    "select coalesce(max(seq), 0) from checkpoint_etl.ledger where pipeline = %s",
                    [self.name],
                ).fetchone()
                return row[0]
        if "redis" in self.name:
            client = redis.Redis(host=HOST, port=self.stack.valkey.port)
            store = RedisCheckpointStore(lambda: client)
        else:
            store = PostgresCheckpointStore(connector(self.stack.dwh))
        checkpoint = store.read(lane, Stage(stage)).checkpoint
        store.close()
        return checkpoint.frontier.seq if checkpoint else 0

    def wait_for_chunks(self, stage: str, chunks: int, seconds: float = 240.0) -> None:
        """Return as soon as a stage has done this many chunks."""
        deadline = time.monotonic() + seconds
        while self.seq(stage) < chunks:
            assert time.monotonic() < deadline, f"{stage} of {self.name} did not get to {chunks}"
            time.sleep(0.02)

    def rows_read(self) -> int:
        """How many of the table's rows PostgreSQL has fetched, by its own statistics."""
        with psycopg.connect(self.stack.shop, autocommit=True) as connection:
            row = connection.execute(
                "select coalesce(idx_tup_fetch, 0) + coalesce(seq_tup_read, 0)"
                " from pg_stat_user_tables where relname = %s",
                [self.name],
            ).fetchone()
            return row[0]

    def ledger(self) -> list[tuple]:
        with psycopg.connect(self.stack.dwh, autocommit=True) as connection:
            return connection.execute(
                "select seq, try_number, run_id from checkpoint_etl.ledger where pipeline = %s order by id",
                [self.name],
            ).fetchall()

    def assert_exact(self) -> None:
        world = World(self.stack.shop, self.stack.dwh)
        world.assert_exact(source=self.name, target=self.name)


@pytest.fixture(scope="package")  # Airflow ends before the worker goes on with other tests
def stack(tmp_path_factory):
    flags = tmp_path_factory.mktemp("flags")
    with (
        in_memory(lambda: PostgresServer(settings=FAST)) as postgres,
        in_memory(ValkeyServer) as valkey,
    ):
        postgres.create_database("shop")
        postgres.create_database("dwh")
        connections = {
            "shop": postgres.airflow_uri("shop"),
            "dwh": postgres.airflow_uri("dwh"),
            "checkpoints": valkey.airflow_uri(),
        }
        settings = {
            "E2E_FLAGS": str(flags),
            "AIRFLOW__CHECKPOINT_ETL__BUSY_POLL_SECONDS": "1",
            "AIRFLOW__CHECKPOINT_ETL__PROGRESS_SECONDS": "1",
            "AIRFLOW__CHECKPOINT_ETL__FOLLOW_SECONDS": "2",
        }
        dags = Path(__file__).parent / "dags"
        with in_memory(lambda: AirflowProcess(dags, connections, settings)) as airflow:
            made = Stack(postgres, valkey, airflow)
            made.flags = flags
            yield made
