"""Poison: from one bad record in a hundred to all of them, refused by the transform and by the target."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl.transform import CallableTransformer
from tests import figures

SHARES = [1, 50, 100]
"""Bad records of a hundred."""


def spread(share):
    """A condition in SQL that is true for this share of ids, without order or period."""
    return f"(id * 7919) % 100 < {share}"


def is_bad(record, share):
    return record["id"] * 7919 % 100 < share


def poisoned(share):
    """A transform that fails on its share of records, in three ways."""

    def transform(record):
        if is_bad(record, share):
            if record["id"] % 3 == 0:
                raise ValueError(record["customer"])
            return 7 if record["id"] % 3 == 1 else record | {"amount": object()}
        return record

    return transform


def venomous(share):
    """A transform whose share of records the target refuses, in three ways."""

    def transform(record):
        if is_bad(record, share):
            if record["id"] % 3 == 0:
                return record | {"customer": "much too long"}
            return record | {"amount": -1, "customer": "\0" if record["id"] % 3 == 1 else "short"}
        return record | {"customer": "ok"}

    return transform


def wholesome(record):
    return record


@pytest.fixture
def poisonous(world):
    """Quarantine without limits, in chunks of 500."""
    world.pipeline = {"on_error": "quarantine"}
    world.source = {"chunk_rows": 500}
    return world


def assert_all_accounted_for(world, share):
    """Loaded and quarantined ids together are the source's, each once, and the counts agree."""
    bad = {
        row[0] for row in world.fetch(f"select id from orders where {spread(share)}", at="source")
    }
    everything = {row[0] for row in world.fetch("select id from orders", at="source")}
    loaded = [row[0] for row in world.fetch("select id from orders_copy")]
    aside = [
        int(cursor.removeprefix("i8:"))
        for (cursor,) in world.fetch("select cursor from checkpoint_etl.quarantine")
    ]
    assert sorted(loaded + aside) == sorted(everything)
    assert set(aside) == bad
    figures.injected("records rejected", len(aside))
    assert world.fetch(
        "select sum(rows)::int, sum(rows_rejected)::int, sum(rows_in)::int from checkpoint_etl.ledger"
    ) == [(len(loaded), len(aside), len(everything))]
    assert world.fetch("select rows_total from checkpoint_etl.lane") == [(len(loaded),)]


@pytest.mark.parametrize("share", SHARES)
def test_records_the_transform_refuses_are_aside_and_come_after_the_mend(poisonous, share):
    poisonous.fetch(
        "create table orders_copy (id bigint, customer text, amount numeric(12, 2),"
        " created_at timestamptz)"
    )
    poisonous.run(function=poisoned(share))
    assert_all_accounted_for(poisonous, share)
    with poisonous.admin() as admin:
        mended = CallableTransformer(wholesome, cursor_columns=("id",))
        assert admin.replay_quarantine(mended, dry_run=False).left == 0
        assert admin.replay_quarantine(mended, dry_run=False).records == 0
    poisonous.assert_exact()
    assert_all_accounted_for(poisonous, 0)


@pytest.mark.parametrize("write", ["append", "upsert"])
@pytest.mark.parametrize("share", SHARES)
def test_rows_the_target_refuses_are_aside_and_come_after_the_mend(poisonous, share, write):
    poisonous.fetch("delete from orders where id % 2 = 0", at="source")
    poisonous.warehouse = {"write": write} | ({"key": ("id",)} if write == "upsert" else {})
    poisonous.fetch(
        "create table orders_copy (id bigint primary key, customer varchar(5),"
        " amount numeric(12, 2) check (amount >= 0), created_at timestamptz)"
    )
    poisonous.run(function=venomous(share))
    assert_all_accounted_for(poisonous, share)
    if write == "append":  # a text with a NUL stays refused, so only the others come
        poisonous.fetch("alter table orders_copy alter column customer type text")
        poisonous.fetch("alter table orders_copy drop constraint orders_copy_amount_check")
        nuls = f"{spread(share)} and id % 3 = 1"
        ((refused,),) = poisonous.fetch(f"select count(*) from orders where {nuls}", at="source")
        with poisonous.admin() as admin:
            assert admin.replay_quarantine(dry_run=False).left == refused
        poisonous.assert_exact(
            columns="id, created_at", source=f"(select * from orders where not ({nuls})) as good"
        )
