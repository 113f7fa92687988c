"""Any history of writers, tries, crashes, clears, losses and restarts, as Hypothesis state machines.

A machine drives one pipeline on real servers and asks the databases themselves after every step. What
may raise is said per step from what was done before, so an error that nothing explains fails the test.
Time plays no part: where something must happen while a stage runs, it happens in the stage's own
thread, at a failpoint or in the pause of a settle that waits.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)

from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
)
from airflow_checkpoint_etl.sources.interrupt import Interruptible
from tests.chaos.machine_rewind import rewind
from tests.chaos.machine_rig import (
    INSERT,
    PLACES,
    STAGES,
    Writer,
)
from tests.chaos.machine_tries import Tries
from tests.support import World, seconds

few = st.integers(1, 8)
turns = st.sampled_from([1, 1, 1, 2, 3])
places = st.sampled_from(PLACES)
places_before_the_end = st.sampled_from(PLACES[:-1])
ends = st.sampled_from(["commit", "rollback", "prepare"])
outcomes = st.sampled_from(["commit prepared", "rollback prepared"])


class Histories(Tries):
    """What happens to every kind of pipeline; a subclass per kind sets ``configuration``."""

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

    @rule(place=st.none() | places_before_the_end, turn=turns)
    def resync(self, place: tuple[str, str] | None, turn: int) -> None:
        """A new life where the warehouse is, between stages or in the middle of one."""
        if place is None:
            self._resync()
        else:
            self._disturb(place, turn, "call", action=self._resync, rewinding=True)

    def _resync(self) -> None:
        if not self._lane():
            return
        try:
            with self.world.admin() as admin:
                admin.resync()
        except CheckpointEtlError as error:
            assert "holds the lane's row" in str(error)  # noqa: PT017
            return
        self.rig.counts["resyncs"] += 1
        self._begin_another_life()

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
