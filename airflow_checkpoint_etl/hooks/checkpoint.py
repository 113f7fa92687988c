"""From Airflow connections to ports: the composition root, and the hook that users read with."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, BaseHook

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import MissingDependencyError, PreflightError, invalid
from airflow_checkpoint_etl.ports import Ports
from airflow_checkpoint_etl.protocol import Checkpoint, Lane, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg
    import redis

    from airflow_checkpoint_etl.admin import Admin
    from airflow_checkpoint_etl.pipeline import Pipeline
    from airflow_checkpoint_etl.ports import CheckpointStore, LaneState, StagingArea
    from airflow_checkpoint_etl.warehouses.ledger import Ledger

_overrides: dict[str, Callable[[], Ports]] = {}
"""Ports to hand out instead, by pipeline id; set by :func:`airflow_checkpoint_etl.testing.memory`."""


@contextlib.contextmanager
def overridden(pipeline_id: str, ports: Callable[[], Ports]) -> Iterator[None]:
    """Hand out other ports for a pipeline id, in this process, until the block ends."""
    _overrides[pipeline_id] = ports
    try:
        yield
    finally:
        del _overrides[pipeline_id]


class CheckpointHook(BaseHook):
    """Gives a pipeline's ports, and reads where its lanes are.

    Args:
        pipeline: the pipeline.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    # --- ports ---------------------------------------------------------------------------------

    def ports(self) -> Ports:
        """Return source, staging area, checkpoint store and warehouse; connections open on first use.

        Raises:
            ConfigurationError: a connection does not exist or has another type than it must.
        """
        override = _overrides.get(self.pipeline.pipeline_id)
        if override is not None:
            return override()
        from airflow_checkpoint_etl.sources.postgres import PostgresReader  # noqa: PLC0415
        from airflow_checkpoint_etl.warehouses.postgres import (  # noqa: PLC0415
            PostgresWarehouseAdapter,
        )

        pipeline = self.pipeline
        source, warehouse = pipeline.source, pipeline.warehouse
        connect_source = postgres_connector("source.conn_id", source.conn_id)
        connect_primary = (
            postgres_connector("source.settle_conn_id", source.settle_conn_id)
            if source.settle_conn_id is not None
            else None
        )
        connect_warehouse = postgres_connector("warehouse.conn_id", warehouse.conn_id)
        checkpoints, staging = self.store_and_staging()
        start_after = pipeline.start_after
        return Ports(
            source=PostgresReader(
                source,
                connect_source,
                None if start_after is None else tuple(start_after),
                connect_primary,
            ),
            staging=staging,
            checkpoints=checkpoints,
            warehouse=PostgresWarehouseAdapter(warehouse, connect_warehouse, source.cursor_columns),
        )

    def store_and_staging(self) -> tuple[CheckpointStore, StagingArea]:
        """Return both: the connection's type chooses the store; staging is in it unless a URL says where.

        Raises:
            ConfigurationError: the connection does not exist, or has another type than it must.
        """
        conn_id = self.pipeline.checkpoint_connection
        kind = _connection_type("checkpoint_conn_id", conn_id)
        cap = self.pipeline.staged_chunk_cap
        staging: StagingArea | None = None
        if self.pipeline.staging != "checkpoint":
            from airflow_checkpoint_etl.staging.object_storage import (  # noqa: PLC0415
                ObjectStorageStagingArea,
            )

            staging = ObjectStorageStagingArea(
                self.pipeline.staging, self.pipeline.staging_conn_id, cap
            )
        if kind == "redis":
            from airflow_checkpoint_etl.checkpoints.redis import (  # noqa: PLC0415
                RedisCheckpointStore,
            )
            from airflow_checkpoint_etl.staging.redis import RedisStagingArea  # noqa: PLC0415

            connect = _redis(conn_id)
            return RedisCheckpointStore(connect), staging or RedisStagingArea(connect, cap)
        if kind == "postgres":
            from airflow_checkpoint_etl.checkpoints.postgres import (  # noqa: PLC0415
                PostgresCheckpointStore,
            )
            from airflow_checkpoint_etl.staging.postgres import (  # noqa: PLC0415
                PostgresStagingArea,
            )

            factory = postgres_connector("checkpoint_conn_id", conn_id)
            return PostgresCheckpointStore(factory), staging or PostgresStagingArea(factory, cap)
        msg = "checkpoint_conn_id"
        raise invalid(
            msg,
            conn_id,
            f"the connection is of type {kind!r}; checkpoints are kept in redis or postgres",
            "point it at a connection of one of these types",
        )

    @contextlib.contextmanager
    def admin(self, *, actor: str, reason: str, part: str = "default") -> Iterator[Admin]:
        """Give the commands over one lane, until the block ends.

        Args:
            actor: who acts, for the audit.
            reason: why, for the audit.
            part: the part's key.
        """
        from airflow_checkpoint_etl.admin import Admin  # noqa: PLC0415

        ports = self.ports()
        try:
            steward = getattr(ports.warehouse, "admin", None)
            if steward is None:
                message = (
                    f"{self.pipeline.pipeline_id}: its warehouse is in memory and has no commands"
                )
                raise PreflightError(message)
            lane = Lane(self.pipeline.pipeline_id, part)
            yield Admin(ports, steward, lane, actor=actor, reason=reason)
        finally:
            ports.close()

    # --- reading -------------------------------------------------------------------------------

    def checkpoint(self, stage: str = "load", part: str = "default") -> Checkpoint | None:
        """Return a stage's checkpoint; None when the stage never ran.

        The load's comes from the warehouse, which decides; the others' from the checkpoint store.
        """
        lane = Lane(self.pipeline.pipeline_id, part)
        ports = self.ports()
        try:
            if Stage(stage) is not Stage.LOAD:
                return ports.checkpoints.read(lane, Stage(stage)).checkpoint
            state = ports.warehouse.lane(lane)
        finally:
            ports.close()
        return _load_checkpoint(state) if state else None


