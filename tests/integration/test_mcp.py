"""The MCP server, spoken to by the SDK's own client: in memory, over stdio and over HTTP."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import anyio
import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from airflow_checkpoint_etl.confirmation import Confirmer
from airflow_checkpoint_etl.demo.servers import free_port
from airflow_checkpoint_etl.hooks.insights import Warehouses
from airflow_checkpoint_etl.mcp.command import main
from airflow_checkpoint_etl.mcp.http import TOKEN_VARIABLE
from airflow_checkpoint_etl.mcp.server import make_server
from airflow_checkpoint_etl.mcp.tools import Tools
from tests.connections import environment

# What Airflow's own dependencies warn about is not this package's to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.parametrize("world", ["redis"], indirect=True),
]

TOKEN = "0123456789abcdef0123456789abcdef"
READING = {
    "list_pipelines",
    "get_checkpoint",
    "explain",
    "get_lag",
    "list_chunks",
    "get_quarantine",
    "plan_rewind",
    "plan_release",
    "plan_replay",
}


@pytest.fixture
def shop(world, monkeypatch):
    """The world with 1,000 loaded rows, found by its connections."""
    world.pipeline = {"checkpoint_conn_id": "checkpoints", "on_error": "quarantine"}
    for name, value in environment(world).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")

    def picky(record):
        if record["id"] % 100 == 3:
            raise ValueError
        return record

    world.run(function=picky)
    return world


@pytest.fixture
def server(shop):
    """Makes a server's tools in this process."""

    def make(**options):
        return Tools(Warehouses(), "ann (MCP server)", **options)

    return make


def call(tools, name, **arguments):
    """Call one tool as a client does; returns its result."""

    async def run():
        async with Client(make_server(tools)) as client:
            return await client.call_tool(name, arguments)

    return anyio.run(run)


def answered(result):
    assert not result.is_error, result.content
    return result.structured_content


def refused(result):
    assert result.is_error
    return result.content[0].text


# --- reading -------------------------------------------------------------------------------------


def test_a_client_sees_pipelines_their_checkpoints_and_why_they_wait(shop, server):
    shop.insert(50)
    shop.stage("extract", "run_2")
    (lane,) = answered(call(server(), "list_pipelines"))["lanes"]
    assert (lane["pipeline"], lane["last_id"], lane["chunk"], lane["quarantined"]) == (
        "orders",
        "1,000",
        10,
        "10",
    )
    assert lane["words"].startswith("waiting for a free slot: run run_2 is at 1,000 of 1,050")
    checkpoint = answered(call(server(), "get_checkpoint", pipeline="orders"))
    extract = checkpoint["stages"][0]
    assert (extract["stage"], extract["cursor"], extract["staged_chunks"]) == (
        "extract",
        "i8:1050",
        1,
    )
    assert checkpoint["guarantee"].startswith("exactly-once")
    explained = answered(call(server(), "explain", pipeline="orders"))
    assert explained["condition"] == "waiting"
    assert "scheduler" in explained["next_moves"][0]
    lag = answered(call(server(), "get_lag", pipeline="orders", ask_source=True))
    assert (lag["ids_left_in_run"], lag["ids_left_in_source"]) == (50, 50)


def test_pages_are_bounded(shop, server):
    page = answered(call(server(), "list_chunks", pipeline="orders", limit=4))
    assert [chunk["chunk"] for chunk in page["chunks"]] == [10, 9, 8, 7]
    rest = answered(call(server(), "list_chunks", pipeline="orders", before=page["next_before"]))
    assert [chunk["chunk"] for chunk in rest["chunks"]] == [6, 5, 4, 3, 2, 1]
    for limit in (0, 201, -1):
        assert "limit" in refused(call(server(), "list_chunks", pipeline="orders", limit=limit))
    assert "limit" in refused(call(server(), "list_pipelines", limit=1000))
    assert "pipeline" in refused(call(server(), "explain", pipeline="x" * 5000))


