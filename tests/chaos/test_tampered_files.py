"""A staged file that was changed, exchanged, cut or blown up is refused, and a clear stages it anew."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import redis

from airflow_checkpoint_etl.demo.servers import HOST
from airflow_checkpoint_etl.errors import StagedChunkError
from airflow_checkpoint_etl.protocol import Lane, Stage
from airflow_checkpoint_etl.staging import codec
from tests import figures
from tests.chaos.faults import RUNNING_TOTAL, FaultyWorld, Shelf, emptied
from tests.chaos.harness_arena import HALF_THE_SEEDS
from tests.support import CAP, ORDERS

if TYPE_CHECKING:
    from airflow_checkpoint_etl.demo.servers import PostgresServer
    from airflow_checkpoint_etl.protocol import Chunk

ROWS, CHUNK_ROWS = 800, 200
AREAS = ("redis", "postgres", "folder")
MIB = 1 << 20


@pytest.fixture(scope="module")
def dsn(postgres_server: PostgresServer) -> str:
    """One database for every case here; each of them empties it first."""
    return postgres_server.create_database("tampered_files")


@pytest.fixture
def new_world(dsn, valkey_server, tmp_path):
    """Makes a pipeline whose chunks are staged in Redis, in PostgreSQL or in a folder."""

    def make(area: str) -> FaultyWorld:
        with redis.Redis(host=HOST, port=valkey_server.port) as client:
            client.flushall()
        world = FaultyWorld(
            emptied(dsn),
            dsn,
            valkey_server.port if area == "redis" else None,
            staging_url=f"file://{tmp_path}/staged" if area == "folder" else None,
        )
        world.source["chunk_rows"] = CHUNK_ROWS
        world.fetch(ORDERS, at="source")
        world.insert(ROWS)
        return world

    return make


def entries(world: FaultyWorld, stage: Stage) -> tuple[Chunk, ...]:
    _, ports = world.runner("look")
    try:
        return ports.checkpoints.read(Lane("orders"), stage).entries
    finally:
        ports.close()


def staged(world: FaultyWorld, consumer: str) -> tuple[Chunk, ...]:
    """Run what comes before the consumer; return the chunks that it reads."""
    assert world.tried("extract") is None
    if consumer == "transform":
        return entries(world, Stage.EXTRACT)
    assert world.tried("transform", RUNNING_TOTAL) is None
    return entries(world, Stage.TRANSFORM)


def refused_and_healed(world: FaultyWorld, consumer: str, first_bad: int) -> str:
    """The consumer refuses the file, loads nothing of it, and one clear heals; return the message."""
    error = world.tried(consumer, RUNNING_TOTAL)
    assert isinstance(error, StagedChunkError), f"not refused: {error!r}"
    assert world.frontier() <= (first_bad - 1) * CHUNK_ROWS, "a tampered file was loaded"
    assert isinstance(world.tried(consumer, RUNNING_TOTAL, try_number=2), StagedChunkError)
    world.clear(RUNNING_TOTAL)
    world.assert_right(RUNNING_TOTAL)
    return str(error)


# --- every 256th byte --------------------------------------------------------------------------------


@pytest.mark.parametrize("consumer", ["transform", "load"])
@pytest.mark.parametrize("area", AREAS)
def test_every_flipped_byte_is_seen_before_a_row_is_decoded(new_world, monkeypatch, area, consumer):
    world = new_world(area)
    chunks = staged(world, consumer)
    shelf = Shelf(world)
    runner, ports = world.runner(consumer)
    monkeypatch.setattr(codec, "decode", lambda *_: pytest.fail("decoded before it was verified"))
    flips = 0
    for chunk in chunks:
        whole = shelf.get(chunk.name)
        for place in range(0, len(whole), 256):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << (place // 256 % 8)
            shelf.put(chunk.name, bytes(flipped))
            with pytest.raises(StagedChunkError, match="damaged or replaced"):
                runner._files.get(chunk)
            flips += 1
        shelf.put(chunk.name, whole)
    monkeypatch.undo()
    ports.close()
    assert flips >= 30, f"only {flips} flips"
    last = chunks[-1]
    damaged = bytearray(shelf.get(last.name))
    damaged[-1] ^= 255
    shelf.put(last.name, bytes(damaged))
    refused_and_healed(world, consumer, last.seq)


# --- whole files -------------------------------------------------------------------------------------


def swap(world: FaultyWorld, chunks: tuple[Chunk, ...]) -> int:
    shelf = Shelf(world)
    one, other = chunks[1].name, chunks[2].name
    first, second = shelf.get(one), shelf.get(other)
    shelf.put(one, second)
    shelf.put(other, first)
    return 2


def cut(world: FaultyWorld, chunks: tuple[Chunk, ...]) -> int:
    shelf = Shelf(world)
    shelf.put(chunks[2].name, shelf.get(chunks[2].name)[:-1])
    shelf.put(chunks[3].name, shelf.get(chunks[3].name)[: chunks[3].size // 2])
    return 3


def empty(world: FaultyWorld, chunks: tuple[Chunk, ...]) -> int:
    Shelf(world).put(chunks[0].name, b"")
    return 1


def replace_by_the_stage_before(world: FaultyWorld, chunks: tuple[Chunk, ...]) -> int:
    shelf = Shelf(world)
    extracted = next(entry for entry in entries(world, Stage.EXTRACT) if entry.seq == 3)
    stranger = chunks[0] if extracted.name == chunks[2].name else extracted
    shelf.put(chunks[2].name, shelf.get(stranger.name))
    return 3


TAMPERINGS = {
    "two files swapped": swap,
    "cut short": cut,
    "empty": empty,
    "the file of another stage": replace_by_the_stage_before,
}


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("number", range(len(TAMPERINGS)), ids=TAMPERINGS)
def test_a_tampered_file_is_refused_and_staged_anew_by_a_clear(new_world, number, area):
    consumer = ("transform", "load")[(number + AREAS.index(area)) % 2]
    world = new_world(area)
    chunks = staged(world, consumer)
    first_bad = list(TAMPERINGS.values())[number](world, chunks)
    refused_and_healed(world, consumer, first_bad)


@pytest.mark.parametrize("consumer", ["transform", "load"])
@pytest.mark.parametrize("area", AREAS)
def test_a_file_of_an_earlier_life_is_refused_under_the_new_ones_name(new_world, area, consumer):
    world = new_world(area)
    shelf = Shelf(world)
    former = {chunk.seq: shelf.get(chunk.name) for chunk in staged(world, consumer)}
    world.fetch("delete from checkpoint_etl.run")
    world.fetch("delete from checkpoint_etl.lane")
    world.fetch("update orders set amount = amount + 1", at="source")
    chunks = staged(world, consumer)
    assert {chunk.seq for chunk in chunks} == set(former)
    assert all(former[chunk.seq] != shelf.get(chunk.name) for chunk in chunks)
    for chunk in chunks[1:]:
        shelf.put(chunk.name, former[chunk.seq])
    refused_and_healed(world, consumer, 2)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", HALF_THE_SEEDS)
@pytest.mark.parametrize("consumer", ["transform", "load"])
@pytest.mark.parametrize("area", AREAS)
def test_whatever_is_done_to_a_file_it_is_refused(new_world, area, consumer, seed):
    figures.seeded(seed)
    rng = random.Random(f"{seed} {area} {consumer}")
    world = new_world(area)
    chunk = rng.choice(staged(world, consumer))
    shelf = Shelf(world)
    data = bytearray(shelf.get(chunk.name))
    start = rng.randrange(len(data))
    kind = rng.choice(["noise", "insert", "delete", "append"])
    print(f"seed {seed}: {kind} at {start} of chunk {chunk.seq}, {area}, {consumer}")  # noqa: T201
    noise = rng.randbytes(rng.randrange(1, 64))
    if kind == "noise":
        noise = noise if data[start : start + len(noise)] != noise else bytes(len(noise))
        data[start : start + len(noise)] = noise
    elif kind == "insert":
        data[start:start] = noise
    elif kind == "delete":
        del data[start : start + len(noise)]
    else:
        data += noise
    shelf.put(chunk.name, bytes(data))
    refused_and_healed(world, consumer, chunk.seq)


# --- bombs -------------------------------------------------------------------------------------------

ATTEMPT = """
import json, resource, sys
import pyarrow as pa
from airflow_checkpoint_etl.errors import CheckpointEtlError
from airflow_checkpoint_etl.staging import codec
from tests.chaos.faults import RUNNING_TOTAL, FaultyWorld

