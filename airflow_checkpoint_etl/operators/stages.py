"""The three stages as Airflow operators. Thin: they check parameters and make one call to the runner."""

from __future__ import annotations

import datetime as dt
import socket
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, get_args

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
)

from airflow_checkpoint_etl.attempt import Attempt, OnClear, OnRestored
from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    StageBusyError,
    StageWaitingError,
    UpstreamSkippedError,
    invalid,
)
from airflow_checkpoint_etl.following import share_of
from airflow_checkpoint_etl.hooks.checkpoint import CheckpointHook
from airflow_checkpoint_etl.hooks.following import Place
from airflow_checkpoint_etl.operators.asset import event_extra, pipeline_alias
from airflow_checkpoint_etl.operators.following import following_of, is_in_process, neighbours_of
from airflow_checkpoint_etl.operators.lineage import LineageMixin
from airflow_checkpoint_etl.operators.links import CheckpointsLink
from airflow_checkpoint_etl.parameters import check_part
from airflow_checkpoint_etl.pipeline import Pipeline
from airflow_checkpoint_etl.protocol import IllegalMove, Lane, Owner, Stage
from airflow_checkpoint_etl.runner import StageRunner
from airflow_checkpoint_etl.settings import Settings
from airflow_checkpoint_etl.triggers.checkpoint import StageFreeTrigger
from airflow_checkpoint_etl.triggers.following import FollowTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import AssetAlias, Context

    from airflow_checkpoint_etl.attempt_runner import AttemptRunner
    from airflow_checkpoint_etl.frames import Form
    from airflow_checkpoint_etl.observer import Observer
    from airflow_checkpoint_etl.operators.following import Neighbours
    from airflow_checkpoint_etl.ports import Ports
    from airflow_checkpoint_etl.progress import Summary
    from airflow_checkpoint_etl.transform import Transformer

    Work = tuple[AttemptRunner, Callable[[], Summary]]
    """An attempt's runner, and which of its stages to run."""

OnBusy = Literal["wait", "skip", "fail"]


