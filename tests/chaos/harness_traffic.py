"""What goes on around a pipeline in the endurance run: writers in the source, a reader in the warehouse."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg

from tests.chaos.harness_arena import dice
from tests.chaos.harness_case import ROWS

if TYPE_CHECKING:
    from random import Random

    from tests.chaos.harness_case import Case

WRITERS = 3
LONGEST_HOLD = 0.3
"""Seconds for which a writer keeps a transaction open after it drew its ids, at most."""
ROLLED_BACK = 0.05


class Background:
    """A thread whose failure is raised when it is joined."""

    def __init__(self, name: str) -> None:
        self.ending = threading.Event()
        self.fault: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float = 120.0) -> None:
        self.ending.set()
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"{self._thread.name} did not end"
        if self.fault is not None:
            raise self.fault

    def _guarded(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001  it is raised again in join
            self.fault = error

    def run(self) -> None:
        raise NotImplementedError


class Commits:
    """The writers' commits in their order: how many rows, and how many commits came out of order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = 0
        self.rows = self.out_of_order = 0

    def add(self, rows: int, first_id: int) -> None:
        with self._lock:
            self.rows += rows
            self.out_of_order += first_id < self._newest
            self._newest = max(self._newest, first_id)


class Writer(Background):
    """Inserts rows at a steady pace; its transactions overlap those of the other writers.

    Args:
        case: whose source grows.
        seed: for sizes, pauses and roll-backs.
        commits: where commits are counted.
        rows_per_second: of this writer.
        most: rows of one transaction.
    """

    def __init__(
        self, case: Case, seed: str, commits: Commits, rows_per_second: float, most: int
    ) -> None:
        super().__init__(f"writer {seed}")
        self._case, self._random, self._commits = case, dice(seed), commits
        self._pace, self._most = rows_per_second, most

    def run(self) -> None:
        started, written = time.monotonic(), 0
        connection: psycopg.Connection[Any] | None = None
        while not self.ending.is_set():
            ahead = written / self._pace - (time.monotonic() - started)
            if ahead > 0:
                self.ending.wait(ahead)
                continue
            try:
                if connection is None:
                    connection = psycopg.connect(self._case.source_dsn)
                written += self._write(connection, self._random)
            except psycopg.OperationalError:  # its server was ended; what had not committed is gone
                connection = _discard(connection)
                self.ending.wait(0.05)
        _discard(connection)

    def _write(self, connection: psycopg.Connection[Any], random: Random) -> int:
        rows = random.randint(1, self._most)
        statement = ROWS.format(table=self._case.source_table, rows=rows) + " returning id"
        ids = connection.execute(statement).fetchall()
        self.ending.wait(random.uniform(0, LONGEST_HOLD))
        if random.random() < ROLLED_BACK:
            connection.rollback()
            return 0
        connection.commit()
        self._commits.add(rows, ids[0][0])
        return rows


class PrefixReader(Background):
    """Asserts without a pause that the target is a prefix: all rows up to the lane's frontier, no other.

    Lane, ledger and target are read in one snapshot. The source is read after it: what is settled there
    cannot change any more, and the frontier is settled.
    """

    _SEEN = """
        select lane.cursor,
               (select coalesce(sum(rows), 0) from checkpoint_etl.ledger
                where pipeline = lane.pipeline and part = lane.part),
               (select count(*) from {target}),
               (select coalesce(sum(id), 0) from {target}),
               (select coalesce(max(id), 0) from {target})
        from checkpoint_etl.lane where pipeline = '{name}'
    """

    def __init__(self, case: Case) -> None:
        super().__init__("reader")
        self._case = case
        self.checks = 0
        self.frontiers: set[int] = set()

    def run(self) -> None:
        while not self.ending.is_set():
            started = time.monotonic()
            # The server may be down, and before the first load there are no tables.
            with contextlib.suppress(psycopg.OperationalError, psycopg.errors.UndefinedTable):
                self.check()
            # A long read takes its share of the machine and not all of it.
            self.ending.wait(max(0.05, 2 * (time.monotonic() - started)))

    def check(self) -> None:
        """Read once and compare."""
        case = self._case
        with psycopg.connect(case.warehouse_dsn) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            seen = connection.execute(
                self._SEEN.format(target=case.target_table, name=case.name)
            ).fetchone()
        if seen is None or seen[0] == "begin":
            return
        frontier, in_ledger, rows, ids, newest = int(seen[0].removeprefix("i8:")), *seen[1:]
        settled = case.fetch(
            f"select count(*), coalesce(sum(id), 0) from {case.source_table} where id <= {frontier}",
            at="source",
        )
        assert in_ledger == rows, f"{rows} rows in the target, {in_ledger} in the ledger"
        assert newest <= frontier, f"row {newest} is above the frontier {frontier}"
        assert settled == [(rows, ids)], f"up to {frontier}: source {settled}, target {rows, ids}"
        self.checks += 1
        self.frontiers.add(frontier)


def _discard(connection: psycopg.Connection[Any] | None) -> None:
    if connection is not None:
        connection.close()
