"""Keeps a stage's lease alive from a second thread, and hears when a newer attempt took the stage.

The lease is for efficiency: it tells others that somebody works here. Safety never rests on it; the
fence in the load transaction decides.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import datetime as dt
    from types import TracebackType

    from airflow_checkpoint_etl.ports import Claim, Warehouse

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Extends a claim's lease three times per lease, until the block ends.

    Args:
        warehouse: where the lease is kept; its heartbeat uses a connection of its own.
        claim: the claim to keep.
        lease: how long each extension lasts.
    """

    def __init__(self, warehouse: Warehouse, claim: Claim, lease: dt.timedelta) -> None:
        self._warehouse, self._claim, self._lease = warehouse, claim, lease
        self._ending = threading.Event()
        self.lost = False
        self._thread = threading.Thread(
            target=self._run, name=f"lease-{claim.stage}-{claim.lane}", daemon=True
        )

    def _run(self) -> None:
        while not self._ending.wait(self._lease.total_seconds() / 3):
            try:
                alive = self._warehouse.heartbeat(self._claim, self._lease)
            except Exception as error:  # noqa: BLE001  the next beat tries again; safety is the fence's
                log.warning(
                    "heartbeat of %s failed (%s); trying again",
                    self._claim.stage,
                    type(error).__name__,
                )
                continue
            if not alive:
                self.lost = True
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join(timeout=10.0)
