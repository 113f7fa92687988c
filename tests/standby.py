"""A hot standby of an embedded server, for tests that read from one."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import psycopg

from airflow_checkpoint_etl.demo.servers import PostgresServer

if TYPE_CHECKING:
    from pathlib import Path


OPTIONS = ("-R", "-X", "stream", "-c", "fast", "--no-sync")


class StandbyServer(PostgresServer):
    """Streams from a running primary; made by pg_basebackup."""

    name = "standby"

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(primary.settings)
        self.primary = primary

    def _prepare(self) -> None:
        self.directory.chmod(0o755)
        account = self.primary._account
        if account is not None:
            import pwd

            self._account = account
            entry = pwd.getpwnam(account)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        program: Path = self._bin / "pg_basebackup"
        subprocess.run(
            [str(program), "-d", self.primary.dsn(), "-D", str(self.data), *OPTIONS],
            check=True,
            capture_output=True,
            cwd=self.directory,
            **self._popen_options(),
        )

    def catch_up(self, seconds: float = 60.0) -> None:
        """Wait until everything the primary has written can be read here."""
        with psycopg.connect(self.primary.dsn(), autocommit=True) as primary:
            # A record of its own, so that the position is one that a standby can reach.
            (position,) = primary.execute(
                "select pg_logical_emit_message(false, 'test', '')::text"
            ).fetchone()
        deadline = time.monotonic() + seconds
        with psycopg.connect(self.dsn(), autocommit=True) as standby:
            while not standby.execute(
                "select pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]
            ).fetchone()[0]:
                assert time.monotonic() < deadline, f"the standby did not replay {position}"
                time.sleep(0.01)