def _load_checkpoint(state: LaneState) -> Checkpoint:
    rows = state.rows_total
    return Checkpoint(Stage.LOAD, state.frontier, rows, rows, state.updated_at, state.state)


# --- questions of sensors and triggers ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """What a sensor asks, as the strings a trigger can be serialised with.

    Attributes:
        warehouse_conn_id: where the ledger is.
        checkpoint_conn_id: where the checkpoint store is; used for extract and transform.
        pipeline: the pipeline's id.
        part: the part's key.
        stage: the stage asked about.
        at_least: wait for a cursor at or past these values, one text per cursor column.
        not_before: wait for a load past a bound settled at or after this moment, ISO 8601.
    """

    warehouse_conn_id: str
    checkpoint_conn_id: str
    pipeline: str
    part: str
    stage: str
    at_least: tuple[str, ...] | None = None
    not_before: str | None = None


def is_reached(question: Question) -> bool:
    """Answer a sensor's question from the warehouse (load) or the checkpoint store."""
    lane = Lane(question.pipeline, question.part)
    stage = Stage(question.stage)
    if stage is not Stage.LOAD:
        checkpoint = _stored_checkpoint(question.checkpoint_conn_id, lane, stage)
        return checkpoint is not None and _is_at_least(
            checkpoint.frontier.cursor, question.at_least or ()
        )
    ledger = open_ledger(question.warehouse_conn_id)
    try:
        state = ledger.lane(lane) if ledger.exists() else None
        if state is None:
            return False
        if question.at_least is not None:
            return _is_at_least(state.frontier.cursor, question.at_least)
        moment = dt.datetime.fromisoformat(question.not_before or "1970-01-01T00:00:00+00:00")
        return ledger.caught_up(lane, moment)
    finally:
        ledger.close()


def _is_at_least(position: str, wanted: tuple[str, ...]) -> bool:
    if position == cursors.BEGIN:
        return False
    tags = [tag for tag, _ in cursors.decode(position)]
    return cursors.compare(position, cursors.parse(tags, wanted)) >= 0


