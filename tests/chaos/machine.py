"""Any history of writers, tries, crashes, clears, losses and restarts, as Hypothesis state machines.

A machine drives one pipeline on real servers and asks the databases themselves after every step. What
may raise is said per step from what was done before, so an error that nothing explains fails the test.
Time plays no part: where something must happen while a stage runs, it happens in the stage's own
thread, at a failpoint or in the pause of a settle that waits.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import psycopg
import redis
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

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
from airflow_checkpoint_etl.sources.interrupt import Interruptible
from tests.chaos.machine_rewind import rewind
from tests.chaos.machine_rig import (
    INSERT,
    PLACES,
    STAGES,
    Writer,
    failing,
    leases_stay,
)
from tests.support import World, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.machine_rig import Rig

Position = tuple[str, int, str, str]
"""A lane: incarnation, chunk number, cursor and the transform's state."""

few = st.integers(1, 8)
turns = st.sampled_from([1, 1, 1, 2, 3])
places = st.sampled_from(PLACES)
places_before_the_end = st.sampled_from(PLACES[:-1])
ends = st.sampled_from(["commit", "rollback", "prepare"])
outcomes = st.sampled_from(["commit prepared", "rollback prepared"])


class Histories(RuleBasedStateMachine):
    """What both kinds of pipeline have in common; a subclass per kind sets ``configuration``."""

    rig: ClassVar[Rig]
    configuration: ClassVar[dict[str, Any]]

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

    @initialize()
    def begin(self) -> None:
        """Start on empty databases."""
        self.rig.empty()
        self.world = World(
            self.rig.source_dsn, self.rig.warehouse_dsn, self.rig.redis_port, **self.configuration
        )
        self.world.attempt["grace"] = seconds(0.0)  # so that every load collects
        self.rig.source(INSERT.format(12))

    # --- what happens in the source ------------------------------------------------------------

    @rule(rows=few)
    def insert(self, rows: int) -> None:
        """Rows that commit at once."""
        self.rig.source(INSERT.format(rows))

    @precondition(lambda self: len(self.writers) < 3)
    @rule(rows=few)
    def writer_begins(self, rows: int) -> None:
        """Ids are drawn now, to be committed in some other order."""
        writer = Writer(self.rig.source_dsn)
        self.writers.append(writer)
        writer.execute(INSERT.format(rows))

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2), rows=few, back=st.booleans())
    def writer_writes(self, which: int, rows: int, back: bool) -> None:
        """More rows, in a savepoint that may be rolled back."""
        writer = self.writers[which % len(self.writers)]
        writer.execute("savepoint here")
        writer.execute(INSERT.format(rows))
        writer.execute("rollback to here" if back else "release here")

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2), how=ends)
    def writer_ends(self, which: int, how: str) -> None:
        """Commit, roll back or PREPARE TRANSACTION."""
        self._end(which, how)

    def _end(self, which: int, how: str) -> None:
        writer = self.writers.pop(which % len(self.writers))
        if how == "prepare":
            self.gids += 1
            self.prepared.append(f"p{self.gids}")
            how = f"prepare transaction 'p{self.gids}'"
        writer.execute(how)
        writer.close()

    @precondition(lambda self: self.prepared)
    @rule(which=st.integers(0, 9), how=outcomes)
    def prepared_ends(self, which: int, how: str) -> None:
        """COMMIT PREPARED or ROLLBACK PREPARED, by anybody."""
        self._finish_prepared(which, how)

    def _finish_prepared(self, which: int, how: str) -> None:
        gid = self.prepared.pop(which % len(self.prepared))
        self.rig.source(f"{how} '{gid}'")

    # --- tries ---------------------------------------------------------------------------------

    @property
    def run(self) -> str:
        return f"run_{self.run_number}"

    @rule(stage=st.sampled_from(STAGES))
    def run_stage(self, stage: str) -> None:
        """One try of one stage of the current run."""
        self._try(stage, self.run)

    @rule()
    def next_run(self) -> None:
        """The next scheduled run, all of it, whatever the one before has left."""
        self.run_number += 1
        for stage in STAGES:
            self._try(stage, self.run)

    @rule(earlier=st.integers(0, 9))
    def clear(self, earlier: int) -> None:
        """Clear an earlier run, or this one: its three tasks run again as their next try."""
        run = f"run_{1 + earlier % self.run_number}"
        for stage in STAGES:
            self._try(stage, run)

    @precondition(lambda self: self.writers or self.prepared)
    @rule(
        moves=st.lists(
            st.tuples(st.sampled_from(["end", "prepared", "insert"]), st.integers(0, 2), ends),
            min_size=1,
            max_size=5,
        )
    )
    def extract_while_writers_end(self, moves: list[tuple[str, int, str]]) -> None:
        """Extract waits for open transactions; in each of its pauses something happens to them."""
        left = list(moves)

        def move() -> None:
            what, which, how = left.pop(0)
            if what == "end" and self.writers:
                self._end(which, how)
            elif what == "prepared" and self.prepared:
                self._finish_prepared(which, "commit prepared")
            elif what == "insert":
                self.rig.source(INSERT.format(3))

        def pause(_: Interruptible, duration: float) -> None:
            self.rig.counts["pauses of settle"] += 1
            if left:
                move()

        with mock.patch.object(Interruptible, "sleep", pause):
            self._try("extract", self.run, waiting=True)
        while left:  # a program's state must not depend on how long the servers took
            move()

    def _disturb(self, place: tuple[str, str], turn: int, how: str, **options: Any) -> None:
        """A new run with a few chunks to do, which comes as far as to the failpoint."""
        disturbed, point = place
        self.run_number += 1
        self.rig.source(INSERT.format(12))
        for stage in STAGES[: STAGES.index(disturbed)]:
            self._try(stage, self.run)
        self._try(disturbed, self.run, place=f"{point}@{turn}={how}", **options)

    @rule(place=places, turn=turns, lease=st.booleans())
    def kill(self, place: tuple[str, str], turn: int, lease: bool) -> None:
        """A try that is interrupted; its lease may stay behind, as a killed worker's does."""
        self._disturb(place, turn, "raise", keep_lease=lease)

    @rule(place=places, turn=turns)
    def overtake(self, place: tuple[str, str], turn: int) -> None:
        """A newer try of the same task does all the work while the older one stands still."""

        def rival() -> None:
            self.rig.counts["overtaken"] += 1
            self._try(place[0], self.run)

        self._disturb(place, turn, "call", action=rival, stale=True)

    @rule()
    def leases_run_out(self) -> None:
        """Time passes: leases that were left behind do not count any more."""
        self._expire()

    def _expire(self) -> None:
        if self._exists("stage"):
            self.rig.warehouse("update checkpoint_etl.stage set lease_until = null")

    # --- what is lost --------------------------------------------------------------------------

    @rule(what=st.sampled_from(["all", "files", "manifest"]))
    def lose_the_store(self, what: str) -> None:
        """The checkpoint store, the staged files or both are gone."""
        self._lose(what)

    def _lose(self, what: str) -> None:
        self.extracted.clear()
        self.transformed.clear()
        self.rig.counts["stores lost"] += 1
        self.rig.lose(what)

    @rule(place=places, turn=turns, what=st.sampled_from(["all", "files", "manifest"]))
    def lose_the_store_during(self, place: tuple[str, str], turn: int, what: str) -> None:
        """The same in the middle of a stage."""
        self._disturb(place, turn, "call", action=lambda: self._lose(what), losing=True)

    @precondition(lambda self: self.restarts < 1)
    @rule(place=st.none() | places, turn=turns)
    def restart_postgres(self, place: tuple[str, str] | None, turn: int) -> None:
        """An immediate shutdown, between stages or within one: source, warehouse and store at once."""
        self.restarts += 1
        if place is None:
            self._restart()
            return
        self._disturb(place, turn, "call", action=self._restart, restarting=True)

    def _restart(self) -> None:
        for writer in self.writers:  # their transactions are gone; prepared ones stay
            writer.close()
        self.writers.clear()
        self.rig.counts["restarts"] += 1
        self.rig.restart()

    @rule(back=st.integers(0, 9))
    def rewind(self, back: int) -> None:
        """Rewind to a chunk boundary of the current chain; runs of the former life are over."""
        self._rewind(back)

    @rule(place=places_before_the_end, turn=turns, back=st.integers(0, 9))
    def rewind_during(self, place: tuple[str, str], turn: int, back: int) -> None:
        """The same in the middle of a stage, which a load transaction that holds the lane refuses."""

        def attempt() -> None:
            try:
                self._rewind(back)
            except CheckpointEtlError as error:
                assert "holds the lane's row" in str(error)  # noqa: PT017
                self.rig.counts["rewinds refused"] += 1
            else:
                self.rig.counts["rewinds during a stage"] += 1

        self._disturb(place, turn, "call", action=attempt, rewinding=True)

    def _rewind(self, back: int) -> None:
        boundaries = (
            self.rig.warehouse(
                "select low from checkpoint_etl.ledger where rewound_at is null order by seq"
            )
            if self._lane()
            else []
        )
        if not boundaries:
            return
        rewind(self.world, boundaries[back % len(boundaries)][0])
        self._begin_another_life()
        self._expire()
        self.rig.counts["rewinds"] += 1

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

    # --- the end -----------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everybody commits; one more run then has loaded all there is."""
        failed = sys.exc_info()[0] is not None
        try:
            if not failed and hasattr(self, "world"):
                self._run_to_the_end()
        finally:
            for writer in self.writers:
                writer.close()
            self.rig.connections.close()

    def _run_to_the_end(self) -> None:
        while self.writers:
            self._end(0, "commit")
        while self.prepared:
            self._finish_prepared(0, "commit prepared")
        self.leases_run_out()
        self.rig.source(INSERT.format(1))
        self.run_number += 1
        for stage in STAGES:
            self._try(stage, self.run)
        self.sound()
        self.world.assert_exact("id, customer, updated_at")
        self.rig.counts["examples"] += 1
