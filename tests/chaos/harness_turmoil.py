"""What goes wrong in the endurance run, every few seconds, one thing after the other."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING

import psycopg

from tests.chaos.harness_arena import dice
from tests.chaos.harness_traffic import Background

if TYPE_CHECKING:
    from airflow_checkpoint_etl.demo.servers import PostgresServer, ValkeyServer
    from tests.chaos.harness_case import Case
    from tests.chaos.harness_processes import Try

DECK = ("process",) * 8 + ("backend",) * 4 + ("valkey",) * 2 + ("postgres",)
"""How often each thing goes wrong; a shuffled deck, so that each one does."""


class Turmoil(Background):
    """Kills something every few seconds.

    Args:
        case: the pipeline it is about.
        postgres: the server of source and warehouse.
        valkey: the server of checkpoints and staged chunks; what it held is gone when it is killed.
        gap: the shortest and the longest time between two kills, in seconds.
        seed: for the order and the times.
    """

    def __init__(
        self,
        case: Case,
        postgres: PostgresServer,
        valkey: ValkeyServer,
        gap: tuple[float, float],
        seed: object,
    ) -> None:
        super().__init__("turmoil")
        self._case, self._postgres, self._valkey = case, postgres, valkey
        self._gap, self._random = gap, dice(seed, "turmoil")
        self.servers_are_up = threading.Event()
        self.servers_are_up.set()
        self.attempt: Try | None = None
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        kill = {
            "process": self.kill_process,
            "backend": self.end_backend,
            "valkey": self.crash_valkey,
            "postgres": self.crash_postgres,
        }
        deck: list[str] = []
        while not self.ending.wait(self._random.uniform(*self._gap)):
            if not deck:
                deck = list(DECK)
                self._random.shuffle(deck)
            what = deck.pop()
            self.done[what] += int(kill[what]())

    def kill_process(self) -> bool:
        """SIGKILL the attempt that is running."""
        attempt = self.attempt
        if attempt is None or attempt.ended.is_set():
            return False
        attempt.kill()
        return attempt.exit_signal == signal.SIGKILL

    def end_backend(self) -> bool:
        """Terminate one of the pipeline's backends."""
        with psycopg.connect(self._postgres.dsn(), autocommit=True) as connection:
            pids = connection.execute(
                "select pid from pg_stat_activity where application_name like 'checkpoint_etl%' "
                "order by pid"
            ).fetchall()
            if not pids:
                return False
            ended = connection.execute(
                "select pg_terminate_backend(%s)", self._random.choice(pids)
            ).fetchone()
        return ended == (True,)

    def crash_valkey(self) -> bool:
        """SIGKILL Valkey and start it empty: checkpoints, manifest and staged chunks are gone."""
        self._valkey.kill()
        self._valkey.start()
        return True

    def crash_postgres(self) -> bool:
        """Immediate shutdown: every connection breaks, and the server recovers from its log."""
        self.servers_are_up.clear()
        try:
            self._postgres.halt(signal.SIGQUIT)
            self._postgres.start()
        finally:
            self.servers_are_up.set()
        return True
