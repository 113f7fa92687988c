"""The parts of the benchmark harness that only compute, and the relay that counts round trips."""

from __future__ import annotations

import socket
import socketserver
import threading

import pytest

from benchmarks import cases, report, transfer
from benchmarks.relay import HOST, Relay
from benchmarks.result import Median, Result
from benchmarks.scale import capacity
from benchmarks.table import Verdict

MEASURED = capacity.Constants(
    rows_a_second=100_000.0,
    warehouse_rows_a_second=200_000.0,
    row_bytes=282.0,
    staged_bytes=100.0,
    wal_bytes=350.0,
    chunk_wal_bytes=5_000.0,
    ledger_bytes=600.0,
    redis_bytes=1_500.0,
    redis_round_trips=7.0,
    connections=2.0,
    load_ms=5.0,
)


def result(name="way", seconds=2.0, exact=True):
    verdict = Verdict(exact=exact, rows=100, words="" if exact else "values changed in score")
    return Result(name, "how", 100, seconds, cpu_seconds=1.0, peak_bytes=10, verdict=verdict)


def test_demand_is_what_the_workers_ask_for_in_their_time():
    asked = capacity.demand(10**10, 10, MEASURED)
    assert asked.rows_a_second == 1_000_000
    assert asked.hours == pytest.approx(10_000 / 3600)
    assert asked.chunks_a_second == 10
    assert asked.checkpoint_writes == 30
    assert asked.ledger_bytes == 10**10 / capacity.CHUNK_ROWS * 600
    assert asked.wal_bytes == 1_000_000 * 350 + 10 * 5_000
    assert asked.warehouses == 5
    twice = capacity.demand(10**10, 20, MEASURED)
    assert twice.hours == asked.hours / 2
    assert twice.connections == 2 * asked.connections


def test_the_manifest_holds_no_more_than_the_grace_period_or_the_whole_load():
    long = capacity.demand(10**10, 10, MEASURED)
    assert long.redis_bytes == 10 * 900 * 1_500
    short = capacity.demand(10**8, 1000, MEASURED)
    assert short.redis_bytes == 1000 * 1_500


def test_one_inexact_repetition_makes_the_way_inexact():
    median = Median.of([result(seconds=3.0), result(exact=False, seconds=1.0), result()])
    assert median.seconds == 2.0
    assert median.spread == (1.0, 3.0)
    assert report.content_words(median) == "**not the source's**: values changed in score"
    assert Median.from_json(median.as_json()) == median


def test_a_way_that_fails_is_named_and_the_others_are_measured():
    def failing(bench, rows):
        raise LookupError(bench)

    ways = [
        transfer.Way("bad", "how", "peer", 100, failing),
        transfer.Way("good", "how", "peer", 100, lambda bench, rows: result("good")),
    ]
    found, said = transfer.Transfer(), []
    done = transfer.measure(
        None, ways, 2, found, lambda way, number, outcome: said.append((way.name, number)), 60.0
    )
    assert done == 2
    assert said == [("bad", 1), ("good", 1), ("good", 2)]
    raw = found.as_json()
    assert [one["name"] for one in raw["medians"]] == ["good"]
    assert report.failures_list(raw) == "* bad (how): failed: LookupError: None."


def test_no_repetition_is_begun_that_would_end_too_late(monkeypatch):
    clock = iter([0.0, 0.0, 50.0, 100.0])
    monkeypatch.setattr(transfer.time, "monotonic", lambda: next(clock))
    ways = [transfer.Way("good", "how", "peer", 100, lambda bench, rows: result("good"))]
    found = transfer.Transfer()
    assert transfer.measure(None, ways, 3, found, lambda *_: None, 120.0) == 2
    assert len(found.results["good"]) == 2


def test_what_the_version_lacks_is_said():
    assert cases.lacks("CheckpointTransformOperator", "python_callable")() == ""
    assert "has no telepathy" in cases.lacks("CheckpointTransformOperator", "telepathy")()
    assert cases.lacks("CheckpointOracle")() == "this version has no CheckpointOracle"
    assert "has no telepathy" in cases.lacks("Pipeline", "staging", "telepathy")()


def test_case_names_are_unique():
    names = [case.name for case in cases.CASES] + [peer.name for peer in transfer.PEERS]
    assert len(names) == len(set(names))


def test_a_table_sets_numbers_to_the_right():
    table = report.markdown_table(("way", "s"), [("a|b", "1.5"), ("c", "-")])
    assert table.splitlines() == ["| way | s |", "| --- | ---: |", "| a/b | 1.5 |", "| c | - |"]


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


def test_the_relay_counts_how_often_a_client_spoke_after_an_answer():
    with socketserver.ThreadingTCPServer((HOST, 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Relay(server.server_address[1]) as relay:
            with (
                socket.create_connection((HOST, relay.port)) as client,
                client.makefile("rb") as answers,
            ):
                for _ in range(5):
                    client.sendall(b"ask\n")
                    assert answers.readline() == b"ask\n"
            assert (relay.round_trips, relay.connections) == (5, 1)
        server.shutdown()
