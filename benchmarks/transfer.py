"""The limit, the chain and the peers side by side: every way in turn, again and again."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from benchmarks import chain, limit, table
from benchmarks.cases import CASES
from benchmarks.measure import measured
from benchmarks.peers import run as peers
from benchmarks.peers.peer import NotInstalledError, install
from benchmarks.peers.registry import PEERS
from benchmarks.result import Failure, Median, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from benchmarks.cases import Case
    from benchmarks.peers.peer import Installed, Peer
    from benchmarks.servers import Bench

LIMIT: Final = "the limit"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to move the rows.

    Attributes:
        name: short.
        words: how it is used.
        group: ``limit``, ``chain`` or ``peer``.
        rows: how many rows it moves.
        run: moves them once.
    """

    name: str
    words: str
    group: str
    rows: int
    run: Callable[[Bench, int], Result]


@dataclass(slots=True)
class Transfer:
    """What was found: every result, and what could not be measured."""

    groups: dict[str, str] = field(default_factory=dict)
    results: dict[str, list[Result]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the medians, every single run, and the failures."""
        return {
            "groups": self.groups,
            "medians": [Median.of(results).as_json() for results in self.results.values()],
            "runs": {
                name: [one.as_json() for one in results] for name, results in self.results.items()
            },
            "failures": [asdict(one) for one in self.failures.values()],
        }


def ways(
    rows: int, names: Collection[str], transfer: Transfer, peer_folder: Path | None = None
) -> list[Way]:
    """Return what can be measured here; what cannot becomes a failure with its reason.

    Args:
        rows: rows of the table; slow ways move a share of them.
        names: only these; empty for all.
        transfer: takes the failures.
        peer_folder: where the peers' environments are kept.
    """
    found = [Way(LIMIT, "COPY .. BINARY piped into COPY .. BINARY", "limit", rows, _limit)]
    for case in CASES:
        if names and case.name not in names:
            continue
        if reason := case.missing():
            transfer.failures[case.name] = Failure(case.name, case.words, reason)
            continue
        found.append(Way(case.name, case.words, "chain", int(rows * case.share), _chain(case)))
    for peer in PEERS:
        if names and peer.name not in names:
            continue
        try:
            installed = install(peer, peer_folder)
        except NotInstalledError as error:
            reason = f"not installed: {error}"
            transfer.failures[peer.name] = Failure(peer.name, peer.words, reason)
            continue
        found.append(
            Way(peer.name, peer.words, "peer", int(rows * peer.share), _peer(peer, installed))
        )
    return found


def measure(
    bench: Bench,
    found: list[Way],
    repetitions: int,
    transfer: Transfer,
    say: Callable[[Way, int, Result | Failure], None],
    seconds: float,
) -> int:
    """Run every way ``repetitions`` times, each in turn, so that drift hits all of them alike.

    A way that fails is reported and not tried again. No repetition is begun that would not be over
    within ``seconds``, the first one apart. Returns how many there were.
    """
    started = time.monotonic()
    for repetition in range(1, repetitions + 1):
        passed = time.monotonic() - started
        if repetition > 1 and passed * repetition / (repetition - 1) > seconds:
            repetitions = repetition - 1
            break
        for way in found:
            if way.name in transfer.failures:
                continue
            outcome: Result | Failure
            try:
                outcome = result = way.run(bench, way.rows)
            except Exception as error:  # noqa: BLE001  the others are measured all the same
                reason = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
                outcome = transfer.failures[way.name] = Failure(way.name, way.words, reason)
            else:
                transfer.groups[way.name] = way.group
                transfer.results.setdefault(way.name, []).append(result)
            say(way, repetition, outcome)
    for name in transfer.failures:
        transfer.results.pop(name, None)
    return repetitions


def _limit(bench: Bench, rows: int) -> Result:
    bench.clear()
    table.create_target(bench.warehouse)
    taken = measured(
        "benchmarks.limit:copy_through_a_pipe",
        {
            "psql": limit.find_psql(),
            "source": bench.source,
            "target": bench.warehouse,
            "rows": rows,
        },
    )
    expected = table.expected(bench.source, rows)
    return Result(
        name=LIMIT,
        words="COPY .. BINARY piped into COPY .. BINARY",
        rows=rows,
        seconds=taken.seconds,
        cpu_seconds=taken.cpu_seconds,
        peak_bytes=taken.peak_bytes,
        verdict=table.verify(bench.source, bench.warehouse, table.TARGET, expected),
    )


def _chain(case: Case) -> Callable[[Bench, int], Result]:
    return lambda bench, rows: chain.run(bench, case, rows)


def _peer(peer: Peer, installed: Installed) -> Callable[[Bench, int], Result]:
    return lambda bench, rows: peers.run(bench, peer, installed, rows)
