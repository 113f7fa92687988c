"""What people, schedulers and dying machines do to a running task, at a moment of the test's choosing.

A *hold* keeps a stage before the first row above an id: the source waits in its filter, the target in a
trigger, the transform crawls. So every event meets its stage between two known chunks, and a run goes on
as fast as it can once it is let go.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from airflow_checkpoint_etl.demo.airflow_process import AirflowProcess
from airflow_checkpoint_etl.demo.servers import PostgresServer, ValkeyServer
from tests import figures
from tests.chaos.harness_arena import SEEDS
from tests.e2e.conftest import Stack, Table
from tests.memory import FAST, in_memory
from tests.support import INSERT, ORDERS

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

STAGES = ("extract", "transform", "load")
CHUNK = 500
CHUNKS = 12
"""What every run of these tests has to load."""

REPETITIONS = [pytest.param(1 + seed, marks=pytest.mark.chaos) for seed in SEEDS]
repeated = pytest.mark.parametrize("repetition", [0, *REPETITIONS])
"""Once by default; ten times more, at other chunks, under chaos. The number seeds the chunks."""
only_repeated = pytest.mark.parametrize("repetition", REPETITIONS)
"""Ten times under chaos; what happens by default is another module's."""

ENDINGS = {
    "killed": "workers killed",
    "CancelledError": "tasks stopped by a button",
    "FencedError": "orphans fenced",
}
"""How attempts end here, as the figures at the end of a run have it."""

HOLDS = """
create table if not exists holds (pipeline text, stage text, above bigint, primary key (pipeline, stage));

create or replace function held(pipeline text, stage text, id bigint) returns boolean
language sql volatile as $$
    select exists (
        select from holds where (holds.pipeline, holds.stage) = ($1, $2) and holds.above < $3
    )
$$;

create or replace function pass(pipeline text, id bigint) returns boolean language plpgsql volatile as $$
begin
    while held(pipeline, 'extract', id) loop
        perform pg_sleep(0.02);
    end loop;
    return true;
end $$;

create or replace function pass() returns trigger language plpgsql as $$
begin
    while held(tg_table_name::text, 'load', new.id) loop
        perform pg_sleep(0.02);
    end loop;
    return new;
end $$;
"""


