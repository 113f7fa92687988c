"""Servers and factories every test level shares; each server is stopped when the run ends."""

from __future__ import annotations

import itertools
import signal
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from airflow_checkpoint_etl.demo.servers import HOST, PostgresServer, ValkeyServer
from tests import (
    airflow_home,  # noqa: F401  sets Airflow up, before anything imports it
    canary,
)
from tests.figures import (  # noqa: F401  hooks: a run ends with its figures
    pytest_collection_finish,
    pytest_runtest_logreport,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)
from tests.memory import FAST, in_memory
from tests.support import ORDERS, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def no_log_tells_a_row() -> Iterator[None]:
    """A canary in the whole suite."""
    with canary.listening():
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with in_memory(lambda: PostgresServer(settings={**FAST, "shared_buffers": "128MB"})) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with in_memory(ValkeyServer) as server:
        yield server


@dataclass(frozen=True)
class Database:
    """A fresh database: its connection string and a factory of connections, as the adapters take it."""

    dsn: str

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, **options)

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement in its own transaction and return its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            result = connection.execute(statement, parameters or None)  # type: ignore[arg-type]
            return result.fetchall() if result.description else []


_numbers = itertools.count()


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Iterator[Callable[[], Database]]:
    """Makes fresh databases, dropped after the test."""
    made: list[str] = []

    def make() -> Database:
        name = f"test_{next(_numbers)}_{uuid.uuid4().hex[:8]}"
        made.append(name)
        return Database(postgres_server.create_database(name))

    yield make
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        for name in made:
            connection.execute(f'drop database if exists "{name}" with (force)')  # type: ignore[call-overload]


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    return new_database()


@pytest.fixture
def redis_client(valkey_server: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of a Valkey that is empty before and after the test."""
    client = redis.Redis(host=HOST, port=valkey_server.port)
    client.flushall()
    yield client
    client.flushall()
    client.close()


@pytest.fixture(params=["redis", "postgres"])
def world(request, new_database, valkey_server) -> Iterator[World]:
    """A pipeline over orders, with 1,000 rows in the source, on each checkpoint store."""
    source, warehouse = new_database(), new_database()
    port = valkey_server.port if request.param == "redis" else None
    made = World(source.dsn, warehouse.dsn, port)
    if port is not None:
        redis.Redis(host=HOST, port=port).flushall()
    made.fetch(ORDERS, at="source")
    made.insert(1000)
    return made


# --- a run that is asked to end ---------------------------------------------------------------------


def pytest_configure() -> None:
    """SIGTERM (of ``timeout``, or a cancelled CI job) ends the run as Ctrl-C does: servers are stopped."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


# --- the whole run in parallel ---------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads its options in the same hook
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use two workers when all tests are run and nothing else was said; ``-n 0`` is one process."""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if (
        everything
        and config.pluginmanager.hasplugin("xdist")
        and not hasattr(config, "workerinput")  # a worker starts no workers
        and config.option.numprocesses is None
        and not config.option.usepdb
        and not config.option.collectonly
    ):
        config.option.numprocesses = 2
        config.option.dist = "loadgroup"


@pytest.hookimpl(trylast=True)  # after the order was shuffled
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the end-to-end tests where they cost least.

    First of all in a worker: it waits for Airflow half of the time, while the other does the rest.
    Last in a single process, so that Airflow does not run beside everything else.
    """
    in_worker = hasattr(config, "workerinput")
    items.sort(key=lambda item: ("e2e" in item.keywords) != in_worker)