def test_values_of_rejected_records_are_shown_only_where_that_was_allowed(shop, server):
    hidden = answered(call(server(), "get_quarantine", pipeline="orders", limit=2))
    assert hidden["total"] == "10"
    assert [record["values"] for record in hidden["newest"]] == [None, None]
    shown = answered(
        call(server(may_show_values=True), "get_quarantine", pipeline="orders", limit=1)
    )
    assert shown["newest"][0]["values"]["id"] == 903


def test_a_lane_that_is_not_there_is_an_error_with_the_next_move(shop, server):
    said = refused(call(server(), "explain", pipeline="unheard_of"))
    assert "unheard_of has no checkpoint in any warehouse looked into (dwh)" in said


# --- acting --------------------------------------------------------------------------------------


def test_a_viewer_can_plan_but_has_no_tool_that_acts(shop, server):
    async def names():
        async with Client(make_server(server())) as client:
            return {tool.name: tool for tool in (await client.list_tools()).tools}

    tools = anyio.run(names)
    assert set(tools) == READING
    assert all(tool.annotations.read_only_hint for tool in tools.values())
    plan = answered(call(server(), "plan_rewind", pipeline="orders", to=["500"]))
    assert plan["confirmation_token"] is None
    assert "this server only reads" in plan["warnings"][-1]
    forged = Confirmer(b"k" * 32).issue("rewind", {}, time.time())
    said = refused(call(server(), "rewind", confirmation_token=forged, reason=""))
    assert "Unknown tool" in said or "rewind" in said
    assert shop.fetch("select count(*) from orders_copy") == [(990,)]


def test_a_planned_rewind_is_done_with_its_token(shop, server):
    tools = server(may_act=True)
    plan = answered(call(tools, "plan_rewind", pipeline="orders", to=["555"]))
    assert "555 is not where a chunk ends: the boundary below it is 500" in plan["warnings"][0]
    assert plan["details"]["rows"] == 495
    assert shop.fetch("select count(*) from orders_copy") == [(990,)]
    done = answered(
        call(
            tools, "rewind", confirmation_token=plan["confirmation_token"], reason="wrong since 500"
        )
    )
    assert done["details"]["deleted"] == 495
    assert shop.fetch("select max(id) from orders_copy") == [(500,)]
    ((actor, detail),) = shop.fetch("select actor, detail from checkpoint_etl.event")
    assert (actor, detail["reason"]) == ("ann (MCP server)", "wrong since 500")
    again = call(tools, "rewind", confirmation_token=plan["confirmation_token"], reason="again")
    assert "rewound, reset or resynced since this was planned" in refused(again)


def test_a_token_that_was_not_handed_out_for_this_is_refused(shop, server):
    clock = iter([1000.0, 1000.0, 1301.0, 1301.0]).__next__
    tools = server(may_act=True, clock=clock)
    plan = answered(call(tools, "plan_rewind", pipeline="orders", to=["500"]))
    token = plan["confirmation_token"]
    said = refused(call(tools, "release", confirmation_token=token, reason=""))
    assert "confirms a rewind, not a release" in said
    said = refused(call(tools, "rewind", confirmation_token=token, reason=""))
    assert "the token ran out 1 s ago" in said
    body, signature = token.split(".")
    said = refused(call(tools, "rewind", confirmation_token=f"{body}x.{signature}", reason=""))
    assert "no confirmation token of this server" in said
    other = server(may_act=True)
    said = refused(call(other, "rewind", confirmation_token=token, reason=""))
    assert "no confirmation token of this server" in said
    assert shop.fetch("select count(*) from orders_copy") == [(990,)]


def test_a_release_is_bound_to_the_owner_that_was_seen(shop, server):
    tools = server(may_act=True)
    plan = answered(call(tools, "plan_release", pipeline="orders", stage="load"))
    assert "loses load and can write nothing from then on" in plan["effect"]
    shop.stage("load", try_number=2)
    said = refused(call(tools, "release", confirmation_token=plan["confirmation_token"], reason=""))
    assert "has another owner than when this was planned" in said
    plan = answered(call(tools, "plan_release", pipeline="orders", stage="load"))
    token = plan["confirmation_token"]
    done = answered(call(tools, "release", confirmation_token=token, reason="it hangs"))
    assert done["details"]["owner"] == "dag.load of run_1, try 2"


