"""Passwords and row values stay out of everything that Airflow writes, whatever goes wrong."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

from airflow_checkpoint_etl.demo.servers import HOST, free_port
from tests.support import ORDERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

PASSWORD = "CANARYpassword5f1e"
ROW = "CANARYrow77ac"
TOLD = "CANARYtold0b92"
"""Said aloud by a task of its own, so that the search is known to find what there is to find."""

ROWS = 1000
OUTCOMES = {
    "secret_loaded": ("load", "success", "1,000 rows"),
    "secret_raised": ("transform", "failed", "raises_the_row raised ValueError"),
    "secret_mistyped": ("transform", "failed", "amount"),
    "secret_doubled": ("load", "failed", "a row with the same key is in the target already"),
    "secret_checked": ("load", "failed", "a row breaks a check"),
    "secret_unreachable": ("extract", "failed", "cannot connect to PostgreSQL"),
    "secret_unknown": ("extract", "failed", "invalid username-password pair"),
    "secret_unsettled": ("extract", "failed", "did not end within settle_timeout=1 s"),
}
"""Every pipeline: its last task, how that ends, and what its log says about it."""


@dataclass
class Written:
    """Everything that an Airflow has written: each text's place."""

    logs: dict[str, str] = field(default_factory=dict)
    """Of tasks, by ``dag_id.task_id``."""
    files: list[tuple[str, bytes]] = field(default_factory=list)
    values: list[tuple[str, str]] = field(default_factory=list)
    """What is in the metadata database, by ``table.column``."""

    def places(self, text: str) -> set[str]:
        """Where a text occurs."""
        files = {place for place, content in self.files if text.encode() in content}
        return files | {place for place, value in self.values if text in value}


@contextmanager
def hanging_insert(dsn: str, table: str):
    """A transaction that has inserted into a table and does not end."""
    with psycopg.connect(dsn) as connection:
        connection.execute(f"insert into {table} (customer, amount) values ('{ROW}', 1)")
        yield
        connection.rollback()


def make_tables(stack, name: str) -> None:
    """A source whose every tenth row is marked, and an empty target."""
    table = ORDERS.replace("table orders", f"table {name}")
    with psycopg.connect(stack.shop, autocommit=True) as connection:
        connection.execute(table)
        connection.execute(
            f"insert into {name} (customer, amount) select case when n % 10 = 0 then"
            f" '{ROW} ' || n else 'somebody' || n end, n from generate_series(1, {ROWS}) as n"
        )
        connection.execute(f"analyze {name}")
    with psycopg.connect(stack.dwh, autocommit=True) as connection:
        connection.execute(table)
        connection.execute(f"alter table {name} alter id drop identity")


def add_connections(stack) -> None:
    """Connections whose passwords are marked; the servers ask for none, or take this one."""
    postgres = psycopg.conninfo.conninfo_to_dict(stack.shop)
    server = {"host": HOST, "login": postgres["user"], "password": PASSWORD}
    shop = server | {"port": int(postgres["port"]), "schema": "shop"}
    stack.api.add_connection("shop_secret", "postgres", **shop)
    stack.api.add_connection("dwh_secret", "postgres", **shop | {"schema": "dwh"})
    stack.api.add_connection("unreachable_secret", "postgres", **shop | {"port": free_port()})
    store = {"host": HOST, "port": stack.valkey.port, "login": "etl"}
    with closing(redis.Redis(host=HOST, port=stack.valkey.port)) as client:
        client.execute_command("ACL", "SETUSER", "etl", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    stack.api.add_connection("checkpoints_secret", "redis", **store, password=PASSWORD)
    stack.api.add_connection("wrong_secret", "redis", **store, password=f"no{PASSWORD}")


def files_of(home: Path) -> Iterator[tuple[str, bytes]]:
    """Every file in an Airflow home but compiled code: logs of tasks and components, the database."""
    for path in home.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            yield str(path.relative_to(home)), path.read_bytes()


def values_of(database: Path) -> Iterator[tuple[str, str]]:
    """Every value in a SQLite database: one that crosses a page's end is whole only here."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        tables = connection.execute(
            "select name from sqlite_master where type = 'table'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f'select * from "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if isinstance(value, str | bytes):
                        text = value if isinstance(value, str) else value.decode(errors="replace")
                        yield f"{table}.{column}", text


@pytest.fixture(scope="module")
def written(stack) -> Written:
    """All the pipelines and the telling task ran; this is what Airflow has written about it."""
    api = stack.api
    add_connections(stack)
    for name in OUTCOMES:
        make_tables(stack, name)
    with psycopg.connect(stack.shop, autocommit=True) as connection:
        connection.execute(f"update secret_doubled set customer = '{ROW} 700' where id = 710")
    with psycopg.connect(stack.dwh, autocommit=True) as connection:
        connection.execute("alter table secret_doubled add unique (customer)")
        connection.execute(f"alter table secret_checked add check (customer not like '{ROW} 7%')")
    with hanging_insert(stack.shop, "secret_unsettled"):
        runs = {}
        for name in [*OUTCOMES, "tells"]:
            api.wait_parsed(name)
            api.unpause(name)
            runs[name] = api.trigger(name, conf={"text": TOLD} if name == "tells" else None)
        for name, run_id in runs.items():
            api.wait_run(name, run_id, 240)
    made = Written()
    for name, run_id in runs.items():
        for one in api.tasks(name, run_id):
            if one.try_number:
                log = api.log(name, run_id, one.task_id)
                made.logs[f"{name}.{one.task_id}"] = f"{one.state}\n{log}"
    made.files += files_of(stack.airflow.home)
    made.values += values_of(stack.airflow.home / "airflow.db")
    return made


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_log_says_how_the_pipeline_ended(written, name):
    stage, state, said = OUTCOMES[name]
    log = written.logs[f"{name}.etl.{stage}"]
    assert log.startswith(state)
    assert said in log


def test_what_a_task_tells_is_found_in_every_kind_of_place(written):
    places = written.places(TOLD)
    assert {"scheduler.log", "xcom.value"} <= places
    # A page of the database is in its write-ahead log until SQLite moves it.
    assert {"airflow.db", "airflow.db-wal"} & places
    assert "rendered_task_instance_fields.rendered_fields" in places
    assert any(place.startswith("logs/dag_id=tells/") for place in places)


@pytest.mark.parametrize("secret", [PASSWORD, ROW], ids=["password", "row"])
def test_no_secret_is_written_anywhere(written, secret):
    assert written.places(secret) == set()


def test_every_component_and_every_pipeline_was_searched(written):
    files = {place for place, _ in written.files}
    assert {"scheduler.log", "triggerer.log", "api_server.log", "dag_processor.log"} <= files
    for name in OUTCOMES:
        assert any(place.startswith(f"logs/dag_id={name}/") for place in files)
    assert ("xcom.dag_id", "secret_loaded") in written.values
    assert {"rendered_task_instance_fields.dag_id", "serialized_dag.dag_id", "dag_run.dag_id"} <= {
        place for place, value in written.values if value == "secret_checked"
    }


def test_the_marked_rows_were_on_their_way(written, stack):
    with psycopg.connect(stack.dwh) as connection:
        row = connection.execute(f"select count(*) from secret_loaded where customer like '{ROW}%'")
        assert row.fetchone() == (ROWS // 10,)
