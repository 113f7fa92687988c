"""One range loaded in parts: planned once, loaded in any order, closed in one step."""

from __future__ import annotations

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from airflow_checkpoint_etl.errors import (
    PipelineChangedError,
    PlanEndedError,
    PlanNotDoneError,
    PlanOpenError,
    PreflightError,
    RewindError,
    StageBusyError,
)
from airflow_checkpoint_etl.planner import Cutting
from airflow_checkpoint_etl.ports import LaneSpec
from airflow_checkpoint_etl.postgres import Session
from airflow_checkpoint_etl.protocol import Lane, Owner, Stage
from airflow_checkpoint_etl.warehouses.ledger import Ledger
from tests.ranges import PlannedWorld
from tests.support import ORDERS, connector

EVENTS = "select kind from checkpoint_etl.event order by id"


@pytest.fixture
def planned_on_each_store(world):
    return PlannedWorld.of(world)


@pytest.fixture
def planned(new_database):
    """A pipeline over 1,000 orders whose checkpoints are in the warehouse: plans are there anyway."""
    made = PlannedWorld(new_database().dsn, new_database().dsn)
    made.fetch(ORDERS, at="source")
    made.insert(1000)
    return made


def ledger_of(planned):
    session = Session(connector(planned.warehouse_dsn), "test")
    return Ledger(session, session, 5.0)


def caught_up(planned, moment="1971-01-01T00:00:00+00:00"):
    ledger = ledger_of(planned)
    try:
        return ledger.caught_up(planned.lane, dt.datetime.fromisoformat(moment))
    finally:
        ledger.close()


def twice_at_once(work):
    """Run something in two threads that start together."""
    together = threading.Barrier(2)

    def one(number):
        together.wait()
        return work(number)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))


# --- loading -----------------------------------------------------------------------------------------


def test_a_first_load_in_four_parts_is_exact_whatever_their_order(planned_on_each_store):
    planned = planned_on_each_store
    keys = planned.plan()
    assert len(keys) == 4
    for key in reversed(keys):
        planned.load_part(key)
    assert planned.close().rows == 1000
    planned.assert_exact()
    assert planned.main() == ("i8:1000", 1)
    chain = "select low, high, rows from checkpoint_etl.ledger where part = 'default'"
    assert planned.fetch(chain) == [("begin", "i8:1000", 1000)]
    assert [planned.rows_of(key) for key in keys] == [250, 250, 250, 250]


def test_an_upsert_in_parts_is_exact(planned):
    planned.warehouse |= {"write": "upsert", "key": ("id",)}
    planned.everything()
    planned.assert_exact()


def test_an_increment_is_loaded_by_the_main_lane_in_the_same_tasks(planned):
    planned.everything()
    planned.insert(150)
    assert planned.plan(run="run_2") == ["default"]
    planned.load_part("default", "run_2")
    assert planned.close("run_2") is None
    planned.assert_exact()
    assert planned.main() == ("i8:1150", 3)


def test_a_large_gap_above_a_loaded_range_is_planned_again(planned):
    planned.run("run_0")
    planned.insert(1000)
    assert planned.everything().rows == 1000
    planned.assert_exact()
    at, seq = planned.main()
    assert (at, seq) == ("i8:2000", 11)


def test_an_empty_source_is_left_to_the_main_lane(planned):
    planned.fetch("delete from orders", at="source")
    assert planned.plan() == ["default"]


def test_a_part_does_not_settle_again(planned):
    planned.source["settle_timeout"] = 0.5
    keys = planned.plan()
    with psycopg.connect(planned.source_dsn) as writer:
        writer.execute("insert into orders (amount) values (1)")
        for key in keys:
            planned.load_part(key)
        planned.close()
    planned.fetch("delete from orders where id > 1000", at="source")
    planned.assert_exact()


