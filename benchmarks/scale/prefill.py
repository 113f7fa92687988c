"""A long history, by SQL: what a ledger holds after years."""

from __future__ import annotations

from typing import Final

import psycopg

from airflow_checkpoint_etl.postgres import Session, read_statements
from airflow_checkpoint_etl.warehouses.ledger import Ledger

SQL: Final = read_statements("benchmarks.scale", "prefill.sql")
_INDEXES: Final = """
select pg_get_indexdef(indexrelid), indexrelid::regclass::text, coalesce(conname, ''),
       coalesce(pg_get_constraintdef(pg_constraint.oid), '')
from pg_index
left join pg_constraint on conindid = indexrelid and contype = 'u'
where indrelid = 'checkpoint_etl.ledger'::regclass and not indisprimary
"""


def prepare(dsn: str) -> None:
    """Create the ledger's tables and the target."""
    session = Session(lambda: psycopg.connect(dsn), "checkpoint_etl benchmark")
    ledger = Ledger(session, session, lock_timeout=5.0)
    ledger.prepare()
    session.rows("create table if not exists public.scale_target (id bigint not null)")
    ledger.close()


def fill(dsn: str, lanes: int, from_chunk: int, to_chunk: int) -> None:
    """Take every lane from one number of past chunks to another.

    The indexes are made anew afterwards: filling with them in place takes several times as long.
    """
    values = {"lanes": lanes, "from": from_chunk, "chunks": to_chunk}
    with psycopg.connect(dsn, autocommit=True) as connection:
        indexes = connection.execute(_INDEXES).fetchall()
        for _, name, constraint, _ in indexes:
            connection.execute(
                f"alter table checkpoint_etl.ledger drop constraint {constraint}"
                if constraint
                else f"drop index {name}"
            )
        if to_chunk > from_chunk:
            connection.execute(SQL["ledger"], values)
            connection.execute(SQL["runs"], values)
        for definition, _, constraint, rule in indexes:
            connection.execute(
                f"alter table checkpoint_etl.ledger add constraint {constraint} {rule}"
                if constraint
                else definition
            )
        connection.execute("vacuum (analyze) checkpoint_etl.ledger, checkpoint_etl.lane")
        connection.execute("vacuum (analyze) checkpoint_etl.run")
    stand(dsn, lanes, to_chunk)


def stand(dsn: str, lanes: int, chunk: int) -> None:
    """Set every lane to the end of its history."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SQL["lanes"], {"lanes": lanes, "chunks": chunk})
        connection.execute("checkpoint")
