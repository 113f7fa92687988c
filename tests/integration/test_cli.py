"""``airflow checkpoints``: what it prints, what it does, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from airflow_checkpoint_etl.cli.__main__ import main
from tests.connections import environment

# What Airflow's own dependencies warn about is not this package's to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.parametrize("world", ["redis"], indirect=True),
]


@pytest.fixture
def shop(world, monkeypatch):
    """The world, found by its connections."""
    world.pipeline = {"checkpoint_conn_id": "checkpoints"}
    for name, value in environment(world).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    return world


@pytest.fixture
def cli(shop, capfd):
    """Runs a command; returns its exit code, its answer and what it said beside it."""

    def run(*arguments):
        capfd.readouterr()
        code = 0
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


def answer(said):
    code, out, err = said
    assert code == 0, err
    return json.loads(out)


# --- reading -------------------------------------------------------------------------------------


def test_list_names_every_lane_and_what_it_is_up_to(shop, cli):
    shop.run()
    code, out, _ = cli("list")
    assert code == 0
    row = out.splitlines()[2]
    for text in ("orders", "default", "caught_up", "1,000", "dwh"):
        assert text in row
    page = answer(cli("list", "-o", "json"))
    (lane,) = page["items"]
    assert (lane["pipeline"], lane["position"]["cursor"], lane["position"]["rows"]) == (
        "orders",
        "i8:1000",
        1000,
    )
    assert page["next_token"] is None
    assert yaml.safe_load(cli("list", "-o", "yaml")[1])["items"][0]["pipeline"] == "orders"
    assert "orders" in cli("list", "-o", "plain")[1]
    assert answer(cli("list", "--search", "nothing like it", "-o", "json"))["items"] == []


def test_list_is_paged(shop, cli):
    for name in ("a", "b", "c"):
        shop.pipeline = {"checkpoint_conn_id": "checkpoints", "pipeline_id": name}
        shop.warehouse = {"table": f"copy_{name}"}
        shop.run()
    first = answer(cli("list", "--limit", "2", "-o", "json"))
    assert [lane["pipeline"] for lane in first["items"]] == ["a", "b"]
    rest = answer(cli("list", "--token", first["next_token"], "-o", "json"))
    assert [lane["pipeline"] for lane in rest["items"]] == ["c"]
    code, _, err = cli("list", "--token", "nonsense")
    assert code == 1
    assert "is no next_token of a page" in err


def test_a_warehouse_that_does_not_answer_hides_no_other(shop, cli, monkeypatch):
    shop.run()
    monkeypatch.setenv("AIRFLOW_CONN_GONE", "postgres://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("AIRFLOW__CHECKPOINT_ETL__WAREHOUSE_CONN_IDS", "gone, missing, dwh")
    page = answer(cli("list", "-o", "json"))
    assert [lane["pipeline"] for lane in page["items"]] == ["orders"]
    assert page["faults"][0].startswith("gone: ")
    assert "cannot connect" in page["faults"][0]
    assert "no Airflow connection with this id" in page["faults"][1]
    assert cli("show", "orders")[0] == 0
    code, _, err = cli("show", "other")
    assert code == 1
    assert "other has no checkpoint in any warehouse looked into (gone, missing, dwh)" in err


def test_without_a_warehouse_to_look_into_it_says_which_option_names_it(cli, monkeypatch):
    monkeypatch.delenv("AIRFLOW__CHECKPOINT_ETL__WAREHOUSE_CONN_IDS")
    code, _, err = cli("list")
    assert code == 1
    assert "[checkpoint_etl] warehouse_conn_ids is empty" in err
    assert cli("list", "--warehouse-conn-id", "dwh")[0] == 0


def test_show_says_in_words_what_a_lane_is_up_to_and_the_next_move(shop, cli):
    shop.run()
    shop.insert(50)
    shop.stage("extract", "run_2")
    code, out, _ = cli("show", "orders", "--ask-source")
    assert code == 0
    assert out.startswith("orders: waiting for a free slot: run run_2 is at 1,000 of 1,050")
    assert "next move: nothing yet: see whether the scheduler" in out
    assert "extract is at chunk 11, 1,050; 1 chunk(s) with" in out
    assert "the source's newest id is 1,050, 50 ids ahead of the load" in out
    assert "guarantee: exactly-once" in out
    seen = answer(cli("show", "orders", "-o", "json"))
    assert seen["lane"]["summary"]["state"]["condition"] == "waiting"
    assert seen["diagnosis"]["facts"]


def test_show_fails_for_scripts_when_the_lane_is_stuck(shop, cli):
    shop.run()
    assert cli("show", "orders", "--fail-if-stuck")[0] == 0
    shop.fetch(
        "update checkpoint_etl.stage set failures = 4, failed_at = now(), failure = "
        """'{"kind": "SettleTimeoutError", "message": "pid 8", "cursor": "i8:1000", "retryable": true}' """
        "where stage = 'extract'"
    )
    code, _, err = cli("show", "orders", "--fail-if-stuck")
    assert (code, err.strip()) == (3, "stuck: orders")
    assert cli("list", "--fail-if-stuck")[0] == 3
    assert cli("list")[0] == 0


def test_chunks_are_listed_from_the_newest(shop, cli):
    shop.run()
    code, out, _ = cli("chunks", "orders", "--limit", "3")
    assert code == 0
    assert "there are more: --before 8" in out
    page = answer(cli("chunks", "orders", "--before", "8", "--limit", "2", "-o", "json"))
    assert [chunk["seq"] for chunk in page["items"]] == [7, 6]


def test_lag_is_checked_for_scripts(shop, cli):
    shop.run()
    found = answer(cli("lag", "orders", "-o", "json"))
    assert found["lag"]["ids"] == 0
    assert found["lag"]["source_ids"] is None
    assert cli("lag", "orders", "--max-lag", "1h")[0] == 0
    shop.fetch("update checkpoint_etl.run set settled_at = now() - interval '2 hours'")
    code, _, err = cli("lag", "orders", "--max-lag", "1h")
    assert (code, err.strip()) == (3, "orders: 2 h behind, more than 1 h")
    shop.insert(30)
    assert cli("lag", "orders", "--max-ids", "30")[0] == 0
    code, _, err = cli("lag", "orders", "--max-ids", "29")
    assert (code, err.strip()) == (3, "orders: 30 ids are left to load, more than 29")
    assert cli("lag", "orders", "--max-lag", "soon")[0] == 2


# --- acting --------------------------------------------------------------------------------------


def test_a_rewind_is_a_dry_run_unless_told(shop, cli):
    shop.run()
    code, out, _ = cli("rewind", "orders", "--to", "555")
    assert code == 0
    assert "note: 555 is not where a chunk ends: the boundary below it is 500" in out
    assert "dry run: nothing was changed; add --execute to do it" in out
    plan = answer(cli("rewind", "orders", "--to", "5,55", "-o", "json"))
    assert plan["done"] is False
    assert (plan["plan"]["to_cursor"], plan["plan"]["chunks"], plan["plan"]["deleted"]) == (
        "i8:500",
        5,
        500,
    )
    assert shop.fetch("select count(*) from orders_copy") == [(1000,)]


def test_a_rewind_is_done_and_audited(shop, cli):
    shop.run()
    done = answer(
        cli(
            "rewind",
            "orders",
            "--to",
            "500",
            "--execute",
            "--yes",
            "--reason",
            "wrong since 500",
            "-o",
            "json",
        )
    )
    assert done["done"] is True
    assert shop.fetch("select max(id) from orders_copy") == [(500,)]
    ((actor, detail),) = shop.fetch("select actor, detail from checkpoint_etl.event")
    assert actor.endswith("(airflow checkpoints)")
    assert detail["reason"] == "wrong since 500"
    shop.run("run_2")
    shop.assert_exact()


def test_nothing_is_done_where_nobody_can_be_asked(shop, cli):
    shop.run()
    code, _, err = cli("rewind", "orders", "--to", "500", "--execute")
    assert code == 2
    assert "--execute needs --yes" in err
    assert shop.fetch("select count(*) from orders_copy") == [(1000,)]


@pytest.mark.parametrize(("typed", "code", "left"), [("order", 1, 1000), ("orders", 0, 500)])
def test_whoever_can_be_asked_types_the_pipelines_name(shop, cli, monkeypatch, typed, code, left):
    shop.run()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: typed)
    assert cli("rewind", "orders", "--to", "500", "--execute")[0] == code
    assert shop.fetch("select count(*) from orders_copy") == [(left,)]


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (["soon"], "to='soon': 'soon' is not a int8; write it like the load's position, 1,000"),
        (["1", "2"], "the cursor has 1 column(s), but 2 value(s) were given"),
    ],
)
def test_a_point_that_is_none_is_an_error(shop, cli, to, words):
    shop.run()
    code, _, err = cli("rewind", "orders", "--to", *to)
    assert code == 1
    assert words in err


def test_a_rewind_to_the_beginning_takes_all_back(shop, cli):
    shop.run()
    assert cli("rewind", "orders", "--to", "beginning", "--execute", "--yes")[0] == 0
    assert shop.fetch("select count(*) from orders_copy") == [(0,)]


def test_a_reset_forgets_what_the_pipeline_was(shop, cli):
    shop.run()
    assert cli("reset", "orders")[0] == 0
    assert shop.fetch("select fingerprint <> '' from checkpoint_etl.lane") == [(True,)]
    assert cli("reset", "orders", "--execute", "--yes")[0] == 0
    assert shop.fetch("select fingerprint, seq from checkpoint_etl.lane") == [("", 0)]


def test_a_resync_begins_a_new_life(shop, cli):
    shop.run()
    code, out, _ = cli("resync", "orders")
    assert code == 0
    assert "orders begins a new life at chunk 10, 1,000; 0 staged chunk(s) are dead" in out
    assert shop.fetch("select generation from checkpoint_etl.lane") == [(1,)]
    after = answer(cli("resync", "orders", "--execute", "--yes", "-o", "json"))
    assert after["generation"] == 2


def test_a_release_names_the_owner_it_ends(shop, cli):
    shop.run()
    shop.fetch("update checkpoint_etl.stage set lease_until = now() + interval '1 hour'")
    code, out, _ = cli("release", "orders", "--stage", "load")
    assert code == 0
    assert "load of orders is taken from dag.load of run_1 (try 1" in out
    assert "its lease runs out in 1 h" in out
    released = answer(
        cli("release", "orders", "--stage", "load", "--execute", "--yes", "-o", "json")
    )
    assert released["owner"] == "dag.load of run_1, try 1"
    assert shop.fetch("select lease_until from checkpoint_etl.stage where stage = 'load'") == [
        (None,)
    ]


def test_quarantine_shows_reasons_and_values_only_when_told(shop, cli):
    shop.pipeline |= {"on_error": "quarantine"}

    def picky(record):
        if record["id"] % 100 == 3:
            raise ValueError
        return record

    shop.run(function=picky)
    code, out, _ = cli("quarantine", "orders")
    assert code == 0
    assert "10 record(s) in quarantine" in out
    assert "ValueError" in out
    records = answer(cli("quarantine", "orders", "--records", "--limit", "2", "-o", "json"))
    assert [record["payload"] for record in records["records"]] == [None, None]
    assert records["next_before"] is not None
    shown = answer(cli("quarantine", "orders", "--records", "--show-values", "-o", "json"))
    assert shown["records"][0]["payload"]["id"] == 903


def test_what_the_load_had_rejected_is_replayed(shop, cli):
    shop.pipeline |= {"on_error": "quarantine"}
    shop.fetch(
        "create table orders_copy (id bigint primary key, customer text, amount numeric(12, 2), "
        "created_at timestamptz, _ck_chunk bigint, constraint small check (id <> 5))"
    )
    shop.run()
    assert shop.fetch("select count(*) from checkpoint_etl.quarantine") == [(1,)]
    shop.fetch("alter table orders_copy drop constraint small")
    planned = answer(cli("quarantine", "orders", "--replay", "-o", "json"))
    assert (planned["replayed"]["released"], planned["done"]) == (1, False)
    done = answer(cli("quarantine", "orders", "--replay", "--execute", "--yes", "-o", "json"))
    assert (done["replayed"]["released"], done["done"]) == (1, True)
    shop.assert_exact()


def test_gc_deletes_what_nobody_needs(shop, cli):
    shop.run()
    assert answer(cli("gc", "orders", "-o", "json"))["deleted_files"] == 0
    assert answer(cli("gc", "orders", "--grace", "0", "-o", "json"))["deleted_files"] == 10


# --- the real command ----------------------------------------------------------------------------


def test_airflow_itself_has_the_commands(shop):
    shop.run()

    def airflow(*arguments):
        command = [sys.executable, "-m", "airflow", "checkpoints", *arguments]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, env=os.environ, stdin=subprocess.DEVNULL
        )  # fmt: skip

    listed = airflow("list", "--output", "json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)["items"][0]["pipeline"] == "orders"
    refused = airflow("rewind", "orders", "--to", "500", "--execute")
    assert refused.returncode == 2
