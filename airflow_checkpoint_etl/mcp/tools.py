"""The tools: thin, bounded, each one call to the read model or the commands."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, ParamSpec, TypeVar

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from airflow_checkpoint_etl.confirmation import Confirmer
from airflow_checkpoint_etl.errors import CheckpointEtlError, ConfirmationError, PreflightError
from airflow_checkpoint_etl.insights import MOST
from airflow_checkpoint_etl.insights.words import span
from airflow_checkpoint_etl.mcp.results import (
    ChunkLine,
    Chunks,
    Done,
    Explanation,
    LagAnswer,
    LaneCheckpoint,
    LaneLine,
    Lanes,
    Planned,
    Quarantine,
    of_rewind,
)
from airflow_checkpoint_etl.parameters import check_part
from airflow_checkpoint_etl.plans import plan_rewind, read_cursor, told_rewind
from airflow_checkpoint_etl.protocol import Lane, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_checkpoint_etl.hooks.insights import Warehouses
    from airflow_checkpoint_etl.insights import LaneInsight

P = ParamSpec("P")
R = TypeVar("R")

_NEWEST: Final = 5
"""Runs and events shown with a checkpoint."""

Name = Annotated[str, Field(max_length=200)]
Part = Annotated[str, Field(max_length=200, description="the part's key")]
Limit = Annotated[int, Field(ge=1, le=MOST, description="how many at most")]
Why = Annotated[str, Field(max_length=500, description="why, for the audit")]
Token = Annotated[str, Field(max_length=4000, description="what the plan returned")]


def answering(function: Callable[P, R]) -> Callable[P, R]:
    """Tell the client this package's errors, which hold no row values; others stay in the server's log."""

    @functools.wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except CheckpointEtlError as error:
            raise ToolError(str(error)) from error

    return answer


@dataclass(frozen=True)
class Tools:
    """The tools over some warehouses.

    Attributes:
        warehouses: where to look.
        actor: who acts, for the audit.
        may_act: whether plans come with a confirmation token.
        may_show_values: whether quarantined records come with their values.
        confirmer: hands out tokens and takes them back.
        clock: the time, in seconds since 1970.
    """

    warehouses: Warehouses
    actor: str
    may_act: bool = False
    may_show_values: bool = False
    confirmer: Confirmer = field(default_factory=lambda: Confirmer(token_bytes(32)))
    clock: Callable[[], float] = time.time

    # --- reading -------------------------------------------------------------------------------

    @answering
    def list_pipelines(
        self, search: Name = "", token: Token | None = None, limit: Limit = 50
    ) -> Lanes:
        """List pipelines (lanes) with what each is up to, in words. Page with next_token."""
        page = self.warehouses.pipelines(search, token, limit)
        return Lanes([LaneLine.of(lane) for lane in page.items], page.next_token, list(page.faults))

    @answering
    def get_checkpoint(self, pipeline: Name, part: Part = "default") -> LaneCheckpoint:
        """Show a pipeline's checkpoint: every stage's last id, its newest runs and events."""
        return LaneCheckpoint.of(self._seen(_lane(pipeline, part)))

    @answering
    def explain(self, pipeline: Name, part: Part = "default") -> Explanation:
        """Explain why a pipeline is stuck, waits or works: the facts, and the next move."""
        lane = _lane(pipeline, part)
        with self.warehouses.holding(lane) as insights:
            found = insights.explain(lane)
        if found is None:
            raise PreflightError(_removed(lane))
        return Explanation(
            found.lane,
            found.state.condition.value,
            found.state.words,
            list(found.facts),
            list(found.next_moves),
        )

    @answering
    def get_lag(
        self, pipeline: Name, part: Part = "default", *, ask_source: bool = False
    ) -> LagAnswer:
        """Tell how far a pipeline is behind. ask_source also asks the source for its newest id."""
        lane = _lane(pipeline, part)
        seen = self._seen(lane, ask_source=ask_source)
        lag = seen.summary.lag
        return LagAnswer(
            str(lane),
            seen.summary.position.shown,
            lag.complete_as_of.isoformat() if lag.complete_as_of else None,
            lag.seconds,
            lag.ids,
            lag.source_shown,
            lag.source_ids,
            list(seen.faults),
        )

    @answering
    def list_chunks(
        self,
        pipeline: Name,
        part: Part = "default",
        before: Annotated[int, Field(ge=0)] | None = None,
        limit: Limit = 20,
    ) -> Chunks:
        """List a pipeline's loaded chunks, the newest first. Page with next_before."""
        lane = _lane(pipeline, part)
        with self.warehouses.holding(lane) as insights:
            page = insights.chunks(lane, before=before, limit=limit)
        token = page.next_token
        return Chunks([ChunkLine.of(chunk) for chunk in page.items], int(token) if token else None)

    @answering
    def get_quarantine(
        self, pipeline: Name, part: Part = "default", limit: Limit = 20
    ) -> Quarantine:
        """Summarise a pipeline's rejected records: how many, why, and where the newest are."""
        lane = _lane(pipeline, part)
        with self.warehouses.holding(lane) as insights:
            found = insights.quarantine(lane, limit=limit, payloads=self.may_show_values)
        return Quarantine.of(found)

    # --- planning ------------------------------------------------------------------------------

    @answering
    def plan_rewind(
        self,
        pipeline: Name,
        to: Annotated[
            list[Name],
            Field(
                min_length=1,
                max_length=8,
                description="one value per cursor column, as people write it, or ['beginning']",
            ),
        ],
        part: Part = "default",
        *,
        delete_rows: bool | None = None,
        allow_duplicates: bool = False,
    ) -> Planned:
        """Plan going back to an id: what would be taken back. Changes nothing."""
        lane = _lane(pipeline, part)
        seen = self._seen(lane)
        asked = read_cursor(seen, to)
        with self._admin(lane, "a plan") as admin:
            plan = plan_rewind(
                admin, seen, asked, delete_rows=delete_rows, allow_duplicates=allow_duplicates
            )
        effect, details = of_rewind(plan)
        bound_to = _bound(seen, plan.incarnation) | {
            "to": plan.to_cursor,
            "delete_rows": delete_rows,
            "allow_duplicates": allow_duplicates,
        }
        return self._planned("rewind", lane, effect, details, list(plan.warnings), bound_to)

    @answering
    def plan_release(
        self,
        pipeline: Name,
        stage: Literal["extract", "transform", "load"],
        part: Part = "default",
    ) -> Planned:
        """Plan ending a stage's lease, e.g. of a worker that hangs. Changes nothing."""
        lane = _lane(pipeline, part)
        seen = self._seen(lane)
        found = seen.stage(Stage(stage))
        if found.owner is None:
            message = f"{stage} of {lane} was never acquired; there is no lease to release"
            raise PreflightError(message)
        lease = (
            f"its lease runs out in {span(found.lease_seconds)}"
            if found.lease_seconds > 0
            else "it has no live lease, so the next attempt takes the stage without this"
        )
        effect = (
            f"{found.owner.task} of {found.owner.run_id} (try {found.owner.try_number}, host "
            f"{found.owner.host}) loses {stage} and can write nothing from then on"
        )
        details = {"stage": stage, "owner": found.owner.task, "run_id": found.owner.run_id}
        bound_to = _bound(seen, seen.summary.incarnation) | {"stage": stage, "fence": found.fence}
        return self._planned("release", lane, effect, details, [lease], bound_to)

    @answering
    def plan_replay(self, pipeline: Name, part: Part = "default") -> Planned:
        """Plan trying again what the load had rejected (what the transform had rejected needs its code).
        Changes nothing.
        """
        lane = _lane(pipeline, part)
        seen = self._seen(lane)
        with self._admin(lane, "a plan") as admin:
            replayed = admin.replay_quarantine(dry_run=True)
        details = {name: getattr(replayed, name) for name in replayed.__slots__}
        effect = _of_replay(details)
        bound_to = _bound(seen, seen.summary.incarnation)
        return self._planned("replay", lane, effect, details, [], bound_to)

    # --- acting --------------------------------------------------------------------------------

    @answering
    def rewind(self, confirmation_token: Token, reason: Why) -> Done:
        """Do a planned rewind: rows above the point are taken back, and loaded again by the next run."""
        bound = self.confirmer.accept(confirmation_token, "rewind", self.clock())
        lane = Lane(bound["pipeline"], bound["part"])
        seen = self._seen(lane, bound)
        with self._admin(lane, reason, bound["warehouse"]) as admin:
            rewound = admin.rewind(
                bound["to"],
                delete_rows=bound["delete_rows"],
                allow_duplicates=bound["allow_duplicates"],
                incarnation=bound["incarnation"],
                dry_run=False,
            )
        effect, details = of_rewind(told_rewind(seen, bound["to"], rewound))
        return Done("rewind", str(lane), effect, details)

    @answering
    def release(self, confirmation_token: Token, reason: Why) -> Done:
        """Do a planned release: the stage's owner can write nothing from then on."""
        bound = self.confirmer.accept(confirmation_token, "release", self.clock())
        lane = Lane(bound["pipeline"], bound["part"])
        stage = self._seen(lane, bound).stage(Stage(bound["stage"]))
        if stage.fence != bound["fence"]:
            message = (
                f"{stage.stage} of {lane} has another owner than when this was planned; nothing was "
                "changed. Plan again"
            )
            raise ConfirmationError(message)
        with self._admin(lane, reason, bound["warehouse"]) as admin:
            owner = admin.release(stage.stage)
        return Done("release", str(lane), f"{owner} lost {stage.stage}", {"owner": owner})

    @answering
    def replay(self, confirmation_token: Token, reason: Why) -> Done:
        """Do a planned replay: what the load had rejected and fits now goes into the target."""
        bound = self.confirmer.accept(confirmation_token, "replay", self.clock())
        lane = Lane(bound["pipeline"], bound["part"])
        self._seen(lane, bound)
        with self._admin(lane, reason, bound["warehouse"]) as admin:
            replayed = admin.replay_quarantine(dry_run=False)
        details = {name: getattr(replayed, name) for name in replayed.__slots__}
        return Done("replay", str(lane), _of_replay(details), details)

    # --- inside --------------------------------------------------------------------------------

    def _seen(
        self, lane: Lane, bound: dict[str, Any] | None = None, *, ask_source: bool = False
    ) -> LaneInsight:
        """Read a lane; with what a token is bound to, only in the life that was planned in."""
        where = bound["warehouse"] if bound is not None else None
        with self.warehouses.holding(lane, where) as insights:
            seen = insights.lane(lane, newest=_NEWEST, ask_source=ask_source)
        if seen is None:
            raise PreflightError(_removed(lane))
        if bound is not None and seen.summary.incarnation != bound["incarnation"]:
            message = (
                f"{lane} was rewound, reset or resynced since this was planned (it is in generation "
                f"{seen.summary.generation} now); nothing was changed. Plan again"
            )
            raise ConfirmationError(message)
        return seen

    def _admin(self, lane: Lane, reason: str, where: str | None = None) -> Any:
        return self.warehouses.admin(lane, actor=self.actor, reason=reason, conn_id=where)

    def _planned(
        self,
        action: str,
        lane: Lane,
        effect: str,
        details: dict[str, Any],
        warnings: list[str],
        bound_to: dict[str, Any],
    ) -> Planned:
        token = None
        if self.may_act:
            token = self.confirmer.issue(action, bound_to, self.clock())
        else:
            warnings.append("this server only reads: it was started without --allow-actions")
        lifetime = self.confirmer.lifetime if token else 0.0
        return Planned(action, str(lane), effect, details, warnings, token, lifetime)


def _lane(pipeline: str, part: str) -> Lane:
    return Lane(pipeline, check_part(part))


def _bound(seen: LaneInsight, incarnation: str) -> dict[str, Any]:
    summary = seen.summary
    return {
        "pipeline": summary.pipeline,
        "part": summary.part,
        "warehouse": summary.warehouse_conn_id,
        "incarnation": incarnation,
    }


def _of_replay(details: dict[str, Any]) -> str:
    return (
        f"{details['released']:,} of {details['records']:,} record(s) leave the quarantine with "
        f"{details['rows']:,} rows; {details['left']:,} stay"
    )


def _removed(lane: Lane) -> str:
    return f"{lane} was removed just now"