def test_rows_that_commit_late_are_waited_for_by_the_planning(planned):
    with psycopg.connect(planned.source_dsn) as writer, ThreadPoolExecutor(1) as pool:
        writer.execute("insert into orders (amount) values (1)")
        planned.insert(500)
        keys = pool.submit(planned.plan)
        with pytest.raises(TimeoutError):
            keys.result(0.5)
        writer.commit()
        for key in keys.result(20):
            planned.load_part(key)
    planned.close()
    planned.assert_exact()


def test_a_swept_source_finds_what_came_late_after_the_plan(planned):
    planned.source |= {"settle": "sweep"}
    planned.warehouse |= {"write": "upsert", "key": ("id",)}
    with psycopg.connect(planned.source_dsn) as writer:
        writer.execute("insert into orders (amount) values (1)")
        planned.insert(100)  # above the row that is not committed yet
        planned.everything()
        writer.commit()
    planned.load_part("default", "run_2")
    planned.assert_exact()


# --- planning once -----------------------------------------------------------------------------------


def test_planning_again_returns_the_same_plan_however_much_has_come(planned):
    keys = planned.plan()
    planned.load_part(keys[0])
    planned.insert(3000)
    assert planned.plan(try_number=2) == keys
    assert planned.plan(Cutting(parts=2, rows_per_part=10), "run_2", clear_number=1) == keys


def test_two_plannings_at_once_make_one_plan(planned):
    one, other = twice_at_once(lambda number: planned.plan(run=f"run_{number}"))
    assert one == other
    assert planned.fetch("select count(*) from checkpoint_etl.plan") == [(1,)]
    assert planned.fetch("select count(*) from checkpoint_etl.lane") == [(5,)]


def test_nothing_is_planned_over_a_main_lane_that_another_run_works_on(planned):
    planned.stage("extract", "run_0")
    ports = planned.ports()
    spec = LaneSpec(planned.lane, planned.configure().fingerprint(), "begin")
    owner = Owner("dag", "run_0", "load")
    try:
        claim = ports.warehouse.acquire(spec, Stage.LOAD, owner, dt.timedelta(minutes=1))
        with pytest.raises(StageBusyError, match=r"dag.load of run_0 .* works on its load"):
            planned.plan()
        ports.warehouse.release(claim)
    finally:
        ports.close()
    assert len(planned.plan()) == 4


def test_a_planning_that_slept_through_a_whole_plan_makes_none_from_the_old_place(
    planned, monkeypatch
):
    planner, ports = planned.planner("run_2")
    split = ports.source.split

    def slowly(*range_):
        monkeypatch.setattr(ports.source, "split", split)
        cuts = split(*range_)
        planned.everything()
        return cuts

    monkeypatch.setattr(ports.source, "split", slowly)
    try:
        assert planner.plan(Cutting(4, 200)) == ["default"]
    finally:
        ports.close()
    assert planned.fetch("select outcome from checkpoint_etl.plan") == [("loaded",)]


# --- the main lane while a plan is open --------------------------------------------------------------


@pytest.mark.parametrize("stage", ["extract", "transform", "load"])
def test_the_main_lane_is_refused_while_a_plan_is_open(planned, stage):
    planned.plan()
    with pytest.raises(PlanOpenError, match=r"plan 1 is open over orders.*4 parts.*abandon_plan"):
        planned.stage(stage, "run_2")


def test_a_load_that_acquired_the_main_lane_before_the_plan_loads_nothing(planned):
    planned.stage("extract", "run_0")
    planned.stage("transform", "run_0")
    runner, ports = planned.runner("load", "run_0")
    spec = LaneSpec(planned.lane, planned.configure().fingerprint(), "begin")
    try:
        claim = ports.warehouse.acquire(
            spec, Stage.LOAD, Owner("dag", "run_0", "load"), dt.timedelta(0)
        )
        keys = planned.plan()
        chunk = runner._recovery.load(claim).sources[1]
        with pytest.raises(PlanOpenError):
            ports.warehouse.load(claim, chunk, runner._files.get(chunk).table)
    finally:
        ports.close()
    for key in keys:
        planned.load_part(key)
    planned.close()
    planned.assert_exact()


