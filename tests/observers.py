"""Observers for tests, and events as a stage tells them."""

from __future__ import annotations

import time

from airflow_checkpoint_etl.observer import (
    Began,
    Busy,
    ChunkDone,
    Failed,
    Finished,
    Waited,
    Waiting,
)
from airflow_checkpoint_etl.progress import Summary
from airflow_checkpoint_etl.protocol import Chunk, Lane, Stage

LANE = Lane("orders", "eu")


class Recorder:
    """Keeps every event; ``then`` is called with each."""

    def __init__(self, then=None):
        self.events, self.then, self.closed = [], then, False

    def notice(self, event):
        self.events.append(event)
        if self.then is not None:
            self.then(event)

    def close(self):
        self.closed = True

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def where(stage=Stage.LOAD):
    return {"lane": LANE, "stage": stage, "at": time.time_ns()}


def chunk(seq=1, rows=100, size=5000, low="begin", high="i8:100", **changes):
    return Chunk(
        incarnation="life",
        seq=seq,
        low=low,
        high=high,
        rows_in=rows,
        rows=rows,
        name="file",
        size=size,
        digest="d",
        fence=1,
        **changes,
    )


def began(stage=Stage.LOAD, kept=0, bound_age=60.0):
    return Began(
        **where(stage),
        first="begin",
        target="i8:1000",
        kept=kept,
        generation=2,
        bound_age=bound_age,
    )


def chunk_done(stage=Stage.LOAD, rows=100, rejected=0, seconds=0.5, share=0.1, **changes):
    return ChunkDone(
        **where(stage),
        chunk=chunk(**changes),
        rows=rows,
        rejected=rejected,
        seconds=seconds,
        share=share,
    )


def waiting(on="settle"):
    return Waiting(**where(Stage.EXTRACT), on=on)


def waited(on="settle", seconds=2.0):
    return Waited(**where(Stage.EXTRACT), on=on, seconds=seconds)


def failed(error="TransformError", *, fenced=False):
    return Failed(**where(), error=error, fenced=fenced)


def finished(**changes):
    summary = {
        "pipeline": LANE.pipeline,
        "part": LANE.part,
        "stage": "load",
        "chunks": 3,
        "rows_in": 1000,
        "rows": 990,
        "first": "begin",
        "last": "i8:1000",
        "target": "i8:1000",
        "kept": 0,
        "seconds": 1.5,
        "size": 15_000,
    }
    return Finished(**where(), summary=Summary(**summary | changes))


def one_of_each():
    """Events that make every metric there is."""
    return [
        began(kept=2),
        chunk_done(rejected=3),
        waited(),
        Busy(**where()),
        failed(fenced=True),
        finished(),
    ]
