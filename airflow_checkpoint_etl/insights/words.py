"""What a lane is up to, in a sentence. PURE: a function of the facts and of ``now`` alone.

The order of the questions is the order in which somebody who is woken up wants the answers: does
anything fail that will not go on by itself, does anybody work, does it wait, is it done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.insights.views import Condition, State
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    import datetime as dt

    from airflow_checkpoint_etl.insights.facts import LaneFacts, StageFacts
    from airflow_checkpoint_etl.insights.views import FailureView

STUCK_AFTER: Final = 3
"""Failed attempts without a chunk between them after which nobody should wait for the next one."""
ABANDONED_AFTER: Final = 1800.0
"""Seconds after which a run that nobody works on is not waiting for a slot any more."""

_DOING: Final = {
    Stage.EXTRACT: "extracting",
    Stage.TRANSFORM: "transforming",
    Stage.LOAD: "loading",
}
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


def span(seconds: float) -> str:
    """Return a length of time for people: ``12 s``, ``3 min``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    large, small, names = (
        (whole // _HOUR, whole % _HOUR // _MINUTE, ("h", "min"))
        if whole < _DAY
        else (whole // _DAY, whole % _DAY // _HOUR, ("d", "h"))
    )
    return f"{large} {names[0]} {small} {names[1]}" if small else f"{large} {names[0]}"


def ago(moment: dt.datetime, now: dt.datetime) -> str:
    """Return how long ago a moment was, for people."""
    return f"{span((now - moment).total_seconds())} ago"


def lane_state(facts: LaneFacts) -> State:
    """Say what a lane is up to: what matters most of its stages, or how its newest run ended."""
    found = [
        state
        for stage in reversed(Stage)
        if (state := _of_attempts(facts, facts.of(stage))) is not None
    ]
    for condition in (Condition.STUCK, Condition.WORKING, Condition.WAITING, Condition.FAILED):
        for state in found:
            if state.condition is condition:
                return state
    return _of_run(facts)


def stage_state(facts: LaneFacts, stage: Stage) -> State:
    """Say what one stage is up to."""
    state = _of_attempts(facts, facts.of(stage))
    if state is not None:
        return state
    position, run = facts.position_of(stage), facts.goal
    if run is None:
        return _of_run(facts)
    if position is None:
        return State(Condition.IDLE, "its checkpoint was not read, or is not there yet")
    at = cursors.display(position.cursor)
    if run.done or position.cursor == run.target:
        return State(
            Condition.CAUGHT_UP, f"done at {at}, {ago(_finished(facts, stage), facts.now)}"
        )
    return State(Condition.WAITING, f"at {at} of {run.shown}; no task works on it", _GO_ON[stage])


# --- what its attempts say -----------------------------------------------------------------------


def _of_attempts(facts: LaneFacts, stage: StageFacts) -> State | None:
    """Say what a stage's attempts are up to; None when none works, none was lost and none failed."""
    if stage.is_owned:
        return _of_owner(facts, stage)
    if stage.failure is not None:
        return _of_failure(facts, stage, stage.failure)
    if stage.owner is not None and stage.is_lost and not _is_over(facts):
        words = (
            f"{stage.stage}'s worker ({stage.owner.host}, try {stage.owner.try_number}) stopped "
            f"reporting; its lease ran out {span(-stage.lease_seconds)} ago"
        )
        return State(
            Condition.WAITING,
            words,
            "nothing yet: the task's retry, or another run, takes the stage over and goes on",
        )
    return None


def _of_owner(facts: LaneFacts, stage: StageFacts) -> State:
    failure = stage.failure
    if failure is not None and failure.count >= STUCK_AFTER:
        return _stuck(facts, stage, failure)
    if stage.note:
        return State(Condition.WAITING, stage.note)
    return State(Condition.WORKING, _working(facts, stage))


def _of_failure(facts: LaneFacts, stage: StageFacts, failure: FailureView) -> State:
    if failure.count >= STUCK_AFTER or not failure.retryable:
        return _stuck(facts, stage, failure)
    times = "once" if failure.count == 1 else f"{failure.count} times"
    words = (
        f"{stage.stage} failed {times}{_at(failure.shown)}, {ago(failure.at, facts.now)}: "
        f"{failure.message}"
    )
    return State(Condition.FAILED, words, "nothing yet: Airflow's next retry goes on from there")


def _stuck(facts: LaneFacts, stage: StageFacts, failure: FailureView) -> State:
    times = "" if failure.count == 1 else f" {failure.count} times"
    words = (
        f"stuck: {stage.stage} failed{times}{_at(failure.shown)}, {ago(failure.at, facts.now)}: "
        f"{failure.message}"
    )
    return State(Condition.STUCK, words, f"see what the error asks for, then clear {stage.stage}")


def _working(facts: LaneFacts, stage: StageFacts) -> str:
    doing, position, run = _DOING[stage.stage], facts.position_of(stage.stage), facts.goal
    failure = stage.failure
    after = ""
    if failure is not None:
        after = f" (after {failure.count} failed {'try' if failure.count == 1 else 'tries'})"
    if position is None or run is None:
        since = span((facts.now - stage.owner.acquired_at).total_seconds()) if stage.owner else ""
        return f"{doing} for {since}{after}"
    if position.cursor == run.target:
        return f"{doing}: at the end of this run, {run.shown}{after}"
    total, exact = _total(facts, stage.stage)
    chunk = f"{doing} chunk {position.seq + 1:,}"
    if total is None:
        return f"{chunk}, at {position.shown} of {run.shown}{after}"
    words = f"{chunk} of {'' if exact else '~'}{total:,}"
    pace = facts.speed_of(stage.stage).seconds_per_chunk
    if pace is not None:
        words += f", {span((total - position.seq) * pace)} left"
    return f"{words}{after}"


def _total(facts: LaneFacts, stage: Stage) -> tuple[int | None, bool]:
    """Return the number of the run's last chunk: counted where the stage before is done, else guessed."""
    position, run = facts.position_of(stage), facts.run
    if position is None or run is None:
        return None, False
    before = facts.position_of(stage.before) if stage.before else None
    if before is not None and before.cursor == run.target:
        return max(before.seq, position.seq + 1), True
    speed = facts.speed_of(stage)
    share = cursors.share(speed.low, position.cursor, run.target) if speed.chunks else None
    if not share:
        return None, False
    return position.seq + max(1, round(speed.chunks * (1 - share) / share)), False


def _at(shown: str) -> str:
    return f" at id {shown}" if shown else ""


# --- what its newest run says --------------------------------------------------------------------

_GO_ON: Final = {
    Stage.EXTRACT: "let it be scheduled, or clear extract with Downstream",
    Stage.TRANSFORM: "let it be scheduled, or clear transform with Downstream",
    Stage.LOAD: "let it be scheduled, or clear load",
}


def _is_over(facts: LaneFacts) -> bool:
    return facts.goal is not None and facts.goal.done


def _finished(facts: LaneFacts, stage: Stage) -> dt.datetime:
    position, run = facts.position_of(stage), facts.run
    if stage is Stage.LOAD and run is not None and run.finished_at is not None:
        return run.finished_at
    return position.updated_at if position is not None else facts.position.updated_at


def _of_run(facts: LaneFacts) -> State:
    run, position = facts.run, facts.position
    if run is None:
        return State(
            Condition.IDLE,
            f"nothing loaded yet: no run has settled where it ends; at {position.shown}",
        )
    if run.incarnation != facts.incarnation:
        words = (
            f"rewound, reset or resynced to {position.shown} (generation {facts.generation}), "
            f"{ago(position.updated_at, facts.now)}; the next run loads on from there"
        )
        return State(Condition.IDLE, words, "trigger the DAG, or clear extract with Downstream")
    if run.done:
        finished = run.finished_at or position.updated_at
        if run.settled_at is None:
            words = (
                f"the last run ended early at {run.shown}, {ago(finished, facts.now)}; there may "
                "be more to load, which the next run does"
            )
            return State(Condition.CAUGHT_UP, words)
        return State(
            Condition.CAUGHT_UP, f"caught up {ago(finished, facts.now)}, at {position.shown}"
        )
    moved = max([run.stored_at, position.updated_at, *_moves(facts)])
    idle = (facts.now - moved).total_seconds()
    where = f"run {run.run_id} is at {position.shown} of {run.shown}"
    if idle >= ABANDONED_AFTER:
        return State(
            Condition.STUCK,
            f"stuck: {where}, and nothing has worked on it for {span(idle)}",
            "see in Airflow why its tasks do not run; clear extract with Downstream, or let the next "
            "run load what is missing",
        )
    return State(
        Condition.WAITING,
        f"waiting for a free slot: {where}, and no task has taken it for {span(idle)}",
        "nothing yet: see whether the scheduler, the pool and the workers have room",
    )


def _moves(facts: LaneFacts) -> list[dt.datetime]:
    found = [staged.position.updated_at for staged in facts.staged.values() if staged.position]
    return found + [
        stage.owner.acquired_at for stage in facts.stages.values() if stage.owner is not None
    ]
