"""A lane, a claim on one of its stages and a run over it, as the warehouse has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_checkpoint_etl.protocol import Frontier, Lane, Owner, Stage


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane as the warehouse, the arbiter, has it.

    Attributes:
        frontier: the load frontier, with the transform's state digest.
        state: the transform's state at that frontier (JSON text), from the ledger.
        rows_total: rows loaded in this generation.
        load_fence: the newest load attempt's fence.
        target_oid: the target table's oid at the last load; None before the first.
        updated_at: when the frontier last moved, ISO 8601.
        settings: what the pipeline looked like when its extract last ran, for people and admin.
        fences: the newest fence that each stage was handed, by the stage's name.
        is_reset: whether it was reset, and no extract has taken it up since.
        ends_at: where a part of a range plan ends; None for every other lane.
        sealed: no load moves it: a plan is open over it, or the plan it is a part of has ended.
    """

    frontier: Frontier
    state: str | None = field(default=None, repr=False)
    rows_total: int = 0
    load_fence: int = 0
    target_oid: int | None = None
    updated_at: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    fences: Mapping[str, int] = field(default_factory=dict)
    is_reset: bool = False
    ends_at: str | None = None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A stage acquired by one attempt, with the fence that the warehouse handed out.

    An attempt works only in the incarnation in which it acquired its stage: what it knows (its code,
    its run's goal) is older than any later life of the lane.
    """

    lane: Lane
    stage: Stage
    fence: int
    owner: Owner
    incarnation: str


@dataclass(frozen=True, slots=True)
class Run:
    """One DAG run's goal on a lane: from ``low`` to the settled bound ``target``.

    Attributes:
        low: where the run's extract began.
        target: where the run ends.
        incarnation: the lane's life it was settled in.
        swept: how far late rows are to be swept; empty where the source is not swept.
        done: whether a load has reached the target.
        clear_number: how often the DAG run had been cleared when the goal was stored.
        settled_ago: how many seconds before it is stored, or was read, the bound was taken; None for a
            bound that says nothing about what is new.
    """

    low: str
    target: str
    incarnation: str
    swept: str = ""
    done: bool = False
    clear_number: int = 0
    settled_ago: float | None = 0.0


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """What a new lane is created with, and what an existing one is compared with.

    Attributes:
        lane: the lane.
        fingerprint: of what must not change under the pipeline's id.
        start: the cursor a new lane starts at.
        source_identity: which source this is; empty where the stage does not know.
        settings: what the pipeline looks like, for people and for admin.
        accepts_reset: whether a source on another timeline is taken as it is.
        empties: whether the lane's first load empties the target itself, in its own transaction.
    """

    lane: Lane
    fingerprint: str
    start: str
    source_identity: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    accepts_reset: bool = False
    empties: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, for people; never a row value.

    Attributes:
        kind: the error's class.
        message: what may be said of it, at most 500 characters.
        cursor: where the stage stood; empty where it had not begun.
        retryable: whether trying again can help.
    """

    kind: str
    message: str
    cursor: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Note:
    """What an attempt leaves for people who look at its stage.

    Attributes:
        waiting: what it waits for; empty for nothing.
        failure: why it failed; None when it did not.
        moved: whether it has done a chunk or reached the end: earlier failures are over.
        fenced: whether a newer fence has ended it; that goes into the lane's history, not the stage.
    """

    waiting: str = ""
    failure: Failure | None = None
    moved: bool = False
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class Floor:
    """What a checkpoint store has seen, above which a restored warehouse has to go on."""

    fence: int = 0
    generation: int = 0