given = json.loads(sys.argv[1])
world = FaultyWorld(*given["where"], staging_url=given["staging_url"])
world.source["chunk_rows"] = given["chunk_rows"]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
error = world.tried("transform", RUNNING_TOTAL)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"error": type(error).__name__, "message": str(error),
                  "grown": (after - before) * 1024, "arrow": pa.default_memory_pool().max_memory()}))
"""


def tried_apart(world: FaultyWorld) -> dict[str, Any]:
    """Try transform in a process of its own; return its error and by how many bytes it has grown."""
    given = {
        "where": (world.source_dsn, world.warehouse_dsn, world.redis_port),
        "staging_url": world.staging_url,
        "chunk_rows": CHUNK_ROWS,
    }
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, json.dumps(given)],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
    )
    return json.loads(done.stdout.splitlines()[-1])


def blown_up(compression: str, size: int) -> bytes:
    """A small file that decodes to ``size`` bytes of zeros in one record batch."""
    sink = pa.BufferOutputStream()
    zeros = pa.Array.from_buffers(pa.int8(), size, [None, pa.py_buffer(bytes(size))])
    table = pa.table({"id": zeros})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def overstated(declared: int) -> bytes:
    """A file one of whose compressed buffers says that it is ``declared`` bytes long."""
    size = 12_345 * 8
    sink = pa.BufferOutputStream()
    table = pa.table({"id": pa.array(range(size // 8), pa.int64())})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data = bytes(sink.getvalue())
    prefix = size.to_bytes(8, "little")
    assert data.count(prefix) == 1
    return data.replace(prefix, declared.to_bytes(8, "little"))


@pytest.mark.parametrize(
    "area",
    [
        "redis",
        pytest.param("postgres", marks=pytest.mark.chaos),
        pytest.param("folder", marks=pytest.mark.chaos),
    ],
)
def test_a_bomb_of_another_digest_is_never_decoded(new_world, area):
    world = new_world(area)
    chunks = staged(world, "transform")
    bomb = blown_up("zstd", 256 * MIB)
    assert len(bomb) < MIB
    Shelf(world).put(chunks[1].name, bomb)
    tried = tried_apart(world)
    assert tried["error"] == "StagedChunkError"
    assert tried["arrow"] < 32 * MIB, f"{tried['arrow']:,} bytes were decoded"
    refused_and_healed(world, "transform", 2)


def test_a_file_that_cannot_be_decoded_is_staged_anew_whatever_its_digest(new_world, monkeypatch):
    world = new_world("folder")
    encode, turns = codec.encode, []

    def encoded(table: pa.Table, *rejects: object) -> bytes:
        turns.append(1)
        return overstated(1 << 40) if len(turns) == 2 else encode(table, *rejects)

    monkeypatch.setattr(codec, "encode", encoded)
    assert world.tried("extract") is None
    monkeypatch.undo()
    tried = tried_apart(world)
    assert tried["error"] == "StagedChunkError", tried
    assert world.frontier() == 0
    world.clear(RUNNING_TOTAL)
    world.assert_right(RUNNING_TOTAL)


@pytest.mark.parametrize("area", ["postgres", "folder"])
def test_a_file_above_the_cap_is_refused_before_it_is_read(new_world, area):
    world = new_world(area)
    chunks = staged(world, "transform")
    if area == "folder":
        with (Shelf(world).folder / chunks[1].name).open("r+b") as file:
            file.truncate(8 * CAP)  # sparse: it takes no room on the disk
    else:
        world.fetch(
            f"update checkpoint_etl.staged set data = decode(repeat('00', {3 * CAP}), 'hex')"
            f" where name = '{chunks[1].name}'"
        )
    tried = tried_apart(world)
    assert tried["error"] == "StagedChunkError", tried
    assert tried["grown"] < CAP, f"the process grew by {tried['grown']:,} bytes"
    refused_and_healed(world, "transform", 2)
