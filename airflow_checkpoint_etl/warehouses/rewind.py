"""Rewind, reset, resync, release and replay: what is done to a lane beside loading it.

Each command is one transaction that locks the lane's row first and writes an audit row; all but release
and replay draw a new incarnation and raise every stage's fence. A load that runs meanwhile waits for the
row and then finds the lane in another life; chunks that were staged before are dead, because their
incarnation is.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl import sweep
from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    FencedError,
    ReplayError,
    RewindError,
    StageBusyError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import Floor, RewindRequest, Rewound
from airflow_checkpoint_etl.protocol import Frontier, IllegalMove, Stage, rewind
from airflow_checkpoint_etl.warehouses.ledger import SQL as STATEMENTS
from airflow_checkpoint_etl.warehouses.ledger import new_incarnation
from airflow_checkpoint_etl.warehouses.quarantine import Replay, check_target
from airflow_checkpoint_etl.warehouses.takeback import (
    SQL,
    Chunks,
    Loaded,
    check_known,
    take_chunks,
    take_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_checkpoint_etl.ports import Claim, Replayed, ReplayRequest, Run
    from airflow_checkpoint_etl.postgres import Session
    from airflow_checkpoint_etl.protocol import Lane
    from airflow_checkpoint_etl.warehouses.target import TargetTable

log = logging.getLogger(__name__)


class LaneAdmin:
    """The commands over a lane, in the warehouse; implements ``ports.WarehouseAdmin``.

    Args:
        session: for the commands' transactions.
        lock_timeout: seconds to wait for a lane that a load transaction holds.
        target: the table to replay quarantined records into; None: nothing is replayed.
    """

    def __init__(
        self, session: Session, lock_timeout: float, target: TargetTable | None = None
    ) -> None:
        self._session, self._lock_timeout, self._target = session, lock_timeout, target

    # --- commands ------------------------------------------------------------------------------

    def rewind(self, lane: Lane, request: RewindRequest, *, dry_run: bool) -> Rewound:
        """Go back to a chunk boundary; see ``ports.WarehouseAdmin``."""
        with self._transaction(lane):
            rewound = self._rewind(lane, request)
            if dry_run:
                raise psycopg.Rollback
            failpoint("rewind.before_commit")
        if not dry_run:
            failpoint("rewind.after_commit")
        return rewound

    def boundary(self, lane: Lane, at_or_below: str) -> str:
        """Return the highest chunk boundary of the current chain at or below a cursor."""
        chain = self._session.row(SQL["start"], _key(lane))
        state = self._session.row(SQL["lock_lane"].replace("for update", ""), _key(lane))
        if state is None:
            raise RewindError(_unknown(lane))
        top = Frontier(*state[:6])
        found, low, high = (chain[0] if chain else top.cursor), 0, top.seq
        try:
            while low < high:  # the chain is dense and ascends
                middle = (low + high + 1) // 2
                row = self._session.row(SQL["chunk_end"], _key(lane) | {"seq": middle})
                if row is not None and cursors.compare(row[0], at_or_below) <= 0:
                    found, low = row[0], middle
                else:
                    high = middle - 1
        except cursors.IncomparableError:
            message = (
                f"{lane}: text cursors have no order outside their database, so the boundary below "
                f"{cursors.display(at_or_below)} is unknown; name a chunk's end exactly"
            )
            raise RewindError(message) from None
        return str(found)

    def reprocess(self, claim: Claim, run: Run) -> Claim:
        """Rewind to a run's low, which then goes to the old load frontier; see ``ports.Warehouse``."""
        lane, owner = claim.lane, claim.owner
        with self._transaction(lane):
            self._lock(lane)
            self._refuse_busy(claim)
            request = RewindRequest(
                to=self._boundary_of(lane, run.low),
                actor=str(owner),
                reason=f"cleared (on_clear='reprocess'): {owner.run_id}",
            )
            rewound = self._rewind(lane, request, kind="reprocess", keep=claim)
            after = rewound.after
            self._session.rows(
                SQL["reprocess_run"],
                _key(lane)
                | {
                    "dag_id": owner.dag_id,
                    "run_id": owner.run_id,
                    "incarnation": after.incarnation,
                    "low": after.cursor,
                    "target": rewound.before.cursor,
                    "swept": str(sweep.parse(rewound.before.swept).settled),
                    "clear_number": owner.clear_number,
                },
            )
            failpoint("reprocess.before_commit")
        failpoint("reprocess.after_commit")
        log.warning(
            "extract %s: reprocessing from %s: %s chunk(s) with %s rows are taken back, and this run "
            "loads up to %s again, later runs' rows included",
            lane,
            cursors.display(after.cursor),
            f"{rewound.chunks:,}",
            f"{rewound.rows:,}",
            cursors.display(rewound.before.cursor),
        )
        return replace(claim, fence=claim.fence + 1, incarnation=after.incarnation)

    def _boundary_of(self, lane: Lane, low: str) -> str:
        """Where a run's rows begin on the chain as it is now: a later life may have cut it elsewhere."""
        start = self._session.row(SQL["start"], _key(lane))
        if (start is not None and start[0] == low) or self._session.row(
            SQL["boundary"], _key(lane) | {"to": low}
        ):
            return low
        return self.boundary(lane, low)

    def begin_anew(
        self, lane: Lane, actor: str, reason: str, floor: Floor, *, keep: Claim | None = None
    ) -> Frontier:
        """Begin a new life at the warehouse's own frontier; source and target are taken as they are.

        Under a claim it is the warehouse that was restored: the source stays the one it was.

        Raises:
            RewindError: the ledger was restored without the target, and rows would be loaded twice.
        """
        with self._transaction(lane):
            before = self._lock_for_resync(lane)
            generation = max(before.generation, floor.generation) + 1
            after = replace(
                before,
                incarnation=new_incarnation(),
                generation=generation,
                # The source may be another server, whose transactions count from elsewhere.
                swept=sweep.anew(before.swept),
            )
            self._raise_fences(lane, keep, floor)
            self._new_life(lane, after, unbind=True, new_source=keep is None)
            self._note(lane, "resync", actor, reason, {"from": before, "to": after})
            failpoint("resync.before_commit")
        failpoint("resync.after_commit")
        return after

    def resync(self, claim: Claim, floor: Floor) -> Claim:
        """Resync under a claim, which goes on in the new life; see ``ports.Warehouse``."""
        reason = "the checkpoint store was ahead: the warehouse was restored"
        after = self.begin_anew(claim.lane, str(claim.owner), reason, floor, keep=claim)
        fence = max(claim.fence, floor.fence) + 1
        return replace(claim, fence=fence, incarnation=after.incarnation)

    def free(self, lane: Lane, stage: Stage, actor: str, reason: str) -> str:
        """End a stage's lease and fence its owner; returns who that was, in words."""
        with self._transaction(lane):
            self._lock(lane, moves=False)
            parameters = _key(lane) | {"stage": stage.value}
            row = self._session.row(SQL["release_lease"], parameters)
            if row is None:
                message = f"{stage} of {lane} was never acquired; there is no lease to release"
                raise RewindError(message)
            fence, dag_id, run_id, task_id, try_number = row
            if stage is Stage.LOAD:
                self._session.rows(SQL["raise_lane_fence"], _key(lane) | {"fence": fence})
            owner = f"{dag_id}.{task_id} of {run_id}, try {try_number}"
            self._note(lane, "release", actor, reason, {"stage": stage.value, "owner": owner})
        return owner

    def replay(self, lane: Lane, request: ReplayRequest, *, dry_run: bool) -> Replayed:
        """Try quarantined records again; see ``ports.WarehouseAdmin``."""
        if self._target is None:
            message = f"{lane}: its target is not known here, so nothing can be replayed"
            raise ReplayError(message)
        self._target.forget()
        with self._transaction(lane):
            _, target_oid, _ = self._lock(lane, moves=False)
            failpoint("replay.after_lock")
            self._session.rows(STATEMENTS["prepare_transaction"], self._replay_settings(lane))
            check_target(self._session, self._target, lane, target_oid)
            replayed = Replay(self._session, self._target, lane).run(request)
            detail = {name: getattr(replayed, name) for name in replayed.__slots__}
            self._note(lane, "replay", request.actor, request.reason, detail)
            if dry_run:
                raise psycopg.Rollback
            failpoint("replay.before_commit")
        if not dry_run:
            failpoint("replay.after_commit")
        return replayed

    def _replay_settings(self, lane: Lane) -> dict[str, str]:
        return {
            "application_name": f"checkpoint_etl replay {lane}",
            "lock_timeout": f"{int(self._lock_timeout * 1000)}ms",
            "statement_timeout": "0",
            "idle_timeout": "10min",
        }

    # --- steps of a rewind ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, lane: Lane) -> Iterator[None]:
        """A transaction with a lock timeout, which says whose lock it was that did not come free."""
        timeout = f"{int(self._lock_timeout * 1000)}ms"
        try:
            with self._session.transaction():
                self._session.rows("select set_config('lock_timeout', %s, true)", (timeout,))
                yield
        except psycopg.errors.LockNotAvailable:
            message = (
                f"{lane}: a load transaction or another session holds the lane's row for longer than "
                f"{timeout}; nothing was changed. Wait for it, or stop it, and try again"
            )
            raise CheckpointEtlError(message) from None

    def _lock(
        self, lane: Lane, *, moves: bool = True
    ) -> tuple[Frontier, int | None, dict[str, Any]]:
        """Lock the lane's row and return what is in it.

        Raises:
            RewindError: the lane is unknown; or it is to move, and a range plan does not let it.
        """
        row = self._session.row(SQL["lock_lane"], _key(lane))
        if row is None:
            raise RewindError(_unknown(lane))
        plan, is_part = row[8:]
        if moves and plan is not None:
            raise RewindError(_planned(lane, plan, is_part=is_part))
        return Frontier(*row[:6]), row[6], row[7]

    def _lock_for_resync(self, lane: Lane) -> Frontier:
        """A part goes on in a new life where it stands; the main lane waits for its plan to end."""
        row = self._session.row(SQL["lock_lane"], _key(lane))
        is_part = row is not None and row[9]
        before, _, settings = self._lock(lane, moves=not is_part)
        if self._target is not None and settings.get("write") == "append":
            check_known(self._session, lane, self._target)
        return before

    def _rewind(
        self,
        lane: Lane,
        request: RewindRequest,
        *,
        kind: str = "rewind",
        keep: Claim | None = None,
    ) -> Rewound:
        before, target_oid, settings = self._lock(lane)
        failpoint("rewind.after_lock")
        if request.incarnation not in {None, before.incarnation}:
            message = (
                f"{lane} was rewound, reset or resynced since it was looked at (it is in generation "
                f"{before.generation} now); nothing was changed. Look again"
            )
            raise RewindError(message)
        point = self._point(lane, before, request.to)
        key = _key(lane) | {"seq": point.seq}
        above = Chunks(lane, SQL["above_ids"], key)
        counted = SQL["above"].replace("{above_ids}", above.ids)
        chunks, rows, quarantined = self._session.rows(counted, key)[0]
        loaded = Loaded(target_oid, settings, self._target)
        deleted = take_rows(self._session, above, loaded, request, rows) if chunks else None
        failpoint("rewind.after_delete")
        take_chunks(self._session, above)
        self._session.rows(SQL["end_plans"], key | {"incarnation": new_incarnation()})
        self._raise_fences(lane, keep, Floor())
        self._new_life(
            lane,
            point,
            rows=rows,
            forget=request.forget,
            unbind=request.forget,
            new_source=request.forget,
        )
        rewound = Rewound(before, point, chunks, rows, deleted, quarantined)
        detail = {
            "from": before,
            "to": point,
            "chunks": chunks,
            "rows": rows,
            "deleted": deleted,
            "quarantined": quarantined,
        }
        self._note(lane, "reset" if request.forget else kind, request.actor, request.reason, detail)
        return rewound

    def _point(self, lane: Lane, before: Frontier, to: str | None) -> Frontier:
        first = self._session.row(SQL["start"], _key(lane))
        start = Frontier(before.incarnation, before.generation, 0, first[0]) if first else None
        if before.seq == 0:
            start = before
        wanted = (start.cursor if start else before.cursor) if to is None else to
        boundaries = [start] if start else []
        row = self._session.row(SQL["boundary"], _key(lane) | {"to": wanted})
        if row is not None:
            seq, at, state_digest, swept = row
            boundaries.append(
                Frontier(before.incarnation, before.generation, seq, at, state_digest, swept)
            )
        try:
            return rewind(before, boundaries, wanted, new_incarnation())
        except IllegalMove as fault:
            message = (
                f"{lane}: {fault}; nothing was changed. Rewind to a chunk's end; a range that was loaded "
                "by a plan is one chunk of its lane"
            )
            raise RewindError(message) from None

    def _raise_fences(self, lane: Lane, keep: Claim | None, floor: Floor) -> None:
        kept = keep.stage.value if keep else ""
        rows = self._session.rows(
            SQL["raise_fences"], _key(lane) | {"floor": floor.fence, "keep": kept}
        )
        if (
            keep is not None
            and {row[0]: row[1] for row in rows}.get(kept) != max(keep.fence, floor.fence) + 1
        ):
            message = (
                f"{keep.stage} of {lane} was taken over by a newer attempt; nothing was changed"
            )
            raise FencedError(message)

    def _new_life(
        self,
        lane: Lane,
        frontier: Frontier,
        *,
        rows: int = 0,
        forget: bool = False,
        unbind: bool = False,
        new_source: bool = False,
    ) -> None:
        self._session.rows(
            SQL["new_life"],
            _key(lane)
            | {
                "incarnation": frontier.incarnation,
                "generation": frontier.generation,
                "seq": frontier.seq,
                "cursor": frontier.cursor,
                "state_digest": frontier.state_digest,
                "swept": frontier.swept,
                "rows": rows,
                "forget": forget,
                "unbind": unbind,
                "new_source": new_source,
            },
        )

    def _refuse_busy(self, claim: Claim) -> None:
        owner = claim.owner
        row = self._session.row(
            SQL["live_stage"],
            _key(claim.lane) | {"dag_id": owner.dag_id, "run_id": owner.run_id},
        )
        if row is not None:
            stage, dag_id, run_id, task_id, try_number, seconds = row
            message = (
                f"{claim.lane} cannot be reprocessed while {dag_id}.{task_id} of {run_id} (try "
                f"{try_number}) works on its {stage}; its lease runs for {seconds:.0f} s more"
            )
            raise StageBusyError(message, stage)

    def _note(self, lane: Lane, kind: str, actor: str, reason: str, detail: dict[str, Any]) -> None:
        detail = {"reason": reason} | {
            name: _told(value) if isinstance(value, Frontier) else value
            for name, value in detail.items()
        }
        self._session.rows(
            SQL["note_event"],
            _key(lane)
            | {"kind": kind, "actor": actor, "detail": json.dumps(detail, sort_keys=True)},
        )


def _key(lane: Lane) -> dict[str, Any]:
    return {"pipeline": lane.pipeline, "part": lane.part}


def _unknown(lane: Lane) -> str:
    return f"{lane} has no checkpoint in this warehouse; check the pipeline's id and its part"


def _planned(lane: Lane, plan: int, *, is_part: bool) -> str:
    if is_part:
        return (
            f"{lane} is a part of plan {plan}, and a planned range is taken back whole; nothing was "
            f"changed. Rewind {lane.pipeline} to where the plan began, or abandon the plan while it is open"
        )
    return (
        f"plan {plan} is open over {lane}: its parts load for it; nothing was changed. Let its closing "
        "task close it, or abandon it (admin.abandon_plan), and try again"
    )


def _told(frontier: Frontier) -> dict[str, Any]:
    return {
        "generation": frontier.generation,
        "seq": frontier.seq,
        "cursor": frontier.cursor,
        "incarnation": frontier.incarnation,
    }
