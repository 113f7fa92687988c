"""The capacity model: what a load of so many rows by so many workers asks of everything around it.

Pure arithmetic over measured constants. A worker is one task slot that works on one lane at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS: Final = (10**8, 10**10, 10**12)
WORKERS: Final = (10, 100, 1000)
CHUNK_ROWS: Final = 100_000
"""The default of ``PostgresSource.chunk_rows``."""
WRITES_A_CHUNK: Final = 3
"""Extract's append, transform's append, and the load's note."""


@dataclass(frozen=True, slots=True)
class Constants:
    """What was measured.

    Attributes:
        rows_a_second: of one worker through all its stages.
        warehouse_rows_a_second: that one PostgreSQL can take, whatever is before it.
        row_bytes: of a row in binary COPY.
        staged_bytes: of a row in a staged file.
        wal_bytes: of a row in the warehouse's log.
        chunk_wal_bytes: of a chunk's ledger row, lane and commit in the log.
        ledger_bytes: of a chunk in the ledger, with its indexes.
        redis_bytes: of a chunk's manifest entries, while it is not collected.
        redis_round_trips: of a chunk, to a Redis that keeps checkpoints and staged files.
        connections: of a worker to the warehouse at a time.
        load_ms: of a load transaction without its rows.
    """

    rows_a_second: float
    warehouse_rows_a_second: float
    row_bytes: float
    staged_bytes: float
    wal_bytes: float
    chunk_wal_bytes: float
    ledger_bytes: float
    redis_bytes: float
    redis_round_trips: float
    connections: float
    load_ms: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What a load asks for.

    Attributes:
        rows: rows in all.
        workers: workers at once.
        hours: that the workers take, when nothing else is short.
        rows_a_second: of all workers.
        chunks: in all.
        chunks_a_second: load transactions, and ledger rows, in a second.
        checkpoint_writes: to the checkpoint store in a second.
        redis_round_trips: in a second.
        redis_bytes: that the manifest holds, with a grace period of a quarter of an hour.
        objects: staged files written and read in a second.
        object_bytes: written to staging in a second.
        wal_bytes: that warehouses write in a second.
        connections: to the warehouse.
        ledger_bytes: that the ledger holds in the end.
        warehouses: that it takes to keep up with the workers.
    """

    rows: int
    workers: int
    hours: float
    rows_a_second: float
    chunks: float
    chunks_a_second: float
    checkpoint_writes: float
    redis_round_trips: float
    redis_bytes: float
    objects: float
    object_bytes: float
    wal_bytes: float
    connections: float
    ledger_bytes: float
    warehouses: float


_GRACE_SECONDS: Final = 900.0
_OBJECT_REQUESTS: Final = 4
"""A chunk's file is put once, and looked at, read and deleted once each, where no transform changes it."""


def demand(rows: int, workers: int, constants: Constants) -> Demand:
    """Return what a load of ``rows`` by ``workers`` asks for."""
    speed = constants.rows_a_second * workers
    chunks, chunks_a_second = rows / CHUNK_ROWS, speed / CHUNK_ROWS
    waiting = min(chunks, chunks_a_second * _GRACE_SECONDS)
    return Demand(
        rows=rows,
        workers=workers,
        hours=rows / speed / 3600,
        rows_a_second=speed,
        chunks=chunks,
        chunks_a_second=chunks_a_second,
        checkpoint_writes=chunks_a_second * WRITES_A_CHUNK,
        redis_round_trips=chunks_a_second * constants.redis_round_trips,
        redis_bytes=waiting * constants.redis_bytes,
        objects=chunks_a_second * _OBJECT_REQUESTS,
        object_bytes=speed * constants.staged_bytes,
        wal_bytes=speed * constants.wal_bytes + chunks_a_second * constants.chunk_wal_bytes,
        connections=workers * constants.connections,
        ledger_bytes=chunks * constants.ledger_bytes,
        warehouses=speed / constants.warehouse_rows_a_second,
    )


def constants(sections: Mapping[str, Any]) -> Constants:
    """Take the constants out of what was measured.

    Args:
        sections: what was found, by case: ``transfer``, ``overhead`` and ``scale`` are needed.
    """
    transfer, overhead, scale = (sections[name] for name in ("transfer", "overhead", "scale"))
    medians = {one["name"]: one for one in transfer["medians"]}
    through = transfer["runs"]["pass-through"][0]
    wire = overhead["wire"]["redis"]
    driven = scale["driven"]
    return Constants(
        rows_a_second=medians["pass-through"]["rows_a_second"],
        warehouse_rows_a_second=medians["the limit"]["rows_a_second"],
        row_bytes=transfer["row_bytes"],
        staged_bytes=through["staged_bytes"] / through["rows"],
        wal_bytes=through["wal_bytes"] / through["rows"],
        chunk_wal_bytes=driven["wal_bytes_a_chunk"],
        ledger_bytes=sum(scale["ledger_bytes_a_row"].values()),
        redis_bytes=driven["redis_bytes_a_chunk"],
        redis_round_trips=wire["round trips"]["redis"],
        connections=wire["connections"]["dwh"] / _TASKS,
        load_ms=scale["levels"][-1]["ms"]["load"],
    )


_TASKS: Final = 3