# --- closing -----------------------------------------------------------------------------------------


def test_closing_names_the_parts_that_are_not_at_their_end(planned):
    keys = planned.plan()
    for key in keys[:2]:
        planned.load_part(key)
    planned.of_part(keys[2]).stage("extract")
    with pytest.raises(PlanNotDoneError, match="2 of 4") as fault:
        planned.close()
    assert all(key in str(fault.value) for key in keys[2:])
    assert planned.main() == ("begin", 0)
    for key in keys[2:]:
        planned.load_part(key)
    planned.close()
    planned.assert_exact()


def test_closing_again_changes_nothing(planned):
    first = planned.everything()
    assert planned.close(try_number=2) == first
    assert planned.close("run_2") is None
    assert planned.main() == ("i8:1000", 1)


def test_two_closings_at_once_move_the_main_lane_once(planned):
    for key in planned.plan():
        planned.load_part(key)
    ended = twice_at_once(lambda number: planned.close(f"run_{number}"))
    assert sorted(one is None for one in ended) == [False, True]
    assert planned.main() == ("i8:1000", 1)


def test_the_next_dag_run_goes_on_with_the_plan_of_the_one_before(planned):
    keys = planned.plan()
    planned.load_part(keys[0])
    planned.of_part(keys[1]).stage("extract")
    assert planned.everything(run="run_2").rows == 1000
    planned.assert_exact()


def test_caught_up_is_true_after_the_closing_and_not_before(planned):
    ((before,),) = planned.fetch("select clock_timestamp()")
    for key in planned.plan():
        planned.load_part(key)
    ((between,),) = planned.fetch("select clock_timestamp()")
    assert not caught_up(planned)
    planned.close()
    assert caught_up(planned, before.isoformat())
    assert not caught_up(planned, between.isoformat()), "the target was settled before that"


def test_a_target_that_was_replaced_between_parts_is_noticed_by_the_closing(planned):
    keys = planned.plan()
    planned.load_part(keys[0])
    planned.fetch("drop table orders_copy")
    for key in keys[1:]:
        planned.load_part(key)
    with pytest.raises(PipelineChangedError, match="dropped or replaced while its parts"):
        planned.close()


# --- a part of a plan that has ended -----------------------------------------------------------------


def test_a_part_of_a_closed_plan_is_refused_and_says_that_it_is_loaded(planned):
    keys = planned.plan()
    planned.everything()
    with pytest.raises(PlanEndedError, match="the range is loaded") as ended:
        planned.of_part(keys[0]).stage("extract")
    assert ended.value.loaded


def test_a_part_that_this_warehouse_knows_no_plan_of_never_becomes_a_lane(planned):
    (key, *_) = planned.plan()
    planned.fetch("truncate checkpoint_etl.lane, checkpoint_etl.plan")
    with pytest.raises(PlanEndedError, match="knows no such plan"):
        planned.of_part(key).stage("extract")
    assert planned.fetch("select count(*) from checkpoint_etl.lane") == [(0,)]


def test_a_transform_with_state_is_refused_by_a_part(planned):
    def count(record, state):
        state["seen"] = state.get("seen", 0) + 1
        return record

    (key, *_) = planned.plan()
    with pytest.raises(PreflightError, match="keeps a state"):
        planned.load_part(key, function=count, initial_state={})


def test_a_main_lane_with_state_is_not_planned(planned):
    def count(record, state):
        state["seen"] = state.get("seen", 0) + 1
        return record

    planned.run("run_0", function=count, initial_state={})
    planned.insert(1000)
    with pytest.raises(PreflightError, match="carries a transform's state"):
        planned.plan()


