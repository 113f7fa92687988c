"""One pipeline of its own within shared databases: what every fault-injection case works on.

A case is a :class:`tests.support.World` with its own pipeline id and tables, so that hundreds of cases
share two databases. It travels to the process that runs an attempt as JSON.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from airflow_checkpoint_etl.collect import collect
from airflow_checkpoint_etl.following import Following, Upstream, upstream_of
from airflow_checkpoint_etl.planner import Cutting, Planner
from airflow_checkpoint_etl.protocol import Lane
from tests.chaos.harness_points import RUN
from tests.support import COLUMNS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from airflow_checkpoint_etl.ports import Ports
    from airflow_checkpoint_etl.runner import StageRunner

TABLE = """
create table {table} (
    id bigint generated always as identity primary key,
    customer text,
    amount numeric(12, 2) not null,
    created_at timestamptz not null default clock_timestamp()
)
"""
ROWS = """
insert into {table} (customer, amount)
select case n % 7 when 0 then null when 1 then ''
                  else 'O''Brien ' || n % 37 || chr(10) || '\\N' end,
       (n % 10000) / 100.0
from generate_series(1, {rows}) as n
"""


def keep(record: dict[str, Any]) -> dict[str, Any]:
    return record


def named_only(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_valid(table.column("customer")))


def running_total(record: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    state["total"] += int(record["amount"] * 100)
    return {**record, "total": state["total"]}


def first_of_customer(record: dict[str, Any], state: dict[str, Any]) -> dict[str, Any] | None:
    if record["customer"] in state["seen"]:
        return None
    state["seen"].append(record["customer"])
    return record


@dataclass(frozen=True)
class Transform:
    """A transform, and independently of it the SQL that says what must arrive."""

    function: Callable[..., Any] | None
    expected: str
    columns: str = COLUMNS
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    target: str = ""
    """The target's definition, where the product is not to create it."""


CHECKED = """
create table {target} (
    id bigint primary key, customer text, amount numeric(12, 2), created_at timestamptz,
    _ck_chunk bigint,
    constraint no_fifties check (id % 50 <> 0)
)
"""

TRANSFORMS = {
    "none": Transform(None, f"select {COLUMNS} from {{source}}"),
    "keep": Transform(keep, f"select {COLUMNS} from {{source}}"),
    "batch": Transform(
        named_only,
        f"select {COLUMNS} from {{source}} where customer is not null",
        options={"mode": "batch"},
    ),
    "running_total": Transform(
        running_total,
        f"select {COLUMNS}, (sum((amount * 100)::bigint) over (order by id))::bigint as total "
        "from {source}",
        f"{COLUMNS}, total",
        {"initial_state": {"total": 0}},
    ),
    "dedupe": Transform(
        first_of_customer,
        f"select distinct on (customer) {COLUMNS} from {{source}} order by customer, id",
        options={"initial_state": {"seen": []}},
    ),
    "refused": Transform(
        keep, f"select {COLUMNS} from {{source}} where id % 50 <> 0", target=CHECKED
    ),
    "mended": Transform(keep, f"select {COLUMNS} from {{source}}", target=CHECKED),
}

ORDINARY = ("keep", "batch", "running_total", "dedupe")
"""The transforms that any scenario may have, and that run a callable."""


def late(case: Case, run: str, try_number: int) -> None:
    """Row versions from below the frontier appear late."""
    case.fetch(f"update {case.source_table} set amount = amount where id % 3 = 0", at="source")


def sweep(case: Case, run: str, try_number: int) -> Any:
    """The extract that finds them."""
    return case.stage("extract", run, try_number)


def mend(case: Case, run: str, try_number: int) -> None:
    case.fetch(f"alter table {case.target_table} drop constraint if exists no_fifties")


def replay(case: Case, run: str, try_number: int) -> None:
    with case.admin() as admin:
        admin.replay_quarantine(dry_run=False)


def rewind(case: Case, run: str, try_number: int) -> None:
    ((point,),) = case.fetch(
        "select high from checkpoint_etl.ledger "
        f"where pipeline = '{case.name}' and rewound_at is null and seq = 2"
    )
    with case.admin() as admin:
        admin.rewind(point, dry_run=False)


