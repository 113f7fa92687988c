"""One pipeline per test, slow enough to be killed in the middle of every stage."""

from __future__ import annotations

import datetime as dt
import os
import time
from dataclasses import replace
from pathlib import Path

from airflow.sdk import DAG, TaskGroup, get_current_context, task, task_group
from airflow.sdk.definitions.deadline import AsyncCallback, DeadlineAlert, DeadlineReference

from airflow_checkpoint_etl import (
    CheckpointExtractOperator,
    CheckpointLoadOperator,
    CheckpointSensor,
    CheckpointTransformOperator,
    Pipeline,
    PostgresSource,
    PostgresWarehouse,
    checkpoint_range_task_group,
    checkpoint_task_group,
)
from tests.e2e.lateness import say_late

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FLAGS = Path(os.environ["E2E_FLAGS"])
CHUNK = 500


def pipeline(name: str, store: str, **options) -> Pipeline:
    return Pipeline(
        pipeline_id=name,
        source=PostgresSource(
            conn_id="shop",
            table=f"public.{name}",
            chunk_rows=CHUNK,
            # One short sleep per chunk: true for every row, and slow enough to be caught at it.
            where=f"case when id % {CHUNK} = 0 then pg_sleep(0.1) is not null else true end",
        ),
        warehouse=PostgresWarehouse(conn_id="dwh", table=f"public.{name}"),
        checkpoint_conn_id="checkpoints" if store == "redis" else None,
        **options,
    )


def slowly(table):
    time.sleep(0.1)
    return table


def dag(name: str, store: str, transform=slowly, mode: str = "batch", **options):
    with DAG(name, schedule=None, start_date=START, **options) as made:
        checkpoint_task_group(
            "etl",
            pipeline(name, store),
            transform,
            transform_options={"mode": mode},
            retries=2,
            retry_delay=dt.timedelta(seconds=1),
        )
    return made


for stage in ("extract", "transform", "load"):
    for store in ("redis", "postgres"):
        globals()[f"kill_{stage}_{store}"] = dag(f"kill_{stage}_{store}", store)


def fails_while_flagged(table):
    if (FLAGS / "fail").exists():
        raise RuntimeError
    return table


with DAG("clear_failed", schedule=None, start_date=START) as clear_failed:
    checkpoint_task_group(
        "etl",
        pipeline("clear_failed", "redis"),
        fails_while_flagged,
        transform_options={"mode": "batch"},
        retries=0,
    )

again = dag("again", "postgres", None)
seen = dag("seen", "postgres", None)

with DAG("ranged_redis", schedule=None, start_date=START) as ranged:
    checkpoint_range_task_group(
        "etl",
        pipeline("ranged_redis", "redis"),
        parts=4,
        rows_per_part=1000,
        # A part that starts while its planning is cleared finds no list of parts, and is tried again.
        retries=5,
        retry_delay=dt.timedelta(seconds=1),
    )
twice = dag("twice", "redis", None, max_active_runs=2)

with DAG("reprocessed", schedule=None, start_date=START) as reprocessed:
    checkpoint_task_group(
        "etl", pipeline("reprocessed", "redis"), extract_options={"on_clear": "reprocess"}
    )

with DAG("waits", schedule=None, start_date=START) as waits:
    awaited = pipeline("awaited", "postgres")
    # A sensor that is rescheduled at once races with the executor's report of its last try.
    CheckpointSensor(task_id="deferred", pipeline=awaited, deferrable=True, poke_interval=1)
    CheckpointSensor(task_id="rescheduled", pipeline=awaited, mode="reschedule", poke_interval=15)
    CheckpointSensor(
        task_id="poked",
        pipeline=awaited,
        stage="extract",
        at_least="{{ dag_run.conf['at_least'] }}",
        poke_interval=1,
    )

with DAG("follows", schedule=[awaited.asset], start_date=START) as follows:
    CheckpointSensor(task_id="is_there", pipeline=awaited, at_least=1)

awaited_dag = dag("awaited", "postgres", None)


# --- stages that run at once ----------------------------------------------------------------------------


def follow_dag(name: str, source: dict[str, str], slots: int, retries: int) -> DAG:
    """A group whose stages run at once, as far as its DAG lets them."""
    flow = pipeline(name, "redis")
    with DAG(name, schedule=None, start_date=START, max_active_tasks=slots) as made:
        checkpoint_task_group(
            "etl",
            replace(flow, source=replace(flow.source, **source)),
            slowly,
            transform_options={"mode": "batch"},
            follow=True,
            retries=retries,
            retry_delay=dt.timedelta(seconds=1),
        )
    return made


follow_killed = follow_dag(
    "follow_killed_redis",
    # All three are still at work when the last of them is killed.
    {"where": f"case when id % {CHUNK} = 0 then pg_sleep(0.5) is not null else true end"},
    3,
    2,
)
FAILS_AT = 8 * CHUNK + 1
follow_failed = follow_dag(
    "follow_failed_redis",
    {"where": f"case when id = {FAILS_AT} then 1 / (id - id) > 0 else true end"},
    3,
    0,
)
follow_one_slot = follow_dag("follow_one_slot_redis", {}, 1, 0)


# --- events: stages that a test holds where it wants them -----------------------------------------------


def held_above(name: str) -> float:
    """The id above which a test holds this pipeline's transform."""
    try:
        return int((FLAGS / f"{name}.transform").read_text())
    except FileNotFoundError:
        return float("inf")


