"""A whole pipeline on real servers without Airflow: what integration and chaos tests drive."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psycopg
import redis

from airflow_checkpoint_etl.admin import Admin
from airflow_checkpoint_etl.attempt import Attempt
from airflow_checkpoint_etl.checkpoints.postgres import PostgresCheckpointStore
from airflow_checkpoint_etl.checkpoints.redis import RedisCheckpointStore
from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.pipeline import Pipeline
from airflow_checkpoint_etl.ports import Ports
from airflow_checkpoint_etl.protocol import Lane, Owner
from airflow_checkpoint_etl.runner import StageRunner
from airflow_checkpoint_etl.sources.postgres import PostgresReader
from airflow_checkpoint_etl.staging.postgres import PostgresStagingArea
from airflow_checkpoint_etl.staging.redis import RedisStagingArea
from airflow_checkpoint_etl.transfer import TransferRunner
from airflow_checkpoint_etl.transform import CallableTransformer
from airflow_checkpoint_etl.warehouses.postgres import PostgresWarehouseAdapter
from tests import canary, figures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CAP = 64 << 20

ORDERS = """
create table orders (
    id bigint generated always as identity primary key,
    customer text,
    amount numeric(12, 2) not null,
    created_at timestamptz not null default clock_timestamp()
)
"""
INSERT = """
insert into orders (customer, amount)
select case n % 7 when 0 then null when 1 then '' else 'O''Brien ' || n || chr(10) || '\\N' end,
       (n % 10000) / 100.0
