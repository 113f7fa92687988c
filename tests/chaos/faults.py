"""What the fault tests share: striking at a failpoint, attempts, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psycopg
import redis

from airflow_checkpoint_etl import failpoints
from airflow_checkpoint_etl.errors import CheckpointEtlError
from airflow_checkpoint_etl.staging.object_storage import ObjectStorageStagingArea
from tests import figures
from tests.support import CAP, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

STAGES = ("extract", "transform", "load")
NEXT_MOVE = re.compile(
    r"\b(clear|try again|trying again|run the task|delete|give it more|let loads catch up|lower|raise|"
    r"wait for it|have it|see to|grant|this one stops|reconcile)\b",
    re.IGNORECASE,
)
"""The words by which a message says what to do next."""


# --- transforms --------------------------------------------------------------------------------------


def running_total(record: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    state["total"] += int(record["amount"] * 100)
    return record | {"total": state["total"]}


PASSED_ON: dict[str, Any] = {}
RUNNING_TOTAL: dict[str, Any] = {"function": running_total, "initial_state": {"total": 0}}
TRANSFORMS = {"passed on": PASSED_ON, "running total": RUNNING_TOTAL}


# --- striking ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def struck(monkeypatch: Any, strikes: Mapping[str, Callable[[], object]]) -> Iterator[list[str]]:
    """Call each strike when its failpoint (``name@n``) is passed; yields the points struck so far."""
    done: list[str] = []

    def act(name: str, action: str) -> None:
        done.append(action)
        strikes[action]()

    failpoints.reset()
    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "_act", act)
        patch.setenv(failpoints.ENVIRONMENT, ";".join(f"{point}={point}" for point in strikes))
        yield done
    failpoints.reset()


# --- the pipeline under fault ------------------------------------------------------------------------


@dataclass
class FaultyWorld(World):
    """A pipeline that counts what it reads and may stage in a folder.

    Attributes:
        staging_url: where chunks are staged; None: in the checkpoint store.
        reads: ``(low, high)`` of every chunk read from the source, as plain ids.
    """

    staging_url: str | None = None
    reads: list[tuple[int, int]] = field(default_factory=list)

    def ports(self) -> Any:
        ports = super().ports()
        if self.staging_url is not None:
            area = ObjectStorageStagingArea(self.staging_url, None, CAP)
            ports = replace(ports, staging=area)
        source: Any = ports.source
        read = source.read

        def counted(low: str, target: str, *form: Any) -> Any:
            result = read(low, target, *form)
            self.reads.append((id_of(low), id_of(result.high)))
            return result

        source.read = counted
        return ports

    def tried(
        self,
        stage: str,
        options: Mapping[str, Any] = PASSED_ON,
        run: str = "run_1",
        try_number: int = 1,
        also: tuple[type[Exception], ...] = (),
    ) -> Exception | None:
        """Run one attempt; return its error, which is this package's and names the next move.

        Args:
            stage: which.
            options: the transform's.
            run: the DAG run.
            try_number: the try.
            also: further classes of errors that the fault may end in.
        """
        try:
            self.stage(stage, run, try_number, **(options if stage == "transform" else {}))
        except (CheckpointEtlError, *also) as error:
            failure = error
        else:
            failure = None
        if isinstance(failure, CheckpointEtlError):
            said = f"{type(failure).__name__}: {failure}"
            assert NEXT_MOVE.search(said), f"no next move in {said}"
        if failure is not None:
            return failure
        if stage == "load":
            self.assert_reached(run)
        return None

    def clear(self, options: Mapping[str, Any] = PASSED_ON, run: str = "run_1") -> None:
        """Clear extract with Downstream: the three stages again, under the same run."""
        for stage in STAGES:
            self.stage(stage, run, 2, **(options if stage == "transform" else {}))
        self.assert_reached(run)

    def frontier(self) -> int:
        """The id up to which rows are loaded."""
        found = self.fetch("select cursor from checkpoint_etl.lane")
        return id_of(found[0][0]) if found else 0

    def assert_reached(self, run: str) -> None:
        """A green load has reached the target of its run (I11)."""
        ((cursor, target),) = self.fetch(
            "select lane.cursor, run.target from checkpoint_etl.lane join checkpoint_etl.run"
            f" using (pipeline, part, incarnation) where run_id = '{run}'"
        )
        assert id_of(cursor) >= id_of(target), f"green at {cursor}, below the target {target}"

    def assert_totals(self) -> None:
        """Compare the stateful transform's totals with the ones SQL computes, row by row."""
        expected = self.fetch(
            "select id, sum(amount * 100) over (order by id)::bigint from orders order by id",
            at="source",
        )
        assert self.fetch("select id, total from orders_copy order by id") == expected

    def assert_right(self, options: Mapping[str, Any] = PASSED_ON) -> None:
        self.assert_exact()
        if "initial_state" in options:
            self.assert_totals()


