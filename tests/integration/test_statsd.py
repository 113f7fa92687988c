"""Every metric, through Airflow's own statsd client, as a listener on a UDP port hears it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_checkpoint_etl.demo.servers import HOST
from airflow_checkpoint_etl.observability.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
LETTERS = {"counter": "c", "gauge": "g", "timer": "ms"}
SEND = """
from airflow_checkpoint_etl.observability.metrics import MetricsObserver
from tests.observers import one_of_each

observer = MetricsObserver({"dag_id": "orders", "task_id": "load"})
for event in one_of_each():
    observer.notice(event)
"""


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """The lines that arrive, by the metric's name: its value, its kind and its tags."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((HOST, 0))
        statsd = {
            "STATSD_ON": "True",
            "STATSD_HOST": HOST,
            "STATSD_PORT": str(listener.getsockname()[1]),
            "STATSD_INFLUXDB_ENABLED": "True",
        }
        environment = {f"AIRFLOW__METRICS__{name}": value for name, value in statsd.items()}
        environment |= {
            "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home")),
            "PYTHONPATH": str(ROOT),
        }
        subprocess.run(
            [sys.executable, "-c", SEND], env=os.environ | environment, check=True, timeout=120
        )
        listener.setblocking(False)
        lines = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines += listener.recv(65536).decode().splitlines()
    found = {}
    for line in lines:
        ours = re.fullmatch(r"airflow\.(checkpoint_etl[^,:]+),([^:]+):([^|]+)\|(\w+)", line)
        if ours is not None:
            tags = dict(pair.split("=") for pair in ours[2].split(","))
            found[ours[1]] = (float(ours[3]), ours[4], tags)
    return found


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_arrives_as_the_kind_it_is_listed_as(heard, metric):
    _, kind, tags = heard[metric.name]
    assert kind == LETTERS[metric.kind]
    own = {"dag_id", "task_id", "pipeline", "part", "stage"} | set(metric.tags)
    assert set(tags) == own
    assert (tags["pipeline"], tags["part"]) == ("orders", "eu")


def test_fenced_and_busy_attempts_and_quarantined_records_are_counted(heard):
    assert [heard[f"checkpoint_etl.{name}"][0] for name in ("fenced", "busy", "quarantined")] == [
        1,
        1,
        3,
    ]