def test_what_parts_leave_staged_is_collected_by_a_later_planning(planned_on_each_store):
    planned = planned_on_each_store
    planned.attempt["grace"] = dt.timedelta(0)
    keys = planned.plan()
    planned.load_part(keys[0])
    planned.everything()
    planned.attempt["grace"] = dt.timedelta(0)
    planned.plan(run="run_2")
    ports = planned.ports()
    try:
        assert ports.staging.names("orders/plan-") == []
    finally:
        ports.close()
    assert planned.fetch("select collected from checkpoint_etl.plan") == [(True,)]


# --- going back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["append", "upsert"])
def test_a_planned_range_is_rewound_whole_and_loaded_again(planned, write):
    if write == "upsert":
        planned.warehouse |= {"write": "upsert", "key": ("id",)}
    keys = planned.plan()
    planned.everything()
    with planned.admin() as admin:
        would = admin.rewind("begin")
        assert (would.chunks, would.rows, planned.main()) == (1, 1000, ("i8:1000", 1))
        rewound = admin.rewind("begin", dry_run=False)
    assert rewound.deleted == (1000 if write == "append" else None)
    assert planned.fetch("select outcome from checkpoint_etl.plan") == [("rewound",)]
    with pytest.raises(PlanEndedError, match="taken back") as ended:
        planned.of_part(keys[0]).stage("extract", "run_2")
    assert not ended.value.loaded
    assert planned.everything(run="run_2").rows == 1000
    planned.assert_exact()


def test_a_rewind_above_a_planned_range_leaves_it(planned):
    planned.everything()
    planned.insert(250)
    planned.run("run_2")
    with planned.admin() as admin:
        assert admin.rewind("i8:1000", dry_run=False).deleted == 250
    assert planned.fetch("select outcome from checkpoint_etl.plan") == [("loaded",)]
    planned.run("run_3")
    planned.assert_exact()


def test_a_rewind_takes_no_rows_of_other_parts_in_the_same_table(planned):
    planned.source["where"] = "id % 2 = 0"
    other = planned.of_part("odd")
    other.source = planned.source | {"where": "id % 2 = 1"}
    other.run("run_odd")
    planned.everything(Cutting(3, 100))
    planned.assert_exact()
    with planned.admin() as admin:
        assert admin.rewind("begin", dry_run=False).deleted == 500
    assert planned.fetch("select count(*) from orders_copy where id % 2 = 1") == [(500,)]
    planned.everything(Cutting(3, 100), "run_2")
    planned.assert_exact()


def test_a_point_inside_a_planned_range_is_no_boundary(planned):
    planned.everything()
    with planned.admin() as admin:
        with pytest.raises(RewindError, match="loaded by a plan is one chunk"):
            admin.rewind("i8:500", dry_run=False)
        assert admin.boundary("i8:999") == "begin"


def test_a_part_is_never_rewound_by_hand(planned):
    (key, *_) = planned.plan()
    planned.load_part(key)
    for _ in range(2):
        with planned.of_part(key).admin() as admin, pytest.raises(RewindError, match="taken back"):
            admin.rewind("begin", dry_run=False)
        planned.everything()


@pytest.mark.parametrize("command", ["rewind", "reset", "resync"])
def test_the_main_lane_goes_nowhere_while_a_plan_is_open(planned, command):
    planned.plan()
    with planned.admin() as admin, pytest.raises(RewindError, match="plan 1 is open over orders"):
        {
            "rewind": lambda: admin.rewind("begin", dry_run=False),
            "reset": lambda: admin.reset(dry_run=False),
            "resync": admin.resync,
        }[command]()


def test_a_part_may_be_resynced_and_goes_on_where_it_stands(planned_on_each_store):
    planned = planned_on_each_store
    keys = planned.plan()
    part = planned.of_part(keys[0])
    part.attempt = planned.attempt | {"max_rows": 100}
    part.run()
    with part.admin() as admin:
        admin.resync()
    assert planned.everything(run="run_2").rows == 1000
    planned.assert_exact()


