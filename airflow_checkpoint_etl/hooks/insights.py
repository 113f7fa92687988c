"""The composition root of the faces: from the warehouses that are configured to insights and commands.

A face (UI, command line, MCP server) has no DAG at hand. What it needs to know of a pipeline stands in the
lane's row in the warehouse, written by its extract: connection ids and names, no secrets. Which warehouses
there are says ``[checkpoint_etl] warehouse_conn_ids``.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final, cast

from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    MissingPrivilegeError,
    PreflightError,
    invalid,
)
from airflow_checkpoint_etl.hooks.checkpoint import CheckpointHook, open_store, postgres_connector
from airflow_checkpoint_etl.insights import MOST, Insights, Page
from airflow_checkpoint_etl.pipeline import Pipeline
from airflow_checkpoint_etl.ports import Ports
from airflow_checkpoint_etl.protocol import Lane
from airflow_checkpoint_etl.settings import warehouse_conn_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import psycopg

    from airflow_checkpoint_etl.admin import Admin
    from airflow_checkpoint_etl.insights import LaneOfRun, LaneSummary
    from airflow_checkpoint_etl.ports import CheckpointStore, Source
    from airflow_checkpoint_etl.warehouses.postgres import PostgresWarehouseAdapter

_TIMEOUT: Final = "30s"
"""How long one statement of the read model may take, whatever is wrong."""


@contextlib.contextmanager
def open_insights(warehouse_conn_id: str) -> Iterator[Insights]:
    """Give the read model over one warehouse, until the block ends.

    Raises:
        ConfigurationError: the connection does not exist, or is of another type than it must be.
        CheckpointEtlError: the warehouse cannot be read.
    """
    import psycopg  # noqa: PLC0415

    from airflow_checkpoint_etl.postgres import Session  # noqa: PLC0415
    from airflow_checkpoint_etl.warehouses.insights import LedgerInsights  # noqa: PLC0415

    connect = postgres_connector("warehouse_conn_ids", warehouse_conn_id)
    session = Session(connect, "checkpoint_etl insights", {"statement_timeout": _TIMEOUT})
    try:
        yield Insights(LedgerInsights(session), warehouse_conn_id, _store, newest_in_source)
    except psycopg.Error as error:
        raise _translated(error, warehouse_conn_id) from None
    finally:
        session.close()


class Warehouses:
    """The lanes of all configured warehouses.

    Args:
        conn_ids: the warehouses' connections; left out: ``[checkpoint_etl] warehouse_conn_ids``.

    Raises:
        ConfigurationError: none is configured.
    """

    def __init__(self, conn_ids: Sequence[str] | None = None) -> None:
        self.conn_ids = tuple(conn_ids) if conn_ids else warehouse_conn_ids()

    def pipelines(
        self,
        search: str = "",
        token: str | None = None,
        limit: int = 50,
        *,
        complete: bool = False,
    ) -> Page[LaneSummary]:
        """Return a page of lanes, warehouse by warehouse, each by pipeline and part.

        A warehouse that does not answer is left out and named in the page's faults.

        Args:
            search: a text that the pipeline's id, its part, source or target holds, in any case.
            token: the ``next_token`` of the page before; None for the first page.
            limit: how many at most, up to 200.
            complete: as in :meth:`Insights.pipelines`.

        Raises:
            ConfigurationError: the token is none.
        """
        limit = max(1, min(limit, MOST))
        conn_ids, after = self._from(token)
        found: list[LaneSummary] = []
        faults: list[str] = []
        for conn_id in conn_ids:
            if len(found) > limit:
                break
            try:
                with open_insights(conn_id) as insights:
                    # One more than fits says whether there is a next page.
                    most = limit + 1 - len(found)
                    found += insights.pipelines(search, after, most, complete=complete)
            except CheckpointEtlError as error:
                faults.append(f"{conn_id}: {error}")
            after = None
        more = len(found) > limit
        return Page(tuple(found[:limit]), _token(found[limit - 1]) if more else None, tuple(faults))

    def of_run(self, dag_id: str, run_id: str) -> Page[LaneOfRun]:
        """Return what a DAG run did on each of its lanes, warehouse by warehouse."""
        found: list[LaneOfRun] = []
        faults: list[str] = []
        for conn_id in self.conn_ids:
            try:
                with open_insights(conn_id) as insights:
                    found += insights.of_run(dag_id, run_id)
            except CheckpointEtlError as error:
                faults.append(f"{conn_id}: {error}")
        return Page(tuple(found), None, tuple(faults))

    @contextlib.contextmanager
    def holding(self, lane: Lane, conn_id: str | None = None) -> Iterator[Insights]:
        """Give the read model of the warehouse that holds a lane, until the block ends.

        Args:
            lane: the lane.
            conn_id: the warehouse; left out: the first configured one that knows the lane.

        Raises:
            PreflightError: no warehouse knows the lane.
            CheckpointEtlError: a warehouse cannot be read, and no other knows the lane.
        """
        faults: list[str] = []
        with contextlib.ExitStack() as stack:
            for candidate in [conn_id] if conn_id else self.conn_ids:
                try:
                    with contextlib.ExitStack() as attempt:
                        insights = attempt.enter_context(open_insights(candidate))
                        if insights.knows(lane):
                            stack.enter_context(attempt.pop_all())
                            break
                except CheckpointEtlError as error:
                    faults.append(f"{candidate}: {error}")
            else:
                looked = ", ".join([conn_id] if conn_id else self.conn_ids)
                message = f"{lane} has no checkpoint in any warehouse looked into ({looked})"
                if faults:
                    message += f"; not readable: {'; '.join(faults)}"
                message += "; check the pipeline's id and its part (airflow checkpoints list)"
                raise PreflightError(message)
            yield insights

    @contextlib.contextmanager
    def admin(
        self, lane: Lane, *, actor: str, reason: str, conn_id: str | None = None
    ) -> Iterator[Admin]:
        """Give the commands over one lane, from what its warehouse knows of the pipeline.

        Args:
            lane: the lane.
            actor: who acts, for the audit.
            reason: why, for the audit.
            conn_id: the warehouse; left out: the first configured one that knows the lane.

        Raises:
            PreflightError: no warehouse knows the lane, or its extract has never run.
        """
        import psycopg  # noqa: PLC0415

        from airflow_checkpoint_etl.admin import Admin  # noqa: PLC0415

        with self.holding(lane, conn_id) as insights:
            settings = insights.settings(lane)
            pipeline = stored_pipeline(lane, settings, insights.warehouse_conn_id)
        ports = _ports(pipeline)
        try:
            warehouse = cast("PostgresWarehouseAdapter", ports.warehouse)
            yield Admin(ports, warehouse.admin, lane, actor=actor, reason=reason)
        except psycopg.Error as error:
            raise _translated(error, pipeline.warehouse.conn_id) from None
        finally:
            ports.close()

    def _from(self, token: str | None) -> tuple[tuple[str, ...], Lane | None]:
        """Where a page begins: in which warehouse, after which lane."""
        if token is None:
            return self.conn_ids, None
        try:
            conn_id, pipeline, part = json.loads(token)
            return self.conn_ids[self.conn_ids.index(conn_id) :], Lane(str(pipeline), str(part))
        except (ValueError, TypeError):
            msg = "token"
            raise invalid(msg, token, "is no next_token of a page", "begin anew without") from None


def _token(last: LaneSummary) -> str:
    return json.dumps([last.warehouse_conn_id, last.pipeline, last.part])


def stored_pipeline(
    lane: Lane, settings: Mapping[str, Any] | None, warehouse_conn_id: str
) -> Pipeline:
    """Return the pipeline as far as the commands need it, from what its extract wrote down.

    The ledger is in the warehouse it was found in, whatever the connection was called then.

    Raises:
        PreflightError: its extract has never run.
    """
    if not settings:
        message = (
            f"{lane} has not written down what its pipeline is; let its extract run once, or act from "
            "Python with CheckpointHook(pipeline).admin(...)"
        )
        raise PreflightError(message)
    source = settings["source"]
    cursor = tuple(settings["cursor"])
    is_query = source == "query"
    stores_in = settings["checkpoint_conn_id"]
    if stores_in == settings["warehouse_conn_id"]:
        stores_in = None  # the warehouse's own
    return Pipeline(
        pipeline_id=lane.pipeline,
        source=PostgresSource(
            conn_id=settings["source_conn_id"],
            table=None if is_query else source,
            query="select" if is_query else None,
            cursor=cursor,
            columns=cursor,
            unique=True,
            settle="none",
        ),
        warehouse=PostgresWarehouse(
            conn_id=warehouse_conn_id,
            table=settings["target"],
            write=settings["write"],
            key=tuple(settings["key"]),
            lineage=settings.get("lineage", "auto"),
        ),
        checkpoint_conn_id=stores_in,
        staging=settings["staging"],
        staging_conn_id=settings.get("staging_conn_id"),
        staging_grace=settings.get("staging_grace", 900.0),
    )


class _NoSource:
    """Stands where the source is: no command reads it, and it need not be reachable."""

    def cancel(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing is open."""