class Held(Table):
    """A pipeline's tables with CHUNKS new chunks to load, and the holds on its stages."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack, self.name, self.api = stack, name, stack.api
        table = ORDERS.replace("table orders", f"table if not exists {name}")
        for dsn in (stack.shop, stack.dwh):
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("select pg_advisory_lock(1)")
                connection.execute(HOLDS)
                connection.execute(table if dsn == stack.shop else table.replace("primary key", ""))
        with psycopg.connect(stack.dwh, autocommit=True) as connection:
            connection.execute(f"alter table {name} alter id drop identity if exists")
            connection.execute(
                f"create or replace trigger pass before insert on {name} for each row"
                f" when (new.id % {CHUNK} = 1) execute function pass()"
            )
        self.insert(CHUNKS * CHUNK)
        self.before = self.loaded()
        """Chunks that earlier repetitions have loaded."""
        self.api.wait_parsed(name)
        self.api.unpause(name)

    def insert(self, rows: int) -> None:
        with psycopg.connect(self.stack.shop, autocommit=True) as connection:
            connection.execute(INSERT.format(rows).replace("into orders", f"into {self.name}"))
            connection.execute(f"analyze {self.name}")

    def rows(self) -> int:
        with psycopg.connect(self.stack.shop) as connection:
            return connection.execute(f"select count(*) from {self.name}").fetchone()[0]

    def loaded(self) -> int:
        with psycopg.connect(self.stack.dwh, autocommit=True) as connection:
            if (
                connection.execute("select to_regclass('checkpoint_etl.ledger')").fetchone()[0]
                is None
            ):
                return 0
        return self.seq("load")

    # --- holds ---------------------------------------------------------------------------------

    def hold(self, stage: str, chunk: int) -> None:
        """Let a stage finish this many of the new chunks, and not one more."""
        above = (self.before + chunk) * CHUNK
        if stage == "transform":
            flag = self.stack.flags / f"{self.name}.writing"
            flag.write_text(str(above))
            flag.rename(self.stack.flags / f"{self.name}.transform")
            return
        with psycopg.connect(self._dsn(stage), autocommit=True) as connection:
            connection.execute(
                "insert into holds values (%s, %s, %s)"
                " on conflict (pipeline, stage) do update set above = excluded.above",
                [self.name, stage, above],
            )

    def let_go(self, stage: str) -> None:
        if stage == "transform":
            (self.stack.flags / f"{self.name}.transform").unlink(missing_ok=True)
            return
        with psycopg.connect(self._dsn(stage), autocommit=True) as connection:
            connection.execute(
                "delete from holds where (pipeline, stage) = (%s, %s)", [self.name, stage]
            )

    def _dsn(self, stage: str) -> str:
        return self.stack.shop if stage == "extract" else self.stack.dwh

    @contextmanager
    def holding(self, **chunks: int):
        """Hold stages, each after its number of the new chunks; whatever happens, let them all go."""
        try:
            for stage, chunk in chunks.items():
                self.hold(stage, chunk)
            yield
        finally:
            for stage in STAGES:
                self.let_go(stage)

    # --- looking -------------------------------------------------------------------------------

    def wait_held(self, stage: str, chunk: int) -> None:
        """Wait until a stage has done all that its hold lets it do."""
        self.wait_for_chunks(stage, self.before + chunk)
        assert self.seq(stage) - self.before == chunk

    def fence(self, stage: str) -> int:
        """How often a stage was taken so far."""
        with psycopg.connect(self.stack.dwh, autocommit=True) as connection:
            row = connection.execute(
                "select fence from checkpoint_etl.stage where (pipeline, stage) = (%s, %s)",
                [self.name, stage],
            ).fetchone()
            return row[0]

    def wait_taken(self, stage: str, fence: int) -> None:
        """Wait until an attempt newer than the one with this fence has taken the stage."""
        self.api.wait(f"{stage} taken", lambda: self.fence(stage) > fence or None, 180)

    def end_of(self, pid: int) -> str:
        """How an attempt ended, by its own note, once its process is gone."""
        note = self.stack.flags / f"{pid}.end"
        self.api.wait(f"process {pid} ended", lambda: gone(pid) or None, 180)
        how = note.read_text() if note.exists() else "killed"
        figures.injected(ENDINGS.get(how, how))
        return how

    def wait_success(self, run_id: str) -> None:
        """Wait for a run, and show the logs of what failed."""
        state = self.api.wait_run(self.name, run_id, 180)
        failed = [one for one in self.api.tasks(self.name, run_id) if one.state == "failed"]
        logs = [self.log(run_id, one.task_id[4:], one.try_number)[-4000:] for one in failed]
        assert state == "success", "\n".join(logs)

    def log(self, run_id: str, stage: str, try_number: int = 1) -> str:
        return self.api.log(self.name, run_id, f"etl.{stage}", try_number)

    def wait_running(self, run_id: str, stage: str, try_number: int = 1):
        return self.api.wait_running(self.name, run_id, f"etl.{stage}", try_number=try_number)

    def new_chunks(self) -> list[tuple]:
        """The ledger's rows of the new chunks, each there once: number from 1, try and run."""
        rows = self.ledger()
        assert [row[0] for row in rows] == list(range(1, self.before + CHUNKS + 1))
        return [(row[0] - self.before, *row[1:]) for row in rows[self.before :]]


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def chunk_of(repetition: int, stage: str = "load") -> int:
    """After which chunk the event comes: in the middle first, then anywhere."""
    return random.Random(f"{repetition} {stage}").randint(1, CHUNKS - 3) if repetition else 5


# --- processes that die --------------------------------------------------------------------------