from generate_series(1, {}) as n
"""
COLUMNS = "id, customer, amount, created_at"


@dataclass
class World:
    """One source table, one warehouse and one checkpoint store, with the stages to run on them."""

    source_dsn: str
    warehouse_dsn: str
    redis_port: int | None = None
    source: dict[str, Any] = field(default_factory=dict)
    warehouse: dict[str, Any] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)
    attempt: dict[str, Any] = field(default_factory=dict)
    part: str = "default"
    primary_dsn: str | None = None

    @property
    def lane(self) -> Lane:
        return Lane(self.pipeline.get("pipeline_id", "orders"), self.part)

    def configure(self) -> Pipeline:
        source = {"conn_id": "shop", "table": "orders", "chunk_rows": 100} | self.source
        warehouse = {
            "conn_id": "dwh",
            "table": "orders_copy",
            "create_table": True,
        } | self.warehouse
        return Pipeline(
            **{"pipeline_id": "orders"} | self.pipeline,
            source=PostgresSource(**source),
            warehouse=PostgresWarehouse(**warehouse),
        )

    def ports(self) -> Ports:
        pipeline = self.configure()
        connect_warehouse = connector(self.warehouse_dsn)
        if self.redis_port is None:
            checkpoints: Any = PostgresCheckpointStore(connect_warehouse)
            staging: Any = PostgresStagingArea(connect_warehouse, CAP)
        else:
            client = redis.Redis(port=self.redis_port)
            checkpoints = RedisCheckpointStore(lambda: client)
            staging = RedisStagingArea(lambda: client, CAP)
        return Ports(
            source=PostgresReader(
                pipeline.source,
                connector(self.source_dsn),
                pipeline.start_after,
                connector(self.primary_dsn) if self.primary_dsn else None,
            ),
            staging=staging,
            checkpoints=checkpoints,
            warehouse=PostgresWarehouseAdapter(
                pipeline.warehouse, connect_warehouse, pipeline.source.cursor_columns
            ),
        )

    def runner(
        self, task: str, run: str = "run_1", try_number: int = 1, clear_number: int = 0
    ) -> tuple[StageRunner, Ports]:
        ports = self.ports()
        attempt = Attempt(
            lane=self.lane,
            owner=Owner("dag", run, task, try_number=try_number, clear_number=clear_number),
            fingerprint=self.configure().fingerprint(),
            settings=self.configure().settings(),
            policy=self.configure().policy,
        )
        return StageRunner(ports, replace(attempt, **self.attempt)), ports

    @contextlib.contextmanager
    def admin(self, actor: str = "ann") -> Iterator[Admin]:
        """The commands over the lane, as ``CheckpointHook.admin`` gives them."""
        ports = self.ports()
        try:
            yield Admin(ports, ports.warehouse.admin, self.lane, actor=actor, reason="a test")
        finally:
            ports.close()

    def stage(
        self,
        stage: str,
        run: str = "run_1",
        try_number: int = 1,
        function: Any = None,
        clear_number: int = 0,
        **options: Any,
    ) -> Any:
        """Run one attempt of one stage, as one Airflow task try would."""
        runner, ports = self.runner(stage, run, try_number, clear_number)
        try:
            with canary.silent_errors():
                if stage == "extract":
                    return runner.extract()
                if stage == "load":
                    return runner.load()
                return runner.transform(
                    CallableTransformer(function, cursor_columns=("id",), **options)
                    if function is not None
                    else None
                )
        finally:
            ports.close()

    def transfer(
        self,
        run: str = "run_1",
        try_number: int = 1,
        clear_number: int = 0,
        preoperator: Sequence[str] = (),
    ) -> Any:
        """Run one attempt of a transfer."""
        staged, ports = self.runner("transfer", run, try_number, clear_number)
        try:
            return TransferRunner(ports, staged._attempt, preoperator).transfer()
        finally:
            ports.close()

    def run(
        self, run: str = "run_1", function: Any = None, clear_number: int = 0, **options: Any
    ) -> list[Any]:
        """Run the three stages, as one DAG run would."""
        return [
            self.stage("extract", run, clear_number=clear_number),
            self.stage("transform", run, function=function, clear_number=clear_number, **options),
            self.stage("load", run, clear_number=clear_number),
        ]

    # --- looking at it -------------------------------------------------------------------------

    def insert(self, rows: int) -> None:
        with psycopg.connect(self.source_dsn, autocommit=True) as connection:
            connection.execute(INSERT.format(rows))

    def fetch(self, statement: str, *, at: str = "warehouse") -> list[tuple[Any, ...]]:
        dsn = self.warehouse_dsn if at == "warehouse" else self.source_dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            result = connection.execute(statement)
            return result.fetchall() if result.description else []

    def ledger(self) -> list[tuple[Any, ...]]:
        return self.fetch(
            "select seq, low, high, rows, run_id, try_number from checkpoint_etl.ledger order by id"
        )

    def assert_exact(
        self, columns: str = COLUMNS, target: str = "orders_copy", source: str = "orders"
    ) -> None:
        """Compare source and target both ways with EXCEPT ALL, and the ledger's contiguity, in SQL."""
        expected = self.fetch(f"select {columns} from {source}", at="source")
        with psycopg.connect(self.warehouse_dsn) as connection:
            connection.execute(
                f"create temp table expected as select {columns} from {target} limit 0"
            )
            with connection.cursor().copy(f"copy expected ({columns}) from stdin") as copy:
                for row in expected:
                    copy.write_row(row)
            missing, extra, doubled = connection.execute(
                f"""
                select
                  (select count(*) from (select {columns} from expected
                                         except all select {columns} from {target}) as m),
                  (select count(*) from (select {columns} from {target}
                                         except all select {columns} from expected) as e),
                  (select count(*) - count(distinct id) from {target})
                """
            ).fetchone()  # type: ignore[misc]
            figures.compared(len(expected), missing, extra, doubled)
            assert (missing, extra, doubled) == (0, 0, 0), (
                f"{missing} missing, {extra} extra, {doubled} doubled"
            )
            broken = connection.execute(
                """
                select count(*) from (
                  select seq, low, lag(high) over w as before, lag(seq) over w as previous
                  from checkpoint_etl.ledger
                  where rewound_at is null
                  window w as (partition by pipeline, part order by seq)) as chain
                where (previous is not null and (seq <> previous + 1 or low <> before))
                   or (previous is null and seq <> 1)
                """
            ).fetchone()
            assert broken == (0,), "the ledger is not contiguous"


def connector(dsn: str) -> Callable[[], psycopg.Connection[Any]]:
    return lambda: psycopg.connect(dsn)


def seconds(value: float) -> dt.timedelta:
    return dt.timedelta(seconds=value)
