"""The plugin's entry: what Airflow asks for in every process."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_checkpoint_etl import plugin
from airflow_checkpoint_etl.plugin import MOUNTED_AT, CheckpointPlugin, bundle_url

STATIC = Path(plugin.__file__).parent / "static"


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://localhost:8080", "/checkpoints/static/main.js"),
        ("http://localhost:8080/", "/checkpoints/static/main.js"),
        ("https://example.org/team/airflow", "/team/airflow/checkpoints/static/main.js"),
        ("", "/checkpoints/static/main.js"),
    ],
)
def test_the_scripts_are_found_behind_a_path_prefix_too(base_url, expected):
    assert bundle_url(base_url) == expected


def test_the_page_and_the_tab_are_there_once_each():
    destinations = {app["destination"]: app for app in CheckpointPlugin.react_apps}
    assert destinations.keys() == {"nav", "task_instance"}
    for app in destinations.values():
        script = app["bundle_url"].rpartition(f"{MOUNTED_AT}/static/")[2]
        assert f"globalThis.{app['name']} = " in (STATIC / script).read_text(encoding="utf-8")
