"""The guarantee that real configurations compute, log at the start and keep with the lane."""

from __future__ import annotations

import logging
import uuid

import psycopg
import pytest

from airflow_checkpoint_etl.errors import PreflightError
from tests.standby import StandbyServer
from tests.support import World

UPSERT = {"write": "upsert", "key": ("id",)}
SOURCES = """
create table numbered (id bigserial primary key, v text);
create table identified (id bigint generated always as identity primary key, v text);
create table dated (
    id bigint generated always as identity primary key,
    updated_at timestamptz not null default now(),
    v text
);
create unique index on dated (updated_at, id);
create table tokened (id uuid primary key default gen_random_uuid(), v text);
create table cached (id bigint generated always as identity (cache 20) primary key, v text);
"""
APPENDED = "rows are appended, in one transaction with the ledger"
MERGED = "rows are merged by key, in one transaction with the ledger"
WAITED = "id comes from a sequence and everyone who writes the table or draws an id is waited for"
DRAWN = "Assumes that ids are drawn in the inserting transaction"
DATED = (
    "rows are read in order of updated_at, id and every transaction of the database is waited for"
)
CLOCKED = (
    "Assumes that writers set updated_at to the time they write at and that the source's clock does not "
    "step back"
)
BY_TIME = {"table": "dated", "cursor": ("updated_at", "id")}
QUERY = {
    "table": None,
    "query": "select id, v from identified",
    "unique": True,
    "settle_tables": ("identified",),
}
LAGGED = (
    "at-most-once: rows of transactions that stay open for more than settle_lag=0.01 s are missed; "
    f"{MERGED}"
)
SWEPT = (
    "effectively-once: rows that appear late, wherever id puts them, are swept up by a later run, at the "
    f"latest once every older transaction has ended; {MERGED}. Assumes that the key names the same row "
    "at every load and that a transform with state may see a row again"
)
CONFIGURATIONS = {
    "serial, append": ({"table": "numbered"}, {}, f"exactly-once: {WAITED}; {APPENDED}. {DRAWN}"),
    "identity, upsert": (
        {"table": "identified"},
        UPSERT,
        f"exactly-once: {WAITED}; {MERGED}. {DRAWN}",
    ),
    "serial with a row filter": (
        {"table": "numbered", "where": "id > 0"},
        {},
        (
            f"exactly-once: {WAITED}; {APPENDED}. {DRAWN} and that the row filter never changes its mind "
            "about a row"
        ),
    ),
    "updated_at, append": (
        BY_TIME,
        {},
        (
            f"exactly-once: {DATED}; rows are appended, and a row is appended once more whenever an update "
            f"moves its updated_at: the target holds row versions, in one transaction with the ledger. {CLOCKED}"
        ),
    ),
    "updated_at, upsert": (
        BY_TIME,
        UPSERT,
        (
            f"exactly-once: {DATED}; rows are merged by key, of which the newest version wins, in one "
            f"transaction with the ledger. {CLOCKED}"
        ),
    ),
    "cache 20, sweep": ({"table": "cached", "settle": "sweep"}, UPSERT, SWEPT),
    "client ids, sweep": ({"table": "tokened", "settle": "sweep"}, UPSERT, SWEPT),
    "client ids, declared": (
        {"table": "tokened", "settle": "locks"},
        {},
        (
            "exactly-once only if settle='locks' fits all writers, as declared: not proven, because values "
            "of 'id' are made by its writers, in no order that the database knows; rows are read in order "
            f"of id and everyone who writes the table or draws an id is waited for; {APPENDED}. {DRAWN}"
        ),
    ),
    "lag": (
        {"table": "cached", "settle": "lag", "settle_lag": 0.01},
        UPSERT,
        LAGGED,
    ),
    "none": (
        {"table": "tokened", "settle": "none"},
        {},
        'at-most-once: rows that commit late are missed: settle="none" waits for nobody; '
        + APPENDED,
    ),
    "a query over one table": (
        QUERY,
        {},
        f"exactly-once: {WAITED}; {APPENDED}. {DRAWN}",
    ),
}


@pytest.fixture(scope="module")
def two_databases(postgres_server):
    """A source with every kind of table, and a warehouse, for all these small runs."""
    names = [f"guarantee_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    source, warehouse = (postgres_server.create_database(name) for name in names)
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute(SOURCES)
        for table in ("numbered", "identified", "dated", "tokened", "cached"):
            connection.execute(f"insert into {table} (v) values ('x')")
    yield source, warehouse
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        for name in names:
            connection.execute(f'drop database "{name}" with (force)')


def promised(world: World) -> str:
    """Run extract; return the guarantee that the lane keeps."""
    world.stage("extract")
    ((found,),) = world.fetch(
        f"select settings ->> 'guarantee' from checkpoint_etl.lane where part = '{world.part}'"
    )
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_says_what_it_guarantees(two_databases, caplog, name):
    source, warehouse, expected = CONFIGURATIONS[name]
    caplog.set_level(logging.INFO, logger="airflow_checkpoint_etl")
    target = {"table": f"target_{len(name)}_{name.count(',')}", **warehouse}
    world = World(
        *two_databases,
        source=source,
        warehouse=target,
        part=name.replace(", ", "-").replace(" ", "_"),
    )
    assert promised(world) == expected
    assert (
        f": settle={source.get('settle', 'transactions' if 'updated' in name else 'locks')}; {expected}"
        in caplog.text
    )


def test_auto_refuses_ids_made_anywhere_and_offers_what_works(two_databases):
    world = World(*two_databases, source={"table": "tokened"}, part="refused")
    with pytest.raises(PreflightError, match="exactly-once cannot be promised") as caught:
        world.stage("extract")
    assert 'settle="sweep" with write="upsert"' in str(caught.value)
    assert 'settle="lag" with settle_lag= and write="upsert"' in str(caught.value)


def test_a_hot_standby_says_where_it_is_settled(postgres_server, two_databases):
    source, warehouse = two_databases
    with StandbyServer(postgres_server) as standby:
        standby.catch_up()
        world = World(
            standby.dsn(source.split("dbname=")[1]),
            warehouse,
            source={"table": "numbered", "settle_conn_id": "primary"},
            part="standby",
            primary_dsn=source,
        )
        assert promised(world) == (
            f"exactly-once: {WAITED} on the primary, and then the standby's replay of them; {APPENDED}. "
            f"{DRAWN}"
        )
        with psycopg.connect(source, autocommit=True) as primary:
            primary.execute("insert into numbered (v) values ('y')")
        world.warehouse = {"table": "from_standby"}
        world.part = "standby_rows"
        world.run()
        assert world.fetch("select count(*) from from_standby") == [(2,)]
