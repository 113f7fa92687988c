"""Range plans in the warehouse: made, closed and abandoned, each in one transaction.

All three lock the main lane's row first, so they come one after another. Making a plan *seals* the main
lane: the load's compare-and-set refuses a sealed lane, so that an attempt which acquired it before the
plan can move it no more. Closing compares the main lane with the plan and every part with its end, and
only then moves the main lane over the whole range. A plan that has ended seals its parts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from typing import TYPE_CHECKING, Any, Final

import psycopg

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    ManifestConflictError,
    PipelineChangedError,
    PlanEndedError,
    PlanNotDoneError,
    PlanOpenError,
    PreflightError,
    RewindError,
    StageBusyError,
)
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.protocol import NO_STATE, Frontier
from airflow_checkpoint_etl.range_plans import Abandoned, ClosedPlan, RangePlan, main_lane
from airflow_checkpoint_etl.warehouses.ledger import new_incarnation
from airflow_checkpoint_etl.warehouses.takeback import SQL as TAKING
from airflow_checkpoint_etl.warehouses.takeback import Chunks, Loaded, take_chunks, take_rows

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

    from airflow_checkpoint_etl.ports import RewindRequest
    from airflow_checkpoint_etl.postgres import Row, Session
    from airflow_checkpoint_etl.protocol import Lane, Owner
    from airflow_checkpoint_etl.range_plans import PlanRequest
    from airflow_checkpoint_etl.warehouses.target import TargetTable

log = logging.getLogger(__name__)

SQL: Final = read_statements("airflow_checkpoint_etl.warehouses", "plans.sql")

_NAMED_PARTS: Final = 8
_IDLE_TIMEOUT: Final = "60s"


class RangePlans:
    """The commands over range plans; implements ``plans.Plans``.

    Args:
        session: for the commands' transactions.
        lock_timeout: seconds to wait for a lane that a load transaction holds.
        target: the table the pipeline names.
    """

    def __init__(self, session: Session, lock_timeout: float, target: TargetTable) -> None:
        self._session, self._lock_timeout, self._target = session, lock_timeout, target

    def current(self, pipeline: str) -> RangePlan | None:
        """Return the open plan; None when there is none."""
        row = self._session.row(SQL["open_plan"], {"pipeline": pipeline})
        return _plan(row) if row else None

    # --- making --------------------------------------------------------------------------------

    def make(self, pipeline: str, request: PlanRequest) -> RangePlan:
        """Return the open plan, or make the requested one; see ``plans.Plans``."""
        main = main_lane(pipeline)
        with self._transaction(main):
            frontier, _, _, open_plan = self._lock(main)
            failpoint("plan.after_lock")
            plan = self.current(pipeline) if open_plan is not None else None
            if plan is None:
                self._refuse_busy(main, request.owner)
                _check_frontier(main, frontier, request)
                plan = self._insert(main, request)
            failpoint("plan.before_commit")
        failpoint("plan.after_commit")
        return plan

    def _insert(self, main: Lane, request: PlanRequest) -> RangePlan:
        token = secrets.token_hex(8)
        owner, at = request.owner, request.frontier
        row = self._session.row(
            SQL["make_plan"],
            {
                "token": token,
                "pipeline": main.pipeline,
                "incarnation": at.incarnation,
                "seq": at.seq,
                "low": at.cursor,
                "target": request.target,
                "bounds": json.dumps(request.bounds, ensure_ascii=False),
                "swept": request.swept,
                "settled_ago": request.settled_ago,
                "dag_id": owner.dag_id,
                "run_id": owner.run_id,
            },
        )
        number = int(row[0]) if row else 0
        plan = RangePlan(number, token, main.pipeline, at.cursor, request.target, request.bounds)
        self._session.rows(SQL["seal_main"], _key(main) | {"plan_id": number})
        for part in plan.parts:
            self._session.rows(
                SQL["make_part"],
                _key(main)
                | {
                    "key": part.key,
                    "incarnation": new_incarnation(),
                    "low": part.low,
                    "high": part.high,
                    "plan_id": number,
                },
            )
        failpoint("plan.after_parts")
        detail = {"plan": number, "low": plan.low, "target": plan.target, "parts": plan.keys}
        self._note(main, "plan", str(owner), detail)
        return plan

    def _refuse_busy(self, main: Lane, owner: Owner) -> None:
        task = {"dag_id": owner.dag_id, "run_id": owner.run_id}
        row = self._session.row(TAKING["live_stage"], _key(main) | task)
        if row is not None:
            stage, dag_id, run_id, task_id, try_number, seconds = row
            message = (
                f"no range of {main} can be planned while {dag_id}.{task_id} of {run_id} (try "
                f"{try_number}) works on its {stage}; its lease runs for {seconds:.0f} s more"
            )
            raise StageBusyError(message, stage)

    # --- closing -------------------------------------------------------------------------------

    def close(self, pipeline: str, owner: Owner) -> ClosedPlan | None:
        """Move the main lane over the open plan's range; see ``plans.Plans``."""
        main = main_lane(pipeline)
        with self._transaction(main):
            _, target_oid, _, open_plan = self._lock(main)
            failpoint("close.after_lock")
            if open_plan is not None:
                self._advance(main, int(open_plan), target_oid, owner)
                failpoint("close.before_commit")
        failpoint("close.after_commit")
        row = self._session.row(SQL["closed_by_run"], _key(main) | _task(owner))
        return ClosedPlan(*row) if row else None

    def _advance(self, main: Lane, number: int, target_oid: int | None, owner: Owner) -> None:
        key = {"plan_id": number}
        parts = self._session.rows(SQL["lock_parts"], key)
        self._check_ends(main, number, parts)
        oid = self._one_target(main, target_oid, parts)
        _, rows_in, rows, rejected, digest = self._session.rows(SQL["part_totals"], key)[0]
        moved = self._session.row(
            SQL["advance_main"],
            _key(main)
            | _task(owner)
            | key
            | {
                "target_oid": oid,
                "rows_in": rows_in,
                "rows": rows,
                "rejected": rejected,
                "digest": digest,
                "map_index": owner.map_index,
                "task_id": owner.task_id,
                "try_number": owner.try_number,
            },
        )
        if moved is None:
            message = (
                f"{main} does not stand where plan {number} began: the ledger was changed by hand; "
                "abandon the plan (admin.abandon_plan) and plan anew"
            )
            raise ManifestConflictError(message)
        failpoint("close.after_advance")
        self._session.rows(SQL["end_plan"], key | {"outcome": "loaded"})
        run = _key(main) | _task(owner) | key | {"clear_number": owner.clear_number}
        self._session.rows(SQL["finish_run"], run)
        self._note(main, "close plan", str(owner), {"plan": number, "rows": rows})

    @staticmethod
    def _check_ends(main: Lane, number: int, parts: list[Row]) -> None:
        """Every part is at its end; a part's last chunk ends at exactly that text."""
        behind = [f"{part} at {cursors.display(at)}" for part, at, end, *_ in parts if at != end]
        if not behind and parts:
            return
        named = behind[:_NAMED_PARTS]
        if len(behind) > _NAMED_PARTS:
            named.append(f"{len(behind) - _NAMED_PARTS} more")
        message = (
            f"plan {number} of {main} cannot be closed: {len(behind)} of {len(parts)} part(s) are not at "
            f"their end: {'; '.join(named) or 'its lanes are gone'}. Clear their tasks with Downstream, "
            "or run the DAG again: it goes on with this plan"
        )
        raise PlanNotDoneError(message)

    def _one_target(self, main: Lane, target_oid: int | None, parts: list[Row]) -> int | None:
        """The table all parts were loaded into, which must still be the one the pipeline names."""
        oids = {oid for oid in (target_oid, *(row[4] for row in parts)) if oid is not None}
        if not oids:
            return None
        facts = self._target.describe(self._session.connection)
        if facts is not None and oids == {facts.oid}:
            return facts.oid
        message = (
            f"{main}: the target was dropped or replaced while its parts were loaded (oids "
            f"{sorted(oids)}, now {facts.oid if facts else 'missing'}), so rows are gone. Abandon the "
            "plan (admin.abandon_plan) and load the range again"
        )
        raise PipelineChangedError(message)

    # --- abandoning ----------------------------------------------------------------------------

    def abandon(self, pipeline: str, request: RewindRequest, *, dry_run: bool) -> Abandoned:
        """End the open plan and take its rows back; see ``plans.Plans``."""
        main = main_lane(pipeline)
        with self._transaction(main):
            _, target_oid, settings, open_plan = self._lock(main)
            if open_plan is None:
                message = f"no plan is open over {main}; there is nothing to abandon"
                raise RewindError(message)
            loaded = Loaded(target_oid, settings, self._target)
            abandoned = self._take_back(main, open_plan, loaded, request)
            if dry_run:
                raise psycopg.Rollback
            failpoint("plan.before_abandon")
        if not dry_run:
            failpoint("plan.after_abandon")
        return abandoned

    def _take_back(
        self, main: Lane, number: int, loaded: Loaded, request: RewindRequest
    ) -> Abandoned:
        key = {"plan_id": number}
        parts = self._session.rows(SQL["lock_parts"], key)
        oids = [row[4] for row in parts if row[4] is not None]
        loaded = Loaded(oids[0] if oids else loaded.target_oid, loaded.settings, loaded.target)
        chunks = Chunks(main, TAKING["plan_ids"], key | _key(main))
        count, _, rows, *_ = self._session.rows(SQL["part_totals"], key)[0]
        quarantined = self._session.rows(
            TAKING["quarantined_of"].replace("{ids}", chunks.ids), chunks.parameters
        )[0][0]
        deleted = take_rows(self._session, chunks, loaded, request, rows) if count else None
        take_chunks(self._session, chunks)
        self._session.rows(SQL["bury_parts"], key | {"incarnation": new_incarnation()})
        self._session.rows(SQL["end_plan"], key | {"outcome": "abandoned"})
        self._session.rows(SQL["unseal_main"], _key(main))
        abandoned = Abandoned(number, count, rows, deleted, quarantined)
        detail = {name: getattr(abandoned, name) for name in abandoned.__slots__}
        self._note(main, "abandon plan", request.actor, {"reason": request.reason} | detail)
        return abandoned

    # --- collecting ----------------------------------------------------------------------------

    def uncollected(self, pipeline: str, grace: dt.timedelta) -> list[RangePlan]:
        """Return the plans that ended before the grace period and may have left files staged."""
        found = self._session.rows(SQL["uncollected"], {"pipeline": pipeline, "grace": grace})
        return [_plan(row) for row in found]

    def note_collected(self, plan: RangePlan) -> None:
        """Remember that nothing of a plan is staged any more."""
        self._session.rows(SQL["note_collected"], {"plan_id": plan.number})

    # --- saying why ----------------------------------------------------------------------------

    def sealed(self, lane: Lane) -> CheckpointEtlError:
        """Say why a sealed lane takes no load: the error to raise."""
        row = self._session.row(SQL["sealing_plan"], _key(lane))
        if row is None:
            return PlanEndedError(f"{lane}: the plan it belonged to has ended just now; try again")
        number, outcome, dag_id, run_id, created_at, done, parts = row
        if outcome == "open":
            message = (
                f"plan {number} is open over {lane}: since {created_at:%Y-%m-%d %H:%M:%S%z} (by "
                f"{dag_id}, {run_id}) its range is loaded in {parts} parts, of which {done} are at their "
                "end, and the lane itself loads nothing. Run (or clear) the DAG with the range task "
                "group until its closing task is green, or abandon the plan (admin.abandon_plan)"
            )
            return PlanOpenError(message)
        ended = {
            "loaded": "was closed: the range is loaded, and nothing is left to do for the part",
            "abandoned": "was abandoned, and its rows were taken back",
            "rewound": "was taken back by a rewind of the main lane",
        }[outcome]
        message = (
            f"{lane} is a part of plan {number}, which {ended}. Clear the planning task with Downstream "
            "to load what is to be loaded now"
        )
        return PlanEndedError(message, loaded=outcome == "loaded")

    # --- steps ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, main: Lane) -> Iterator[None]:
        timeout = f"{int(self._lock_timeout * 1000)}ms"
        try:
            with self._session.transaction():
                self._session.rows(
                    "select set_config('lock_timeout', %s, true),"
                    " set_config('synchronous_commit', 'on', true),"
                    # A worker that is frozen here must not hold the main lane for ever.
                    " set_config('idle_in_transaction_session_timeout', %s, true)",
                    (timeout, _IDLE_TIMEOUT),
                )
                yield
        except psycopg.errors.LockNotAvailable:
            message = (
                f"{main}: a load transaction or another session holds the lane's row for longer than "
                f"{timeout}; nothing was changed. Wait for it, or stop it, and try again"
            )
            raise CheckpointEtlError(message) from None

    def _lock(self, main: Lane) -> tuple[Frontier, int | None, dict[str, Any], int | None]:
        row = self._session.row(SQL["lock_main"], _key(main))
        if row is None:
            message = f"{main} has no checkpoint in this warehouse; run the planning task first"
            raise RewindError(message)
        return Frontier(*row[:6]), row[6], row[7], row[8]

    def _note(self, main: Lane, kind: str, actor: str, detail: dict[str, Any]) -> None:
        told = json.dumps(detail, sort_keys=True)
        self._session.rows(
            TAKING["note_event"], _key(main) | {"kind": kind, "actor": actor, "detail": told}
        )


