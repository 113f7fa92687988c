"""What people do to a lane beside running it: rewind, reset, resync, release, replay, abandon a plan,
collect garbage.

One command, one transaction, one audit row (``checkpoint_etl.event``). ``dry_run`` counts what a
command would touch and keeps nothing. No SQL here: the warehouse adapter has it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.collect import collect
from airflow_checkpoint_etl.errors import RewindError
from airflow_checkpoint_etl.ports import ReplayRequest, RewindRequest
from airflow_checkpoint_etl.protocol import Stage
from airflow_checkpoint_etl.recovery import floor_of

if TYPE_CHECKING:
    import datetime as dt

    from airflow_checkpoint_etl.ports import Ports, Replayed, Rewound, WarehouseAdmin
    from airflow_checkpoint_etl.protocol import Frontier, Lane
    from airflow_checkpoint_etl.range_plans import Abandoned
    from airflow_checkpoint_etl.transform import Transformer

log = logging.getLogger(__name__)


class Admin:
    """The commands over one lane.

    Args:
        ports: the pipeline's ports; close them after use.
        warehouse: the warehouse's commands.
        lane: the lane.
        actor: who acts, for the audit.
        reason: why, for the audit.
    """

    def __init__(
        self, ports: Ports, warehouse: WarehouseAdmin, lane: Lane, *, actor: str, reason: str
    ) -> None:
        self._ports, self._warehouse, self._lane = ports, warehouse, lane
        self._actor, self._reason = actor, reason

    def boundary(self, at_or_below: str) -> str:
        """Return the highest chunk boundary at or below a cursor: where a rewind can go.

        Args:
            at_or_below: canonical cursor text, e.g. ``i8:812345``.

        Raises:
            RewindError: the lane is unknown, or its cursor has no order outside the database.
        """
        return self._warehouse.boundary(self._lane, at_or_below)

    def rewind(
        self,
        to: str,
        *,
        delete_rows: bool | None = None,
        allow_duplicates: bool = False,
        incarnation: str | None = None,
        dry_run: bool = True,
    ) -> Rewound:
        """Go back to a chunk boundary; the next run reads again from there.

        Args:
            to: the boundary, canonical cursor text; :meth:`boundary` finds one.
            delete_rows: take the rows loaded above it out of the target, by the lineage column. Left
                out: yes for an append, no for an upsert, whose rows are replaced.
            allow_duplicates: accept that an append without lineage loads those rows twice.
            incarnation: do it only in this life of the lane, which was looked at before.
            dry_run: count what it would touch, and keep nothing.

        Raises:
            RewindError: ``to`` is no boundary, or the rows above it cannot be taken back.
        """
        return self._rewind(
            RewindRequest(
                to,
                self._actor,
                self._reason,
                delete_rows,
                allow_duplicates=allow_duplicates,
                incarnation=incarnation,
            ),
            dry_run=dry_run,
        )

    def reset(
        self,
        *,
        delete_rows: bool | None = None,
        allow_duplicates: bool = False,
        incarnation: str | None = None,
        dry_run: bool = True,
    ) -> Rewound:
        """Go back to the lane's start, and forget which source, target, cursor and filter it had.

        The parameters are those of :meth:`rewind`; the next extract starts anew with whatever the
        pipeline then is.
        """
        return self._rewind(
            RewindRequest(
                None,
                self._actor,
                self._reason,
                delete_rows,
                allow_duplicates=allow_duplicates,
                forget=True,
                incarnation=incarnation,
            ),
            dry_run=dry_run,
        )

    def _rewind(self, request: RewindRequest, *, dry_run: bool) -> Rewound:
        rewound = self._warehouse.rewind(self._lane, request, dry_run=dry_run)
        log.info(
            "%s %s: from chunk %s at %s to chunk %s at %s: %s chunk(s) with %s rows, %s",
            "would rewind" if dry_run else "rewound",
            self._lane,
            rewound.before.seq,
            cursors.display(rewound.before.cursor),
            rewound.after.seq,
            cursors.display(rewound.after.cursor),
            f"{rewound.chunks:,}",
            f"{rewound.rows:,}",
            "left in the target" if rewound.deleted is None else f"{rewound.deleted:,} deleted",
        )
        return rewound

    def abandon_plan(
        self,
        *,
        delete_rows: bool | None = None,
        allow_duplicates: bool = False,
        dry_run: bool = True,
    ) -> Abandoned:
        """End the range plan that is open over the pipeline; the main lane goes on where it began.

        Args:
            delete_rows: take the rows its parts have loaded out of the target, by the lineage column.
                Left out: yes for an append, no for an upsert, whose rows are replaced.
            allow_duplicates: accept that an append without lineage loads those rows twice.
            dry_run: count what it would touch, and keep nothing.

        Raises:
            RewindError: no plan is open, or its rows cannot be taken back.
        """
        plans = self._ports.warehouse.plans
        if plans is None:
            message = f"{self._lane}: its warehouse makes no plans; there is nothing to abandon"
            raise RewindError(message)
        request = RewindRequest(
            None, self._actor, self._reason, delete_rows, allow_duplicates=allow_duplicates
        )
        abandoned = plans.abandon(self._lane.pipeline, request, dry_run=dry_run)
        log.info(
            "%s plan %s of %s: %s chunk(s) with %s rows, %s",
            "would abandon" if dry_run else "abandoned",
            abandoned.number,
            self._lane.pipeline,
            f"{abandoned.chunks:,}",
            f"{abandoned.rows:,}",
            "left in the target" if abandoned.deleted is None else f"{abandoned.deleted:,} deleted",
        )
        return abandoned

    def resync(self) -> Frontier:
        """Begin a new life at the warehouse's frontier: what was staged is dead, nothing is deleted.

        For a warehouse that was restored to an older state, and to accept a source or a target that
        was replaced by an equal one.
        """
        floor = floor_of(self._ports, self._lane)
        after = self._warehouse.begin_anew(self._lane, self._actor, self._reason, floor)
        log.info(
            "resynced %s at chunk %s, %s", self._lane, after.seq, cursors.display(after.cursor)
        )
        return after

    def release(self, stage: Stage | str) -> str:
        """End a stage's lease and fence its owner, who can write nothing from then on.

        Returns:
            Who it was, in words.

        Raises:
            RewindError: the stage was never acquired.
        """
        owner = self._warehouse.free(self._lane, Stage(stage), self._actor, self._reason)
        log.info("released %s of %s from %s", stage, self._lane, owner)
        return owner

    def replay_quarantine(
        self, transformer: Transformer | None = None, *, dry_run: bool = True
    ) -> Replayed:
        """Try the lane's quarantined records again, each under the chunk it came from.

        What fails again stays in quarantine with its new reason.

        Args:
            transformer: the mended transform, e.g. ``CallableTransformer(clean)``, for what the
                transform had rejected; what the load had rejected is tried as it was. None: only that.
            dry_run: do everything, count it, and keep nothing.

        Raises:
            ReplayError: the transform has state, or the target is another table.
            PreflightError: the mended transform's columns do not fit the target.
        """
        request = ReplayRequest(self._actor, self._reason, transformer)
        replayed = self._warehouse.replay(self._lane, request, dry_run=dry_run)
        log.info(
            "%s %s: %s of %s quarantined record(s) released with %s rows, %s left",
            "would replay" if dry_run else "replayed",
            self._lane,
            f"{replayed.released:,}",
            f"{replayed.records:,}",
            f"{replayed.rows:,}",
            f"{replayed.left:,}",
        )
        return replayed

    def collect(self, grace: dt.timedelta) -> int:
        """Delete what is staged and no longer needed; returns how many files.

        Args:
            grace: how long a staged file is kept after its rows are loaded, or its writer is gone.
        """
        return collect(self._ports, self._lane, grace)