@only_repeated  # test_kill.py has one per stage by default
def test_workers_killed_in_every_stage_of_one_run_lose_and_double_nothing(stack, repetition):
    table = Held(stack, "ev_killed_redis")
    stops = {stage: chunk_of(repetition, stage) for stage in STAGES}
    with table.holding(**stops):
        run_id = table.api.trigger(table.name)
        for stage, stop in stops.items():
            running = table.wait_running(run_id, stage)
            table.wait_held(stage, stop)
            stack.airflow.kill_task(running)
            assert table.end_of(running.pid) == "killed"
            table.let_go(stage)
        table.wait_success(run_id)
    for stage in STAGES:
        assert "of earlier tries are kept" in table.log(run_id, stage, 2)
    stop = stops["load"]
    assert {try_number for seq, try_number, _ in table.new_chunks() if seq <= stop} == {1}
    assert {try_number for seq, try_number, _ in table.new_chunks() if seq > stop} == {2}
    table.assert_exact()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """An Airflow that gives a silent supervisor up after seconds, which would harm busy tests."""
    flags = tmp_path_factory.mktemp("flags")
    with (
        in_memory(lambda: PostgresServer(settings=FAST)) as postgres,
        in_memory(ValkeyServer) as valkey,
    ):
        postgres.create_database("shop")
        postgres.create_database("dwh")
        connections = {
            "shop": postgres.airflow_uri("shop"),
            "dwh": postgres.airflow_uri("dwh"),
            "checkpoints": valkey.airflow_uri(),
        }
        components = ("scheduler", "dag_processor", "api_server")
        settings = {
            "E2E_FLAGS": str(flags),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "8",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        }
        dags = Path(__file__).parent / "dags"
        with in_memory(lambda: AirflowProcess(dags, connections, settings, components)) as airflow:
            made = Stack(postgres, valkey, airflow)
            made.flags = flags
            yield made


@repeated
def test_an_orphan_that_goes_on_beside_its_own_retry_is_fenced(hasty, repetition):
    table = Held(hasty, "ev_orphaned_redis")
    stops = {stage: chunk_of(repetition, stage) for stage in STAGES}
    with table.holding(**stops):
        run_id = table.api.trigger(table.name)
        for stage, stop in stops.items():
            running = table.wait_running(run_id, stage)
            table.wait_held(stage, stop)
            fence = table.fence(stage)
            orphan = hasty.airflow.kill_supervisor(running)
            table.hold(stage, stop + 1)
            table.wait_held(stage, stop + 1)  # nobody hears it, and it writes
            table.wait_taken(stage, fence)
            assert orphan.is_running()
            table.let_go(stage)  # now both write
            assert table.end_of(orphan.pid) == "FencedError"
        table.wait_success(run_id)
    for stage in STAGES:
        tries = table.api.tries(table.name, run_id, f"etl.{stage}")
        assert [one.try_number for one in tries] == [1, 2]
    chunks = table.new_chunks()
    # The chunk that both loaded is one of the two tries', each other one is its only writer's.
    both = stops["load"] + 2
    assert {try_number for seq, try_number, _ in chunks if seq < both} == {1}
    assert {try_number for seq, try_number, _ in chunks if seq > both} == {2}
    table.assert_exact()


# --- people with buttons -------------------------------------------------------------------------


@repeated
def test_a_task_cleared_while_it_runs_is_ended_and_resumed_in_every_stage(stack, repetition):
    table = Held(stack, "ev_cleared_postgres")
    stops = {stage: chunk_of(repetition, stage) for stage in STAGES}
    with table.holding(**stops):
        run_id = table.api.trigger(table.name)
        for stage, stop in stops.items():
            running = table.wait_running(run_id, stage)
            table.wait_held(stage, stop)
            assert table.api.clear(table.name, run_id, [f"etl.{stage}"]) == [f"etl.{stage}"]
            assert table.end_of(running.pid) == "CancelledError"
            table.wait_running(run_id, stage, 2)
            assert table.seq(stage) - table.before == stop
            table.let_go(stage)
        table.wait_success(run_id)
    for stage in STAGES:
        assert "everything committed so far is kept" in table.log(run_id, stage)
        assert "of earlier tries are kept" in table.log(run_id, stage, 2)
    stop = stops["load"]
    assert {try_number for seq, try_number, _ in table.new_chunks() if seq <= stop} == {1}
    assert {try_number for seq, try_number, _ in table.new_chunks() if seq > stop} == {2}
    table.assert_exact()


@only_repeated  # test_runs.py has one by default
def test_a_run_cleared_after_its_success_has_nothing_to_do(stack, repetition):
    table = Held(stack, "ev_finished_redis")
    run_id = table.api.trigger(table.name)
    table.wait_success(run_id)
    chunks, read = table.new_chunks(), table.rows_read()
    cleared = table.api.clear(table.name, run_id)
    assert cleared == ["etl.extract", "etl.load", "etl.transform"]
    table.wait_success(run_id)
    tries = [one.try_number for one in table.api.tasks(table.name, run_id)]
    assert tries == [2, 2, 2]
    assert table.new_chunks() == chunks
    assert table.rows_read() - read < CHUNK, "settling looks at a row or two"
    table.assert_exact()


