"""A Redis that forgets, goes back in time, evicts, dies or holds nonsense costs work and never a row."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import redis

from airflow_checkpoint_etl.demo.servers import HOST, ValkeyServer
from airflow_checkpoint_etl.errors import ManifestConflictError
from tests import figures
from tests.chaos.faults import (
    RUNNING_TOTAL,
    STAGES,
    TRANSFORMS,
    FaultyWorld,
    emptied,
    struck,
)
from tests.chaos.harness_arena import HALF_THE_SEEDS
from tests.support import ORDERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_checkpoint_etl.demo.servers import PostgresServer

ROWS, CHUNK_ROWS = 240, 40
CHUNKS = ROWS // CHUNK_ROWS
PREFIX = "checkpoint_etl:"
MOMENTS = (
    "mid extract",
    "after extract",
    "mid transform",
    "after transform",
    "mid load",
    "after load",
)
POINTS = {"extract": "after_append", "transform": "after_append", "load": "after_commit"}
SEED = 1


@pytest.fixture(scope="module")
def volatile_server() -> Iterator[ValkeyServer]:
    """Keeps everything in memory; a kill loses it all."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def logging_server() -> Iterator[ValkeyServer]:
    """Appends what it does to a file, flushed every second: a crash loses the end of it."""
    with ValkeyServer({"appendonly": "yes", "appendfsync": "everysec"}) as server:
        yield server


@pytest.fixture(scope="module")
def dsn(postgres_server: PostgresServer) -> str:
    """One database for every case here; each of them empties it first."""
    return postgres_server.create_database("redis_faults")


# --- the faults --------------------------------------------------------------------------------------


@dataclass
class Fault:
    """One thing that may happen to a Redis.

    Attributes:
        server: where it happens.
        rng: decides what is left open.
        stage: the stage during or after which it happens.
    """

    server: ValkeyServer
    rng: random.Random
    stage: str
    struck: int = field(default=0, init=False)

    def client(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.server.port)

    def remember(self) -> None:
        """Called some time before the strike."""

    def strike(self) -> None:
        self.struck += 1
        with self.client() as client:
            self.hit(client)

    def hit(self, client: redis.Redis) -> None:
        raise NotImplementedError

    def lift(self) -> None:
        """End what lasts, before the pipeline is cleared."""

    def records(self, client: redis.Redis) -> list[str]:
        """The keys of the stages' records that are there."""
        found = (f"{PREFIX}{{orders/default}}:{stage}" for stage in STAGES)
        return [key for key in found if client.exists(key)]


class EverythingFlushed(Fault):
    def hit(self, client: redis.Redis) -> None:
        client.flushall()


class RecordDeleted(Fault):
    """The hash with a stage's head and manifest is gone; staged files stay."""

    def hit(self, client: redis.Redis) -> None:
        key = f"{PREFIX}{{orders/default}}:{self.stage}"
        if not client.exists(key) or self.rng.random() < 0.3:
            key = self.rng.choice(self.records(client))
        client.delete(key)


class OldDumpRestored(Fault):
    """The server comes back with a dump that is older than what it had acknowledged."""

    def remember(self) -> None:
        with self.client() as client:
            client.save()
        shutil.copy(self.server.directory / "dump.rdb", self.server.directory / "older.rdb")

    def hit(self, client: redis.Redis) -> None:
        self.server.kill()
        dump = self.server.directory / "dump.rdb"
        (self.server.directory / "older.rdb").replace(dump)
        self.server.start()
        dump.unlink()
        assert client.dbsize(), "the old dump was not loaded"


class KilledWithoutPersistence(Fault):
    def hit(self, client: redis.Redis) -> None:
        self.server.kill()
        (self.server.directory / "dump.rdb").unlink(missing_ok=True)
        self.server.start()


@dataclass
class KilledBeforeTheLogWasFlushed(Fault):
    """The append-only file loses its last part, as when the machine fails between two flushes."""

    flushed: int = field(default=0, init=False)

    @property
    def log(self) -> Path:
        (log,) = self.server.directory.glob("appendonlydir/*.incr.aof")
        return log

    def remember(self) -> None:
        self.flushed = self.log.stat().st_size

    def hit(self, client: redis.Redis) -> None:
        self.server.kill()
        data = self.log.read_bytes()
        self.log.write_bytes(data[: self.rng.randrange(self.flushed, len(data))])
        self.server.start()


