"""Airflow with two named users, a pipeline in trouble, and a browser to look at them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from airflow_checkpoint_etl.demo.airflow_process import AirflowProcess
from airflow_checkpoint_etl.demo.servers import PostgresServer, ValkeyServer
from tests.memory import FAST, in_memory
from tests.support import INSERT, ORDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 15_000
REFUSED = 9_000
"""The first id that the invoices' target refuses."""
PASSWORDS = {"editor": "editor-password", "viewer": "viewer-password"}
SHOTS = Path(__file__).parents[2] / "docs" / "images"
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

TARGET = ORDERS.replace("generated always as identity primary key", "primary key")
# One tenth of a second per chunk: slow enough to be looked at.
SLOW = """
create or replace function slow() returns trigger language plpgsql as
$$ begin perform pg_sleep(0.1); return null; end $$
"""


@dataclass
class Site:
    """Airflow, and the warehouse behind its pipelines."""

    airflow: AirflowProcess
    shop: str
    dwh: str

    @property
    def url(self) -> str:
        return self.airflow.url

    def token(self, user: str) -> str:
        """A user's token, as signing in gives it."""
        body = {"username": user, "password": PASSWORDS[user]}
        answer = httpx.post(f"{self.url}/auth/token", json=body, trust_env=False)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def at_warehouse(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dwh, autocommit=True) as connection:
            result = connection.execute(statement)
            return result.fetchall() if result.description else []


def _make_tables(shop: str, dwh: str) -> None:
    source, target = (psycopg.connect(dsn, autocommit=True) for dsn in (shop, dwh))
    with source, target:
        target.execute(SLOW)
        for name in ("customers", "invoices"):
            source.execute(ORDERS.replace("table orders", f"table {name}"))
            source.execute(INSERT.format(ROWS).replace("into orders", f"into {name}"))
            target.execute(TARGET.replace("table orders", f"table {name}"))
            target.execute(f"alter table {name} add column _ck_chunk bigint")
            target.execute(
                f"create trigger slow after insert on {name} for each statement "
                "execute function slow()"
            )
        target.execute(f"alter table invoices add constraint no_large_ids check (id < {REFUSED})")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    passwords = tmp_path_factory.mktemp("users") / "passwords.json"
    passwords.write_text(json.dumps(PASSWORDS))
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "editor:ADMIN,viewer:VIEWER",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__CHECKPOINT_ETL__WAREHOUSE_CONN_IDS": "dwh",
    }
    with (
        in_memory(lambda: PostgresServer(settings=FAST)) as postgres,
        in_memory(ValkeyServer) as valkey,
    ):
        shop, dwh = postgres.create_database("shop"), postgres.create_database("dwh")
        _make_tables(shop, dwh)
        connections = {
            "shop": postgres.airflow_uri("shop"),
            "dwh": postgres.airflow_uri("dwh"),
            "checkpoints": valkey.airflow_uri(),
        }
        dags = Path(__file__).parent / "dags"
        with in_memory(lambda: AirflowProcess(dags, connections, settings)) as airflow:
            made = Site(airflow, shop, dwh)
            airflow.api.sign_in(made.token("editor"))
            yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no chromium on the PATH; install Debian's: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Browser:
    """A signed-in user's window."""

    def __init__(self, chromium: Any, site: Site, user: str, scheme: str = "light") -> None:
        self.site = site
        self.context = chromium.new_context(
            viewport={"width": 1440, "height": 1000}, color_scheme=scheme
        )
        self.faults: list[str] = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.sign_in(user)

    def sign_in(self, user: str) -> None:
        self.page.goto(f"{self.site.url}/auth/login")
        self.page.get_by_label("Username").fill(user)
        self.page.locator("input[type=password]").fill(PASSWORDS[user])
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(lambda url: "/auth/login" not in url)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.site.url}{path}")

    def shoot(self, name: str) -> None:
        """Keep a picture for the docs."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")


@pytest.fixture
def open_browser(chromium, site, request, tmp_path):
    opened: list[Browser] = []

    def make(user: str, scheme: str = "light") -> Browser:
        opened.append(Browser(chromium, site, user, scheme))
        return opened[-1]

    yield make
    for number, one in enumerate(opened):
        seen = tmp_path / f"{request.node.name}-{number}.png"
        one.page.screenshot(path=seen)  # what a failure looked like
        one.context.close()


@pytest.hookimpl(trylast=True)  # after pytest-randomly has shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the pages' tests in the order they are written: each goes on where the one before left the run."""
    places = [
        place for place, item in enumerate(items) if item.path.parent == Path(__file__).parent
    ]
    told = sorted((items[place] for place in places), key=lambda item: item.location[:2])
    for place, item in zip(places, told, strict=True):
        items[place] = item