class CheckpointStageOperator(LineageMixin, BaseOperator):
    """What the three stages share: acquiring, waiting for a busy stage, ending in order.

    Args:
        pipeline: the pipeline; Jinja works in its strings.
        part: the part of the pipeline to work on, keyed by value (templated). The pipeline's strings
            can name it: ``where="tenant = '{{ task.part }}'"``.
        on_busy: what to do while another run works on this stage: ``"wait"`` (deferred, without a
            worker slot), ``"skip"`` or ``"fail"``.
        busy_timeout: seconds to wait at most before failing; None waits as long as it takes.
        follow: work while the stage before still works (see docs/follow.md). Transform and load then
            start at once (``trigger_rule="always"``) and end as the stage before does; extract holds
            back while too much waits to be loaded. Say it to all three stages.
    """

    # The part first: a pipeline's strings can then name it, as in where="tenant = '{{ task.part }}'".
    template_fields: Sequence[str] = ("part", "pipeline")
    ui_color = "#e8f1fb"
    operator_extra_links = (CheckpointsLink(),)
    stage: ClassVar[Stage]

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        part: str = "default",
        on_busy: OnBusy = "wait",
        busy_timeout: float | None = None,
        follow: bool = False,
        **kwargs: Any,
    ) -> None:
        if follow and self.stage is not Stage.EXTRACT:
            kwargs.setdefault("trigger_rule", "always")
        super().__init__(**kwargs)
        if not isinstance(pipeline, Pipeline):
            msg = "pipeline"
            raise invalid(msg, pipeline, "must be a Pipeline", "pass Pipeline(...)")
        if on_busy not in {"wait", "skip", "fail"}:
            msg = "on_busy"
            raise invalid(msg, on_busy, "must be wait, skip or fail", "choose one of them")
        self.pipeline = pipeline
        self.part = check_part(part) if isinstance(part, str) else part
        self.on_busy = on_busy
        self.busy_timeout = busy_timeout
        self.follow = follow
        self.declared_id = pipeline.pipeline_id
        self._runner: AttemptRunner | None = None
        self._killed = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the stage to the run's target and return a small summary.

        Raises:
            AirflowFailException: trying again cannot help; the message says what can.
            AirflowSkipException: the stage is busy and ``on_busy="skip"``.
        """
        return self._execute(context, waiting_since=None)

    def resume(self, context: Context, event: dict[str, Any], waiting_since: str) -> dict[str, Any]:
        """Go on after the stage became free."""
        if event.get("error"):
            raise AirflowFailException(str(event["error"]))
        return self._execute(context, waiting_since)

    def go_on(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Go on beside the other stages; what the trigger has seen is looked at again."""
        return self._execute(context, waiting_since=None)

    def on_kill(self) -> None:
        """Cancel the running statement; the runner then ends and releases its lease."""
        self._killed = True
        if self._runner is not None:
            self._runner.stop()

    # --- steps ---------------------------------------------------------------------------------

    def _execute(self, context: Context, waiting_since: str | None) -> dict[str, Any]:
        check_part(self.part)
        neighbours = neighbours_of(self, context) if self.follow else None
        try:
            with self._watched(context) as observer:
                ports = CheckpointHook(self.pipeline).ports()
                try:
                    attempt = self._attempt(context, observer, neighbours)
                    self._runner, work = self._prepare(ports, attempt)
                    if self._killed:  # while the ports were being made
                        self._runner.stop()
                    summary = self._run(work)
                    self._ask_guarantee(ports)
                finally:
                    self._describe(ports)
                    ports.close()
        except StageBusyError as busy:
            self._busy(busy, waiting_since)
        except StageWaitingError as waiting:
            self._wait_deferred(waiting, context, neighbours)
        except UpstreamSkippedError as skipped:
            raise AirflowSkipException(str(skipped)) from skipped
        except CheckpointEtlError as error:
            if error.retryable:
                raise
            raise AirflowFailException(str(error)) from error
        except IllegalMove as error:
            raise AirflowFailException(str(error)) from error
        self._finished(context, summary)
        return summary.as_xcom()

    def _attempt(
        self, context: Context, observer: Observer, neighbours: Neighbours | None = None
    ) -> Attempt:
        settings = Settings.load()
        task_instance, dag_run = context["ti"], context["dag_run"]
        owner = Owner(
            dag_id=task_instance.dag_id,
            run_id=str(task_instance.run_id),
            task_id=task_instance.task_id,
            map_index=task_instance.map_index if task_instance.map_index is not None else -1,
            try_number=task_instance.try_number,
            ti_id=str(getattr(task_instance, "id", "")),
            host=socket.gethostname(),
            clear_number=getattr(dag_run, "clear_number", None) or 0,
        )
        return Attempt(
            lane=Lane(self.pipeline.pipeline_id, self.part),
            owner=owner,
            fingerprint=self.pipeline.fingerprint(),
            lease=settings.lease,
            grace=dt.timedelta(seconds=self.pipeline.staging_grace),
            progress_seconds=settings.progress_seconds,
            settings=self.pipeline.settings(),
            policy=self.pipeline.policy,
            observer=observer,
            following=following_of(self, neighbours, settings) if neighbours else None,
            **self._options(),
        )

    def _prepare(self, ports: Ports, attempt: Attempt) -> Work:
        raise NotImplementedError

    def _run(self, work: Callable[[], Summary]) -> Summary:
        return work()

    def _options(self) -> dict[str, Any]:
        """What this stage alone can be told."""
        return {}

    def _finished(self, context: Context, summary: Summary) -> None:  # noqa: ARG002  the load's
        """What to tell Airflow once the stage is done."""
        self._tell_copied(summary)

    def _emit(self, context: Context, alias: AssetAlias, summary: Summary) -> None:
        """Emit the pipeline's asset if this DAG run has loaded something, in whichever of its tries."""
        # A try that was killed after its last commit has told nobody: its retry finds only kept chunks.
        if not summary.rows and not summary.kept:
            return
        extra = event_extra(summary, self._seen.guarantee if self._seen else "")
        context["outlet_events"][alias].add(self.pipeline.asset, extra=extra)

    def _wait_deferred(
        self, waiting: StageWaitingError, context: Context, neighbours: Neighbours | None
    ) -> NoReturn:
        if neighbours is None:
            raise waiting
        if is_in_process():
            # dag.test() runs one task at a time, and a trigger in line: those before come first.
            from airflow.exceptions import AirflowRescheduleException  # noqa: PLC0415

            raise AirflowRescheduleException(dt.datetime.now(dt.UTC))
        self.log.info("%s; waiting without a worker slot", waiting)
        place = Place(
            warehouse_conn_id=self.pipeline.warehouse.conn_id,
            checkpoint_conn_id=self.pipeline.checkpoint_connection,
            pipeline=self.pipeline.pipeline_id,
            part=self.part,
            stage=self.stage.value,
            dag_id=neighbours.dag_id,
            run_id=neighbours.run_id,
            clear_number=getattr(context["dag_run"], "clear_number", None) or 0,
        )
        self.defer(
            trigger=FollowTrigger(
                place=asdict(place),
                neighbours=asdict(neighbours),
                holding=waiting.holding,
                share=share_of(self.pipeline.staged_bytes_cap),
                poll_seconds=Settings.load().busy_poll_seconds,
            ),
            method_name="go_on",
        )

    def _busy(self, busy: StageBusyError, waiting_since: str | None) -> NoReturn:
        if self.on_busy == "skip":
            raise AirflowSkipException(str(busy)) from busy
        if self.on_busy == "fail":
            raise busy
        now = dt.datetime.now(dt.UTC)
        since = dt.datetime.fromisoformat(waiting_since) if waiting_since else now
        timeout = None
        if self.busy_timeout is not None:
            timeout = since + dt.timedelta(seconds=self.busy_timeout) - now
            if timeout <= dt.timedelta(0):
                message = f"waited {self.busy_timeout:g} s (busy_timeout); {busy}"
                raise AirflowFailException(message) from busy
        self.log.info("%s; waiting without a worker slot", busy)
        self.defer(
            trigger=StageFreeTrigger(
                warehouse_conn_id=self.pipeline.warehouse.conn_id,
                pipeline_id=self.pipeline.pipeline_id,
                part=self.part,
                stage=busy.stage or self.stage.value,
                poll_seconds=Settings.load().busy_poll_seconds,
            ),
            method_name="resume",
            kwargs={"waiting_since": since.isoformat()},
            timeout=timeout,
        )


