"""What the cases of one module share: two databases, a Valkey, and the process that forks attempts."""

from __future__ import annotations

import itertools
import os
import uuid
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Any, Self

import psycopg
import redis

from airflow_checkpoint_etl.demo.servers import HOST
from tests import figures
from tests.chaos.harness_case import ORDINARY, Case
from tests.chaos.harness_drive import Injection, drive
from tests.chaos.harness_points import PLAIN, reach_of
from tests.chaos.harness_processes import Attempts

if TYPE_CHECKING:
    from collections import Counter
    from types import TracebackType

    from airflow_checkpoint_etl.demo.servers import PostgresServer, ValkeyServer
    from tests.chaos.harness_points import Scenario

STORES = ("redis", "postgres")


def seeds(chosen: str) -> range:
    """Read "10" (the first ten seeds) or "3-5" (those three)."""
    first, _, last = chosen.rpartition("-")
    return range(int(first), int(last) + 1) if first else range(int(last))


SEEDS = seeds(os.environ.get("CHECKPOINT_ETL_CHAOS_SEEDS", "10"))
"""The seeds of the long programme."""

COUNT = len(SEEDS)
"""How long the long programme is: 10 is all of it, fewer seeds, pairs, cuts, ... for a look at it."""

HALF_THE_SEEDS = range(2 + SEEDS.start, 2 + SEEDS.start + (COUNT + 1) // 2)
"""For what happens at very many moments with each seed; 1 is the default programme's."""

FAST_SEED = int(os.environ.get("CHECKPOINT_ETL_CHAOS_SEED", "2026"))
"""The one seed of the default programme."""


class Arena:
    """Makes cases within two shared databases, dropped at the end.

    Args:
        postgres: the server that has source and warehouse.
        valkey: the server of the cases whose store is Redis.
    """

    def __init__(self, postgres: PostgresServer, valkey: ValkeyServer) -> None:
        self._postgres, self._valkey = postgres, valkey
        self._numbers = itertools.count(1)
        self._passes: dict[tuple[str, Scenario], Counter[str]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            mark = uuid.uuid4().hex[:8]
            self._databases = []
            stack.callback(self._drop)
            self.source_dsn = self._create(f"chaos_source_{mark}")
            self.warehouse_dsn = self._create(f"chaos_warehouse_{mark}")
            self._flush()
            stack.callback(self._flush)
            self.attempts = stack.enter_context(Attempts())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def case(self, store: str, rows: int = 400, chunk_rows: int = 100, **options: Any) -> Case:
        """Make a pipeline with ``rows`` rows in its source."""
        if options.pop("write", "append") == "upsert":
            options["warehouse"] = {"write": "upsert", "key": ("id",)}
        source = {"chunk_rows": chunk_rows} | options.pop("source", {})
        options["pipeline"] = dict(options.get("pipeline", {}))
        made = Case(
            self.source_dsn,
            self.warehouse_dsn,
            self._valkey.port if store == "redis" else None,
            name=f"case{next(self._numbers)}",
            source=source,
            **options,
        )
        made.create(rows)
        return made

    def case_for(self, point: str, store: str, **options: Any) -> Case:
        """Make a pipeline of the kind that the point's scenario is about."""
        return self.case(store, **options | reach_of(point).scenario.options)

    def passes(self, store: str, scenario: Scenario = PLAIN) -> Counter[str]:
        """How often each point is passed by a scenario in which nothing goes wrong."""
        if (store, scenario) not in self._passes:
            case = self.case(store, **scenario.options)
            clean = drive(self.attempts, case, steps=scenario.steps)
            self._passes[store, scenario] = clean.passes()
        return self._passes[store, scenario]

    def draw(self, random: Random, store: str, point: str, how: str = "kill") -> Injection:
        """An injection at a random one of the point's passes."""
        scenario = reach_of(point).scenario
        passes = self.passes(store, scenario)[point]
        assert passes, (
            f"{point} is not passed by {scenario.name}, which REACHED_BY in "
            "tests/chaos/harness_points.py says reaches it"
        )
        return Injection(f"{point}@{random.randint(1, passes)}", how)

    def _create(self, name: str) -> str:
        self._databases.append(name)
        return self._postgres.create_database(name)

    def _drop(self) -> None:
        with psycopg.connect(self._postgres.dsn(), autocommit=True) as connection:
            for name in self._databases:
                connection.execute(f'drop database if exists "{name}" with (force)')

    def _flush(self) -> None:
        with redis.Redis(host=HOST, port=self._valkey.port) as client:
            client.flushall()


def dice(*what: object) -> Random:
    """A generator that depends on nothing but what it is for."""
    figures.seeded(str(what[0]).partition("/")[0])
    return Random("/".join(str(one) for one in what))


def any_transform(random: Random) -> str:
    """A transform that runs a callable, so that every point of the stage is passed."""
    return random.choice(ORDINARY)
