"""What the stage operators add for those who watch: observers while they run, lineage about it.

The methods ``get_openlineage_facets_on_*`` are called by Airflow's OpenLineage provider, when it is there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_checkpoint_etl.ports import Described
from airflow_checkpoint_etl.protocol import Lane
from airflow_checkpoint_etl.settings import Settings

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors.base import OperatorLineage
    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from airflow_checkpoint_etl.observability.lineage import Seen
    from airflow_checkpoint_etl.observer import Observer
    from airflow_checkpoint_etl.pipeline import Pipeline
    from airflow_checkpoint_etl.ports import Ports
    from airflow_checkpoint_etl.progress import Summary
    from airflow_checkpoint_etl.protocol import Stage


class LineageMixin:
    """Watches one attempt of a stage, and tells OpenLineage what it read and wrote."""

    pipeline: Pipeline
    part: str
    stage: ClassVar[Stage]
    straight: ClassVar[bool] = False
    """Whether the task reads the source and writes the target, with no staging area between."""
    _seen: Seen | None = None
    """What the attempt in this process did; None before it."""

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Return what the task is going to read and write."""
        return self._lineage(None)

    def get_openlineage_facets_on_complete(
        self,
        task_instance: RuntimeTaskInstanceProtocol,  # noqa: ARG002  OpenLineage's signature
    ) -> OperatorLineage[Any, Any]:
        """Return what the task read and wrote, and how much."""
        return self._lineage(self._seen)

    def get_openlineage_facets_on_failure(
        self,
        task_instance: RuntimeTaskInstanceProtocol,  # noqa: ARG002
    ) -> OperatorLineage[Any, Any]:
        """Return what the task read and wrote before it failed: what is committed stays."""
        return self._lineage(self._seen)

    def _lineage(self, seen: Seen | None) -> OperatorLineage[Any, Any]:
        from airflow_checkpoint_etl.observability.lineage import (  # noqa: PLC0415
            operator_lineage,
        )

        return operator_lineage(self.pipeline, self.part, self.stage, seen, straight=self.straight)

    def _watched(self, context: Context) -> contextlib.AbstractContextManager[Observer]:
        """Watch an attempt until the block ends."""
        from airflow_checkpoint_etl.observability.lineage import Seen  # noqa: PLC0415
        from airflow_checkpoint_etl.observability.watching import watching  # noqa: PLC0415

        self._seen = Seen()
        lane = Lane(self.pipeline.pipeline_id, self.part)
        every = Settings.load().progress_seconds
        return watching(context, lane, self.stage, every, self._seen)

    def _describe(self, ports: Ports) -> None:
        """Keep what the ports have learnt about the tables, without asking anybody."""
        if self._seen is not None:
            with contextlib.suppress(Exception):
                if isinstance(ports.source, Described):
                    self._seen.source = ports.source.table_facts()
                if isinstance(ports.warehouse, Described):
                    self._seen.target = ports.warehouse.table_facts()

    def _ask_guarantee(self, ports: Ports) -> None:
        """Keep what the pipeline promises, as its lane has it; best effort, the stage is done."""
        if self._seen is not None:
            with contextlib.suppress(Exception):
                state = ports.warehouse.lane(Lane(self.pipeline.pipeline_id, self.part))
                self._seen.guarantee = str(state.settings.get("guarantee", "")) if state else ""

    def _tell_copied(self, summary: Summary) -> None:
        from airflow_checkpoint_etl.observability.hook_lineage import (  # noqa: PLC0415
            tell_copied,
        )

        if self.straight:
            tell_copied(self.pipeline, "extract", summary)
        tell_copied(self.pipeline, self.stage.value, summary)
