"""Commands that act: rewind, reset, resync, release, quarantine, gc. Most are dry runs unless told."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.cli.frame import (
    FAILED,
    actor,
    answer,
    command,
    confirmed,
    end,
    lane_of,
    say,
    warehouses,
)
from airflow_checkpoint_etl.insights.words import span
from airflow_checkpoint_etl.plans import plan_rewind, read_cursor, told_rewind
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    import argparse

    from airflow_checkpoint_etl.insights import LaneInsight, Rejected
    from airflow_checkpoint_etl.plans import RewindPlan


@command
def rewind(args: argparse.Namespace) -> None:
    """Go back to a chunk boundary; the next run loads again from there."""
    seen = _seen(args)
    asked = read_cursor(seen, args.to)
    with warehouses(args).admin(lane_of(args), actor=actor(), reason=args.reason) as admin:
        options = {
            "delete_rows": True if args.delete_rows else None,
            "allow_duplicates": args.allow_duplicates,
        }
        plan = plan_rewind(admin, seen, asked, **options)
        _print_rewind(plan, args, done=False)
        if confirmed(args):
            done = admin.rewind(
                plan.to_cursor, incarnation=plan.incarnation, dry_run=False, **options
            )
            _print_rewind(told_rewind(seen, asked, done), args, done=True)


@command
def reset(args: argparse.Namespace) -> None:
    """Go back to the start, and forget which source, target, cursor and filter it had."""
    seen = _seen(args)
    with warehouses(args).admin(lane_of(args), actor=actor(), reason=args.reason) as admin:
        options = {
            "delete_rows": True if args.delete_rows else None,
            "allow_duplicates": args.allow_duplicates,
        }
        planned = admin.reset(dry_run=True, **options)
        _print_rewind(told_rewind(seen, cursors.BEGIN, planned), args, done=False)
        if confirmed(args):
            done = admin.reset(incarnation=planned.before.incarnation, dry_run=False, **options)
            _print_rewind(told_rewind(seen, cursors.BEGIN, done), args, done=True)


@command
def resync(args: argparse.Namespace) -> None:
    """Take the warehouse as it is: what was staged is dead, nothing is deleted."""
    seen = _seen(args)
    at = seen.summary.position
    staged = sum(stage.staged_chunks for stage in seen.summary.stages)
    say(
        f"{seen.lane} begins a new life at chunk {at.seq:,}, {at.shown}; {staged:,} staged chunk(s) are "
        "dead and made again; no row is deleted",
        args,
    )
    if not confirmed(args):
        return
    with warehouses(args).admin(lane_of(args), actor=actor(), reason=args.reason) as admin:
        after = admin.resync()
    row = {
        "pipeline": str(seen.lane),
        "generation": after.generation,
        "chunk": after.seq,
        "last_id": cursors.display(after.cursor),
    }
    answer(after, [row], args)


@command
def release(args: argparse.Namespace) -> None:
    """End a stage's lease; its owner can write nothing from then on."""
    seen = _seen(args)
    stage = seen.stage(Stage(args.stage))
    if stage.owner is None:
        end(
            FAILED, f"{stage.stage} of {seen.lane} was never acquired; there is no lease to release"
        )
    lease = (
        f"its lease runs out in {span(stage.lease_seconds)}"
        if stage.lease_seconds > 0
        else "it has no live lease"
    )
    say(
        f"{stage.stage} of {seen.lane} is taken from {stage.owner.task} of {stage.owner.run_id} (try "
        f"{stage.owner.try_number}, host {stage.owner.host}); {lease}",
        args,
    )
    if not confirmed(args):
        return
    with warehouses(args).admin(lane_of(args), actor=actor(), reason=args.reason) as admin:
        owner = admin.release(stage.stage)
    released = {"pipeline": str(seen.lane), "stage": stage.stage.value, "owner": owner}
    answer(released, [released], args)


@command
def quarantine(args: argparse.Namespace) -> None:
    """Show rejected records, or replay what the load had rejected."""
    lane = lane_of(args)
    if args.replay:
        _replay(args)
        return
    with warehouses(args).holding(lane) as insights:
        found = insights.quarantine(
            lane, limit=args.limit, payloads=args.records and args.show_values
        )
    if args.records:
        rows = [_record_row(record, values=args.show_values) for record in found.records]
    else:
        rows = [
            {
                "stage": reason.stage,
                "records": reason.count,
                "reason": reason.reason,
                "newest_id": reason.newest_shown,
                "newest_at": reason.newest_at.isoformat(sep=" ", timespec="seconds"),
            }
            for reason in found.reasons
        ]
    answer(found, rows, args)
    say(f"{found.total.shown} record(s) in quarantine", args)


def _replay(args: argparse.Namespace) -> None:
    lane = lane_of(args)
    with warehouses(args).admin(lane, actor=actor(), reason=args.reason) as admin:
        replayed = admin.replay_quarantine(dry_run=True)
        _print_replayed(replayed, args, done=False)
        if confirmed(args):
            _print_replayed(admin.replay_quarantine(dry_run=False), args, done=True)


@command
def gc(args: argparse.Namespace) -> None:
    """Delete staged files that nobody needs."""
    lane = lane_of(args)
    seen = _seen(args)
    grace = args.grace if args.grace is not None else seen.settings.get("staging_grace", 900.0)
    with warehouses(args).admin(lane, actor=actor(), reason="") as admin:
        count = admin.collect(dt.timedelta(seconds=grace))
    deleted = {"pipeline": str(lane), "deleted_files": count}
    answer(deleted, [deleted], args)


# --- inside --------------------------------------------------------------------------------------


def _seen(args: argparse.Namespace) -> LaneInsight:
    lane = lane_of(args)
    with warehouses(args).holding(lane) as insights:
        seen = insights.lane(lane, newest=1)
    if seen is None:
        end(FAILED, f"{lane} was removed just now")
    return seen


def _print_rewind(plan: RewindPlan, args: argparse.Namespace, *, done: bool) -> None:
    if args.output != "table" and not done and args.execute:
        return  # a program gets one answer
    if not done:
        for warning in plan.warnings:
            say(f"note: {warning}", args)
    row = {
        "pipeline": plan.pipeline,
        "part": plan.part,
        "from_id": plan.from_shown,
        "to_id": plan.to_shown,
        "chunks": plan.chunks,
        "rows": plan.rows,
        "deleted": "left in the target" if plan.deleted is None else f"{plan.deleted:,}",
        "quarantined": plan.quarantined,
        "done": "yes" if done else "no",
    }
    answer({"plan": plan, "done": done}, [row], args)


def _print_replayed(replayed: Any, args: argparse.Namespace, *, done: bool) -> None:
    if args.output != "table" and not done and args.execute:
        return
    row = {
        "records": replayed.records,
        "released": replayed.released,
        "rows": replayed.rows,
        "left": replayed.left,
        "done": "yes" if done else "no",
    }
    answer({"replayed": replayed, "done": done}, [row], args)


def _record_row(record: Rejected, *, values: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": record.shown,
        "stage": record.stage,
        "reason": record.reason,
        "chunk": record.chunk,
        "at": record.created_at.isoformat(sep=" ", timespec="seconds"),
    }
    return row | {"values": record.payload} if values else row