class KeysEvicted(Fault):
    """The server is at maxmemory under a policy that throws keys away, until the fault is lifted."""

    def hit(self, client: redis.Redis) -> None:
        sizes = [client.memory_usage(key) or 0 for key in client.keys("*")]
        used = client.info("memory")["used_memory"]
        limit = int(used - sum(sizes) * self.rng.uniform(0.3, 0.9))
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", limit)
        with contextlib.suppress(redis.exceptions.OutOfMemoryError):
            client.set("another application's", bytes(1))
        assert len(client.keys("*")) <= len(sizes), "nothing was evicted"

    def lift(self) -> None:
        with self.client() as client:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")


class StagedFilesLost(Fault):
    """Some staged files are gone, and nothing else."""

    def hit(self, client: redis.Redis) -> None:
        keys = sorted(client.keys(f"{PREFIX}staged:*"))
        client.delete(*self.rng.sample(keys, k=(len(keys) + 1) // 2))


class WrongType(Fault):
    """Another program has put a list under the names of some, or all, of our keys."""

    def hit(self, client: redis.Redis) -> None:
        keys = sorted(key.decode() for key in client.keys(f"{PREFIX}*"))
        if self.rng.random() < 0.5:
            keys = self.rng.sample(keys, k=(len(keys) + 1) // 2)
        for key in keys:
            client.delete(key)
            client.rpush(key, "not ours")


class ValueTruncated(Fault):
    """A manifest entry, a checkpoint or a part of the head is cut short."""

    def hit(self, client: redis.Redis) -> None:
        for key in self.records(client):
            fields = sorted(client.hkeys(key))
            for name in self.rng.sample(fields, k=min(3, len(fields))):
                value = client.hget(key, name)
                client.hset(key, name, value[: self.rng.randrange(len(value) or 1)])


FAULTS = {
    "everything flushed": EverythingFlushed,
    "record deleted": RecordDeleted,
    "old dump restored": OldDumpRestored,
    "killed without persistence": KilledWithoutPersistence,
    "killed before the log was flushed": KilledBeforeTheLogWasFlushed,
    "keys evicted": KeysEvicted,
    "staged files lost": StagedFilesLost,
    "wrong type": WrongType,
    "value truncated": ValueTruncated,
}


# --- the programme -----------------------------------------------------------------------------------


def new_world(dsn: str, server: ValkeyServer) -> FaultyWorld:
    with redis.Redis(host=HOST, port=server.port) as client:
        client.flushall()
    world = FaultyWorld(emptied(dsn), dsn, server.port)
    world.source["chunk_rows"] = CHUNK_ROWS
    world.fetch(ORDERS, at="source")
    world.insert(ROWS)
    return world


@dataclass
class Case:
    """One fault at one moment of one run, and everything that must hold then."""

    world: FaultyWorld
    fault: Fault
    moment: str
    options: dict[str, Any]
    rng: random.Random
    loaded: int = 0
    extracted: int = 0
    reads_before: int = 0

    def strike(self) -> None:
        self.loaded = self.world.frontier()
        self.extracted = max((high for _, high in self.world.reads), default=0)
        self.reads_before = len(self.world.reads)
        self.fault.strike()
        figures.injected(type(self.fault).__name__, point=self.moment)

    def run(self, monkeypatch: Any) -> None:
        """Run the stages until one fails or all are done, with the fault at its moment."""
        when, _, struck_stage = self.moment.partition(" ")
        for stage in STAGES:
            points = self.remembering(stage)
            if when == "mid" and stage == struck_stage:
                chunk = self.rng.randrange(CHUNKS // 2, CHUNKS)
                points[f"{stage}.{POINTS[stage]}@{chunk}"] = self.strike
            with struck(monkeypatch, points):
                error = self.world.tried(stage, self.options)
            if error is not None:
                break
            if when == "after" and stage == struck_stage:
                self.strike()
        assert self.fault.struck == 1, "the fault never happened"
        self.fault.lift()

    def remembering(self, stage: str) -> dict[str, Any]:
        early = "extract" if self.fault.stage == "extract" else "transform"
        chunk = self.rng.randrange(1, CHUNKS // 2)
        return {f"{stage}.after_append@{chunk}": self.fault.remember} if stage == early else {}

    def heal(self) -> None:
        """Clear extract with Downstream, or leave it to the next run, which has new rows."""
        if self.rng.random() < 0.5:
            self.world.clear(self.options)
        else:
            self.world.insert(70)
            self.world.run("run_2", **self.options)
            self.world.assert_reached("run_2")

    def check(self) -> None:
        self.world.assert_right(self.options)
        again = [(low, high) for low, high in self.world.reads[self.reads_before :]]
        assert all(low >= self.loaded for low, _ in again), "rows were read again that are loaded"
        if not isinstance(self.fault, KeysEvicted):  # which strikes again and again
            rework = sum(max(0, min(high, self.extracted) - low) for low, high in again)
            # And the chunk that was under way, and the one that was read ahead meanwhile.
            bound = self.extracted - self.loaded + 2 * CHUNK_ROWS
            assert rework <= bound, f"{rework} rows were read again, above {bound}"


def run_case(
    dsn: str, server: ValkeyServer, name: str, moment: str, transform: str, seed: int,
    monkeypatch: Any,
) -> None:  # fmt: skip
    print(f"seed {seed}: {name}, {moment}, {transform}")  # noqa: T201  shown when it fails
    figures.seeded(seed)
    rng = random.Random(f"{seed} {name} {moment} {transform}")
    fault = FAULTS[name](server, rng, moment.rpartition(" ")[2])
    case = Case(new_world(dsn, server), fault, moment, TRANSFORMS[transform], rng)
    try:
        case.run(monkeypatch)
        case.heal()
        case.check()
    finally:
        fault.lift()


def transform_of(number: int) -> str:
    return list(TRANSFORMS)[number % 2]


DEFAULT = [
    pytest.param(name, moment, transform_of(number + number // len(MOMENTS)), id=f"{name}-{moment}")
    for number, (name, moment) in enumerate(itertools.product(FAULTS, MOMENTS))
    # Between two stages nobody is connected: a kill without persistence is a flush there.
    if not (name == "killed without persistence" and moment.startswith("after"))
]


@pytest.mark.parametrize(("name", "moment", "transform"), DEFAULT)
def test_a_fault_of_redis_costs_no_row(
    dsn, volatile_server, logging_server, monkeypatch, name, moment, transform
):
    server = logging_server if name == "killed before the log was flushed" else volatile_server
    run_case(dsn, server, name, moment, transform, SEED, monkeypatch)


ALL = list(itertools.product(FAULTS, MOMENTS, TRANSFORMS, HALF_THE_SEEDS))


@pytest.mark.chaos
@pytest.mark.parametrize("case", ALL, ids=lambda case: "-".join(map(str, case)))
def test_a_fault_of_redis_costs_no_row_whatever_the_seed(
    dsn, volatile_server, logging_server, monkeypatch, case
):
    name, moment, transform, seed = case
    server = logging_server if name == "killed before the log was flushed" else volatile_server
    run_case(dsn, server, name, moment, transform, seed, monkeypatch)


# --- faults that last --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["extract", "transform"])
def test_a_store_that_forgets_again_and_again_ends_in_an_error(
    dsn, volatile_server, monkeypatch, stage
):
    world = new_world(dsn, volatile_server)
    key = f"{PREFIX}{{orders/default}}:{stage}"
    with redis.Redis(host=HOST, port=volatile_server.port) as client:
        for before in STAGES[: STAGES.index(stage)]:
            assert world.tried(before) is None
        strikes = {f"{stage}.after_append@{n}": lambda: client.delete(key) for n in range(2, 60, 2)}
        strikes[f"{stage}.after_append@60"] = lambda: pytest.fail("it would go on for ever")
        with struck(monkeypatch, strikes):
            error = world.tried(stage)
    assert isinstance(error, ManifestConflictError)
    assert "evict" in str(error)
    world.clear()
    world.assert_right()


@pytest.mark.parametrize("stage", STAGES)
def test_a_server_that_stays_down_fails_the_stage_and_its_retry_resumes(
    dsn, volatile_server, monkeypatch, stage
):
    world = new_world(dsn, volatile_server)
    for before in STAGES[: STAGES.index(stage)]:
        assert world.tried(before, RUNNING_TOTAL) is None
    with struck(monkeypatch, {f"{stage}.{POINTS[stage]}@3": volatile_server.kill}):
        error = world.tried(stage, RUNNING_TOTAL, also=(redis.exceptions.ConnectionError,))
    again = world.tried(
        stage, RUNNING_TOTAL, try_number=2, also=(redis.exceptions.ConnectionError,)
    )
    assert error is not None
    assert again is not None, "green without a checkpoint store"
    volatile_server.start()
    world.clear(RUNNING_TOTAL)
    world.assert_right(RUNNING_TOTAL)
