"""The demonstration's orders, and that its comparison finds every kind of difference."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl.demo import orders

ROWS = 2_000


@pytest.fixture
def shop(new_database):
    database = new_database()
    with database.connect() as connection:
        assert orders.create_orders(connection, ROWS) == ROWS
    return database


@pytest.fixture
def warehouse(new_database, shop):
    """A warehouse that holds exactly what it must."""
    database = new_database()
    with database.connect() as target, shop.connect() as source:
        orders.create_target_schema(target)
        columns = orders.SQL["create_expected"].partition("(")[2].rpartition(")")[0]
        target.execute(f"create table analytics.orders ({columns})")
        target.execute("set search_path = analytics")
        orders._pipe(source, orders.SQL["cleaned"], target, "orders")
    return database


def test_the_same_orders_are_made_everywhere(shop, new_database):
    other = new_database()
    with other.connect() as connection:
        orders.create_orders(connection, ROWS)
    digest = "select md5(string_agg(o::text, '' order by id)) from public.orders o"
    assert shop.execute(digest) == other.execute(digest)


def test_orders_hold_what_breaks_careless_pipelines(shop):
    found = shop.execute(
        "select bool_or(customer is null), bool_or(customer = ''), bool_or(customer ~ '\\n'),"
        " bool_or(customer ~ ''''), bool_or(customer ~ '\"'), bool_or(customer = '\\N'),"
        " bool_or(note is null), bool_or(note = ''), bool_or(amount < 0), bool_or(status = 'test'),"
        " bool_or(extract(microseconds from created_at)::bigint % 1000 <> 0) from public.orders"
    )
    assert all(found[0])


def test_added_orders_follow_the_existing_ones(shop):
    with shop.connect() as connection:
        assert orders.add_orders(connection, 100) == ROWS + 100
    assert shop.execute("select count(*), count(distinct email) from public.orders") == [
        (ROWS + 100, ROWS + 100)
    ]


def test_an_exact_copy_is_equal(shop, warehouse):
    found = orders.compare(shop.dsn, warehouse.dsn)
    assert found.equal
    assert (
        found.expected
        == found.loaded
        == shop.execute("select count(*) from public.orders where status <> 'test'")[0][0]
    )


@pytest.mark.parametrize(
    ("damage", "missing", "unexpected", "duplicates"),
    [
        ("delete from analytics.orders where id = 7", 1, 0, 0),
        ("insert into analytics.orders select * from analytics.orders where id = 7", 0, 1, 1),
        ("update analytics.orders set amount_cents = amount_cents + 1 where id = 7", 1, 1, 0),
        (("update analytics.orders set note = '' where id in (select id from analytics.orders"
         " where note is null limit 1)"), 1, 1, 0),
        (("update analytics.orders set created_at = created_at + interval '1 microsecond'"
         " where id = 7"), 1, 1, 0),
        ("insert into analytics.orders (id) values (0)", 0, 1, 0),
    ],
    ids=["missing", "doubled", "changed", "null became empty", "a microsecond off", "foreign"],
)  # fmt: skip
def test_every_difference_is_found(shop, warehouse, damage, missing, unexpected, duplicates):
    warehouse.execute(damage)
    found = orders.compare(shop.dsn, warehouse.dsn)
    assert (found.missing, found.unexpected, found.duplicates) == (missing, unexpected, duplicates)
    assert not found.equal


def test_comparing_leaves_nothing_behind(shop, warehouse):
    orders.compare(shop.dsn, warehouse.dsn)
    assert warehouse.execute("select count(*) from pg_tables where tablename like 'expected%'") == [
        (0,)
    ]
