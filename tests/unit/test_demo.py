"""The demonstration without its servers: its environment, its arguments and what its proof accepts."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from airflow_checkpoint_etl.demo import __main__ as demo
from airflow_checkpoint_etl.demo import story
from airflow_checkpoint_etl.demo.airflow_api import AirflowApi, AirflowApiError
from airflow_checkpoint_etl.demo.airflow_process import airflow_environment
from airflow_checkpoint_etl.demo.orders import Comparison
from airflow_checkpoint_etl.demo.proof import LoadTry, Proof, show

EQUAL = Comparison(expected=10, loaded=10, missing=0, unexpected=0, duplicates=0)
FIRST = LoadTry(1, 1, 6, 6, "begin", "i8:6")
SECOND = LoadTry(2, 1, 4, 4, "i8:6", "i8:10")
PROOF = Proof(
    tries=(), loads=(FIRST, SECOND), chunks=2, is_chain=True, comparison=EQUAL, seconds=1.0
)


def environment(home: Path, **settings: str) -> dict[str, str]:
    return airflow_environment(
        home, 12345, home / "dags", {"shop": "postgres://h/shop"}, settings or None
    )


def shown(proof: Proof) -> str:
    console = Console(width=100, file=io.StringIO())
    show(console, proof)
    return console.file.getvalue()


def test_nothing_of_the_shells_own_airflow_leaks_into_the_demonstration(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_PRODUCTION", "postgres://secret@production/db")
    monkeypatch.setenv("AIRFLOW_HOME", "/somewhere")
    made = environment(tmp_path)
    assert made["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert made["AIRFLOW_HOME"] == str(tmp_path)
    assert {name for name in made if name.startswith("AIRFLOW_CONN_")} == {"AIRFLOW_CONN_SHOP"}


def test_every_airflow_has_its_own_secrets(tmp_path):
    one, other = environment(tmp_path), environment(tmp_path)
    for name in (
        "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__CORE__FERNET_KEY",
    ):
        assert one[name] != other[name]


def test_airflow_listens_on_loopback_and_reports_to_nobody(tmp_path):
    made = environment(tmp_path)
    assert made["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert made["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "False"


def test_given_settings_win(tmp_path):
    assert (
        environment(tmp_path, AIRFLOW__CORE__PARALLELISM="1")["AIRFLOW__CORE__PARALLELISM"] == "1"
    )


def test_bytecode_stays_in_the_home_where_the_shell_wants_none_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    made = environment(tmp_path)
    assert "PYTHONDONTWRITEBYTECODE" not in made
    assert Path(made["PYTHONPYCACHEPREFIX"]).is_relative_to(tmp_path)


def test_the_example_dags_are_found():
    assert (story.find_dags() / "orders_to_warehouse.py").is_file()


@pytest.mark.parametrize(
    "words",
    [["--rows", "10"], ["--rows", "many"], ["--timeout", "0"], ["--checkpoints", "memory"]],
)
def test_arguments_that_cannot_work_are_refused_before_anything_starts(words, capsys):
    with pytest.raises(SystemExit) as refused:
        demo.main(words)
    assert refused.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_the_proof_holds_when_killed_midway_and_every_row_is_there_once():
    assert PROOF.holds


@pytest.mark.parametrize(
    "change",
    [
        {"loads": (FIRST,)},
        {"is_chain": False},
        {"comparison": dataclasses.replace(EQUAL, missing=1)},
        {"comparison": dataclasses.replace(EQUAL, unexpected=1)},
        {"comparison": dataclasses.replace(EQUAL, duplicates=1)},
        {"comparison": dataclasses.replace(EQUAL, loaded=9)},
    ],
    ids=["no kill midway", "gap", "missing", "unexpected", "duplicate", "fewer"],
)
def test_the_proof_does_not_hold(change):
    failed = dataclasses.replace(PROOF, **change)
    assert not failed.holds
    assert "NOT proven" in shown(failed)


def test_the_proof_names_the_id_at_which_the_retry_went_on():
    assert "resumed at id 6" in shown(PROOF)


@pytest.fixture
def served():
    """Makes a client whose server is a function."""
    made: list[AirflowApi] = []

    def serve(answer) -> AirflowApi:
        api = AirflowApi("http://airflow.test")
        made.append(api)
        api.close()
        api._client = httpx.Client(
            base_url="http://airflow.test/api/v2", transport=httpx.MockTransport(answer)
        )
        return api

    yield serve
    for api in made:
        api.close()


def test_a_server_that_wants_a_token_is_asked_for_one_once(served):
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        if request.headers.get("Authorization") != "Bearer t":
            return httpx.Response(401)
        return httpx.Response(200, json={"state": "success"})

    api = served(answer)
    assert [api.run_state("d", "r"), api.run_state("d", "r")] == ["success", "success"]
    assert asked.count("/auth/token") == 1


def test_a_refusal_says_what_was_asked(served):
    api = served(lambda request: httpx.Response(401, text="no"))
    with pytest.raises(AirflowApiError, match=r"/dags/d/dagRuns/r answered 401: no"):
        api.run_state("d", "r")


def test_a_server_that_is_gone_is_an_error_with_its_address(served):
    def answer(request: httpx.Request) -> httpx.Response:
        msg = "refused"
        raise httpx.ConnectError(msg)

    api = served(answer)
    assert api.health() == {}
    with pytest.raises(AirflowApiError, match=r"no answer from http://airflow.test"):
        api.run_state("d", "r")


def test_a_dag_file_that_cannot_be_imported_ends_the_wait_with_its_traceback(served):
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/importErrors"):
            error = {"filename": "broken.py", "stack_trace": "SyntaxError: here"}
            return httpx.Response(200, json={"import_errors": [error]})
        return httpx.Response(404)

    with pytest.raises(AirflowApiError, match=r"broken.py cannot be imported:\nSyntaxError"):
        served(answer).wait_parsed("d", seconds=5)
