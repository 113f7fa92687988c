"""The peers: a table. How each is used is in its own file beside this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.peer import Candidate, Peer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.servers import Bench


def _servers(bench: Bench, rows: int) -> Mapping[str, Any]:
    return {
        "source": bench.source,
        "target": bench.warehouse,
        "redis_port": bench.valkey.port,
        "rows": rows,
    }


def _rows(_: Bench, rows: int) -> Mapping[str, Any]:
    return {"rows": rows}


def _uris(bench: Bench, rows: int) -> Mapping[str, Any]:
    return {"source": bench.uri("shop"), "target": bench.uri("dwh"), "rows": rows}


NEWER_DOWNLOADS: Final = "newer ones download a binary from outside PyPI when they first run"

PEERS: Final = (
    Peer(
        name="by hand, JSON in Redis",
        words="SELECT .. id > last LIMIT 10,000; JSON in Redis; map; JSON in Redis; executemany",
        function="benchmarks.peers.naive:run",
        arguments=_servers,
        share=0.025,
    ),
    Peer(
        name="by hand, PostgresHook",
        words="get_records of id > last LIMIT 10,000; insert_rows",
        function="benchmarks.peers.keyset:run",
        arguments=_rows,
        share=0.025,
    ),
    Peer(
        name="GenericTransfer",
        words="Airflow's operator, ORDER BY id, page_size=10,000",
        function="benchmarks.peers.generic_transfer:run",
        arguments=_rows,
        share=0.025,
    ),
    Peer(
        name="dlt",
        words="sql_database, backend pyarrow, CSV files; its own table without primary key",
        function="benchmarks.peers.dlt:run",
        arguments=_uris,
        share=0.05,
        candidates=(Candidate(("dlt[postgres,sql-database]", "pyarrow", "psycopg[binary]")),),
        probe=("dlt", "--version"),
        target="dlt_peer.events",
    ),
    Peer(
        name="ingestr",
        words="ingestr ingest; its own table without primary key",
        function="benchmarks.peers.ingestr:run",
        arguments=_uris,
        share=0.1,
        candidates=(
            Candidate(("ingestr",)),
            Candidate(("ingestr==0.15.9",), NEWER_DOWNLOADS),
        ),
        probe=("ingestr", "--version"),
        target="public.ingestr_peer",
    ),
    Peer(
        name="sling",
        words="sling run --mode full-refresh; its own table without primary key",
        function="benchmarks.peers.sling:run",
        arguments=_uris,
        share=0.1,
        candidates=(
            Candidate(("sling",)),
            Candidate(("sling-linux-amd64==1.4.11",), NEWER_DOWNLOADS),
        ),
        probe=("python", "-m", "benchmarks.peers.sling"),
        target="public.sling_peer",
    ),
)
