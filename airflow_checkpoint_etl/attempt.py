"""One attempt of one stage: who works on what, and how, apart from the ports."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from airflow_checkpoint_etl.observer import SILENT
from airflow_checkpoint_etl.quarantine import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_checkpoint_etl.following import Following
    from airflow_checkpoint_etl.frames import Form
    from airflow_checkpoint_etl.observer import Observer
    from airflow_checkpoint_etl.protocol import Lane, Owner

OnClear = Literal["resume", "fail", "reprocess"]
OnRestored = Literal["fail", "resync"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Everything about one attempt of one stage that is not a port.

    Attributes:
        lane: the lane to work on.
        owner: who works, for the lease and the audit.
        fingerprint: of what must not change under the pipeline's id.
        lease: how long the stage stays ours without a heartbeat.
        grace: how long a staged chunk is kept after its rows are loaded.
        progress_seconds: seconds between two lines in the log.
        max_rows: extract stops after this many rows, the run's target moves there; None: no limit.
        max_seconds: the same in seconds.
        on_clear: what a cleared extract of a finished run does: ``"resume"``, ``"fail"`` or
            ``"reprocess"``.
        on_warehouse_restored: what extract does when the checkpoint store is ahead of the
            warehouse: ``"fail"`` or ``"resync"``.
        settings: what the pipeline looks like, kept with the lane for people and for admin.
        policy: what becomes of records that the transform or the target refuses.
        form: how extract stages chunks: ``"arrow"``, ``"copy"``, or ``"auto"``: copied where source and
            target are alike.
        following: how the attempt works beside the other stages of its DAG run; None: they run one
            after the other.
        observer: who is told of every step.
    """

    lane: Lane
    owner: Owner
    fingerprint: str
    lease: dt.timedelta = field(default=dt.timedelta(seconds=60))
    grace: dt.timedelta = field(default=dt.timedelta(minutes=15))
    progress_seconds: float = 5.0
    max_rows: int | None = None
    max_seconds: float | None = None
    on_clear: OnClear = "resume"
    on_warehouse_restored: OnRestored = "fail"
    settings: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    form: Form = "arrow"
    following: Following | None = None
    observer: Observer = SILENT
