"""Within a stage the next chunk is read while the present one is written, and the order is kept."""

from __future__ import annotations

import threading

import pytest
import redis

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.errors import CancelledError, StagedChunkError
from airflow_checkpoint_etl.protocol import Stage
from airflow_checkpoint_etl.transform import CallableTransformer

PATIENCE = 20.0


class SourceGoneError(Exception):
    """A source whose next chunk cannot be read."""


def watch(port, name, before):
    """Have ``before(number, *arguments)`` called before every call of a port's method."""
    original, calls = getattr(port, name), []

    def watched(*arguments):
        calls.append(arguments)
        before(len(calls), *arguments)
        return original(*arguments)

    setattr(port, name, watched)
    return calls


@pytest.fixture
def running(world):
    """Gives a stage's runner and its ports, which are closed after the test."""
    opened = []

    def make(stage, try_number=1):
        runner, ports = world.runner(stage, try_number=try_number)
        opened.append(ports)
        return runner, ports

    yield make
    for ports in opened:
        ports.close()


def entries(ports, world, stage=Stage.EXTRACT):
    return ports.checkpoints.read(world.lane, stage).entries


def test_the_next_rows_are_read_while_a_chunk_is_staged(world, running):
    runner, ports = running("extract")
    second = threading.Event()
    watch(ports.source, "read", lambda number, *_: second.set() if number == 2 else None)
    watch(
        ports.staging,
        "put",
        lambda number, *_: pytest.fail("alone") if not second.wait(PATIENCE) else None,
    )
    assert runner.extract().chunks == 10


def test_no_more_than_one_chunk_is_read_ahead(world, running):
    runner, ports = running("extract")
    appended = watch(ports.checkpoints, "append", lambda *_: None)
    ahead = []
    watch(ports.source, "read", lambda number, *_: ahead.append(number - len(appended)))
    runner.extract()
    assert max(ahead) <= 2  # the one at hand, and one


def test_nothing_is_read_beyond_a_budget_of_rows(world, running):
    world.attempt["max_rows"] = 300
    runner, ports = running("extract")
    reads = watch(ports.source, "read", lambda *_: None)
    assert runner.extract().rows == 300
    assert len(reads) == 3


def test_a_read_that_fails_ahead_fails_after_the_chunk_before_it_is_kept(world, running):
    runner, ports = running("extract")

    def fail(number, *_):
        if number == 4:
            raise SourceGoneError

    watch(ports.source, "read", fail)
    with pytest.raises(SourceGoneError):
        runner.extract()
    assert [chunk.seq for chunk in entries(ports, world)] == [1, 2, 3]
    world.run()
    world.assert_exact()


def test_a_store_that_forgets_makes_what_was_read_ahead_void(world, running):
    runner, ports = running("extract")

    def forget(number, *_):
        if number != 4:
            return
        if world.redis_port is not None:
            redis.Redis(port=world.redis_port).flushall()
        else:
            world.fetch("truncate checkpoint_etl.checkpoint, checkpoint_etl.manifest")

    watch(ports.checkpoints, "append", forget)
    reads = watch(ports.source, "read", lambda *_: None)
    runner.extract()
    lows = [low for low, *_ in reads]
    assert lows[:6] == [BEGIN, "i8:100", "i8:200", "i8:300", "i8:400", BEGIN]
    world.stage("transform")
    world.stage("load")
    world.assert_exact()


def test_a_stop_ends_a_read_ahead_too(world, running):
    runner, ports = running("extract")
    under_way = threading.Event()

    def hang(number, *_):
        if number == 2:
            under_way.set()
            ports.source._interruptible.sleep(PATIENCE * 10)

    watch(ports.source, "read", hang)

    def stop():
        assert under_way.wait(PATIENCE)
        runner.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(CancelledError):
        runner.extract()
    stopper.join()
    assert len(entries(ports, world)) <= 1


@pytest.mark.parametrize("stage", ["transform", "load"])
def test_the_next_file_is_fetched_while_a_chunk_is_worked_on(world, running, stage):
    world.stage("extract")
    if stage == "load":
        world.stage("transform")
    runner, ports = running(stage)
    fetched = threading.Event()
    watch(ports.staging, "get", lambda number, *_: fetched.set() if number == 2 else None)
    if stage == "transform":

        def keep(record):
            assert fetched.wait(PATIENCE)
            return record

        summary = runner.transform(CallableTransformer(keep))
    else:
        watch(
            ports.warehouse,
            "load",
            lambda number, *_: pytest.fail("alone") if not fetched.wait(PATIENCE) else None,
        )
        summary = runner.load()
    assert summary.chunks == 10


def test_a_damaged_file_fails_in_its_turn_and_is_staged_anew(world, running):
    world.stage("extract")
    world.stage("transform")
    runner, ports = running("load")
    name = entries(ports, world, Stage.TRANSFORM)[2].name
    data = ports.staging.get(name)
    ports.staging.delete([name])
    ports.staging.put(name, bytes(len(data)))
    with pytest.raises(StagedChunkError, match="digest"):
        runner.load()
    assert [row[0] for row in world.ledger()] == [1, 2]
    world.run()
    world.assert_exact()