def emptied(dsn: str) -> str:
    """Drop what a case before this one has left in the database; quicker than a new database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute("drop schema if exists checkpoint_etl cascade")
        connection.execute("drop table if exists orders, orders_copy cascade")
    return dsn


def id_of(cursor: str) -> int:
    return 0 if cursor == "" or not cursor.startswith("i8:") else int(cursor[3:])


# --- what a failed attempt may leave in the warehouse ------------------------------------------------


def assert_no_traces(dsn: str) -> None:
    """No open transaction, lock or temporary table is left by this package's backends."""
    query = """
        select
          (select count(*) from pg_stat_activity
           where datname = current_database() and pid <> pg_backend_pid()
             and backend_type = 'client backend' and state like 'idle in transaction%'),
          (select count(*) from pg_locks
           where database = (select oid from pg_database where datname = current_database())
             and pid is distinct from pg_backend_pid() and locktype in ('relation', 'tuple')),
          (select count(*) from pg_class where relname like '\\_ck\\_%' and relpersistence = 't')
    """
    # A backend that was told to end needs a moment to be gone.
    until = time.monotonic() + 5
    while True:
        with psycopg.connect(dsn, autocommit=True) as connection:
            left = connection.execute(query).fetchone()
        if left == (0, 0, 0) or time.monotonic() > until:
            break
        time.sleep(0.02)
    assert left == (0, 0, 0), f"left: open transactions, locks, temporary tables = {left}"


# --- staged files behind the package's back ----------------------------------------------------------


@dataclass
class Shelf:
    """The staged files of a world, read and overwritten without the staging area's checks."""

    world: FaultyWorld

    @property
    def folder(self) -> Path:
        from pathlib import Path

        assert self.world.staging_url is not None
        return Path(self.world.staging_url.removeprefix("file://"))

    def names(self) -> list[str]:
        _, ports = self.world.runner("look")
        try:
            return [name for name in ports.staging.names("") if name.endswith(".arrow")]
        finally:
            ports.close()

    def get(self, name: str) -> bytes:
        if self.world.staging_url is not None:
            return (self.folder / name).read_bytes()
        if self.world.redis_port is not None:
            with redis.Redis(port=self.world.redis_port) as client:
                return client.get(f"checkpoint_etl:staged:{name}")  # type: ignore[return-value]
        (row,) = self.world.fetch(f"select data from checkpoint_etl.staged where name = '{name}'")
        return bytes(row[0])

    def put(self, name: str, data: bytes) -> None:
        """Store other bytes under the name, as damage or an intruder would."""
        figures.injected("files tampered with")
        if self.world.staging_url is not None:
            (self.folder / name).write_bytes(data)
        elif self.world.redis_port is not None:
            with redis.Redis(port=self.world.redis_port) as client:
                client.set(f"checkpoint_etl:staged:{name}", data)
        else:
            with psycopg.connect(self.world.warehouse_dsn, autocommit=True) as connection:
                updated = connection.execute(
                    "update checkpoint_etl.staged set data = %s where name = %s", (data, name)
                )
                assert updated.rowcount == 1
