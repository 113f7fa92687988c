"""The progress that the Storage tab shows."""

from __future__ import annotations

from airflow_checkpoint_etl.observability.storage import KEY, StorageObserver
from tests.observers import began, chunk_done, failed, finished, waited, waiting


class Store:
    def __init__(self):
        self.written = []

    def set(self, key, value):
        assert key == KEY
        self.written.append(value)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_chunks_are_written_at_most_once_per_interval_and_ends_at_once():
    store, clock = Store(), Clock()
    observer = StorageObserver(store, 40.0, clock)
    observer.notice(began(kept=1))
    for seq in range(1, 101):
        clock.now += 1.0
        observer.notice(chunk_done(seq=seq))
    observer.notice(finished())
    assert len(store.written) == 1 + 2 + 1
    assert store.written[-1]["chunks"] == 100
    assert store.written[-1]["doing"] == "finished"
    assert store.written[-1]["kept_chunks"] == 1


def test_it_says_what_the_stage_does():
    store = Store()
    observer = StorageObserver(store, 5.0, Clock())
    for event in (waiting(), waited(), began(), failed(), failed(fenced=True)):
        observer.notice(event)
    assert [value["doing"] for value in store.written] == [
        "waiting (settle)",
        "working",
        "working",
        "failed",
        "taken over",
    ]


def test_what_was_written_is_not_changed_afterwards():
    store = Store()
    observer = StorageObserver(store, 0.0, Clock())
    observer.notice(began())
    observer.notice(chunk_done(seq=9))
    assert "chunk" not in store.written[0]
    assert store.written[1]["chunk"] == 9
