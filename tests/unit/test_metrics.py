"""Metrics: what each event sends, and that documentation and dashboard name what is sent."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from airflow_checkpoint_etl.observability import metrics
from airflow_checkpoint_etl.observability.metrics import METRICS, MetricsObserver
from tests.observers import began, chunk_done, failed, one_of_each

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = {metric.name for metric in METRICS}


@pytest.fixture
def sent(monkeypatch):
    """What reaches Airflow's statistics: (kind, name, value, tags)."""
    lines = []

    class Stats:
        @staticmethod
        def incr(name, count=1, *, tags):
            lines.append(("counter", name, count, tags))

        @staticmethod
        def gauge(name, value, *, tags):
            lines.append(("gauge", name, value, tags))

        @staticmethod
        def timing(name, value, *, tags):
            lines.append(("timer", name, value, tags))

    monkeypatch.setattr(metrics, "Stats", Stats)
    return lines


def test_every_metric_is_sent_by_some_event_as_the_kind_it_is_listed_as(sent):
    observer = MetricsObserver({"dag_id": "d", "task_id": "t"})
    for event in one_of_each():
        observer.notice(event)
    assert {(kind, name) for kind, name, _, _ in sent} == {(m.kind, m.name) for m in METRICS}


def test_every_metric_has_the_tags_it_is_listed_with(sent):
    observer = MetricsObserver({"dag_id": "d", "task_id": "t"})
    for event in one_of_each():
        observer.notice(event)
    own = {metric.name: set(metric.tags) for metric in METRICS}
    for _, name, _, tags in sent:
        assert set(tags) == {"dag_id", "task_id", "pipeline", "part", "stage"} | own[name]
        assert tags["part"] == "eu"


def test_a_fenced_attempt_and_quarantined_records_are_counted(sent):
    observer = MetricsObserver({})
    observer.notice(chunk_done(rejected=3))
    observer.notice(failed("FencedError", fenced=True))
    counts = {name: count for kind, name, count, _ in sent if kind == "counter"}
    assert counts["checkpoint_etl.quarantined"] == 3
    assert counts["checkpoint_etl.fenced"] == 1


def test_nothing_is_sent_of_what_did_not_happen(sent):
    observer = MetricsObserver({})
    observer.notice(began(kept=0))
    observer.notice(chunk_done(share=None, rejected=0))
    names = {name for _, name, _, _ in sent}
    assert names.isdisjoint(
        {f"checkpoint_etl.{name}" for name in ("resumed_chunks", "quarantined", "progress")}
    )


def test_a_bound_that_promises_nothing_has_no_lag(sent):
    observer = MetricsObserver({})
    observer.notice(began(bound_age=None))
    observer.notice(chunk_done())
    assert "checkpoint_etl.lag" not in {name for _, name, _, _ in sent}


# --- what people read ------------------------------------------------------------------------------


def test_the_documentation_lists_every_metric_with_its_kind():
    text = (DOCS / "observability.md").read_text()
    listed = dict(re.findall(r"^\| `(checkpoint_etl\.[a-z_.]+)` \| (\w+) \|", text, re.MULTILINE))
    assert listed == {metric.name: metric.kind for metric in METRICS}


def queries(panel):
    return [target["expr"] for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((DOCS / "grafana" / "checkpoint-etl.json").read_text())


def exported(metric):
    """The names a Prometheus exporter of statsd makes of a metric."""
    name = "airflow_" + metric.name.replace(".", "_")
    return {name, f"{name}_sum", f"{name}_count"} if metric.kind == "timer" else {name}


def test_the_dashboard_draws_every_metric_and_no_other(dashboard):
    drawn = {
        name
        for panel in dashboard["panels"]
        for query in queries(panel)
        for name in re.findall(r"airflow_checkpoint_etl_\w+", query)
    }
    assert drawn <= set().union(*map(exported, METRICS))
    for metric in METRICS:
        assert drawn & exported(metric), metric.name


def test_a_panel_filters_by_pipeline_and_overlaps_no_other(dashboard):
    taken = set()
    for panel in dashboard["panels"]:
        for query in queries(panel):
            assert 'pipeline=~"$pipeline"' in query
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