def reprocess(case: Case, run: str, try_number: int) -> Any:
    case.attempt["on_clear"] = "reprocess"
    runner, ports = case.runner("extract", run, try_number, clear_number=1)
    try:
        return runner.extract()
    finally:
        ports.close()


def resync(case: Case, run: str, try_number: int) -> None:
    with case.admin() as admin:
        admin.resync()


def transfer(case: Case, run: str, try_number: int) -> Any:
    log = f"{case.target_table}_prepared"
    preoperator = [
        f"truncate {case.target_table}",
        f"create table if not exists {log} (at timestamptz)",
        f"insert into {log} values (clock_timestamp())",
    ]
    return case.transfer(run, try_number, preoperator=preoperator if case.prepared else ())


def plan(case: Case, run: str, try_number: int) -> list[str]:
    runner, ports = case.runner("plan", run, try_number)
    try:
        return Planner(ports, runner._attempt).plan(Cutting(parts=2, rows_per_part=50))
    finally:
        ports.close()


def parts(case: Case, run: str, try_number: int) -> None:
    """The three stages of every part, the last part first."""
    keys = case.fetch(
        f"select part from checkpoint_etl.lane where pipeline = '{case.name}' and ends_at is not null"
        " order by part desc"
    )
    for (key,) in keys:
        part = dataclasses.replace(case, part=key)
        for stage in RUN:
            part.act(stage, run, try_number)


def close(case: Case, run: str, try_number: int) -> Any:
    runner, ports = case.runner("close", run, try_number)
    try:
        closed = Planner(ports, runner._attempt).close()
    finally:
        ports.close()
    return dataclasses.asdict(closed) if closed else None


def abandon(case: Case, run: str, try_number: int) -> None:
    ports = case.ports()
    try:
        if ports.warehouse.plans.current(case.name) is None:
            return
    finally:
        ports.close()
    with case.admin() as admin:
        admin.abandon_plan(dry_run=False)


def more(case: Case, run: str, try_number: int) -> None:
    case.insert(70)


STEPS: dict[str, Callable[[Case, str, int], Any]] = {
    "plan": plan,
    "parts": parts,
    "close": close,
    "abandon": abandon,
    "more": more,
    "late": late,
    "sweep": sweep,
    "mend": mend,
    "replay": replay,
    "rewind": rewind,
    "reprocess": reprocess,
    "resync": resync,
    "transfer": transfer,
}
"""Steps that are none of the three stages, by name; each gets the case, the run and the try's number."""


