"""Airflow finds the provider: valid metadata, a matching entry point, and typed settings."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, fields
from importlib.resources import files

import jsonschema
import pytest
from packaging.utils import canonicalize_name

from airflow_checkpoint_etl.errors import ConfigurationError
from airflow_checkpoint_etl.get_provider_info import get_provider_info
from airflow_checkpoint_etl.settings import SECTION, Settings

DISTRIBUTION = "airflow-checkpoint-etl"


@pytest.fixture
def configure(monkeypatch):
    def set_option(option, value):
        monkeypatch.setenv(f"AIRFLOW__{SECTION.upper()}__{option.upper()}", value)

    return set_option


def options():
    return get_provider_info()["config"][SECTION]["options"]


# --- metadata ---------------------------------------------------------------------------------------


def test_the_metadata_satisfies_airflows_own_schema():
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_metadata_has_nothing_that_airflows_schema_does_not_know():
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())
    if "cli" not in schema["properties"]:
        pytest.skip("before Airflow 3.2 providers bring no commands, and it leaves ours out")
    assert get_provider_info().keys() <= schema["properties"].keys()


def test_the_metadata_is_plain_data_and_new_at_every_call():
    assert json.loads(json.dumps(get_provider_info())) == get_provider_info()
    get_provider_info()["config"].clear()
    assert SECTION in get_provider_info()["config"]


def test_the_package_is_called_as_its_distribution():
    name = get_provider_info()["package-name"]
    assert (
        name == DISTRIBUTION == canonicalize_name(importlib.metadata.metadata(DISTRIBUTION)["Name"])
    )


def test_the_entry_point_leads_to_the_metadata():
    (found,) = (
        entry
        for entry in importlib.metadata.entry_points(group="apache_airflow_provider")
        if entry.dist is not None and canonicalize_name(entry.dist.name) == DISTRIBUTION
    )
    assert found.load()() == get_provider_info()


def test_the_metadata_names_every_kind_of_thing_we_bring():
    info = get_provider_info()
    modules = {
        kind: [module for each in info[kind] for module in each["python-modules"]]
        for kind in ("operators", "hooks", "sensors", "triggers")
    }
    assert modules == {
        "operators": [
            "airflow_checkpoint_etl.operators.stages",
            "airflow_checkpoint_etl.operators.ranges",
            "airflow_checkpoint_etl.operators.collect",
            "airflow_checkpoint_etl.operators.transfer",
        ],
        "hooks": ["airflow_checkpoint_etl.hooks.checkpoint"],
        "sensors": ["airflow_checkpoint_etl.sensors.checkpoint"],
        "triggers": [
            "airflow_checkpoint_etl.triggers.checkpoint",
            "airflow_checkpoint_etl.triggers.following",
        ],
    }
    assert info["task-decorators"] == [
        {
            "name": "checkpoint_transform",
            "class-name": "airflow_checkpoint_etl.decorators.transform.checkpoint_transform_task",
        }
    ]


def test_every_kind_belongs_to_a_named_integration():
    info = get_provider_info()
    named = {each["integration-name"] for each in info["integrations"]}
    for kind in ("operators", "hooks", "sensors", "triggers"):
        assert {each["integration-name"] for each in info[kind]} <= named


# --- settings ---------------------------------------------------------------------------------------


def test_the_defaults_in_the_metadata_are_those_of_the_settings():
    seconds = {name: option for name, option in options().items() if option["type"] == "float"}
    assert {name: float(option["default"]) for name, option in seconds.items()} == asdict(
        Settings()
    )


def test_every_option_says_what_it_does():
    for option in options().values():
        assert option["description"].endswith(".")
        assert option["type"] in {"float", "string"}


def test_settings_that_nobody_changed_are_the_defaults():
    assert Settings.load() == Settings()


@pytest.mark.parametrize("option", [item.name for item in fields(Settings)])
def test_an_option_is_read_from_airflows_configuration(configure, option):
    configure(option, "2.5")
    assert asdict(Settings.load()) == asdict(Settings()) | {option: 2.5}


def test_the_lease_is_a_duration(configure):
    configure("lease_seconds", "90")
    assert Settings.load().lease.total_seconds() == 90


@pytest.mark.parametrize("option", [item.name for item in fields(Settings)])
@pytest.mark.parametrize("value", ["soon", "", "0", "-1", "nan", "inf"])
def test_a_bad_value_is_refused_with_the_name_of_its_option(configure, option, value):
    configure(option, value)
    with pytest.raises(ConfigurationError, match="must be a positive number of seconds") as refused:
        Settings.load()
    assert f"[{SECTION}] {option} = {value!r}" in str(refused.value)
    assert f"AIRFLOW__CHECKPOINT_ETL__{option.upper()}" in str(refused.value)