def open_store(conn_id: str) -> CheckpointStore:
    """Return the checkpoint store behind a connection, for reading; close it after use."""
    if _connection_type("checkpoint_conn_id", conn_id) == "redis":
        from airflow_checkpoint_etl.checkpoints.redis import RedisCheckpointStore  # noqa: PLC0415

        return RedisCheckpointStore(_redis(conn_id))
    from airflow_checkpoint_etl.checkpoints.postgres import (  # noqa: PLC0415
        PostgresCheckpointStore,
    )

    return PostgresCheckpointStore(postgres_connector("checkpoint_conn_id", conn_id))


def _stored_checkpoint(conn_id: str, lane: Lane, stage: Stage) -> Checkpoint | None:
    store = open_store(conn_id)
    try:
        return store.read(lane, stage).checkpoint
    finally:
        store.close()


def lease_left(warehouse_conn_id: str, lane: Lane, stage: Stage) -> float:
    """Return for how many more seconds somebody's lease on a stage runs; 0 when it is free."""
    ledger = open_ledger(warehouse_conn_id)
    try:
        return ledger.lease_left(lane, stage) if ledger.exists() else 0.0
    finally:
        ledger.close()


def open_ledger(warehouse_conn_id: str) -> Ledger:
    """Return the ledger behind a connection, for reading; close it after use."""
    from airflow_checkpoint_etl.postgres import Session  # noqa: PLC0415
    from airflow_checkpoint_etl.warehouses.ledger import Ledger  # noqa: PLC0415

    session = Session(
        postgres_connector("warehouse.conn_id", warehouse_conn_id), "checkpoint_etl read"
    )
    return Ledger(session, session, lock_timeout=5.0)


# --- connections -------------------------------------------------------------------------------------


def _connection_type(parameter: str, conn_id: str) -> str:
    try:
        return str(BaseHook.get_connection(conn_id).conn_type)
    except AirflowException:
        # The original says "not defined" and lists secrets backends; say which parameter named it.
        raise invalid(
            parameter,
            conn_id,
            "there is no Airflow connection with this id",
            f"create it (airflow connections add {conn_id} ...), or correct the id",
        ) from None


def postgres_connector(parameter: str, conn_id: str) -> Callable[[], psycopg.Connection[Any]]:
    """Return a factory of connections through PostgresHook.

    The Airflow connection is looked up once, here: the factory is called from other threads too.
    """
    kind = _connection_type(parameter, conn_id)
    if kind != "postgres":
        raise invalid(
            parameter,
            conn_id,
            f"the connection is of type {kind!r}",
            "it must be of type 'postgres'",
        )
    import psycopg  # noqa: PLC0415
    from airflow.providers.postgres.hooks.postgres import PostgresHook  # noqa: PLC0415

    hook = PostgresHook(postgres_conn_id=conn_id)
    hook.connection  # noqa: B018  looks it up and keeps it

    def connect() -> psycopg.Connection[Any]:
        try:
            connection = hook.get_conn()
        except psycopg.OperationalError as error:
            message = f"{parameter}={conn_id!r}: cannot connect to PostgreSQL ({_reason(error)})"
            raise psycopg.OperationalError(message) from None
        if not isinstance(connection, psycopg.Connection):
            message = (
                "PostgresHook did not return a psycopg 3 connection; run: "
                "pip install 'psycopg[binary]>=3.2' 'sqlalchemy>=2'"
            )
            raise MissingDependencyError(message)
        return connection

    return connect


def _reason(error: psycopg.OperationalError) -> str:
    """The server's or libpq's reason; it names host and user but never the password."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _redis(conn_id: str) -> Callable[[], redis.Redis]:
    """Return a factory that gives RedisHook's client (a pool, safe between threads)."""
    from airflow.providers.redis.hooks.redis import RedisHook  # noqa: PLC0415

    hook = RedisHook(redis_conn_id=conn_id)

    def connect() -> redis.Redis:
        client: redis.Redis | None = hook.get_conn()
        if client is None:
            message = f"checkpoint_conn_id={conn_id!r}: RedisHook gave no client"
            raise PreflightError(message)
        return client

    return connect
