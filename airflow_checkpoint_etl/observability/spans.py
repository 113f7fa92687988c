"""A span per chunk under the task's own span; without an OpenTelemetry SDK they cost and do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as spans_context
from opentelemetry import trace

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.observer import Began, ChunkDone, Failed, Finished, Waited

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from airflow_checkpoint_etl.observer import Event

NAMESPACE: Final = "checkpoint_etl"
_NANOSECONDS: Final = 1_000_000_000


class SpanObserver:
    """Makes a span of every chunk and of every wait, under the span that is current when it is made.

    Spans are made when their work is over, with the times it had: the load neither waits for them nor
    runs inside them, so it may be observed from another thread.
    """

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("airflow_checkpoint_etl")
        self._parent = spans_context.get_current()
        self._task = trace.get_current_span(self._parent)

    def notice(self, event: Event) -> None:
        """Make a span of a chunk or a wait; say the rest on the task's span."""
        match event:
            case ChunkDone():
                chunk = event.chunk
                self._span(
                    f"{event.stage} chunk",
                    event,
                    event.seconds,
                    {
                        "chunk": chunk.seq,
                        "low": cursors.display(chunk.low),
                        "high": cursors.display(chunk.high),
                        "rows_in": chunk.rows_in,
                        "rows": event.rows,
                        "rejected": event.rejected,
                        "bytes": chunk.size,
                    },
                )
            case Waited():
                self._span(f"{event.stage} wait", event, event.seconds, {"on": event.on})
            case Began():
                began: dict[str, AttributeValue] = {
                    "first": cursors.display(event.first),
                    "target": cursors.display(event.target),
                    "kept_chunks": event.kept,
                    "generation": event.generation,
                }
                self._task.set_attributes(_named(began | _where(event)))
            case Finished():
                summary = event.summary
                self._task.set_attributes(
                    _named({"chunks": summary.chunks, "rows": summary.rows, "bytes": summary.size})
                )
            case Failed():
                self._task.set_attributes(_named({"error": event.error, "fenced": event.fenced}))

    def close(self) -> None:
        """Hold nothing: the task's span is Airflow's to end."""

    def _span(
        self, name: str, event: Event, seconds: float, attributes: dict[str, AttributeValue]
    ) -> None:
        span = self._tracer.start_span(
            name,
            context=self._parent,
            start_time=event.at - round(seconds * _NANOSECONDS),
            attributes=_named(_where(event) | attributes),
        )
        span.end(event.at)


def _where(event: Event) -> dict[str, AttributeValue]:
    return {
        "pipeline": event.lane.pipeline,
        "part": event.lane.part,
        "stage": event.stage.value,
    }


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"{NAMESPACE}.{name}": value for name, value in attributes.items()}
