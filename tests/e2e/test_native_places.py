"""What a real Airflow shows of a running pipeline in its own pages: the Storage tab and the task's links."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from urllib.parse import parse_qs, urlsplit

import pytest
from packaging.version import Version

from airflow_checkpoint_etl.demo.airflow_api import AirflowApiError
from tests.e2e.conftest import ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

HAS_STORAGE = Version(version("apache-airflow")) >= Version("3.3")


def look_at(api, run_id, task, what):
    """One of the task instance's collections; None as long as there is none."""
    path = f"/dags/seen/dagRuns/{run_id}/taskInstances/etl.{task}/{what}"
    with contextlib.suppress(AirflowApiError):
        return api._request("GET", path)
    return None


def storage(api, run_id, task):
    stored = look_at(api, run_id, task, "state-store/checkpoint")
    return stored["value"] if stored else None


def test_a_running_stage_is_seen_in_its_storage_tab_and_links_to_its_page(stack):
    table, api = stack.world("seen"), stack.api
    api.wait_parsed("seen")
    api.unpause("seen")
    run_id = api.trigger("seen")
    if HAS_STORAGE:

        def on_the_way():
            value = storage(api, run_id, "extract")
            return value if value and 0 < value.get("progress", 0) < 1 else None

        value = api.wait("the extract to be seen on its way", on_the_way, 120)
        assert value["doing"] == "working"
        assert value["stage"] == "extract"
        assert 0 < value["rows"] < ROWS
    assert api.wait_run("seen", run_id, 120) == "success"
    table.assert_exact()
    for task in ("extract", "transform", "load"):
        if HAS_STORAGE:
            value = storage(api, run_id, task)
            assert (value["doing"], value["rows"], value["progress"]) == ("finished", ROWS, 1)
        (link,) = look_at(api, run_id, task, "links")["extra_links"].items()
        assert link[0] == "Checkpoints"
        address = urlsplit(link[1])
        assert address.path == "/plugin/checkpoints"
        assert parse_qs(address.query)["pipeline"] == ["seen"]