def crawling(name: str):
    """A transform that all but stands still, but can be ended, above the id it is held at."""

    def crawl(record):
        if record["id"] > held_above(name):
            time.sleep(0.1)
        return record

    return crawl


def held_pipeline(name: str, store: str = "redis", and_where: str = "true", **options) -> Pipeline:
    """A pipeline whose source and target hold the first row of a chunk while a test says so."""
    first = f"id % {CHUNK} = 1"
    return Pipeline(
        pipeline_id=name,
        source=PostgresSource(
            conn_id="shop",
            table=f"public.{name}",
            chunk_rows=CHUNK,
            where=f"case when {first} then public.pass('{name}', id) else true end and {and_where}",
        ),
        warehouse=PostgresWarehouse(conn_id="dwh", table=f"public.{name}"),
        checkpoint_conn_id="checkpoints" if store == "redis" else None,
        **options,
    )


class Noting:
    """An operator that notes how each of its attempts ended, for those that nobody listens to."""

    def _execute(self, context, waiting_since):
        end = "done"
        try:
            return super()._execute(context, waiting_since)
        except BaseException as error:
            end = type(error.__cause__ or error).__name__
            raise
        finally:
            note = FLAGS / f"{os.getpid()}.end"
            note.with_suffix(".writing").write_text(end)
            note.with_suffix(".writing").rename(note)


class NotingExtract(Noting, CheckpointExtractOperator):
    pass


class NotingTransform(Noting, CheckpointTransformOperator):
    pass


class NotingLoad(Noting, CheckpointLoadOperator):
    pass


EVENTS = (
    "ev_killed_redis",
    "ev_orphaned_redis",
    "ev_cleared_postgres",
    "ev_finished_redis",
    "ev_marked_redis",
    "ev_deleted_redis",
    "ev_waiting_redis",
)
RETRIES = {"retries": 2, "retry_delay": dt.timedelta(seconds=1)}


def noting_stages(name: str, and_where: str = "true", part: str = "default") -> None:
    """The three stages of a held pipeline, whose name's end is its checkpoint store."""
    held = held_pipeline(name, name.rpartition("_")[2], and_where)
    (
        NotingExtract(task_id="extract", pipeline=held, part=part)
        >> NotingTransform(
            task_id="transform", pipeline=held, part=part, python_callable=crawling(name)
        )
        >> NotingLoad(task_id="load", pipeline=held, part=part)
    )


for name in EVENTS:
    with DAG(name, schedule=None, start_date=START, default_args=RETRIES), TaskGroup("etl"):
        noting_stages(name)

with DAG("ev_parts_redis", schedule=None, start_date=START, default_args=RETRIES):

    @task_group(group_id="etl")
    def of_part(part: str) -> None:
        noting_stages("ev_parts_redis", "id % 2 = {{ task.part }}", part)

    of_part.expand(part=["0", "1"])


# --- secrets: pipelines that fail while they hold something to be kept secret --------------------------


def raises_the_row(record):
    if record["id"] == CHUNK:
        raise ValueError(record["customer"])
    return record


def puts_text_where_numbers_were(record):
    return {**record, "amount": record["customer"] if record["id"] == CHUNK else record["amount"]}


def secret_dag(
    name: str,
    transform=None,
    *,
    source: str = "shop_secret",
    settle_timeout: float = 60.0,
    **options,
) -> DAG:
    """A pipeline over connections with passwords and rows with a marked text; it never retries."""
    with DAG(name, schedule=None, start_date=START) as made:
        checkpoint_task_group(
            "etl",
            Pipeline(
                pipeline_id=name,
                source=PostgresSource(
                    conn_id=source,
                    table=f"public.{name}",
                    chunk_rows=CHUNK,
                    settle_timeout=settle_timeout,
                ),
                warehouse=PostgresWarehouse(conn_id="dwh_secret", table=f"public.{name}"),
                **{"checkpoint_conn_id": "checkpoints_secret"} | options,
            ),
            transform,
        )
    return made


secret_loaded = secret_dag("secret_loaded")
secret_raised = secret_dag("secret_raised", raises_the_row)
secret_mistyped = secret_dag("secret_mistyped", puts_text_where_numbers_were)
secret_doubled = secret_dag("secret_doubled")
secret_checked = secret_dag("secret_checked")
secret_unreachable = secret_dag("secret_unreachable", source="unreachable_secret")
secret_unknown = secret_dag("secret_unknown", checkpoint_conn_id="wrong_secret")
secret_unsettled = secret_dag("secret_unsettled", settle_timeout=1.0)

with DAG("tells", schedule=None, start_date=START):

    @task
    def tell(text: str) -> None:
        """Say a text wherever a careless task might: what the search for secrets must find."""
        get_current_context()["ti"].xcom_push("text", text)
        print(text)  # noqa: T201
        raise ValueError(text)

    tell("{{ dag_run.conf['text'] }}")

with DAG(
    "waits_in_vain",
    schedule=None,
    start_date=START,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=dt.timedelta(seconds=1),
        callback=AsyncCallback(say_late, kwargs={"dag_id": "waits_in_vain"}),
    ),
):
    CheckpointSensor(
        task_id="loaded",
        pipeline=pipeline("nothing_loads_this", "postgres"),
        deferrable=True,
        poke_interval=1.0,
        timeout=600.0,
    )
