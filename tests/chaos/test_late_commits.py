"""Nine kinds of writers beside every way of settling: the proven ones lose no row, the others do.

The others are negative controls: a harness in which they lost nothing would prove nothing.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from airflow_checkpoint_etl.endpoints import PostgresSource
from airflow_checkpoint_etl.guarantee import Promise
from airflow_checkpoint_etl.sources import modes, queries, settle
from airflow_checkpoint_etl.sources.postgres import PostgresReader
from airflow_checkpoint_etl.sources.settle import Settler
from tests import figures
from tests.chaos.harness_arena import SEEDS
from tests.chaos.writers import TABLES, Follower, Writer, make_tables
from tests.standby import StandbyServer

WRITERS = 6
NOW, CLOCK = ("at_now", "id"), ("at_clock", "id")
XID_HORIZON = b"""
select distinct l.virtualtransaction
  from pg_locks l
 where l.locktype = 'transactionid' and l.granted and l.mode = 'ExclusiveLock'
   and l.pid is distinct from pg_backend_pid()
   and %(roots)s::oid[] is not null
"""
"""The well-known trick: wait for every transaction that has a number. nextval runs before that."""


class Harness:
    """Followers of one source, made by name; closed at the end."""

    def __init__(self, dsn: str, standby_dsn: str | None = None) -> None:
        self.dsn, self.standby_dsn = dsn, standby_dsn
        self.followers: list[Follower] = []

    def add(self, name, *, keeps, table="drawn", key=("id",), listing=None, **options):
        """Follow a table by the product's own settling, or with another listing of writers."""
        on_standby = options.pop("on_standby", False)
        dsn = self.standby_dsn if on_standby else self.dsn
        primary = (lambda: psycopg.connect(self.dsn)) if "settle_conn_id" in options else None
        config = PostgresSource(conn_id=name, table=table, cursor=key, columns=("id",), **options)
        reader = PostgresReader(config, lambda: psycopg.connect(dsn), connect_primary=primary)
        bound = reader.settle
        if listing is not None:
            bound = broken(reader, config, listing)
        self.followers.append(Follower(name, table, key, reader, bound, keeps))

    def add_all(self):
        """Every way of settling one server, good and bad."""
        writers = queries.load("settle.sql")["writers"]
        tables_only = writers.replace(b"relkind = 'S'", b"relkind = '-'")
        pid_differs = writers.replace(b"l.pid is distinct from", b"l.pid <>")
        assert len({writers, tables_only, pid_differs}) == 3
        self.add("locks", keeps=True)
        self.add("transactions, now() cursor", keeps=True, key=NOW)
        self.add("locks, clock_timestamp() cursor", keeps=True, key=CLOCK, settle="locks")
        self.add("sweep, cache 20", keeps=True, table="cached", settle="sweep")
        self.add("sweep, now() cursor", keeps=True, key=NOW, settle="sweep")
        self.add("none", keeps=False, settle="none")
        self.add("lag of 5 ms", keeps=False, settle="lag", settle_lag=0.005)
        self.add("xid horizon only", keeps=False, listing=XID_HORIZON)
        self.add("table locks only", keeps=False, listing=tables_only)
        self.add("pid <> pg_backend_pid()", keeps=False, listing=pid_differs)
        self.add("locks, cache 20", keeps=False, table="cached", settle="locks")
        self.add("locks, now() cursor", keeps=False, key=NOW, settle="locks")
        if self.standby_dsn is not None:
            at_primary = {"on_standby": True, "settle_conn_id": "primary"}
            self.add("standby, locks on its primary", keeps=True, **at_primary)
            self.add("standby, transactions on its primary", keeps=True, key=NOW, **at_primary)
            self.add("standby, locks there", keeps=False, on_standby=True, listing=writers)

    def run(self, seed: int, rows: int, seconds: float) -> None:
        """Write and read side by side: until there are enough rows, and every bad way lost one."""
        stop_writing, stop_reading = threading.Event(), threading.Event()
        with ThreadPoolExecutor(WRITERS + len(self.followers)) as pool:
            writing = [
                pool.submit(Writer(self.dsn, seed * 100 + number).write, stop_writing)
                for number in range(WRITERS)
            ]
            reading = [
                pool.submit(follower.follow, stop_reading, seed * 1000 + number)
                for number, follower in enumerate(self.followers)
            ]
            deadline = time.monotonic() + seconds
            try:
                while time.monotonic() < deadline and not self._is_enough(rows):
                    time.sleep(0.5)
                    if any(task.done() for task in (*writing, *reading)):
                        break  # it has failed; its result says how
            finally:
                stop_writing.set()
                stop_reading.set()
            for task in (*writing, *reading):
                task.result()

    def _is_enough(self, rows: int) -> bool:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for table in TABLES:
                if connection.execute(f"select count(*) from {table}").fetchone()[0] < rows:
                    return False
            return all(each.keeps or each.lost(connection) for each in self.followers)

    def drain(self) -> dict[str, tuple[int, int]]:
        """Have every follower read to the end; return rows and losses by name."""
        time.sleep(settle.MARGIN_SECONDS + 0.2)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            counts = {}
            for each in self.followers:
                each.step()
                missing = each.missing(connection)
                rows = connection.execute(f"select count(*) from {each.table}").fetchone()[0]
                counts[each.name] = (rows, len(missing))
            return counts

    def close(self) -> None:
        for each in self.followers:
            each.reader.close()


def broken(reader, config, listing):
    """Settle as the product does, with another listing of the transactions to wait for."""
    reader._trust_server = lambda: None  # which would refuse to read a standby that was settled so

    def bound(after):
        plan = reader._plan()
        settler = Settler(
            session=reader._session,
            writers=reader._session,
            interruptible=reader._interruptible,
            config=config,
            plan=plan,
            settling=modes.Settling(
                "locks", (plan.relation.oid,), Promise("locks", plan.keyset.key)
            ),
        )
        settler._statements = {**settler._statements, "writers": listing}
        return settler.settle(after)

    return bound


def judge(harness: Harness, counts, seed: int, capsys) -> None:
    figures.seeded(seed)
    with capsys.disabled():
        print(f"\nseed {seed}")  # noqa: T201
        for each in harness.followers:
            rows, lost = counts[each.name]
            what = "must keep all" if each.keeps else "negative control"
            line = f"  {each.name:38} {rows:6} rows {lost:5} lost  {each.rounds:4} runs  {what}"
            print(line)  # noqa: T201  the figures are what it is run for
            figures.noted("rows written beside readers", rows)
            figures.noted(
                f"lost by {each.name}" if each.keeps else f"lost by control {each.name!r}", lost
            )
    for each in harness.followers:
        rows, lost = counts[each.name]
        if each.keeps:
            assert (lost, each.doubled) == (0, 0), f"{each.name} lost {lost} of {rows}, seed {seed}"
        else:
            assert lost > 0, f"{each.name} lost nothing of {rows}: the harness proves nothing"


def test_proven_ways_of_settling_lose_nothing_and_every_other_way_loses_rows(database, capsys):
    make_tables(database.dsn)
    harness = Harness(database.dsn)
    harness.add_all()
    try:
        harness.run(seed=1, rows=500, seconds=40)
        judge(harness, harness.drain(), 1, capsys)
    finally:
        harness.close()


@pytest.fixture(scope="module")
def standby(postgres_server):
    with StandbyServer(postgres_server) as server:
        yield server


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_for_many_seeds_and_on_a_hot_standby(database, standby, seed, capsys):
    make_tables(database.dsn)
    standby.catch_up()
    harness = Harness(database.dsn, standby.dsn(database.dsn.split("dbname=")[1]))
    harness.add_all()
    try:
        harness.run(seed=seed, rows=3000, seconds=300)
        standby.catch_up()
        counts = harness.drain()
        assert all(rows >= 3000 for rows, _ in counts.values())
        judge(harness, counts, seed, capsys)
    finally:
        harness.close()