@repeated
def test_what_a_load_marked_success_has_left_is_loaded_by_the_next_run(stack, repetition):
    table = Held(stack, "ev_marked_redis")
    stop = chunk_of(repetition)
    with table.holding(load=stop):
        marked = table.api.trigger(table.name)
        running = table.wait_running(marked, "load")
        table.wait_held("load", stop)
        table.api.mark(table.name, marked, "etl.load", "success")
        assert table.api.wait_run(table.name, marked, 180) == "success"
        following = table.api.trigger(table.name)
        assert table.end_of(running.pid) == "CancelledError"
    table.wait_success(following)
    chunks = table.new_chunks()
    assert [run for _, _, run in chunks] == [marked] * stop + [following] * (CHUNKS - stop)
    table.assert_exact()


@repeated
def test_a_run_deleted_midway_is_healed_by_one_of_the_same_id_and_by_the_next(stack, repetition):
    table = Held(stack, "ev_deleted_redis")
    stops = {stage: chunk_of(repetition, stage) for stage in ("transform", "load")}
    # Made again under its id, a task is the same one at its first try: only the fence tells the two
    # attempts apart.
    deleted, following = f"deleted_{repetition}", f"following_{repetition}"
    read = table.rows_read()
    with table.holding(**stops):
        table.api.trigger(table.name, run_id=deleted)
        for (stage, stop), heals in zip(stops.items(), (deleted, following), strict=True):
            running = table.wait_running(deleted, stage)
            table.wait_held(stage, stop)
            table.api.mark_run(table.name, deleted, "failed")
            table.api.delete_run(table.name, deleted)
            table.api.trigger(table.name, run_id=heals)
            assert table.end_of(running.pid) in {"CancelledError", "FencedError"}
            table.let_go(stage)
        table.wait_success(following)
    stop = stops["load"]
    runs = [run for _, _, run in table.new_chunks()]
    assert runs == [deleted] * stop + [following] * (CHUNKS - stop)
    assert table.rows_read() - read < (CHUNKS + 1) * CHUNK, "what was staged is not read again"
    table.assert_exact()


# --- runs that meet ------------------------------------------------------------------------------


@repeated
def test_a_run_that_finds_its_stage_busy_waits_deferred_and_then_goes_on(stack, repetition):
    table = Held(stack, "ev_waiting_redis")
    stops = {stage: chunk_of(repetition, stage) for stage in STAGES}
    with table.holding(**stops):
        runs = [table.api.trigger(table.name) for _ in range(2)]
        for stage, stop in stops.items():

            def is_waiting(stage=stage):
                states = [table.api.task(table.name, run, f"etl.{stage}").state for run in runs]
                return sorted(map(str, states)) == ["deferred", "running"] or None

            table.api.wait(f"one run works on {stage}, one is deferred", is_waiting, 180)
            table.wait_held(stage, stop)
            table.let_go(stage)
        for run in runs:
            table.wait_success(run)
    for stage in STAGES:
        logs = [table.log(run, stage) for run in runs]
        assert ["waiting without a worker slot" in log for log in logs].count(True) == 1
    assert len({run for _, _, run in table.new_chunks()}) == 1, "the other run had nothing left"
    table.assert_exact()


@only_repeated  # test_runs.py has two runs at once by default
def test_two_runs_at_once_over_mapped_parts_load_everything_once(stack, repetition):
    table = Held(stack, "ev_parts_redis")
    runs = [table.api.trigger(table.name) for _ in range(2)]
    for run in runs:
        table.wait_success(run)
    with psycopg.connect(stack.dwh) as connection:
        parts = connection.execute(
            "select part, sum(rows), count(*) = max(seq) from checkpoint_etl.ledger"
            " where pipeline = %s group by part order by part",
            [table.name],
        ).fetchall()
    half = table.rows() // 2
    assert parts == [("0", half, True), ("1", half, True)]
    table.assert_exact()
