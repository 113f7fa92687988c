"""One try in a random history: what it may raise, and what must hold after it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import redis
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, invariant

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    FencedError,
    RewoundError,
    SettleTimeoutError,
    StageBusyError,
    StagedChunkError,
    UpstreamLostError,
)
from airflow_checkpoint_etl.failpoints import FailpointError
from tests.chaos.machine_rig import STAGES, failing, leases_stay

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.machine_rig import Rig, Writer
    from tests.support import World

Position = tuple[str, int, str, str]
"""A lane: incarnation, chunk number, cursor and the transform's state."""


class Tries(RuleBasedStateMachine):
    """A pipeline's tries, and what is known of them; ``machine.py`` has what happens around them."""

    rig: ClassVar[Rig]
    configuration: ClassVar[dict[str, Any]]
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[Writer] = []
        self.prepared: list[str] = []
        self.gids = 0
        self.run_number = 1
        self.tries: Counter[tuple[str, str]] = Counter()
        self.extracted: set[str] = set()  # runs whose extract succeeded, and nothing was lost since
        self.transformed: set[str] = set()
        self.restarts = 0
        self.position: tuple[str, int, str] | None = None
        self.clears: Counter[str] = Counter()
        self.reprocesses = 0

    @property
    def run(self) -> str:
        return f"run_{self.run_number}"

    def _begin_another_life(self) -> None:
        self.position = None
        self.extracted.clear()
        self.transformed.clear()

    def _notice_reprocess(self) -> None:
        """A cleared extract may have rewound the lane, whatever became of it then."""
        if self._exists("event"):
            ((count,),) = self.rig.warehouse(
                "select count(*) from checkpoint_etl.event where kind = 'reprocess'"
            )
            if count > self.reprocesses:
                self.rig.counts["reprocesses"] += 1
                self.reprocesses = count
                self._begin_another_life()

    # --- one try, and what it may raise ----------------------------------------------------------

    def _try(
        self,
        stage: str,
        run: str,
        *,
        place: str | None = None,
        action: Callable[[], None] | None = None,
        keep_lease: bool = False,
        waiting: bool = False,
        stale: bool = False,
        losing: bool = False,
        restarting: bool = False,
        rewinding: bool = False,
    ) -> None:
        """Run a stage; raise when it fails without one of the reasons it may have."""
        self.tries[stage, run] += 1
        allowed = self._allowed(stage, run, waiting=waiting, losing=losing)
        allowed += [FailpointError] if place is not None and place.endswith("=raise") else []
        # A load that stood still in its transaction finds its backend ended.
        allowed += [FencedError, psycopg.OperationalError] if stale else []
        allowed += [FencedError, RewoundError] if rewinding else []
        if restarting:
            allowed += [psycopg.Error, redis.RedisError, CheckpointEtlError, OSError]
        if stage != "load":
            self.transformed.discard(run)
        if stage == "extract":
            self.extracted.discard(run)
        try:
            with failing(place, action) as acted:
                if keep_lease:
                    acted.enter_context(leases_stay())
                self.world.stage(
                    stage,
                    run,
                    self.tries[stage, run],
                    clear_number=self.clears[run],
                    **self._transform(stage),
                )
        except tuple(allowed) as error:
            self._notice_reprocess()
            note(f"# {stage} of {run}: {type(error).__name__}")
            self.rig.counts[f"{stage}: {type(error).__name__}"] += 1
            return
        self.rig.counts[f"{stage}: done"] += 1
        self._notice_reprocess()
        self._succeeded(stage, run)

    def _allowed(
        self, stage: str, run: str, *, waiting: bool, losing: bool
    ) -> list[type[Exception]]:
        """Say what a try may raise, from what was done before it."""
        allowed: list[type[Exception]] = []
        if stage == "extract" and (self.writers or self.prepared or waiting):
            allowed.append(SettleTimeoutError)
        if self._leased(stage, run):
            allowed.append(StageBusyError)
        before = {"extract": {run}, "transform": self.extracted, "load": self.transformed}[stage]
        if run not in before or losing:
            allowed += [UpstreamLostError, StagedChunkError]
            # Of a lane's former life, or of a run whose extract never came so far.
            allowed += [RewoundError]
        return allowed

    def _succeeded(self, stage: str, run: str) -> None:
        if stage == "extract":
            self.extracted.add(run)
        elif stage == "transform" and run in self.extracted:
            self.transformed.add(run)
        if stage == "load":
            ((target, done),) = self.rig.warehouse(
                f"select target, done from checkpoint_etl.run where run_id = '{run}'"
            )
            lane = self._lane()
            assert lane is not None
            assert done, "a load succeeded and its run is not done"
            reached = cursors.compare(lane[2], target) >= 0
            assert reached, f"a green load is at {lane[2]}, short of its target {target}"

    def _leased(self, stage: str, run: str) -> bool:
        """Whether another run left its lease behind, and it has not run out."""
        if not self._exists("stage"):
            return False
        # A reprocess waits for whoever works on the lane, at whatever stage.
        stages = STAGES if self.world.attempt.get("on_clear") == "reprocess" else (stage,)
        listed = ", ".join(f"'{one}'" for one in stages)
        return bool(
            self.rig.warehouse(
                f"select 1 from checkpoint_etl.stage where stage in ({listed}) and run_id <> '{run}'"
                " and lease_until > clock_timestamp()"
            )
        )

    def _exists(self, table: str) -> bool:
        name = f"checkpoint_etl.{table}"
        return bool(self.rig.warehouse(f"select to_regclass('{name}') is not null")[0][0])

    def _transform(self, stage: str) -> dict[str, Any]:
        return {}

    # --- what must hold after every step ---------------------------------------------------------

    def _lane(self) -> Position | None:
        if not self._exists("lane"):
            return None
        rows = self.rig.warehouse(
            "select incarnation, seq, cursor, coalesce((select state from checkpoint_etl.ledger l"
            " where l.rewound_at is null and l.seq = lane.seq), '')"
            " from checkpoint_etl.lane"
        )
        assert len(rows) <= 1, "the pipeline has two lanes"
        return rows[0] if rows else None

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "world"):
            lane = self._lane()
            self.frontier_never_goes_back(lane)
            self.ledger_is_one_chain(lane)
            self.target_is_what_the_cursor_says(lane)

    def frontier_never_goes_back(self, lane: Position | None) -> None:
        if lane is None:
            assert self.position is None, "the lane is gone"
            return
        incarnation, seq, at, _ = lane
        if self.position is not None and self.position[0] == incarnation:
            assert seq >= self.position[1], "the chunk number went down"
            assert cursors.compare(at, self.position[2]) >= 0, "the cursor went down"
        else:
            assert self.position is None, "the lane began another life, though nobody rewound it"
        self.position = (incarnation, seq, at)

    def ledger_is_one_chain(self, lane: Position | None) -> None:
        if lane is None:
            return
        incarnation, seq, at, _ = lane
        chain = self.rig.warehouse(
            f"select seq, low, high from checkpoint_etl.ledger where incarnation = '{incarnation}'"
            " order by seq"
        )
        numbers = [row[0] for row in chain]
        assert numbers == list(range(seq - len(chain) + 1, seq + 1)), "the ledger has a hole"
        assert all(before[2] == after[1] for before, after in pairwise(chain)), (
            "chunks do not lie end to end"
        )
        if chain:
            assert chain[-1][2] == at, "the lane is not where the ledger ends"

    def target_is_what_the_cursor_says(self, lane: Position | None) -> None:
        if not self.rig.warehouse("select to_regclass('orders_copy') is not null")[0][0]:
            assert lane is None or lane[1] == 0, "chunks are loaded and there is no target"
            return
        assert lane is not None
        loaded = self.rig.warehouse("select id, customer, updated_at from orders_copy order by id")
        assert len({row[0] for row in loaded}) == len(loaded), "a row is there twice"
        self.compare(lane[2], lane[3], loaded)

    def compare(self, at: str, state: str, loaded: list[tuple[Any, ...]]) -> None:
        raise NotImplementedError
