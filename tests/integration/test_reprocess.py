"""Clear, by the rules: a clear resumes, and reprocesses only where that was asked for and is whole."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.errors import (
    ConfigurationError,
    PreflightError,
    RewindError,
    RewoundError,
    StageBusyError,
)
from airflow_checkpoint_etl.operators.stages import CheckpointExtractOperator
from airflow_checkpoint_etl.pipeline import Pipeline


def double(record):
    return record | {"amount": record["amount"] * 2}


def chunks_loaded(world) -> int:
    return world.fetch("select count(*) from checkpoint_etl.ledger")[0][0]


def assert_doubled(world) -> None:
    ((wrong, rows),) = world.fetch("select 0, count(*) from orders_copy")
    expected = world.fetch("select sum(amount) * 2, count(*) from orders", at="source")
    assert world.fetch("select sum(amount), count(distinct id) from orders_copy") == expected
    assert (wrong, rows) == (0, expected[0][1])


@pytest.fixture
def reprocessing(world):
    world.attempt["on_clear"] = "reprocess"
    return world


def test_a_finished_run_that_is_cleared_loads_its_rows_again(reprocessing):
    world = reprocessing
    world.run()
    extract, _, load = world.run(function=double, clear_number=1)
    assert (extract.kept, load.kept, load.chunks) == (0, 0, 10)
    assert_doubled(world)
    assert chunks_loaded(world) == 20
    assert world.fetch("select kind from checkpoint_etl.event") == [("reprocess",)]


def test_its_retries_resume_and_do_not_begin_again(reprocessing):
    world = reprocessing
    world.run()
    world.stage("extract", clear_number=1)
    world.stage("extract", clear_number=1, try_number=2)
    world.stage("transform", function=double, clear_number=1)
    world.stage("load", clear_number=1)
    world.stage("load", clear_number=1, try_number=2)
    assert_doubled(world)
    assert chunks_loaded(world) == 20


def test_extract_cleared_twice_reprocesses_twice(reprocessing):
    world = reprocessing
    world.run()
    world.run(clear_number=1)
    world.run(function=double, clear_number=2)
    assert_doubled(world)
    assert chunks_loaded(world) == 30


def test_extract_cleared_again_before_its_run_was_loaded_resumes(reprocessing):
    world = reprocessing
    world.run()
    world.stage("extract", clear_number=1)
    extract = world.stage("extract", clear_number=2)
    assert (extract.chunks, extract.kept) == (0, 10)
    world.stage("transform", function=double, clear_number=2)
    world.stage("load", clear_number=2)
    assert_doubled(world)


@pytest.mark.parametrize("stage", ["transform", "load"])
def test_a_later_stage_cleared_alone_resumes(reprocessing, stage):
    world = reprocessing
    world.run()
    summary = world.stage(stage, clear_number=1)
    assert summary.chunks == 0
    assert chunks_loaded(world) == 10
    world.assert_exact()


def test_a_failed_run_that_is_cleared_resumes(reprocessing):
    world = reprocessing
    world.stage("extract")
    extract, _, load = world.run(clear_number=1)
    assert (extract.kept, load.rows) == (10, 1000)
    world.assert_exact()


def test_the_rows_of_later_runs_are_replayed_too(reprocessing):
    world = reprocessing
    world.run("run_1")
    world.insert(300)
    world.run("run_2")
    extract, _, load = world.run("run_1", function=double, clear_number=1)
    assert (extract.first, extract.target, load.rows) == ("begin", "i8:1300", 1300)
    assert_doubled(world)


def test_five_days_cleared_together_end_exact_in_any_order(reprocessing):
    world = reprocessing
    days = [f"day_{number}" for number in range(1, 6)]
    for day in days:
        world.run(day)
        world.insert(100)
    for day in (days[2], days[0], days[4], days[1], days[3]):
        world.run(day, function=double, clear_number=1)
    world.run("day_6", function=double)
    assert_doubled(world)


def test_five_days_cleared_together_stage_by_stage_lose_and_double_nothing(reprocessing):
    world = reprocessing
    days = [f"day_{number}" for number in range(1, 6)]
    for day in days:
        world.run(day)
        world.insert(100)
    for stage in ("extract", "transform", "load"):
        for day in days:
            try:
                world.stage(stage, day, clear_number=1)
            except RewoundError as error:  # an older day's reprocessing has taken its chunks over
                assert "clear extract with Downstream" in str(error)  # noqa: PT017
    world.run("day_6")
    world.assert_exact()


def test_a_reprocess_waits_while_another_run_works_on_the_lane(reprocessing):
    world = reprocessing
    world.run("run_1")
    world.insert(100)
    world.stage("extract", "run_2")
    runner, ports = world.runner("transform", "run_2")
    append = ports.checkpoints.append

    def cleared_meanwhile(*args):
        ports.checkpoints.append = append
        with pytest.raises(StageBusyError, match="transform") as caught:
            world.stage("extract", "run_1", clear_number=1)
        assert caught.value.stage == "transform"
        return append(*args)

    ports.checkpoints.append = cleared_meanwhile
    runner.transform(None)
    ports.close()
    world.stage("load", "run_2")
    world.run("run_1", function=double, clear_number=1)
    assert_doubled(world)


def test_a_run_between_its_stages_is_told_that_it_was_overtaken(reprocessing):
    world = reprocessing
    world.run("run_1")
    world.insert(100)
    world.stage("extract", "run_2")
    world.run("run_1", function=double, clear_number=1)
    with pytest.raises(RewoundError, match="clear extract with Downstream"):
        world.stage("transform", "run_2", function=double)
    world.run("run_2", function=double, clear_number=1)
    assert_doubled(world)


def test_a_run_that_resumed_after_a_clear_keeps_its_range_for_a_later_one(world):
    world.run()
    world.insert(100)
    world.run(clear_number=1)
    assert world.fetch("select low, target from checkpoint_etl.run") == [("begin", "i8:1100")]
    world.attempt["on_clear"] = "reprocess"
    _, _, load = world.run(function=double, clear_number=2)
    assert load.rows == 1100
    assert_doubled(world)


def test_a_run_whose_rows_another_ones_reprocessing_took_back_keeps_its_range(reprocessing):
    world = reprocessing
    world.run("run_1")
    world.insert(100)
    world.run("run_2")
    world.stage("extract", "run_1", clear_number=1)  # takes the rows of both back
    world.stage("extract", "run_2", clear_number=1)  # resumes
    world.stage("transform", "run_2", function=double, clear_number=1)
    world.stage("load", "run_2", clear_number=1)
    assert_doubled(world)
    world.run("run_2", clear_number=2)
    assert chunks_loaded(world) == 10 + 1 + 11 + 1
    ((rows, again),) = world.fetch(
        "select count(*), sum(amount) filter (where id > 1000) from orders_copy"
    )
    assert (rows, [(again,)]) == (
        1100,
        world.fetch("select sum(amount) from orders where id > 1000", at="source"),
    )


def test_a_reprocess_that_its_budget_ends_is_finished_by_the_runs_after_it(reprocessing):
    world = reprocessing
    world.run("run_1")
    world.insert(300)
    world.run("run_2")
    world.attempt["max_rows"] = 500
    _, _, load = world.run("run_1", function=double, clear_number=1)
    assert load.rows == 500
    assert world.fetch("select count(*) from orders_copy") == [(500,)]
    world.run("run_3", function=double)
    world.run("run_4", function=double)
    assert_doubled(world)


def test_clearing_a_finished_run_fails_where_that_was_asked_for(world):
    world.attempt["on_clear"] = "fail"
    world.run()
    with pytest.raises(PreflightError, match="on_clear='fail'"):
        world.stage("extract", clear_number=1)
    world.assert_exact()


def test_by_default_clearing_a_finished_run_does_nothing(world):
    world.run()
    extract, _, load = world.run(clear_number=1)
    assert (extract.chunks, load.chunks) == (0, 0)
    world.assert_exact()


def test_rows_that_cannot_be_taken_back_are_not_reprocessed(reprocessing):
    world = reprocessing
    world.warehouse["lineage"] = "never"
    world.run()
    with pytest.raises(RewindError, match="_ck_chunk"):
        world.stage("extract", clear_number=1)
    world.assert_exact()


def test_a_reprocess_that_could_never_work_is_refused_when_the_dag_is_parsed():
    pipeline = Pipeline(
        pipeline_id="orders",
        source=PostgresSource(conn_id="shop", table="orders"),
        warehouse=PostgresWarehouse(conn_id="dwh", table="orders", lineage="never"),
    )
    with pytest.raises(ConfigurationError, match="on_clear='reprocess'"):
        CheckpointExtractOperator(task_id="extract", pipeline=pipeline, on_clear="reprocess")
    with pytest.raises(ConfigurationError, match="must be one of"):
        CheckpointExtractOperator(task_id="extract", pipeline=pipeline, on_clear="redo")