def _ports(pipeline: Pipeline) -> Ports:
    """The ports that commands use: all but the source."""
    from airflow_checkpoint_etl.warehouses.postgres import (  # noqa: PLC0415
        PostgresWarehouseAdapter,
    )

    checkpoints, staging = CheckpointHook(pipeline).store_and_staging()
    connect = postgres_connector("warehouse_conn_ids", pipeline.warehouse.conn_id)
    return Ports(
        source=cast("Source", _NoSource()),
        staging=staging,
        checkpoints=checkpoints,
        warehouse=PostgresWarehouseAdapter(
            pipeline.warehouse, connect, pipeline.source.cursor_columns
        ),
    )


def _translated(error: psycopg.Error, conn_id: str) -> CheckpointEtlError:
    """Return this package's error for one of psycopg's, without the values it may quote."""
    import psycopg  # noqa: PLC0415

    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        message = (
            f"the role of connection {conn_id!r} is refused ({error.diag.message_primary}); grant it USAGE "
            "on schema checkpoint_etl and SELECT on its tables, and for commands INSERT, UPDATE and DELETE"
        )
        return MissingPrivilegeError(message)
    if error.sqlstate is None:  # of the connection; it names host and user, never the password
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return CheckpointEtlError(lines[0])
    message = f"the database behind {conn_id!r} failed with {error.sqlstate} {type(error).__name__}"
    return CheckpointEtlError(message)


def newest_in_source(settings: Mapping[str, Any]) -> str:
    """Ask a lane's source for its newest id, canonical cursor text; a filter is not looked at.

    Raises:
        PreflightError: the source is a query, whose text is not kept.
        CheckpointEtlError: the source cannot be read.
    """
    import psycopg  # noqa: PLC0415

    from airflow_checkpoint_etl.sources.postgres import PostgresReader  # noqa: PLC0415

    if settings.get("source") == "query":
        message = "the source is a query, whose text is not kept; ask it yourself"
        raise PreflightError(message)
    source = stored_pipeline(Lane("any"), settings, settings["warehouse_conn_id"]).source
    reader = PostgresReader(source, postgres_connector("source.conn_id", source.conn_id))
    try:
        return reader.newest()
    except psycopg.Error as error:
        raise _translated(error, source.conn_id) from None
    finally:
        reader.close()


def _store(settings: Mapping[str, Any]) -> CheckpointStore:
    return open_store(settings["checkpoint_conn_id"])
