"""Fills a fresh PostgreSQL server for the composed stack: a shop to read from, a warehouse to load.

Run once by docker-compose.yaml's ``airflow-init``, and again without harm. It connects as the server's
superuser through libpq's own variables (``PGHOST``, ``PGUSER``, ...), and takes names and passwords
from the two Airflow connections that the example DAGs use, given as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg import sql

from airflow_checkpoint_etl.demo.orders import DEFAULT_ROWS, create_orders, create_target_schema


@dataclass(frozen=True, slots=True)
class Account:
    """A database and the role that an Airflow connection logs in with."""

    database: str
    role: str
    password: str

    @classmethod
    def of_connection(cls, conn_id: str) -> Self:
        """Read a connection from its ``AIRFLOW_CONN_...`` variable."""
        connection = json.loads(os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"])
        return cls(connection["schema"], connection["login"], connection["password"])

    def create(self, server: psycopg.Connection[Any]) -> None:
        """Create role and database where they are missing."""
        role, password = sql.Identifier(self.role), sql.Literal(self.password)
        _create(server, sql.SQL("create role {} login").format(role))
        # Set in any case: it may have been changed since the volume was made.
        server.execute(sql.SQL("alter role {} password {}").format(role, password))
        _create(server, sql.SQL("create database {}").format(sql.Identifier(self.database)))


def _create(server: psycopg.Connection[Any], statement: sql.Composed) -> None:
    with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.DuplicateDatabase):
        server.execute(statement)


def seed(rows: int) -> None:
    """Create the shop with its orders, readable only, and the warehouse, owned by its role."""
    shop, dwh = Account.of_connection("shop"), Account.of_connection("dwh")
    with psycopg.connect(autocommit=True) as server:
        shop.create(server)
        dwh.create(server)
        owner = sql.SQL("alter database {} owner to {}")
        server.execute(owner.format(sql.Identifier(dwh.database), sql.Identifier(dwh.role)))
    with psycopg.connect(dbname=shop.database) as connection:
        found = connection.execute("select to_regclass('public.orders')").fetchone()
        if found == (None,):
            create_orders(connection, rows)
        for what in ("tables", "sequences"):
            grant = sql.SQL("grant select on all {} in schema public to {}")
            connection.execute(grant.format(sql.SQL(what), sql.Identifier(shop.role)))
    with psycopg.connect(dbname=dwh.database, user=dwh.role, password=dwh.password) as connection:
        create_target_schema(connection)


if __name__ == "__main__":
    seed(int(os.environ.get("ORDERS_ROWS", DEFAULT_ROWS)))