def check_reprocess(on_clear: str, pipeline: Pipeline) -> None:
    """Refuse a reprocessing that could not take rows back.

    Raises:
        ConfigurationError: the target keeps no lineage and is appended to.
    """
    warehouse = pipeline.warehouse
    if on_clear == "reprocess" and warehouse.write == "append" and warehouse.lineage == "never":
        msg = "on_clear"
        raise invalid(
            msg,
            on_clear,
            'an append with lineage="never" cannot tell which rows to take back',
            'pass lineage="auto" or "always" on the warehouse, or write="upsert"',
        )


class CheckpointExtractOperator(CheckpointStageOperator):
    """Reads the source from the stored last id up to a settled bound and stages it in chunks.

    Args:
        max_rows: a budget: stop after about this many rows; the run then ends there, and the next
            run goes on. None: no limit.
        max_seconds: the same in seconds.
        on_clear: what a clear of this task does when its DAG run is loaded to the end: ``"resume"``
            (nothing is left to do), ``"fail"``, or ``"reprocess"``: the rows of this run and of all
            later ones are taken back and loaded again (clear it with Downstream).
        on_warehouse_restored: what to do when the checkpoint store is ahead of the warehouse:
            ``"fail"``, or ``"resync"``: go on from where the warehouse is.
        transformed: whether the transform after this extract has a callable. With False a pipeline of
            ``form="auto"`` is staged in copy form, where source and target are alike.
    """

    stage = Stage.EXTRACT

    def __init__(
        self,
        *,
        max_rows: int | None = None,
        max_seconds: float | None = None,
        on_clear: OnClear = "resume",
        on_warehouse_restored: OnRestored = "fail",
        transformed: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.transformed = transformed
        for name, choice, choices in (
            ("on_clear", on_clear, get_args(OnClear)),
            ("on_warehouse_restored", on_warehouse_restored, get_args(OnRestored)),
        ):
            if choice not in choices:
                rule = f"must be one of {', '.join(choices)}"
                raise invalid(name, choice, rule, "choose one of them")
        check_reprocess(on_clear, self.pipeline)
        self.on_clear = on_clear
        self.on_warehouse_restored = on_warehouse_restored
        for name, value in (("max_rows", max_rows), ("max_seconds", max_seconds)):
            if value is not None and value <= 0:
                raise invalid(name, value, "must be positive", "pass a number above zero or None")
        self.max_rows = max_rows
        self.max_seconds = max_seconds

    def _options(self) -> dict[str, Any]:
        return {
            "max_rows": self.max_rows,
            "max_seconds": self.max_seconds,
            "on_clear": self.on_clear,
            "on_warehouse_restored": self.on_warehouse_restored,
            "form": self._form(),
        }

    def _form(self) -> Form:
        if self.transformed and self.pipeline.form == "auto":
            return "arrow"
        return self.pipeline.untransformed_form

    def _prepare(self, ports: Ports, attempt: Attempt) -> Work:
        runner = StageRunner(ports, attempt)
        return runner, runner.extract


class CheckpointTransformOperator(CheckpointStageOperator):
    """Applies a Python callable to the staged chunks.

    Args:
        python_callable: per record ``dict -> dict``, ``None`` to drop the row or a list to fan out;
            per batch ``pyarrow.Table -> pyarrow.Table``. Left out: the chunks pass as they are.
        mode: ``"record"`` or ``"batch"``.
        columns: per record: the columns the callable gets. The others are carried as they are, which is
            several times as fast; what it returns is put over the row. Left out: all of them.
        processes: worker processes for a per-record callable that keeps a processor busy; it must not
            keep a state. Left out: it is called in the task's own process.
        initial_state: a dict (JSON) for a transform that remembers: the callable gets it as its second
            argument and changes it in place; it is kept atomically with each chunk's progress.
        output_columns: PostgreSQL types of columns the callable makes, where values do not tell.
    """

    stage = Stage.TRANSFORM
    shallow_copy_attrs: Sequence[str] = ("python_callable",)

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any] | None = None,
        mode: Literal["record", "batch"] = "record",
        initial_state: Mapping[str, Any] | None = None,
        output_columns: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
        processes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if python_callable is not None:
            if self.pipeline.form == "copy":
                msg = "form"
                raise invalid(
                    msg,
                    self.pipeline.form,
                    "chunks in copy form cannot be read by a transform",
                    'leave python_callable out, or pass form="auto" to the pipeline',
                )
            from airflow_checkpoint_etl.callables import (  # noqa: PLC0415
                check_callable,
                check_columns,
                check_processes,
                check_rejecting,
            )

            check_callable(python_callable, mode, initial_state)
            check_columns(columns, mode, self.pipeline.source.read_columns)
            check_processes(processes, mode, initial_state)
            if self.pipeline.on_error == "quarantine":
                check_rejecting(mode, initial_state)
        self.python_callable = python_callable
        self.mode = mode
        self.initial_state = initial_state
        self.output_columns = output_columns
        self.columns = columns
        self.processes = processes
        self._transformer: Transformer | None = None

    def _execute(self, context: Context, waiting_since: str | None) -> dict[str, Any]:
        if self.python_callable is None:
            return super()._execute(context, waiting_since)
        from airflow_checkpoint_etl.transform import CallableTransformer  # noqa: PLC0415

        transformer = CallableTransformer(
            self.python_callable,
            self.mode,
            self.initial_state,
            self.output_columns,
            self.pipeline.source.cursor_columns,
            columns=self.columns,
            processes=self.processes,
        )
        self._transformer = (
            transformer.rejecting() if self.pipeline.policy.quarantines else transformer
        )
        # Worker processes are forked first of all: before there is a connection, or an observer's thread.
        with self._transformer.at_work():
            return super()._execute(context, waiting_since)

    def _prepare(self, ports: Ports, attempt: Attempt) -> Work:
        runner = StageRunner(ports, attempt)
        return runner, partial(runner.transform, self._transformer)


class CheckpointLoadOperator(CheckpointStageOperator):
    """Loads the transformed chunks, each with its ledger row in one warehouse transaction.

    Emits ``pipeline.asset`` with first and last id and rows, only when this DAG run loaded something, in
    whichever of its tries.
    """

    stage = Stage.LOAD

    def __init__(self, *, pipeline: Pipeline, **kwargs: Any) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self._alias = pipeline_alias(pipeline.pipeline_id)
        self.outlets = [*(self.outlets or []), self._alias]

    def _prepare(self, ports: Ports, attempt: Attempt) -> Work:
        runner = StageRunner(ports, attempt)
        return runner, runner.load

    def _finished(self, context: Context, summary: Summary) -> None:
        super()._finished(context, summary)
        self._emit(context, self._alias, summary)
