"""A lane's lives: one ends, and another begins, when the lane is rewound or resynced."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol_model_values import rewound, row_of

if TYPE_CHECKING:
    from protocol_model_values import Protocol, Shared

    from airflow_checkpoint_etl.protocol import Frontier


def put(values: tuple, index: int, value: object) -> tuple:
    """Return the tuple with one value replaced."""
    return (*values[:index], value, *values[index + 1 :])


def begin_life(protocol: Protocol, shared: Shared, lane: Frontier, to: int) -> Shared:
    """A new life of the lane that goes on at ``to``; every attempt there is finds its fence old."""
    warehouse, lives = shared.warehouse, shared.lives + 1
    names = {
        "random": f"life {lives}",
        "generation": f"generation {lane.generation}",
        "kept": warehouse.lane.incarnation,
    }
    fences = tuple(fence + 1 for fence in warehouse.fences)
    after_it = warehouse._replace(
        lane=replace(lane, incarnation=names[protocol.incarnation]),
        load_fence=fences[-1],
        fences=fences,
        ledger=tuple(chunk for chunk in warehouse.ledger if chunk.seq <= lane.seq),
        life=lives,
        rewound_to=to,
    )
    return shared._replace(warehouse=after_it, lives=lives)


def rewind_lane(protocol: Protocol, shared: Shared, to: str) -> Shared:
    """Rewind the lane to a chunk boundary: one transaction in the warehouse."""
    lane = rewound(shared.warehouse, to, f"life {shared.lives + 1}")
    return begin_life(protocol, shared, lane, row_of(to))
