"""Spans, in OpenTelemetry's own memory exporter."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from airflow_checkpoint_etl.observability.spans import SpanObserver
from airflow_checkpoint_etl.observer import Background
from airflow_checkpoint_etl.protocol import Stage
from tests.observers import began, chunk_done, failed, finished, waited


@pytest.fixture
def exporter(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def test_a_chunk_is_a_span_under_the_tasks_with_the_time_it_took(exporter):
    done = chunk_done(seq=7, seconds=0.25, rejected=2)
    with trace.get_tracer("airflow").start_as_current_span("worker.load") as task:
        observer = SpanObserver()
        observer.notice(began())
        observer.notice(done)
        observer.notice(finished())
    chunk, parent = exporter.get_finished_spans()
    assert (chunk.name, parent.name) == ("load chunk", "worker.load")
    assert chunk.parent.span_id == task.get_span_context().span_id
    assert chunk.end_time == done.at
    assert chunk.end_time - chunk.start_time == 250_000_000
    assert chunk.attributes["checkpoint_etl.chunk"] == 7
    assert chunk.attributes["checkpoint_etl.high"] == "100"
    assert chunk.attributes["checkpoint_etl.rejected"] == 2
    assert parent.attributes["checkpoint_etl.pipeline"] == "orders"
    assert parent.attributes["checkpoint_etl.part"] == "eu"
    assert parent.attributes["checkpoint_etl.rows"] == 990


def test_a_span_made_in_another_thread_is_still_under_the_tasks(exporter):
    with trace.get_tracer("airflow").start_as_current_span("worker.load") as task:
        observer = Background(SpanObserver())
        observer.notice(chunk_done())
        observer.close()
    chunk = exporter.get_finished_spans()[0]
    assert chunk.parent.span_id == task.get_span_context().span_id


def test_waiting_is_a_span_and_a_failure_is_said_on_the_tasks(exporter):
    with trace.get_tracer("airflow").start_as_current_span("worker.extract"):
        observer = SpanObserver()
        observer.notice(waited(seconds=2.0))
        observer.notice(failed("SettleTimeoutError"))
    wait, task = exporter.get_finished_spans()
    assert wait.name == "extract wait"
    assert wait.end_time - wait.start_time == 2_000_000_000
    assert task.attributes["checkpoint_etl.error"] == "SettleTimeoutError"
    assert task.attributes["checkpoint_etl.fenced"] is False


def test_without_an_sdk_nothing_happens():
    observer = SpanObserver()
    observer.notice(began(Stage.EXTRACT))
    observer.notice(chunk_done())
    observer.notice(finished())
    assert not trace.get_current_span().is_recording()
