"""Runs a peer once and compares what arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from benchmarks import table
from benchmarks.measure import measured
from benchmarks.result import Result

if TYPE_CHECKING:
    from benchmarks.peers.peer import Installed, Peer
    from benchmarks.servers import Bench


def run(bench: Bench, peer: Peer, installed: Installed, rows: int) -> Result:
    """Move the first ``rows`` rows with a peer."""
    bench.clear()
    table.create_target(bench.warehouse)
    _drop(bench.warehouse, peer.target)
    taken = measured(
        peer.function, peer.arguments(bench, rows), bench.connections(), installed.python
    )
    expected = table.expected(bench.source, rows)
    return Result(
        name=peer.name,
        words=f"{peer.words} ({installed.note})" if installed.note else peer.words,
        rows=rows,
        seconds=taken.seconds,
        cpu_seconds=taken.cpu_seconds,
        peak_bytes=taken.peak_bytes,
        verdict=table.verify(bench.source, bench.warehouse, peer.target, expected),
    )


def _drop(dsn: str, target: str) -> None:
    """Remove the table that a peer made in an earlier repetition, and dlt's schemas with it."""
    if target == table.TARGET:
        return
    with psycopg.connect(dsn, autocommit=True) as connection:
        schema, name = target.split(".")
        if schema == "public":
            drop = sql.SQL("drop table if exists {}").format(sql.Identifier(schema, name))
            connection.execute(drop)
            return
        for one in (schema, f"{schema}_staging"):
            connection.execute(
                sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(one))
            )