@dataclass
class Case(World):
    """One pipeline with tables of its own.

    Attributes:
        name: the pipeline's id, and what its tables are named after.
        transform: a name in ``TRANSFORMS``.
        grace: seconds a staged chunk is kept after its rows are loaded.
        max_rows: rows after which one run's extract stops; None for no limit.
        lease: seconds a stage stays its owner's without a heartbeat.
        prepared: whether a transfer has a preoperator.
        label: how a failure names the case: its seed and what was injected.
    """

    name: str = "orders"
    transform: str = "keep"
    grace: float = 0.0
    lease: float = 60.0
    max_rows: int | None = None
    prepared: bool = False
    label: str = ""
    clear_number: int = 0
    together: dict[str, Any] | None = None
    """How the stages run at once (fields of a Following); None: one after the other."""

    @property
    def source_table(self) -> str:
        return f"{self.name}_source"

    @property
    def target_table(self) -> str:
        return f"{self.name}_target"

    def configure(self) -> Any:
        self.pipeline.setdefault("pipeline_id", self.name)
        self.source.setdefault("table", self.source_table)
        self.warehouse.setdefault("table", self.target_table)
        self.warehouse.setdefault("lock_timeout", 0.3)
        return super().configure()

    @property
    def lane(self) -> Lane:
        return Lane(self.name, self.part)

    def runner(
        self, task: str, run: str = "run_1", try_number: int = 1, clear_number: int = 0
    ) -> tuple[StageRunner, Ports]:
        self.attempt |= {
            "grace": dt.timedelta(seconds=self.grace),
            "lease": dt.timedelta(seconds=self.lease),
            "max_rows": self.max_rows,
            "following": self.following(task),
        }
        return super().runner(task, run, try_number, clear_number)

    def act(self, step: str, run: str, try_number: int) -> Any:
        """Run one attempt of one step in this process."""
        if step not in RUN:
            return STEPS[step](self, run, try_number)
        chosen = TRANSFORMS[self.transform]
        return self.stage(
            step,
            run,
            try_number,
            clear_number=self.clear_number,
            function=chosen.function if step == "transform" else None,
            **(chosen.options if step == "transform" else {}),
        )

    # --- the other stages, when they run at once -----------------------------------------------------

    def following(self, task: str) -> Following | None:
        if self.together is None or task not in RUN:
            return None
        place = RUN.index(task)
        return Following(
            upstream=lambda: upstream_of(self.state_of(RUN[place - 1])),
            upstream_name=RUN[place - 1],
            is_followed=lambda: all(
                upstream_of(self.state_of(step)) is Upstream.WORKING for step in RUN[place + 1 :]
            ),
            **{"patience": 0.3, "poll": 0.01} | self.together,
        )

    def state_of(self, step: str) -> str | None:
        """What a scheduler would say about a step of the run."""
        found = self.fetch(
            f"select state from task_state where name = '{self.name}' and step = '{step}'"
        )
        return found[0][0] if found else None

    def note_state(self, step: str, state: str) -> None:
        self.fetch(
            f"insert into task_state values ('{self.name}', '{step}', '{state}') "
            "on conflict (name, step) do update set state = excluded.state"
        )

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    # --- the source ----------------------------------------------------------------------------

    def create(self, rows: int) -> None:
        self.fetch(TABLE.format(table=self.source_table), at="source")
        self.insert(rows)
        definition = TRANSFORMS[self.transform].target
        if definition:
            self.fetch(definition.format(target=self.target_table))

    def insert(self, rows: int) -> None:
        self.fetch(ROWS.format(table=self.source_table, rows=rows), at="source")

    # --- looking at it -------------------------------------------------------------------------

    def ledger(self) -> list[tuple[Any, ...]]:
        return self.fetch(
            "select seq, low, high, rows, digest, run_id, try_number from checkpoint_etl.ledger "
            f"where pipeline = '{self.name}' and part = '{self.part}' and rewound_at is null order by id"
        )

    def assert_arrived(self) -> None:
        """Compare the target with what SQL makes of the source, and the ledger's contiguity."""
        chosen = TRANSFORMS[self.transform]
        expected = chosen.expected.format(source=self.source_table)
        self.assert_exact(
            chosen.columns, self.target_table, f"({expected}) as made_from_{self.name}"
        )
        if self.prepared:
            times = self.fetch(f"select count(*) from {self.target_table}_prepared")
            assert times == [(1,)], f"the preoperator ran {times[0][0]} times"

    def collect_all(self) -> None:
        """Collect without any grace, as a later run would after it."""
        ports = self.ports()
        try:
            for (part,) in self.fetch(
                f"select part from checkpoint_etl.lane where pipeline = '{self.name}'"
            ):
                collect(ports, Lane(self.name, part), dt.timedelta(0))
        finally:
            ports.close()

    def stored(self) -> dict[str, Any]:
        """Everything that an attempt could write: what must not change behind a newer attempt.

        The names of staged files are apart: a stale attempt may leave an orphan, under its own fence.
        """
        where = f"where pipeline = '{self.name}'"
        found = {
            table: self.fetch(f"select t::text from checkpoint_etl.{table} as t {where} order by 1")
            for table in ("lane", "run", "ledger", "stage")
        }
        found["target"] = self.fetch(
            f"select count(*), sum(hashtextextended(t::text, 0)::numeric) from {self.target_table} as t"
        )
        ports = self.ports()
        try:
            for stage in ("extract", "transform", "load"):
                found[f"{stage} record"] = ports.checkpoints.read(self.lane, _stage(stage))
            found["staged"] = ports.staging.names(f"{self.name}/")
        finally:
            ports.close()
        return found


def _stage(name: str) -> Any:
    from airflow_checkpoint_etl.protocol import Stage

    return Stage(name)
