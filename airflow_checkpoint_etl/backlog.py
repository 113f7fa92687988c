"""Back-pressure: extract and transform hold back while too many of their bytes wait to be loaded."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.errors import StageWaitingError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.following import is_held, waiting_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_checkpoint_etl.following import Following
    from airflow_checkpoint_etl.ports import Claim, Warehouse
    from airflow_checkpoint_etl.protocol import Chunk

log = logging.getLogger(__name__)


class Backlog:
    """The chunks that one attempt knows to be staged and not loaded; without followers it holds nothing.

    Args:
        warehouse: says what is loaded.
        claim: the stage's claim.
        following: how the attempt works beside the others; None: nobody follows.
        pause: waits some seconds, and raises when the attempt is to end.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        claim: Claim,
        following: Following | None,
        pause: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warehouse, self._claim, self._following = warehouse, claim, following
        self._pause, self._clock = pause, clock
        self._staged: dict[int, Chunk] = {}

    def restart(self, kept: Iterable[Chunk]) -> None:
        """Begin with the chunks of earlier attempts that are kept."""
        self._staged = {chunk.seq: chunk for chunk in kept}

    def add(self, chunk: Chunk) -> None:
        """Count a chunk that was staged."""
        self._staged[chunk.seq] = chunk

    def wait(self) -> None:
        """Return when one more chunk may be staged.

        Raises:
            StageWaitingError: not for a while; the attempt gives its worker slot back.
        """
        following, claim = self._following, self._claim
        if following is None:
            return
        started: float | None = None
        while is_held(waiting_bytes(self._staged.values(), 0), following.share):
            self._forget_loaded()
            waiting = waiting_bytes(self._staged.values(), 0)
            if not is_held(waiting, following.share) or not following.is_followed():
                return
            failpoint(f"{claim.stage}.before_hold")
            if started is None:
                started = self._clock()
            if self._clock() - started >= following.patience:
                message = (
                    f"{claim.stage} of {claim.lane} has staged {waiting:,} bytes that are not "
                    f"loaded yet (max_staged_bytes={following.staged_bytes:,}, half of it for each of "
                    "extract and transform); it goes on when the load has caught up"
                )
                raise StageWaitingError(message, holding=True)
            self._pause(following.poll)
        if started is not None:
            log.info("%s %s: the load has caught up", claim.stage, claim.lane)

    def _forget_loaded(self) -> None:
        state = self._warehouse.lane(self._claim.lane)
        if state is None or state.frontier.incarnation != self._claim.incarnation:
            self._staged.clear()  # dead; the next append says so
            return
        loaded = state.frontier.seq
        self._staged = {seq: chunk for seq, chunk in self._staged.items() if seq > loaded}