def test_a_cleared_run_that_closed_a_plan_is_reprocessed_by_the_main_lane(planned):
    planned.everything()
    planned.attempt["on_clear"] = "reprocess"
    planned.run(clear_number=1)
    planned.assert_exact()
    assert planned.fetch("select outcome from checkpoint_etl.plan") == [("rewound",)]


def test_rejected_records_of_parts_are_counted_and_go_with_them(planned):
    def refuse(record):
        if record["id"] % 100 == 0:
            raise ValueError
        return record

    planned.pipeline["on_error"] = "quarantine"
    for run, back in (("run_1", "abandon"), ("run_2", "rewind")):
        for key in planned.plan(run=run):
            planned.load_part(key, run, function=refuse)
        with planned.admin() as admin:
            if back == "abandon":
                gone = admin.abandon_plan(dry_run=False)
            else:
                closed = planned.close(run)
                assert (closed.rows, closed.rejected) == (990, 10)
                gone = admin.rewind("begin", dry_run=False)
        assert (gone.rows, gone.quarantined, gone.deleted) == (990, 10, 990)
        assert planned.fetch("select count(*) from checkpoint_etl.quarantine") == [(0,)]


# --- abandoning --------------------------------------------------------------------------------------


def test_an_abandoned_plan_gives_its_rows_back_and_the_main_lane_goes_on(planned):
    keys = planned.plan()
    planned.load_part(keys[1])
    planned.of_part(keys[2]).stage("extract")
    with planned.admin() as admin:
        would = admin.abandon_plan()
        assert (would.chunks, would.rows, would.deleted) == (3, 250, 250)
        assert planned.fetch("select count(*) from orders_copy") == [(250,)]
        assert admin.abandon_plan(dry_run=False) == would
        with pytest.raises(RewindError, match="no plan is open"):
            admin.abandon_plan(dry_run=False)
    assert planned.fetch("select count(*) from orders_copy") == [(0,)]
    with pytest.raises(PlanEndedError, match="abandoned"):
        planned.of_part(keys[2]).stage("load")
    planned.run("run_2")
    planned.assert_exact()
    assert [kind for (kind,) in planned.fetch(EVENTS)] == ["plan", "abandon plan"]


def test_an_abandoned_upsert_leaves_its_rows_to_be_replaced(planned):
    planned.warehouse |= {"write": "upsert", "key": ("id",)}
    planned.load_part(planned.plan()[1])
    with planned.admin() as admin:
        assert admin.abandon_plan(dry_run=False).deleted is None
    planned.everything(run="run_2")
    planned.assert_exact()


def test_a_load_of_a_part_that_runs_while_its_plan_is_abandoned_is_shut_out(planned):
    (key, *_) = planned.plan()
    part = planned.of_part(key)
    part.stage("extract")
    part.stage("transform")
    runner, ports = part.runner("load")
    spec = LaneSpec(Lane("orders", key), planned.configure().fingerprint(), "begin")
    try:
        claim = ports.warehouse.acquire(
            spec, Stage.LOAD, Owner("dag", "run_1", "load"), dt.timedelta(minutes=1)
        )
        chunk = runner._recovery.load(claim).sources[1]
        with planned.admin() as admin:
            admin.abandon_plan(dry_run=False)
        with pytest.raises(Exception, match="rewound or reset"):
            ports.warehouse.load(claim, chunk, runner._files.get(chunk).table)
    finally:
        ports.close()
    planned.run("run_2")
    planned.assert_exact()


def test_an_append_without_lineage_is_abandoned_only_with_duplicates_allowed(planned):
    planned.warehouse |= {"lineage": "never"}
    planned.load_part(planned.plan()[0])
    with planned.admin() as admin:
        with pytest.raises(RewindError, match="has no column _ck_chunk"):
            admin.abandon_plan(dry_run=False)
        planned.fetch("truncate orders_copy")
        admin.abandon_plan(dry_run=False, allow_duplicates=True)
    planned.run("run_2")
    planned.assert_exact()
