"""Why a lane does not go on, and what to do: the facts in sentences, and the next moves. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl.insights.views import Condition, Diagnosis
from airflow_checkpoint_etl.insights.words import ago, lane_state, span
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.insights.facts import LaneFacts, StageFacts
    from airflow_checkpoint_etl.insights.views import State

_MOVES: Final[dict[str, str]] = {
    "UpstreamLostError": "clear extract with Downstream; rows already loaded stay",
    "RewoundError": "clear extract with Downstream; rows already loaded stay",
    "FencedError": "nothing: a newer attempt has the stage",
    "SettleTimeoutError": (
        "end the transactions that the error names (pg_terminate_backend, rollback prepared), or raise "
        "settle_timeout; then clear extract with Downstream"
    ),
    "WarehouseRestoredError": (
        "if the warehouse was meant to be restored: airflow checkpoints resync {pipeline}, then clear "
        "extract with Downstream"
    ),
    "SourceResetError": (
        "compare source and target; then airflow checkpoints resync {pipeline}, or have one run accept "
        'it with on_source_reset="continue"'
    ),
    "PipelineChangedError": (
        "undo the change of the pipeline, or load under a new pipeline_id; airflow checkpoints reset "
        "{pipeline} begins anew with what the pipeline is now"
    ),
    "TransformError": (
        "mend the transform, or let it put such records aside with on_error='quarantine'; then clear "
        "transform with Downstream"
    ),
    "TooManyRejectedError": (
        "see why records are rejected (airflow checkpoints quarantine {pipeline}), mend the transform "
        "or the target; then clear transform with Downstream"
    ),
    "ValueNotCarriedError": (
        "see the column that the error names: load it as text (text_columns), widen the target's "
        "column, or change the transform; then clear extract with Downstream"
    ),
    "StagedChunkError": "clear extract with Downstream: the chunk is read and staged again",
    "ChunkTooLargeError": "stage in object storage (staging=), or make chunk_bytes smaller",
    "CorruptRecordError": "restore the ledger's row; airflow checkpoints resync {pipeline} goes on without",
    "ManifestConflictError": "see whether the checkpoint store evicts keys or somebody else writes to it",
    "MissingPrivilegeError": "grant the role what the error names; then clear the task",
    "PreflightError": "do what the error says; then clear the task",
    "ConfigurationError": "correct the parameter in the DAG; then clear the task",
}


def diagnose(facts: LaneFacts, faults: Sequence[str] = ()) -> Diagnosis:
    """Return why a lane does not go on, and what to do.

    Args:
        facts: what is known of the lane.
        faults: what could not be read, in words.
    """
    state = lane_state(facts)
    found = [line for stage in Stage for line in _of_stage(facts, facts.of(stage))]
    return Diagnosis(
        str(facts.lane),
        state,
        (*_of_lane(facts), *found, *faults),
        tuple(_moves(facts, state)),
    )


def _of_lane(facts: LaneFacts) -> list[str]:
    lines = [
        (
            f"the load is at chunk {facts.position.seq:,}, {facts.position.shown}, in generation "
            f"{facts.generation}; it moved last {ago(facts.position.updated_at, facts.now)}"
        )
    ]
    run = facts.run
    if run is not None:
        done = "is loaded to its end" if run.done else "is not loaded to its end"
        if facts.goal is None:
            done = "was settled before the lane was rewound, reset or resynced, which made it void"
        lines.append(
            f"the newest run, {run.run_id} of {run.dag_id}, goes to {run.shown} and {done}"
        )
    if facts.complete_as_of is not None:
        lines.append(
            f"everything committed to the source until {ago(facts.complete_as_of, facts.now)} is loaded"
        )
    if facts.quarantined.number:
        lines.append(f"{facts.quarantined.shown} record(s) are in quarantine")
    return lines


def _of_stage(facts: LaneFacts, stage: StageFacts) -> list[str]:
    lines, owner, position = [], stage.owner, facts.position_of(stage.stage)
    if position is not None and stage.stage is not Stage.LOAD:
        staged = facts.staged[stage.stage]
        lines.append(
            f"{stage.stage} is at chunk {position.seq:,}, {position.shown}; {staged.chunks:,} chunk(s) "
            f"with {staged.size:,} bytes are staged and not loaded"
        )
    if owner is not None and stage.is_owned:
        lines.append(
            f"{stage.stage} is owned by {owner.task} of {owner.run_id} (try {owner.try_number}, host "
            f"{owner.host}); its lease runs out in {span(stage.lease_seconds)}"
        )
    elif owner is not None and stage.is_lost:
        lines.append(
            f"{stage.stage} was owned by {owner.task} of {owner.run_id} (try {owner.try_number}, host "
            f"{owner.host}), which stopped reporting: its lease ran out "
            f"{span(-stage.lease_seconds)} ago"
        )
    if stage.note and stage.is_owned:
        lines.append(f"{stage.stage} says: {stage.note}")
    if stage.failure is not None:
        failure = stage.failure
        times = "once" if failure.count == 1 else f"{failure.count} times"
        lines.append(
            f"{stage.stage} failed {times} since it moved, last {ago(failure.at, facts.now)}, with "
            f"{failure.kind}: {failure.message}"
        )
    return lines


def _moves(facts: LaneFacts, state: State) -> list[str]:
    moves = []
    for stage in reversed(Stage):
        failure = facts.of(stage).failure
        if failure is not None and failure.kind in _MOVES:
            moves.append(_MOVES[failure.kind].format(pipeline=_named(facts)))
    if state.next_move and (not moves or state.condition is not Condition.STUCK):
        moves.insert(0, state.next_move)
    lost = [stage for stage in Stage if facts.of(stage).is_lost]
    if lost and state.condition is not Condition.CAUGHT_UP:
        moves.append(
            f"if its worker may still be alive and hang: airflow checkpoints release {_named(facts)} "
            f"--stage {lost[0]} (it can write nothing from then on)"
        )
    return moves or ["nothing is to be done"]


def _named(facts: LaneFacts) -> str:
    lane = facts.lane
    return lane.pipeline if lane.part == "default" else f"{lane.pipeline} --part {lane.part}"
