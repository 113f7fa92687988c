"""What a stage of a group that runs at once waits with when there is nothing to do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_checkpoint_etl.following import Upstream, is_let_go, is_worth_waking
from airflow_checkpoint_etl.hooks.following import Place, bytes_waiting, new_chunks
from airflow_checkpoint_etl.operators.following import Neighbours

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FollowTrigger(BaseTrigger):
    """Fires when a deferred stage is worth resuming.

    One that waits for the stage before: when that one has ended, has several new chunks, or has had one
    for a while. One that holds back: when the load has caught up, or nobody follows any more. One that
    cannot look: at once, so that the task itself meets what is wrong.

    Args:
        place: the fields of a :class:`~airflow_checkpoint_etl.hooks.following.Place`.
        neighbours: the fields of a :class:`~airflow_checkpoint_etl.operators.following.Neighbours`.
        holding: whether it holds back.
        share: the bytes that the stage may have waiting.
        poll_seconds: seconds between two looks.
    """

    def __init__(
        self,
        place: dict[str, Any],
        neighbours: dict[str, Any],
        share: int,
        poll_seconds: float = 5.0,
        *,
        holding: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.place, self.neighbours = place, neighbours
        self.share, self.poll_seconds, self.holding = share, poll_seconds, holding

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and arguments to make this trigger again."""
        return (
            "airflow_checkpoint_etl.triggers.following.FollowTrigger",
            {
                "place": self.place,
                # A tuple would not come back as one.
                "neighbours": self.neighbours | {"after": list(self.neighbours["after"])},
                "share": self.share,
                "poll_seconds": self.poll_seconds,
                "holding": self.holding,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until there is something to do."""
        look = sync_to_async(
            self._is_let_go if self.holding else self._is_waking, thread_sensitive=False
        )
        self._seen: float | None = None
        # Not at once: see StageFreeTrigger.
        await asyncio.sleep(self.poll_seconds)
        reason = "seen"
        try:
            while not await look():  # noqa: ASYNC110  the stores send no event
                await asyncio.sleep(self.poll_seconds)
        except Exception as error:  # noqa: BLE001  the task meets it as well, and says it better
            reason = type(error).__name__
            self.log.warning("looking failed (%s); resuming the task", reason)
        yield TriggerEvent({"reason": reason})

    def _is_waking(self) -> bool:
        neighbours = Neighbours(**self.neighbours)
        if (
            neighbours.before is None
            or neighbours.state_of(neighbours.before) is not Upstream.WORKING
        ):
            return True
        new, now = new_chunks(Place(**self.place)), time.monotonic()
        if not new:
            self._seen = None
        elif self._seen is None:
            self._seen = now
        return is_worth_waking(new, now - (self._seen if self._seen is not None else now))

    def _is_let_go(self) -> bool:
        waiting = bytes_waiting(Place(**self.place))
        return is_let_go(waiting, self.share) or not Neighbours(**self.neighbours).is_followed()
