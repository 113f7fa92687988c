"""Every metric, through Airflow's own statsd client, as a listener on a UDP port hears it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_checkpoint_etl.observability.metrics import METRICS
from tests.statsd import StatsdListener

ROOT = Path(__file__).resolve().parents[2]
LETTERS = {"counter": "c", "gauge": "g", "timer": "ms"}
COUNTED = {"fenced": 1, "busy": 1, "quarantined": 3}
SEND = """
from airflow_checkpoint_etl.observability.metrics import MetricsObserver
from tests.observers import one_of_each

observer = MetricsObserver({"dag_id": "orders", "task_id": "load"})
for event in one_of_each():
    observer.notice(event)
"""


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """What arrives, by the metric's name."""
    with StatsdListener() as listener:
        environment = listener.environment | {
            "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home")),
            "PYTHONPATH": str(ROOT),
        }
        subprocess.run(
            [sys.executable, "-c", SEND], env=os.environ | environment, check=True, timeout=120
        )
        return {sent.name: sent for sent in listener.heard()}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_arrives_as_the_kind_it_is_listed_as(heard, metric):
    sent = heard[metric.name]
    assert sent.kind == LETTERS[metric.kind]
    assert set(sent.tags) == {"dag_id", "task_id", "pipeline", "part", "stage"} | set(metric.tags)
    assert (sent.tags["pipeline"], sent.tags["part"]) == ("orders", "eu")


def test_fenced_and_busy_attempts_and_quarantined_records_are_counted(heard):
    counts = {name: heard[f"checkpoint_etl.{name}"].value for name in COUNTED}
    assert counts == COUNTED
