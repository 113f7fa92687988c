"""Commands that read: list, show, chunks, lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_checkpoint_etl.cli.frame import (
    CHECK_FAILED,
    FAILED,
    answer,
    check_stuck,
    command,
    end,
    lane_of,
    say,
    warehouses,
)
from airflow_checkpoint_etl.insights.words import span

if TYPE_CHECKING:
    import argparse

    from airflow_checkpoint_etl.insights import (
        ChunkView,
        Diagnosis,
        LaneInsight,
        LaneSummary,
        StageView,
    )


@command
def list_(args: argparse.Namespace) -> None:
    """List lanes and what they are up to."""
    page = warehouses(args).pipelines(args.search, args.token, args.limit)
    answer(page, [_lane_row(lane) for lane in page.items], args)
    for fault in page.faults:
        say(f"not readable: {fault}", args)
    if page.next_token is not None:
        say(f"there are more: --token '{page.next_token}'", args)
    check_stuck(page.items, args)


@command
def show(args: argparse.Namespace) -> None:
    """Show a lane as a whole: stages, what it is up to, and the next move."""
    lane = lane_of(args)
    with warehouses(args).holding(lane) as insights:
        seen = insights.lane(lane, ask_source=args.ask_source)
        diagnosis = insights.explain(lane)
    if seen is None or diagnosis is None:
        end(FAILED, f"{lane} was removed just now")
    if args.output == "table":
        _describe(seen, diagnosis, args)
        say("", args)
    answer(
        {"lane": seen, "diagnosis": diagnosis}, [_stage_row(s) for s in seen.summary.stages], args
    )
    check_stuck([seen.summary], args)


def _describe(seen: LaneInsight, diagnosis: Diagnosis, args: argparse.Namespace) -> None:
    summary = seen.summary
    say(f"{seen.lane}: {summary.state.words}", args)
    for move in diagnosis.next_moves:
        say(f"  next move: {move}", args)
    say("", args)
    for fact in diagnosis.facts:
        say(f"  {fact}", args)
    if summary.lag.source_ids is not None:
        ids = f"{summary.lag.source_ids:,} ids ahead of the load"
        say(f"  the source's newest id is {summary.lag.source_shown}, {ids}", args)
    if summary.guarantee:
        say(f"  guarantee: {summary.guarantee}", args)


@command
def chunks(args: argparse.Namespace) -> None:
    """List loaded chunks, the newest first."""
    lane = lane_of(args)
    with warehouses(args).holding(lane) as insights:
        page = insights.chunks(lane, before=args.before, limit=args.limit)
    answer(page, [_chunk_row(chunk) for chunk in page.items], args)
    if page.next_token is not None:
        say(f"there are more: --before {page.next_token}", args)


@command
def lag(args: argparse.Namespace) -> None:
    """Show how far a lane is behind, and check it."""
    lane = lane_of(args)
    with warehouses(args).holding(lane) as insights:
        seen = insights.lane(lane, newest=1, ask_source=args.ask_source or args.max_ids is not None)
    if seen is None:
        end(FAILED, f"{lane} was removed just now")
    found = seen.summary.lag
    row = {
        "pipeline": str(lane),
        "last_id": seen.summary.position.shown,
        "complete_as_of": found.complete_as_of.isoformat(sep=" ", timespec="seconds")
        if found.complete_as_of
        else None,
        "behind": None if found.seconds is None else span(found.seconds),
        "ids_left": found.ids,
        "source_id": found.source_shown,
        "source_ids_left": found.source_ids,
    }
    answer({"pipeline": str(lane), "lag": found, "faults": seen.faults}, [row], args)
    for fault in seen.faults:
        say(fault, args)
    if args.max_lag is not None and (found.seconds is None or found.seconds > args.max_lag):
        behind = (
            "no run has finished yet" if found.seconds is None else f"{span(found.seconds)} behind"
        )
        end(CHECK_FAILED, f"{lane}: {behind}, more than {span(args.max_lag)}")
    if args.max_ids is not None:
        left = found.source_ids
        if left is None:
            end(CHECK_FAILED, f"{lane}: how many ids are left is not known")
        if left > args.max_ids:
            end(CHECK_FAILED, f"{lane}: {left:,} ids are left to load, more than {args.max_ids:,}")


def _lane_row(lane: LaneSummary) -> dict[str, Any]:
    seconds = lane.lag.seconds
    return {
        "pipeline": lane.pipeline,
        "part": lane.part,
        "state": lane.state.condition.value,
        "last_id": lane.position.shown,
        "rows": lane.position.rows,
        "complete_as_of": None if seconds is None else f"{span(seconds)} ago",
        "quarantined": lane.quarantined.shown,
        "warehouse": lane.warehouse_conn_id,
        "words": lane.state.words,
    }


def _stage_row(stage: StageView) -> dict[str, Any]:
    position = stage.position
    pace = stage.rows_per_second
    return {
        "stage": stage.stage.value,
        "chunk": position.seq if position else None,
        "last_id": position.shown if position else None,
        "rows": position.rows if position else None,
        "rows_per_second": None if pace is None else round(pace),
        "staged_chunks": stage.staged_chunks,
        "staged_bytes": stage.staged_bytes,
        "owner": stage.owner.task if stage.owner and stage.lease_seconds > 0 else None,
        "words": stage.state.words,
    }


def _chunk_row(chunk: ChunkView) -> dict[str, Any]:
    return {
        "chunk": chunk.seq,
        "above": chunk.low_shown,
        "up_to": chunk.high_shown,
        "rows": chunk.rows,
        "rejected": chunk.rejected,
        "seconds": f"{chunk.seconds:.2f}",
        "loaded_at": chunk.loaded_at.isoformat(sep=" ", timespec="seconds"),
        "run": chunk.run_id,
        "try": chunk.try_number,
    }