def unknown_part(lane: Lane) -> str:
    """Say that no plan in this warehouse has a part of this key."""
    return (
        f"{lane} has the key of a plan's part, but this warehouse knows no such plan (it was restored to "
        "before it, or the pipeline's lanes were removed); clear the planning task with Downstream"
    )


def _check_frontier(main: Lane, frontier: Frontier, request: PlanRequest) -> None:
    at = request.frontier
    if frontier.state_digest != NO_STATE:
        message = (
            f"{main} carries a transform's state from chunk to chunk, and parts of a range are loaded in "
            "any order; load it with checkpoint_task_group"
        )
        raise PreflightError(message)
    if (frontier.incarnation, frontier.seq, frontier.cursor) != (at.incarnation, at.seq, at.cursor):
        message = (
            f"{main} moved to chunk {frontier.seq}, {cursors.display(frontier.cursor)}, while a range "
            f"from {cursors.display(at.cursor)} was planned; it is planned anew"
        )
        raise ManifestConflictError(message)


def _plan(row: Row) -> RangePlan:
    number, token, pipeline, low, target, bounds = row
    return RangePlan(number, token, pipeline, low, target, tuple(bounds))


def _key(lane: Lane) -> dict[str, Any]:
    return {"pipeline": lane.pipeline, "part": lane.part}


def _task(owner: Owner) -> dict[str, Any]:
    return {"dag_id": owner.dag_id, "run_id": owner.run_id}
