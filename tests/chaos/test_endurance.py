"""A pipeline runs on and on while its processes and servers are killed, and a reader watches the target.

Injected, one after the other: SIGKILL of the running attempt, the end of one of its backends, SIGKILL of
Valkey (which comes back empty), and an immediate shutdown of PostgreSQL. Writers let the source grow and
commit out of order. A concurrent reader asserts in one snapshot, all the time, that the target holds
exactly the rows up to the lane's frontier.

By default it takes a minute (``CHECKPOINT_ETL_ENDURANCE_SECONDS`` says otherwise); ``pytest -m chaos
tests/chaos`` loads ten million rows for half an hour, with something killed every 5 to 20 seconds.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from airflow_checkpoint_etl.demo.servers import PostgresServer, ValkeyServer
from tests import figures
from tests.chaos.harness_arena import COUNT, FAST_SEED, Arena
from tests.chaos.harness_case import TRANSFORMS
from tests.chaos.harness_checks import (
    assert_all_collected,
    assert_ledger_is_dense,
    assert_nothing_left_behind,
)
from tests.chaos.harness_drive import drive
from tests.chaos.harness_runs import Schedule
from tests.chaos.harness_traffic import LONGEST_HOLD, WRITERS, Commits, PrefixReader, Writer
from tests.chaos.harness_turmoil import Turmoil

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How long, how many rows in the end, how large a chunk, and how often something is killed.

    On a machine that is too slow to write the rows in that time, it goes on for up to ``more`` seconds.
    """

    seconds: float
    rows: int
    chunk_rows: int
    gap: tuple[float, float]
    more: float = 0.0


CHUNKS_PER_RUN = 20
SECONDS = float(os.environ.get("CHECKPOINT_ETL_ENDURANCE_SECONDS", "60"))
DEFAULT = Plan(SECONDS, rows=int(SECONDS * 1000), chunk_rows=500, gap=(0.5, 2.0))
LONG = Plan(
    180.0 * COUNT, rows=1_000_000 * COUNT, chunk_rows=20_000, gap=(5.0, 20.0), more=180.0 * COUNT
)


@pytest.fixture
def servers():
    with (
        PostgresServer(settings={"fsync": "off", "shared_buffers": "128MB"}) as postgres,
        ValkeyServer() as valkey,
    ):
        yield postgres, valkey


def endure(servers, plan):
    postgres, valkey = servers
    with Arena(postgres, valkey) as arena, ExitStack() as stack:
        at_first = plan.rows // 5
        case = arena.case(
            "redis",
            rows=at_first,
            chunk_rows=plan.chunk_rows,
            transform="running_total",
            lease=3.0,
            # A run must end before Valkey, and with it all that is staged, is gone again.
            max_rows=plan.chunk_rows * CHUNKS_PER_RUN,
            label=f"endurance, seed {FAST_SEED}",
        )
        commits = Commits()
        pace = (plan.rows - at_first) / plan.seconds / WRITERS
        largest = max(20, int(pace * LONGEST_HOLD))
        writers = [
            Writer(case, f"{FAST_SEED}/{number}", commits, pace, largest)
            for number in range(WRITERS)
        ]
        turmoil = Turmoil(case, postgres, valkey, plan.gap, FAST_SEED)
        schedule = Schedule(arena.attempts, case, turmoil)
        reader = PrefixReader(case)
        # In this order they are started; in the other one they are ended and their faults raised.
        for background in (reader, schedule, turmoil, *writers):
            background.start()
            stack.callback(background.join, 900.0)
        schedule.ending.wait(plan.seconds)
        late = time.monotonic() + plan.more
        while at_first + commits.rows < plan.rows and time.monotonic() < late:
            schedule.ending.wait(1.0)
        stack.close()
        schedule.catch_up()
        assert_ended_well(case, plan, at_first + commits.rows)
        log.info(
            "%s rows, %s runs, %s tries, %s clears; killed %s; errors %s; %s readings at %s frontiers; "
            "%s commits out of order",
            at_first + commits.rows,
            schedule.runs,
            schedule.tries,
            schedule.clears,
            dict(turmoil.done),
            dict(schedule.errors),
            reader.checks,
            len(reader.frontiers),
            commits.out_of_order,
        )
        for what in ("process", "backend", "valkey", "postgres"):
            assert turmoil.done[what], f"no {what} was killed"
            figures.injected(f"{what} killed", turmoil.done[what])
        figures.noted("rows loaded", at_first + commits.rows)
        figures.noted("readings of a concurrent reader", reader.checks)
        figures.noted("commits out of order", commits.out_of_order)
        assert commits.out_of_order, "all commits came in the order of their ids"
        assert len(reader.frontiers) > 5, "the reader saw hardly anything"
        return at_first + commits.rows


def assert_ended_well(case, plan, rows):
    assert case.fetch(f"select count(*) from {case.source_table}", at="source") == [(rows,)]
    if plan.rows <= 200_000:
        case.assert_arrived()
    else:
        assert hash_of(case, "source") == hash_of(case, "warehouse")
        assert case.fetch(f"select count(distinct id) from {case.target_table}") == [(rows,)]
    assert_ledger_is_dense(case)
    assert_nothing_left_behind(case)
    assert_all_collected(case)


def hash_of(case, where):
    """Count and a sum of hashes of all rows, which no missing, extra or changed row leaves as it is."""
    made = TRANSFORMS[case.transform]
    rows = case.target_table
    if where == "source":
        rows = f"({made.expected.format(source=case.source_table)})"
    return case.fetch(
        f"select count(*), sum(hashtextextended(t::text, 0)::numeric) "
        f"from (select {made.columns} from {rows} as r) as t",
        at=where,
    )


def test_a_pipeline_whose_surroundings_keep_dying_loads_every_row_once(servers):
    endure(servers, DEFAULT)


@pytest.mark.parametrize(
    ("damage", "noticed"),
    [
        ("delete from {target} where id = 7", "199 rows in the target, 200 in the ledger"),
        ("update {target} set id = 201 where id = 7", "row 201 is above the frontier 200"),
        ("update {target} set id = 8 where id = 7", "up to 200: source"),
    ],
)
def test_the_reader_notices_damage(postgres_server, valkey_server, damage, noticed):
    with Arena(postgres_server, valkey_server) as arena:
        case = arena.case("postgres", rows=200)
        drive(arena.attempts, case)
        reader = PrefixReader(case)
        reader.check()
        assert reader.frontiers == {200}
        case.fetch(damage.format(target=case.target_table))
        with pytest.raises(AssertionError, match=noticed):
            reader.check()


@pytest.mark.chaos
@pytest.mark.timeout(3 * LONG.seconds)
def test_ten_million_rows_arrive_once_however_often_something_dies(servers):
    assert endure(servers, LONG) >= LONG.rows
