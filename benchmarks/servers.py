"""The servers that are measured on: settings as in production, ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import psutil
import psycopg
import redis

from airflow_checkpoint_etl.demo.servers import HOST, PostgresServer, ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

POSTGRES_SETTINGS: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "effective_cache_size": "4GB",
    "maintenance_work_mem": "256MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "top",
}
VALKEY_SETTINGS: Final = {"appendonly": "yes", "appendfsync": "everysec"}
_SHOWN: Final = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "wal_level",
)


@dataclass(frozen=True, slots=True)
class Bench:
    """The servers at work.

    Attributes:
        postgres: the server of source, warehouse and PostgreSQL checkpoints, each its own database.
        valkey: the Redis-speaking server.
        relays: ports of relays in front of them, by what a connection is for.
    """

    postgres: PostgresServer
    valkey: ValkeyServer
    relays: Mapping[str, int] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The source's connection string."""
        return self.postgres.dsn("shop")

    @property
    def warehouse(self) -> str:
        """The warehouse's connection string."""
        return self.postgres.dsn("dwh")

    @property
    def checkpoints(self) -> str:
        """The connection string of the database for PostgreSQL checkpoints."""
        return self.postgres.dsn("checkpoints")

    def uri(self, database: str) -> str:
        """Return a database's connection URI, as most programs take it."""
        server = self.postgres
        # Some programs want a password even where the server asks for none.
        return f"postgresql://{server.user}:none@{HOST}:{server.port}/{database}?sslmode=disable"

    def connections(self) -> dict[str, str]:
        """Return Airflow's connections, as environment variables."""
        user = self.postgres.user
        ports = {
            "shop": self.postgres.port,
            "dwh": self.postgres.port,
            "checkpoints": self.postgres.port,
            "redis": self.valkey.port,
            **self.relays,
        }
        return {
            f"AIRFLOW_CONN_{name.upper()}": f"redis://{HOST}:{port}/"
            if name == "redis"
            else f"postgres://{user}@{HOST}:{port}/{name}"
            for name, port in ports.items()
        }

    def client(self) -> redis.Redis:
        """Return a client of the Redis-speaking server."""
        return redis.Redis(host=HOST, port=self.valkey.port)

    def clear(self) -> None:
        """Forget lanes, checkpoints and staged files, and write dirty pages out.

        What one measurement leaves to be written would otherwise be paid for by the next one.
        """
        self.client().flushall()
        for dsn in (self.warehouse, self.checkpoints):
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("drop schema if exists checkpoint_etl cascade")
        with psycopg.connect(self.warehouse, autocommit=True) as connection:
            connection.execute("checkpoint")

    def warehouse_pages(self) -> int:
        """Return how many pages the warehouse's sessions have visited, in memory or on disk."""
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            found = connection.execute(
                "select blks_hit + blks_read from pg_stat_database where datname = 'dwh'"
            ).fetchone()
        return int(found[0]) if found else 0

    def wal_bytes(self) -> int:
        """Return how far the server's write-ahead log has come, in bytes."""
        with psycopg.connect(self.warehouse) as connection:
            found = connection.execute("select pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        return int(found[0]) if found else 0

    def settings(self) -> dict[str, str]:
        """Return the settings that matter to speed, as the servers have them."""
        with psycopg.connect(self.source) as connection:
            shown: dict[str, str] = dict(
                connection.execute(
                    "select name, current_setting(name) from pg_settings where name = any(%s)",
                    (list(_SHOWN),),
                ).fetchall()
            )
        persistence = self.client().config_get("append*")
        return shown | {
            f"valkey {name}": str(persistence[name]) for name in sorted(VALKEY_SETTINGS)
        }


@contextlib.contextmanager
def running() -> Iterator[Bench]:
    """Start both servers with their databases; they end with the block."""
    with PostgresServer(POSTGRES_SETTINGS) as postgres, ValkeyServer(VALKEY_SETTINGS) as valkey:
        for name in ("shop", "dwh", "checkpoints"):
            postgres.create_database(name)
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute("create extension if not exists pg_stat_statements")
        yield Bench(postgres, valkey)


def machine(bench: Bench) -> dict[str, str]:
    """Describe the machine by what it has; no name, no path."""
    with psycopg.connect(bench.source) as connection:
        found = connection.execute("show server_version").fetchone()
    version = str(found[0]) if found else "unknown"
    server = bench.client().info("server")
    return {
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "PostgreSQL": version.split()[0],
        "Valkey": str(server.get("valkey_version", server["redis_version"])),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }
