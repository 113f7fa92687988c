"""A PostgreSQL that stops, ends backends, is full, locked or refuses: no row is lost, none doubled."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from airflow_checkpoint_etl.demo.servers import PostgresServer
from airflow_checkpoint_etl.errors import CheckpointEtlError, StageBusyError
from airflow_checkpoint_etl.protocol import Lane, Owner, Stage
from airflow_checkpoint_etl.sources.failures import LostConnectionError
from airflow_checkpoint_etl.warehouses import loading
from tests import figures
from tests.chaos.faults import (
    PASSED_ON,
    RUNNING_TOTAL,
    STAGES,
    TRANSFORMS,
    FaultyWorld,
    assert_no_traces,
    emptied,
    struck,
)
from tests.chaos.harness_arena import HALF_THE_SEEDS
from tests.chaos.harness_points import plain_points
from tests.support import ORDERS, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROWS, CHUNK_ROWS = 240, 40
LANE = Lane("orders")
MID_COPY = "mid copy"

REFUSED = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)
"""What the driver says of a server that is away, full, locked or read-only; trying again may help."""

POINTS = {
    stage: [point for point in plain_points() if point.startswith(f"{stage}.")] for stage in STAGES
}
ONCE = ("after_acquire", "after_read_state", "_begin", "settle", "before_finish")
"""What a point that is passed once per attempt has in its name."""


def at_chunk(point: str, chunk: int) -> str:
    return point if any(word in point for word in ONCE) else f"{point}@{chunk}"


# --- servers and worlds ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server of these tests alone: they stop it."""
    with PostgresServer(settings={"fsync": "off", "shared_buffers": "64MB"}) as server:
        server.create_database("warehouse")
        server.create_database("shop")
        yield server


@pytest.fixture
def own_world(own_server: PostgresServer) -> FaultyWorld:
    """A pipeline whose store, staging area and warehouse are one database of the own server."""
    return filled(own_server.dsn("shop"), own_server.dsn("warehouse"))


def filled(source: str, warehouse: str, rows: int = ROWS) -> FaultyWorld:
    world = FaultyWorld(emptied(source), emptied(warehouse))
    world.source["chunk_rows"] = CHUNK_ROWS
    world.warehouse["lock_timeout"] = 0.3
    world.fetch(ORDERS, at="source")
    world.insert(rows)
    return world


def terminate(dsn: str, names: str) -> int:
    """End the backends whose application name is LIKE ``names``; return how many there were."""
    with psycopg.connect(dsn, autocommit=True, application_name="the test") as connection:
        ended = connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and application_name like %s"
            " and backend_type = 'client backend' and pid <> pg_backend_pid()",
            (names,),
        ).fetchall()
    return len(ended)


def stop_at_once(server: PostgresServer) -> None:
    """SIGQUIT to the postmaster, an immediate stop, and a new start."""
    server.halt(signal.SIGQUIT)
    server.start()


@contextlib.contextmanager
def struck_in_copy(monkeypatch: Any, chunk: int, strike: Callable[[], object]) -> Iterator[None]:
    """Strike while the COPY of the n-th chunk has been sent its rows and not yet its end."""
    encode, turns = loading.Encoder.encode, itertools.count(1)

    def encoded(self: Any, table: Any) -> Iterator[bytes]:
        turn = next(turns)
        for number, data in enumerate(encode(self, table)):
            yield data
            if turn == chunk and number == 1:
                strike()

    with monkeypatch.context() as patch:
        patch.setattr(loading.Encoder, "encode", encoded)
        yield


@contextlib.contextmanager
def struck_at(
    monkeypatch: Any, point: str, chunk: int, strike: Callable[[], object]
) -> Iterator[None]:
    if point == MID_COPY:
        with struck_in_copy(monkeypatch, chunk, strike):
            yield
    else:
        with struck(monkeypatch, {at_chunk(point, chunk): strike}) as done:
            yield
        assert done, f"{point} was never passed"


def survive(
    world: FaultyWorld,
    monkeypatch: Any,
    point: str,
    strike: Callable[[], object],
    *,
    chunk: int = 3,
    options: Any = PASSED_ON,
    lift: Callable[[], object] = lambda: None,
    refused: bool | None = None,
) -> Exception | None:
    """Run the stages with one strike, try the struck one again, and check everything.

    Args:
        world: the pipeline.
        monkeypatch: for striking.
        point: the failpoint to strike at, or in the middle of a COPY.
        strike: the fault.
        chunk: at the n-th pass of the point.
        options: the transform's.
        lift: ends the fault before the second try.
        refused: whether the struck attempt must fail; None: it may.
    """
    struck_stage = "load" if point == MID_COPY else point.split(".", 1)[0]
    error = None
    for stage in STAGES:
        if stage != struck_stage:
            assert world.tried(stage, options) is None
            continue
        with struck_at(monkeypatch, point, chunk, strike):
            figures.injected("faults", point=point)
            error = world.tried(stage, options, also=REFUSED)
        if refused is not None:
            assert (error is not None) == refused, f"{point}: {error!r}"
        assert_no_traces(world.warehouse_dsn)
        lift()
        assert world.tried(stage, options, try_number=2) is None
    world.assert_right(options)
    assert_no_traces(world.warehouse_dsn)
    assert_no_traces(world.source_dsn)
    return error


# --- the server stops --------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [MID_COPY, "load.before_commit", "load.after_commit"])
def test_a_server_that_stops_at_once_during_a_load_costs_no_row(
    own_world, own_server, monkeypatch, point
):
    survive(own_world, monkeypatch, point, lambda: stop_at_once(own_server), options=RUNNING_TOTAL)


# --- backends are ended ------------------------------------------------------------------------------

TERMINATED = [
    (MID_COPY, "checkpoint_etl load f%"),
    *((point, "checkpoint_etl load%") for point in POINTS["load"][3:]),
    *((point, "checkpoint_etl control") for point in POINTS["load"]),
    ("load.before_rows", "%"),
]


@pytest.mark.parametrize(("point", "names"), TERMINATED)
def test_an_ended_backend_costs_no_row_at_any_step_of_a_load(own_world, monkeypatch, point, names):
    ended: list[int] = []
    survive(
        own_world,
        monkeypatch,
        point,
        lambda: ended.append(terminate(own_world.warehouse_dsn, names)),
    )
    assert sum(ended) >= 1, f"no backend named {names} was there to end"


def test_an_ended_heartbeat_is_opened_again_and_keeps_the_lease(own_world, monkeypatch):
    world = own_world
    world.attempt["lease"] = seconds(0.6)
    ended: list[int] = []
    renewed: list[bool] = []

    def beat(*_: object) -> list[Any]:
        return world.fetch(
            "select lease_until from checkpoint_etl.stage"
            " where stage = 'load' and lease_until > clock_timestamp()"
        )

    def end_and_wait() -> None:
        wait_until(lambda: terminate_once(world.warehouse_dsn, "checkpoint_etl heartbeat", ended))
        before = beat()
        wait_until(lambda: beat() not in ([], before))
        renewed.append(True)

    survive(world, monkeypatch, "load.before_rows", end_and_wait, refused=False)
    assert (ended, renewed) == ([1], [True])


def terminate_once(dsn: str, names: str, ended: list[int]) -> bool:
    count = terminate(dsn, names)
    if count:
        ended.append(count)
    return bool(count)


def wait_until(condition: Callable[[], object], at_most: float = 20.0) -> None:
    until = time.monotonic() + at_most
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


class EndedReads:
    """Holds a read of the source up by a lock, ends its backend and lets go of the lock."""

    def __init__(self, dsn: str, times: int) -> None:
        self._dsn, self._times = dsn, times
        self._thread: threading.Thread | None = None
        self.ended = 0

    def begin(self) -> None:
        locked = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(locked,))
        self._thread.start()
        assert locked.wait(20)

    def _run(self, locked: threading.Event) -> None:
        with psycopg.connect(self._dsn) as holder:
            holder.execute("lock table orders in access exclusive mode")
            locked.set()
            for _ in range(self._times):
                wait_until(self._end_reader)

    def _end_reader(self) -> bool:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            ended = connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchall()
        self.ended += len(ended)
        return bool(ended)

    def join(self) -> None:
        assert self._thread is not None
        self._thread.join(30)


def test_a_reading_backend_ended_in_the_middle_of_a_read_costs_one_repeated_statement(
    own_world, monkeypatch
):
    reads = EndedReads(own_world.source_dsn, times=1)
    survive(own_world, monkeypatch, "extract.before_read", reads.begin, refused=False)
    reads.join()
    assert reads.ended == 1


def test_a_source_that_ends_every_read_fails_the_extract_and_its_retry_resumes(
    own_world, monkeypatch
):
    # The read, the probe for its error code, and the same two once more on new connections.
    reads = EndedReads(own_world.source_dsn, times=4)
    error = survive(
        own_world, monkeypatch, "extract.before_read", reads.begin, lift=reads.join, refused=None
    )
    assert error is None or isinstance(error, LostConnectionError)
    assert reads.ended >= 2


# --- the server refuses ------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[PostgresServer], Path]]:
    """Makes a small file system of its own, in memory, that a server may write to."""
    mounted: list[Path] = []

    def mount(server: PostgresServer) -> Path:
        folder = server.directory / "small"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)],
            check=False,
            capture_output=True,
        )
        if done.returncode:
            pytest.skip("a small file system can only be mounted by a privileged user")
        mounted.append(folder)
        status = server.data.stat()
        os.chown(folder, status.st_uid, status.st_gid)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))


@pytest.mark.parametrize("point", ["load.before_rows", "transform.before_stage"])
def test_a_full_disk_fails_the_stage_and_room_lets_it_resume(full_disk, monkeypatch, point):
    with PostgresServer(settings={"fsync": "off", "shared_buffers": "32MB"}) as server:
        folder = full_disk(server)
        source = server.create_database("shop")
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(f"create tablespace small location '{folder}'")
            connection.execute("create database warehouse tablespace small")
        world = filled(source, server.dsn("warehouse"), rows=8000)
        world.source["chunk_rows"] = 2000
        error = survive(
            world,
            monkeypatch,
            point,
            lambda: fill(folder),
            chunk=2,
            options=RUNNING_TOTAL,
            lift=(folder / "ballast").unlink,
            refused=True,
        )
        assert isinstance(error, psycopg.errors.DiskFull)


@pytest.mark.parametrize("table", ["orders_copy", "checkpoint_etl.lane"])
def test_a_lock_held_by_others_fails_the_load_in_time_and_letting_go_lets_it_resume(
    own_world, monkeypatch, table
):
    with psycopg.connect(own_world.warehouse_dsn, application_name="psql") as other:
        hold = {
            "orders_copy": "lock table orders_copy in share mode",
            "checkpoint_etl.lane": "select from checkpoint_etl.lane for update",
        }[table]
        started = time.monotonic()
        error = survive_while_held(own_world, monkeypatch, other, hold)
        assert isinstance(error, psycopg.errors.LockNotAvailable)
        assert time.monotonic() - started < 30
        assert other.execute("select 1").fetchone() == (1,), "an innocent's backend was ended"


def survive_while_held(
    world: FaultyWorld, monkeypatch: Any, other: psycopg.Connection[Any], hold: str
) -> Exception | None:
    """As survive, but the traces of the innocent who holds the lock are his own."""
    for stage in ("extract", "transform"):
        assert world.tried(stage) is None
    with struck(monkeypatch, {"load.before_advance@3": lambda: other.execute(hold)}):
        error = world.tried("load", also=REFUSED)
    other.rollback()
    assert_no_traces(world.warehouse_dsn)
    assert world.tried("load", try_number=2) is None
    world.assert_right()
    return error


def test_a_statement_timeout_fails_the_load_and_a_quicker_table_lets_it_resume(
    own_world, monkeypatch
):
    own_world.warehouse["statement_timeout"] = 0.5
    error = survive(
        own_world,
        monkeypatch,
        "load.before_advance",
        lambda: slow_down(own_world, seconds_per_row=0.1),
        lift=lambda: own_world.fetch("drop trigger slow on orders_copy"),
        refused=True,
    )
    assert isinstance(error, psycopg.errors.QueryCanceled)


def slow_down(world: FaultyWorld, seconds_per_row: float) -> None:
    world.fetch(
        f"create or replace function slow() returns trigger language plpgsql as"
        f" $$ begin perform pg_sleep({seconds_per_row}); return new; end $$"
    )
    world.fetch(
        "create trigger slow before insert on orders_copy for each row execute function slow()"
    )


@pytest.fixture
def role_world(own_world: FaultyWorld, own_server: PostgresServer) -> Iterator[FaultyWorld]:
    """The same pipeline, connecting to the warehouse as an ordinary role."""
    with psycopg.connect(own_world.warehouse_dsn, autocommit=True) as connection:
        connection.execute("create role etl login")
        connection.execute("grant create on database warehouse to etl")
        connection.execute("grant create, usage on schema public to etl")
    own_world.warehouse_dsn = own_server.dsn("warehouse", user="etl")
    yield own_world
    with psycopg.connect(own_server.dsn("warehouse"), autocommit=True) as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute("drop owned by etl cascade")
        connection.execute("drop role etl")


def as_admin(server: PostgresServer, statement: str) -> None:
    with psycopg.connect(server.dsn("warehouse"), autocommit=True) as connection:
        connection.execute(statement)


READ_ONLY = "alter role etl set default_transaction_read_only = on"
WRITABLE = "alter role etl reset default_transaction_read_only"


@pytest.mark.parametrize("stage", STAGES)
def test_a_role_that_became_read_only_writes_nothing_and_resumes_once_it_may_write(
    role_world, own_server, stage
):
    for before in STAGES[: STAGES.index(stage)]:
        assert role_world.tried(before, RUNNING_TOTAL) is None
    as_admin(own_server, READ_ONLY)
    error = role_world.tried(stage, RUNNING_TOTAL, also=REFUSED)
    # The adapters say for themselves that they write: a default is no prohibition.
    assert error is None or isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
    as_admin(own_server, WRITABLE)
    role_world.clear(RUNNING_TOTAL)
    role_world.assert_right(RUNNING_TOTAL)
    assert_no_traces(own_server.dsn("warehouse"))


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("point", ["extract.before_read", "transform.before_stage", MID_COPY])
def test_too_many_connections_fail_the_stage_and_room_lets_it_resume(
    role_world, own_server, monkeypatch, point, limit
):
    def strike() -> None:
        as_admin(own_server, f"alter role etl connection limit {limit}")
        with psycopg.connect(own_server.dsn("warehouse"), autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'etl'"
            )

    survive_as_role(role_world, own_server, monkeypatch, point, strike)


def survive_as_role(
    world: FaultyWorld, server: PostgresServer, monkeypatch: Any, point: str, strike: Any
) -> None:
    def lift() -> None:
        as_admin(server, "alter role etl connection limit -1")

    struck_stage = "load" if point == MID_COPY else point.split(".", 1)[0]
    for stage in STAGES:
        if stage == struck_stage:
            with struck_at(monkeypatch, point, 3, strike):
                error = world.tried(stage, RUNNING_TOTAL, also=REFUSED)
            assert isinstance(error, (psycopg.OperationalError, CheckpointEtlError))
            lift()
            assert_no_traces(server.dsn("warehouse"))
        assert world.tried(stage, RUNNING_TOTAL, try_number=2) is None
    world.assert_right(RUNNING_TOTAL)


# --- leases and hung owners --------------------------------------------------------------------------


def acquire_load(world: FaultyWorld, run: str) -> Any:
    """Try to take the load stage as another task would."""
    _, ports = world.runner("load", run)
    try:
        return ports.warehouse._ledger.acquire(  # type: ignore[attr-defined]
            LANE, Stage.LOAD, Owner("dag", run, "load"), seconds(2)
        )
    finally:
        ports.close()


def test_a_copy_longer_than_the_lease_keeps_its_lease(own_world):
    world = own_world
    world.attempt["lease"] = seconds(2)
    world.source["chunk_rows"] = ROWS
    for stage in ("extract", "transform"):
        assert world.tried(stage) is None
    world.warehouse["create_table"] = True
    world.fetch(
        "create table orders_copy (id bigint, customer text, amount numeric(12, 2),"
        " created_at timestamptz)"
    )
    slow_down(world, seconds_per_row=4.5 / ROWS)
    outcomes: list[Any] = []
    loading_thread = threading.Thread(target=lambda: outcomes.append(world.tried("load")))
    began = time.monotonic()
    loading_thread.start()
    copying = (
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and application_name like 'checkpoint_etl load f%' and state = 'active'"
        " and query ilike 'copy%'"
    )
    wait_until(lambda: world.fetch(copying) == [(1,)])
    busy = 0
    while world.fetch(copying) == [(1,)]:
        try:
            acquire_load(world, "run_2")
        except StageBusyError:
            busy += 1
        else:
            if world.fetch(copying) == [(1,)]:
                pytest.fail("the stage was taken from an owner that is alive")
        time.sleep(0.1)
    loading_thread.join()
    assert outcomes == [None]
    assert time.monotonic() - began > 4, "the COPY was to take longer than two leases"
    assert busy > 10
    world.assert_exact()


@pytest.mark.parametrize("run", ["run_1", "run_2"])
def test_a_hung_load_gives_way_to_its_retry_and_to_others_when_its_lease_is_over(
    own_world, monkeypatch, run
):
    world = own_world
    for stage in ("extract", "transform"):
        assert world.tried(stage) is None
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        assert goes_on.wait(60)

    outcomes: list[Any] = []
    with (
        struck(monkeypatch, {"load.before_commit@3": hang}),
        bystander(world) as innocent,
    ):
        hung = threading.Thread(target=lambda: outcomes.append(world.tried("load", also=REFUSED)))
        hung.start()
        assert hangs.wait(30)
        with pytest.raises(StageBusyError):
            acquire_load(world, "run_2")
        held = "select count(*) from pg_stat_activity where application_name like 'checkpoint_etl load f1 %' and state like 'idle in tr%'"
        assert world.fetch(held) == [(1,)], "a busy stage's owner was ended"
        if run == "run_2":  # its worker is gone with its heartbeat, its backend is not
            world.fetch("update checkpoint_etl.stage set lease_until = clock_timestamp()")
            world.stage("extract", run)
            world.stage("transform", run)
        assert world.tried("load", run=run, try_number=2) is None
        goes_on.set()
        hung.join()
        assert innocent.execute("select 1").fetchone() == (1,), "an innocent's backend was ended"
    assert isinstance(outcomes[0], (CheckpointEtlError, *REFUSED))
    world.assert_exact()
    assert_no_traces(world.warehouse_dsn)


@contextlib.contextmanager
def bystander(world: FaultyWorld) -> Iterator[psycopg.Connection[Any]]:
    """A session that has an older load's name and a lock on another row, but not the lane's row."""
    name = "checkpoint_etl load f0 orders"
    with psycopg.connect(world.warehouse_dsn, application_name=name) as session:
        session.execute("create temp table mine (id int)")
        session.commit()
        session.execute("insert into mine values (1)")
        yield session


INNOCENTS = (
    "psql",
    "",
    "checkpoint_etl control",
    "checkpoint_etl heartbeat",
    "checkpoint_etl load f99 orders",
    "checkpoint_etl extract f1 orders",
    "another checkpoint_etl load f1 orders",
)


def test_an_innocent_who_holds_the_lanes_row_is_named_and_never_ended(own_world):
    world = own_world
    for stage in ("extract", "transform"):
        assert world.tried(stage) is None
    for number, name in enumerate(INNOCENTS):
        with psycopg.connect(world.warehouse_dsn, application_name=name) as innocent:
            innocent.execute("select from checkpoint_etl.lane for update")
            error = world.tried("load", try_number=number)
            assert isinstance(error, CheckpointEtlError), name
            assert f"backend {innocent.info.backend_pid}" in str(error)
            innocent.execute("select 1")
    assert world.tried("load", try_number=len(INNOCENTS)) is None
    world.assert_exact()


# --- any moment, any seed ----------------------------------------------------------------------------

EVERYWHERE = [MID_COPY, *POINTS["extract"], *POINTS["transform"], *POINTS["load"]]
NOT_PASSED_ON = {
    "transform.before_apply",
    "transform.after_apply",
    "transform.before_stage",
    "transform.after_stage",
}
"""Points that a transform which passes chunks on does not pass."""
VICTIMS = ["%", "checkpoint_etl control", "checkpoint_etl load%", "checkpoint_etl heartbeat", ""]


@pytest.mark.chaos
@pytest.mark.parametrize("seed", HALF_THE_SEEDS)
@pytest.mark.parametrize("point", EVERYWHERE)
def test_ended_backends_cost_no_row_at_any_moment(own_world, monkeypatch, point, seed):
    figures.seeded(seed)
    rng = random.Random(f"{seed} {point}")
    names = rng.choice(VICTIMS)
    print(f"seed {seed}: {point}, backends {names!r}")  # noqa: T201  shown when it fails
    survive(
        own_world,
        monkeypatch,
        point,
        lambda: terminate(own_world.warehouse_dsn, names),
        chunk=rng.randrange(1, 6),
        options=RUNNING_TOTAL,
    )


@pytest.mark.chaos
@pytest.mark.parametrize("seed", HALF_THE_SEEDS)
@pytest.mark.parametrize("point", EVERYWHERE)
def test_an_immediate_stop_costs_no_row_at_any_moment(
    own_world, own_server, monkeypatch, point, seed
):
    figures.seeded(seed)
    rng = random.Random(f"{seed} {point}")
    transforms = ["running total"] if point in NOT_PASSED_ON else list(TRANSFORMS)
    transform = rng.choice(transforms)
    print(f"seed {seed}: {point}, {transform}")  # noqa: T201  shown when it fails
    survive(
        own_world,
        monkeypatch,
        point,
        lambda: stop_at_once(own_server),
        chunk=rng.randrange(1, 6),
        options=TRANSFORMS[transform],
    )
