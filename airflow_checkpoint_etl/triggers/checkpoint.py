"""What deferred tasks wait with. Arguments are connection ids and strings, as triggers are stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_checkpoint_etl.hooks.checkpoint import Question, is_reached, lease_left
from airflow_checkpoint_etl.protocol import Lane, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class StageFreeTrigger(BaseTrigger):
    """Fires when nobody holds a live lease on a stage.

    Args:
        warehouse_conn_id: where the ledger is.
        pipeline_id: the pipeline's id.
        part: the part's key.
        stage: the stage.
        poll_seconds: seconds between two looks at most; a lease that ends sooner is met.
    """

    def __init__(
        self,
        warehouse_conn_id: str,
        pipeline_id: str,
        part: str,
        stage: str,
        poll_seconds: float = 5.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.warehouse_conn_id = warehouse_conn_id
        self.pipeline_id = pipeline_id
        self.part = part
        self.stage = stage
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and arguments to make this trigger again."""
        return (
            "airflow_checkpoint_etl.triggers.checkpoint.StageFreeTrigger",
            {
                "warehouse_conn_id": self.warehouse_conn_id,
                "pipeline_id": self.pipeline_id,
                "part": self.part,
                "stage": self.stage,
                "poll_seconds": self.poll_seconds,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the stage is free."""
        look = sync_to_async(lease_left, thread_sensitive=False)
        lane, stage = Lane(self.pipeline_id, self.part), Stage(self.stage)
        # Not at once: a task that is resumed before the executor has reported the end of the try that
        # deferred it is taken for a killed one, and loses a retry.
        await asyncio.sleep(self.poll_seconds)
        while (left := await look(self.warehouse_conn_id, lane, stage)) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(self.poll_seconds, left))
        yield TriggerEvent({"free": True})


class CheckpointReachedTrigger(BaseTrigger):
    """Fires when a lane has reached what a sensor waits for; see ``Question`` for the arguments.

    Args:
        poll_seconds: seconds between two looks.
    """

    def __init__(  # noqa: PLR0913, PLR0917  the strings that make up a question
        self,
        warehouse_conn_id: str,
        checkpoint_conn_id: str,
        pipeline_id: str,
        part: str,
        stage: str,
        at_least: list[str] | None = None,
        not_before: str | None = None,
        poll_seconds: float = 30.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.question = Question(
            warehouse_conn_id=warehouse_conn_id,
            checkpoint_conn_id=checkpoint_conn_id,
            pipeline=pipeline_id,
            part=part,
            stage=stage,
            at_least=tuple(at_least) if at_least is not None else None,
            not_before=not_before,
        )
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and arguments to make this trigger again."""
        question = self.question
        return (
            "airflow_checkpoint_etl.triggers.checkpoint.CheckpointReachedTrigger",
            {
                "warehouse_conn_id": question.warehouse_conn_id,
                "checkpoint_conn_id": question.checkpoint_conn_id,
                "pipeline_id": question.pipeline,
                "part": question.part,
                "stage": question.stage,
                "at_least": list(question.at_least) if question.at_least is not None else None,
                "not_before": question.not_before,
                "poll_seconds": self.poll_seconds,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the lane is there."""
        look = sync_to_async(is_reached, thread_sensitive=False)
        while not await look(self.question):  # noqa: ASYNC110  the database sends no event
            await asyncio.sleep(self.poll_seconds)
        yield TriggerEvent({"reached": True})
