"""The composed stack: what must hold in docker-compose.yaml whatever else changes in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LONG_RUNNING = {
    "postgres",
    "redis",
    "airflow-apiserver",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
    "airflow-worker",
}
_DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")
_SECRET_NAME = re.compile(
    r"PASSWORD|SECRET|FERNET|AUTH$|_CONN|BROKER_URL|RESULT_BACKEND|AIRFLOW_CONN"
)


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(stack: dict[str, Any]) -> dict[str, Any]:
    return stack["services"]


@pytest.fixture(scope="module")
def airflow(services: dict[str, Any]) -> dict[str, Any]:
    return {name: body for name, body in services.items() if name.startswith("airflow-")}


def test_every_service_of_a_production_deployment_is_there(services):
    assert set(services) == LONG_RUNNING | {"airflow-init"}


def test_old_compose_can_read_it(stack):
    # docker-compose 1.29 refuses a top-level name and an inline Dockerfile.
    assert "name" not in stack
    for service in stack["services"].values():
        assert "dockerfile_inline" not in service.get("build", {})


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_every_long_running_service_has_a_health_check(services, name):
    check = services[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


def test_services_wait_for_what_they_need_to_be_healthy(airflow):
    for name, service in airflow.items():
        needs = {other: how["condition"] for other, how in service["depends_on"].items()}
        assert needs["postgres"] == needs["redis"] == "service_healthy"
        if name != "airflow-init":
            assert needs["airflow-init"] == "service_completed_successfully"
    worker = airflow["airflow-worker"]["depends_on"]
    assert worker["airflow-apiserver"]["condition"] == "service_healthy"


@pytest.mark.parametrize("key", ["AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY"])
def test_all_airflow_services_share_one_signing_secret(airflow, key):
    assert len({service["environment"][key] for service in airflow.values()}) == 1


def test_the_default_jwt_secret_is_long_enough_for_its_algorithm(airflow):
    value = airflow["airflow-worker"]["environment"]["AIRFLOW__API_AUTH__JWT_SECRET"]
    assert len(_DEFAULT.fullmatch(value)[1]) >= 64


def test_all_airflow_services_find_the_execution_api(airflow):
    for service in airflow.values():
        assert (
            service["environment"]["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
            == "http://airflow-apiserver:8080/execution/"
        )


def test_every_secret_can_be_set_from_outside(services):
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if _SECRET_NAME.search(key):
                assert "${" in value, f"{name}: {key} is hard-coded"


def test_no_port_is_open_beyond_this_machine(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_redis_forgets_nothing_by_itself(services):
    command = " ".join(services["redis"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command
    assert "--requirepass" in command
    assert "redis-data:/data" in services["redis"]["volumes"]


def test_all_airflow_services_run_this_package_and_these_dags(airflow):
    for service in airflow.values():
        assert service["build"]["dockerfile"] == ".docker/Dockerfile"
        assert "./dags:/opt/airflow/dags:ro" in service["volumes"]
    assert (ROOT / ".docker/Dockerfile").is_file()
    assert (ROOT / "dags/orders_to_warehouse.py").is_file()


def test_the_image_gets_every_file_its_package_is_built_from():
    dockerfile = (ROOT / ".docker/Dockerfile").read_text()
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for name in ("LICENSE", "README.md", "pyproject.toml", "dags", "airflow_checkpoint_etl"):
        assert name in kept
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", dockerfile, re.MULTILINE)


@pytest.mark.parametrize(
    ("conn_id", "conn_type"), [("shop", "postgres"), ("dwh", "postgres"), ("checkpoints", "redis")]
)
def test_the_example_dags_find_their_connections(airflow, conn_id, conn_type):
    for service in airflow.values():
        text = _DEFAULT.sub(r"\1", service["environment"][f"AIRFLOW_CONN_{conn_id.upper()}"])
        connection = json.loads(text)
        assert connection["conn_type"] == conn_type
        assert connection["password"]
        assert connection["host"] in {"postgres", "redis"}


def test_checkpoints_and_task_queue_do_not_share_a_redis_database(airflow):
    environment = airflow["airflow-worker"]["environment"]
    checkpoints = json.loads(_DEFAULT.sub(r"\1", environment["AIRFLOW_CONN_CHECKPOINTS"]))
    queue = environment["AIRFLOW__CELERY__BROKER_URL"].rsplit("/", 1)[1]
    assert str(checkpoints["extra"]["db"]) != queue


def test_init_migrates_and_seeds_once(airflow):
    init = airflow["airflow-init"]
    assert init["restart"] == "no"
    assert init["environment"]["_AIRFLOW_DB_MIGRATE"] == "true"
    assert "airflow_checkpoint_etl.demo.seed" in init["command"][-1]


def test_volumes_are_declared(stack, services):
    named = {
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert named == set(stack["volumes"])
