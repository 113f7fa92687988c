"""What a chunk costs beside its rows: milliseconds, statements and round trips.

Statements and round trips are slopes: the chain moves rows in few chunks and in more, and the difference is
divided by the number of chunks between. So what a task does once is not in them.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import psycopg

from benchmarks import chain, table
from benchmarks.cases import Case, three_stages
from benchmarks.measure import measured
from benchmarks.relay import Relay
from benchmarks.scale import prefill

if TYPE_CHECKING:
    from benchmarks.servers import Bench

ROWS: Final = 2000
FEW: Final = 10
MORE: Final = 50
LANES: Final = 10
CHUNKS: Final = 40
STORES: Final = ("redis", "postgres")


def milliseconds(bench: Bench) -> dict[str, dict[str, float]]:
    """Median milliseconds of the protocol's steps, by the store of the checkpoints."""
    found = {}
    prefill.prepare(bench.warehouse)
    for store in STORES:
        bench.clear()
        prefill.prepare(bench.warehouse)
        prefill.stand(bench.warehouse, LANES, 0)
        taken = measured(
            "benchmarks.scale.drive:run",
            {
                "warehouse": bench.warehouse,
                "checkpoints": bench.checkpoints if store == "postgres" else None,
                "redis_port": bench.valkey.port,
                "lanes": list(range(LANES)),
                "chunks": CHUNKS,
                "run_id": "overhead",
                "seconds": 60.0,
            },
        ).value
        found[store] = {name: statistics.median(values) for name, values in taken.items()}
    return found


def wire(bench: Bench) -> dict[str, dict[str, dict[str, float]]]:
    """Statements and round trips of a chunk, by the store of the checkpoints and by server."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    table.create_source(bench.source, ROWS)
    for store in STORES:
        few, more = (_counts(bench, store, chunks) for chunks in (FEW, MORE))
        connections = few.pop("connections")
        found[store] = {
            what: {name: (more[what][name] - few[what][name]) / (MORE - FEW) for name in few[what]}
            for what in few
        }
        found[store]["connections"] = connections
    return found


def _counts(bench: Bench, store: str, chunks: int) -> dict[str, dict[str, float]]:
    """Move the rows in so many chunks through relays; return what each server was asked."""
    options: dict[str, Any] = {"source": {"chunk_rows": ROWS // chunks}}
    options["checkpoint_conn_id"] = "redis" if store == "redis" else "checkpoints"
    case = Case("overhead", "", three_stages(), options)
    with psycopg.connect(bench.postgres.dsn(), autocommit=True) as connection:
        connection.execute("select pg_stat_statements_reset()")
    with contextlib.ExitStack() as stack:
        relays = {
            name: stack.enter_context(Relay(port))
            for name, port in (
                ("shop", bench.postgres.port),
                ("dwh", bench.postgres.port),
                ("checkpoints", bench.postgres.port),
                ("redis", bench.valkey.port),
            )
        }
        ports = {name: relay.port for name, relay in relays.items()}
        chain.run(replace(bench, relays=ports), case, ROWS)
        return {
            "round trips": {name: float(relay.round_trips) for name, relay in relays.items()},
            "connections": {name: float(relay.connections) for name, relay in relays.items()},
            "statements": _statements(bench),
        }


def _statements(bench: Bench) -> dict[str, float]:
    """Statements by database since the counters were reset."""
    with psycopg.connect(bench.postgres.dsn()) as connection:
        return {
            str(name): float(calls)
            for name, calls in connection.execute(
                "select datname, coalesce(sum(calls), 0) from pg_database "
                "left join pg_stat_statements on dbid = pg_database.oid "
                "where datname in ('shop', 'dwh', 'checkpoints') group by datname"
            )
        }
