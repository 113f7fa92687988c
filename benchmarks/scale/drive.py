"""Drives lanes through the real runner, ledger and checkpoint stores; only the payload is fake.

A chunk carries one row, so that what is timed is the protocol: appending to manifests, the load transaction
with its compare-and-set and ledger row, noting the frontier, collecting.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pyarrow as pa
import redis

from airflow_checkpoint_etl.attempt import Attempt
from airflow_checkpoint_etl.checkpoints.postgres import PostgresCheckpointStore
from airflow_checkpoint_etl.checkpoints.redis import RedisCheckpointStore
from airflow_checkpoint_etl.columns import field_of
from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.guarantee import Promise
from airflow_checkpoint_etl.inmemory.source import InMemorySource
from airflow_checkpoint_etl.inmemory.stores import InMemoryStagingArea
from airflow_checkpoint_etl.pipeline import Pipeline
from airflow_checkpoint_etl.ports import Bound, Ports, Read, SourceFacts
from airflow_checkpoint_etl.protocol import Lane, Owner
from airflow_checkpoint_etl.runner import StageRunner
from airflow_checkpoint_etl.warehouses.postgres import PostgresWarehouseAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP: Final = 1000
"""Ids per chunk."""

PIPELINE: Final = Pipeline(
    pipeline_id="scale",
    source=PostgresSource(conn_id="shop", table="public.scale", cursor="id", chunk_rows=STEP),
    warehouse=PostgresWarehouse(conn_id="dwh", table="public.scale_target"),
)


class FakeSource(InMemorySource):
    """A source without end, whose every chunk is one row.

    Args:
        chunks: chunks in a run.
    """

    def __init__(self, chunks: int) -> None:
        super().__init__(PIPELINE.source)
        self._chunks = chunks
        self._schema = pa.schema([field_of("id", "bigint")])

    def preflight(self) -> SourceFacts:
        """Promise what the in-memory source promises."""
        return SourceFacts({}, Promise("memory", ("id",)), "i8:0")

    def settle(self, after: str, waiting: Callable[[str], None] | None = None) -> Bound:  # noqa: ARG002
        """End the run so many chunks further."""
        return Bound(f"i8:{_number(after) + self._chunks * STEP}")

    def read(self, low: str, target: str, *_form: Any) -> Read:
        """Read one row, at the chunk's end, in whatever form."""
        high = min(_number(low) + STEP, _number(target))
        return Read(pa.table([[high]], schema=self._schema), f"i8:{high}")


def _number(cursor: str) -> int:
    return int(cursor.removeprefix("i8:"))


class Timed:
    """Passes every call on to a port, and keeps the milliseconds of some.

    Args:
        port: the port.
        names: the methods that are timed.
        taken: takes the milliseconds, by method.
    """

    def __init__(self, port: Any, names: Sequence[str], taken: dict[str, list[float]]) -> None:
        self._port, self._names, self._taken = port, names, taken

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        return self._timed(name, method) if name in self._names else method

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self._taken[name].append((time.perf_counter() - started) * 1000)

        return call


def run(
    warehouse: str,
    checkpoints: str | None,
    redis_port: int,
    lanes: Sequence[int],
    chunks: int,
    run_id: str,
    seconds: float,
) -> dict[str, list[float]]:
    """Take each lane ``chunks`` chunks further, stage by stage; return milliseconds by what was done.

    Args:
        warehouse: the warehouse's connection string.
        checkpoints: that of PostgreSQL checkpoints; None keeps them in Redis.
        redis_port: Redis's port.
        lanes: the lanes' numbers.
        chunks: chunks per lane.
        run_id: the DAG run, the same for all lanes.
        seconds: begin no further lane after this time.
    """
    deadline = time.monotonic() + seconds
    taken: dict[str, list[float]] = defaultdict(list)
    client = redis.Redis(port=redis_port)
    store: Any
    if checkpoints is None:
        store = RedisCheckpointStore(lambda: client)
    else:
        store = PostgresCheckpointStore(lambda: psycopg.connect(checkpoints))
    adapter = PostgresWarehouseAdapter(
        PIPELINE.warehouse, lambda: psycopg.connect(warehouse), ("id",)
    )
    ports = Ports(
        source=FakeSource(chunks),
        staging=InMemoryStagingArea(),
        checkpoints=Timed(store, ("append", "note_loaded", "read"), taken),
        warehouse=Timed(
            adapter,
            ("load", "acquire", "finish", "loaded_in_run", "loaded_before", "set_target"),
            taken,
        ),
    )
    try:
        for lane in lanes:
            if time.monotonic() > deadline:
                break
            started = time.perf_counter()
            _drive(ports, Lane("scale", f"lane-{lane}"), lane, run_id)
            taken["chunk"].append((time.perf_counter() - started) * 1000 / chunks)
    finally:
        ports.close()
    return dict(taken)


def _drive(ports: Ports, lane: Lane, number: int, run_id: str) -> None:
    """Run the three stages of one lane, as the tasks of one map index would."""

    def runner(task: str) -> StageRunner:
        owner = Owner("scale", run_id, task, map_index=number)
        return StageRunner(ports, Attempt(lane, owner, PIPELINE.fingerprint()))

    runner("extract").extract()
    runner("transform").transform(None)
    runner("load").load()
    ports.staging.delete(ports.staging.names(""))  # fake payloads are not what is measured