def test_what_the_load_had_rejected_is_replayed_with_a_token(shop, server):
    shop.fetch("alter table orders_copy add constraint small check (id <> 1005)")
    shop.insert(10)
    shop.run("run_2")
    shop.fetch("alter table orders_copy drop constraint small")
    tools = server(may_act=True)
    plan = answered(call(tools, "plan_replay", pipeline="orders"))
    assert plan["details"] == {"records": 1, "released": 1, "rows": 1, "left": 10}
    token = plan["confirmation_token"]
    done = answered(call(tools, "replay", confirmation_token=token, reason="constraint dropped"))
    assert done["effect"] == "1 of 1 record(s) leave the quarantine with 1 rows; 10 stay"
    assert shop.fetch("select count(*) from orders_copy where id = 1005") == [(1,)]


# --- over the wire -------------------------------------------------------------------------------


def test_a_client_speaks_to_it_over_stdio(shop):
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "airflow_checkpoint_etl.mcp.command"],
        env=dict(os.environ),
    )

    async def talk():
        with anyio.fail_after(90):
            async with Client(parameters) as client:
                tools = {tool.name for tool in (await client.list_tools()).tools}
                return tools, await client.call_tool("explain", {"pipeline": "orders"})

    tools, result = anyio.run(talk)
    assert tools == READING
    assert answered(result)["words"].startswith("caught up ")


@contextlib.contextmanager
def http_server(*arguments, token=TOKEN):
    """The server as a process, until the block ends; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "airflow_checkpoint_etl.mcp.command", "--transport", "http"]
    process = subprocess.Popen(
        [*command, "--port", str(port), *arguments], env=os.environ | {TOKEN_VARIABLE: token}
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/mcp")
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_a_client_speaks_to_it_over_http_with_the_token_alone(shop):
    async def talk(port):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(headers=headers) as http:
            url = f"http://127.0.0.1:{port}/mcp"
            async with Client(streamable_http_client(url, http_client=http)) as client:
                listed = await client.call_tool("list_pipelines", {})
                planned = await client.call_tool(
                    "plan_rewind", {"pipeline": "orders", "to": ["500"]}
                )
                token = answered(planned)["confirmation_token"]
                rewound = await client.call_tool(
                    "rewind", {"confirmation_token": token, "reason": "a test"}
                )
                return listed, rewound

    with http_server("--allow-actions", "--allowed-host", "mcp.example.org") as port:
        listed, rewound = anyio.run(talk, port)
        assert answered(listed)["lanes"][0]["pipeline"] == "orders"
        assert answered(rewound)["details"]["chunks"] == 5
        assert shop.fetch("select max(id) from orders_copy") == [(500,)]

        def status(**headers):
            content = {"content-type": "application/json", "accept": "application/json"}
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
            url = f"http://127.0.0.1:{port}/mcp"
            return httpx.post(url, json=message, headers=content | headers).status_code

        right = f"Bearer {TOKEN}"
        assert status() == 401
        assert status(authorization="Bearer wrong") == 401
        assert status(authorization=TOKEN) == 401
        assert status(authorization=right) == 200
        assert status(authorization=right, host="mcp.example.org") == 200
        assert status(authorization=right, host="evil.example.org") == 421
        assert status(authorization=right, origin="https://evil.example.org") == 403
        assert status(authorization=right, origin="https://mcp.example.org") == 200


@pytest.mark.parametrize(("token", "word"), [("", "empty"), ("short", "too short")])
def test_it_does_not_start_over_http_without_a_secret_token(world, monkeypatch, capfd, token, word):
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(SystemExit) as ended:
        main(["--transport", "http"])
    assert ended.value.code == 1
    assert f"{TOKEN_VARIABLE} is {word}" in capfd.readouterr().err
