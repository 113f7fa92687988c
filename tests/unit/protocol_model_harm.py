"""What harm is: what must never be true of the warehouse, nor of a run that turns green."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from protocol_model_values import content_of, row_of, until, version_of

from airflow_checkpoint_etl.protocol import NO_STATE

if TYPE_CHECKING:
    from protocol_model_values import Shared, Warehouse


def broken(warehouse: Warehouse) -> str | None:
    """Say which invariant of the warehouse is broken."""
    return _misplaced(warehouse) or _stale(warehouse) or _mislinked(warehouse)


def _misplaced(warehouse: Warehouse) -> str | None:
    """Say which row is in the warehouse twice, or missing below the load frontier."""
    count = Counter(row for chunk in warehouse.ledger for row, _ in content_of(chunk).rows)
    for row, times in sorted(count.items()):
        if times > 1:
            return f"row {row} is in the warehouse {times} times"
    for row in range(1, until(warehouse.lane) + 1):
        if not count[row]:
            return f"row {row} is missing below the load frontier {until(warehouse.lane)}"
    return None


def _stale(warehouse: Warehouse) -> str | None:
    """Say which rows above the point of the last rewind were made before it."""
    for chunk in warehouse.ledger:
        low = row_of(chunk.low)
        if content_of(chunk).life < warehouse.life and low >= warehouse.rewound_to:
            return f"stale rows ({low}, {row_of(chunk.high)}], made before the rewind"
    return None


def _mislinked(warehouse: Warehouse) -> str | None:
    """Say where the ledger's numbers are not dense, or the transform's states do not link."""
    state = NO_STATE
    for position, chunk in enumerate(warehouse.ledger, 1):
        if chunk.state_in != state:
            return f"chunk {chunk.seq} was made from a state that is not the one before it"
        if chunk.seq != position:
            return f"the ledger's chunk {position} has number {chunk.seq}"
        state = chunk.state_digest
    if warehouse.lane.state_digest != state:
        return "the lane's state is not the one after its last chunk"
    return None


def harm_of_green(shared: Shared, index: int, rows: int) -> str | None:
    """Say what a run promises falsely that turns green now."""
    promise = shared.promises[index]
    reached = until(shared.warehouse.lane)
    if reached < promise.target:
        return f"run {index + 1} is green at row {reached}, below its target {promise.target}"
    for other, each in enumerate(shared.promises):
        if each.green and each.target > reached:
            return f"run {index + 1} is green, and rows of run {other + 1}, green before, are gone"
    there = {row for chunk in shared.warehouse.ledger for row in content_of(chunk).rows}
    for row in range(1, promise.target + 1):
        if (row, version_of(row, rows, promise.source)) not in there:
            return f"run {index + 1} is green but the source's row {row} is not in the warehouse"
    return None
