"""No history of writers, tries, crashes, clears, losses and restarts loses or doubles a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from airflow_checkpoint_etl.demo.servers import PostgresServer
from tests import figures
from tests.chaos.harness_arena import COUNT
from tests.chaos.machine_kinds import Appending, Sweeping, Upserting
from tests.chaos.machine_rig import Rig, clock_without_margin

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMON = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
    verbosity=Verbosity.normal,
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own, because they restart it."""
    quiet = {
        "fsync": "off",
        "shared_buffers": "32MB",
        "autovacuum": "off",
        "max_prepared_transactions": "20",
        "checkpoint_timeout": "1h",
    }
    with PostgresServer(settings=quiet) as started:
        yield started


@pytest.fixture(params=["redis", "postgres"])
def rig(request, server, valkey_server, tmp_path):
    name = tmp_path.name.replace("-", "_")[:40]
    made = Rig(
        server,
        server.create_database(f"source_{name}"),
        server.create_database(f"warehouse_{name}"),
        valkey_server.port if request.param == "redis" else None,
    )
    yield made
    made.connections.close()
    print("\n", dict(sorted(made.counts.items())))  # noqa: T201  shown with -s or on failure
    tell(made.counts)


TOLD = (
    "stores lost",
    "overtaken",
    "rewinds",
    "rewinds during a stage",
    "rewinds refused",
    "reprocesses",
    "resyncs",
    "restarts",
    "pauses of settle",
)


def tell(counts):
    """Sum up what happened in the histories."""
    figures.noted("histories", counts["examples"])
    figures.noted("tries", sum(n for what, n in counts.items() if ": " in what))
    figures.injected("kills", sum(n for what, n in counts.items() if "FailpointError" in what))
    for what in TOLD:
        figures.injected(what, counts[what])


def explore(kind, rig, chosen, number):
    """Run the machine; other seeds on the other store, so that both see other histories."""
    machine = type(kind.__name__, (kind,), {"rig": rig})
    store = "postgres" if rig.redis_port is None else "redis"
    with clock_without_margin():
        run_state_machine_as_test(seed(f"{store} {number}")(machine), settings=chosen)


@pytest.mark.parametrize("kind", [Appending, Upserting, Sweeping])
def test_every_short_history_ends_exact(kind, rig):
    chosen = settings(COMMON, derandomize=True, max_examples=5, stateful_step_count=20)
    explore(kind, rig, chosen, 0)
    assert rig.counts["examples"] >= 5


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [1])
@pytest.mark.parametrize("kind", [Appending, Upserting, Sweeping])
def test_every_long_history_ends_exact(kind, rig, number):
    phases = (Phase.generate, Phase.shrink)
    chosen = settings(COMMON, max_examples=20 * COUNT, stateful_step_count=40, phases=phases)
    figures.seeded(number)
    explore(kind, rig, chosen, number)
    assert rig.counts["examples"] >= 20 * COUNT
