"""One piece of work ahead: the next chunk is read while the present one is written.

Bounded: one thread, and one piece of work that is under way or waiting to be taken. In order: what a piece
of work returned or raised comes out when it is asked for, and not before. And without consequence: a
piece of work that nobody asks for any more is waited for and dropped, with its error. So only reading is
done ahead; nothing that is done here moves a frontier.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

T = TypeVar("T")

_END = object()


@dataclass(frozen=True, slots=True)
class _Started(Generic[T]):
    """A piece of work, and what it was started for."""

    key: Hashable
    future: Future[T]


class Ahead(Generic[T]):
    """Does one piece of work ahead, until the ``with`` block ends.

    Args:
        name: the thread's name.
        interrupt: asks work that is under way to end soon, when the block is left by an exception.
    """

    def __init__(self, name: str, interrupt: Callable[[], object] | None = None) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._interrupt = interrupt
        self._started: _Started[T] | None = None

    def start(self, key: Hashable, work: Callable[[], T]) -> None:
        """Begin a piece of work; one that was begun before and not taken is dropped.

        Args:
            key: what the work is for; only who asks for this gets it.
            work: it is called once, in another thread.
        """
        self.discard()
        self._started = _Started(key, self._pool.submit(work))

    def take(self, key: Hashable, work: Callable[[], T]) -> T:
        """Return what was begun for this key, or do the work now; raises what the work raises.

        Work that was begun for another key is dropped.
        """
        started = self._started
        if started is None or started.key != key:
            self.discard()
            return work()
        try:
            return started.future.result()
        finally:
            # An exception that a signal handler raised while we waited leaves it under way.
            if started.future.done():
                self._started = None

    def discard(self) -> None:
        """Wait for what was begun and drop it, and its error."""
        started, self._started = self._started, None
        if started is not None and not started.future.cancel():
            started.future.exception()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        started = self._started
        if started is not None and error is not None and self._interrupt is not None:
            # A connection must not be closed under a statement that nobody waits for.
            self._interrupt()
        with contextlib.suppress(Exception):
            self.discard()
        self._pool.shutdown()


def one_ahead(items: Iterable[T], name: str) -> Iterator[T]:
    """Yield items that are made in another thread, one of them ahead; raises what making one raises."""
    making = iter(items)
    with Ahead[T | object](name) as ahead:
        number = 0

        def make() -> T | object:
            return next(making, _END)

        while True:
            item = ahead.take(number, make)
            if item is _END:
                return
            number += 1
            ahead.start(number, make)
            yield item  # type: ignore[misc]  # it is one of the items
