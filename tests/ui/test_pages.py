"""People look at a run, mend it, and take it back, in a real browser over a real Airflow.

``python -m pytest -m ui`` runs it; it needs Debian's chromium. The pictures in docs/images are its own.
"""

from __future__ import annotations

import re
import time

import httpx
import pytest

from tests.ui.conftest import REFUSED, ROWS

pytestmark = [pytest.mark.ui, pytest.mark.filterwarnings("ignore")]

LANE = "/plugin/checkpoints?warehouse=dwh&pipeline={}&part=default"


def wait_for(what, seconds=90.0):
    """Wait until a question is answered with something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def progress(browser, stage: str) -> int:
    bar = browser.page.get_by_role("progressbar", name=re.compile(f"^{stage} at"))
    return int(bar.get_attribute("aria-valuenow") or 0) if bar.count() else 0


@pytest.fixture(scope="module")
def triggered(site):
    """Both pipelines' runs; the invoices' load fails where its target refuses rows."""
    api = site.airflow.api
    runs = {}
    for name in ("invoices", "customers"):
        api.wait_parsed(name)
        api.unpause(name)
    runs["invoices"] = api.trigger("invoices", run_id="first")
    assert api.wait_run("invoices", "first", 180) == "failed"
    return runs


def test_before_the_first_run_the_page_says_what_to_do(site, open_browser):
    browser = open_browser("editor")
    browser.open("/plugin/checkpoints")
    browser.page.get_by_text("No pipelines yet").wait_for()
    browser.shoot("empty")
    assert not browser.faults


def test_the_page_shows_a_run_moving(site, triggered, open_browser):
    api = site.airflow.api
    api.trigger("customers", run_id="first")
    browser = open_browser("editor")
    wait_for(
        lambda: site.at_warehouse("select 1 from checkpoint_etl.lane where pipeline = 'customers'")
    )
    browser.open(LANE.format("customers"))
    first = wait_for(lambda: progress(browser, "load"))
    browser.shoot("running")
    second = wait_for(lambda: progress(browser, "load") > first and progress(browser, "load"))
    assert 0 < first < second <= 100
    assert api.wait_run("customers", "first", 120) == "success"
    browser.page.get_by_text("caught up").first.wait_for()
    loaded_by = browser.page.get_by_role("link", name="customers.etl.load, try 1").first
    assert loaded_by.get_attribute("href").endswith("/dags/customers/runs/first/tasks/etl.load")
    browser.open("/plugin/checkpoints")
    browser.page.get_by_role("link", name="customers").wait_for()
    browser.shoot("pipelines")
    assert not browser.faults


def test_a_stuck_pipeline_says_why_and_what_to_do(site, triggered, open_browser):
    browser = open_browser("editor")
    browser.open(LANE.format("invoices"))
    browser.page.get_by_text("no_large_ids").first.wait_for()
    browser.page.get_by_text("Next:").first.wait_for()
    bar = browser.page.get_by_role("progressbar", name=re.compile("^load at")).locator("> *")
    whole = browser.page.get_by_role("progressbar", name=re.compile("^load at"))
    share = bar.bounding_box()["width"] / whole.bounding_box()["width"]
    assert share == pytest.approx((REFUSED - 1) // 500 * 500 / ROWS, abs=0.01)
    browser.shoot("stuck")
    browser.open("/plugin/checkpoints")
    browser.page.get_by_label("Search pipelines").fill("invoi")
    browser.page.get_by_role("link", name="invoices").wait_for()
    browser.page.get_by_role("link", name="customers").wait_for(state="detached")
    assert not browser.faults


def test_a_failed_task_is_cleared_by_clicking_and_the_tab_says_where_it_resumed(
    site, triggered, open_browser
):
    browser = open_browser("editor", "dark")
    site.at_warehouse("alter table invoices drop constraint no_large_ids")
    task = "/dags/invoices/runs/first/tasks/etl.load"
    browser.open(task)
    browser.page.get_by_role("button", name=re.compile("clear", re.IGNORECASE)).first.click()
    dialog = browser.page.get_by_role("dialog")
    dialog.get_by_role("button", name=re.compile("Confirm", re.IGNORECASE)).click()
    api = site.airflow.api
    wait_for(lambda: api.task("invoices", "first", "etl.load").state == "success", 120)
    kept = (REFUSED - 1) // 500
    browser.open(f"{task}/plugin/checkpoint")
    sentence = f"try 2 resumed at id {kept * 500:,}; {kept} chunks of earlier tries were kept"
    browser.page.get_by_text(sentence).wait_for()
    browser.shoot("task-dark")
    assert site.at_warehouse("select count(*), count(distinct id) from invoices") == [(ROWS, ROWS)]
    assert not browser.faults


def test_a_rewind_is_tried_first_and_confirmed_by_name(site, triggered, open_browser):
    browser = open_browser("editor")
    browser.open(LANE.format("invoices"))
    page = browser.page
    page.get_by_role("button", name="Rewind").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Go back to id").fill("10,250")
    dialog.get_by_label("Reason").fill("the prices were wrong")
    confirm = dialog.get_by_role("button", name="Rewind")
    assert confirm.is_disabled(), "nothing is done before it was tried"
    dialog.get_by_role("button", name="Dry run").click()
    dialog.get_by_text("10 chunk(s) with 5,000 rows are taken back").wait_for()
    assert confirm.is_disabled(), "the name is not typed yet"
    dialog.get_by_label(re.compile("Type the pipeline's name")).fill("invoices")
    browser.shoot("rewind")
    confirm.click()
    dialog.get_by_text("Rewound").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("the prices were wrong").wait_for()
    assert site.at_warehouse("select count(*), max(id) from invoices") == [(10_000, 10_000)]
    log = site.airflow.api.audit_log("checkpoints_rewind")
    assert [entry["owner"] for entry in log] == ["editor", "editor"]
    assert not browser.faults


def test_a_viewer_reads_and_may_not_act(site, triggered, open_browser):
    browser = open_browser("viewer")
    browser.open(LANE.format("invoices"))
    browser.page.get_by_role("heading", name="Guarantee").wait_for()
    assert browser.page.get_by_role("heading", name="Actions").count() == 0
    assert browser.page.get_by_role("button", name="Rewind").count() == 0
    assert not browser.faults


@pytest.mark.parametrize("path", ["rewind", "release", "replay", "collect"])
def test_the_api_refuses_who_may_not_act(site, triggered, path):
    where = f"{site.url}/checkpoints/api/lane/{path}"
    body = {
        "warehouse": "dwh", "pipeline": "invoices", "part": "default", "reason": "because",
        "to": "500", "stage": "load", "dry_run": True,
    }  # fmt: skip
    viewer = {"authorization": f"Bearer {site.token('viewer')}"}
    editor = {"authorization": f"Bearer {site.token('editor')}"}
    with httpx.Client(trust_env=False, timeout=60) as client:
        assert client.post(where, json=body).status_code == 401
        assert client.post(where, json=body, headers=viewer).status_code == 403
        assert client.get(where, headers=editor).status_code == 405
        foreign = editor | {"origin": "http://elsewhere.example"}
        assert client.post(where, json=body, headers=foreign).status_code == 403
        form = {key: str(value) for key, value in body.items()}
        assert client.post(where, data=form, headers=editor).status_code == 415


def test_anonymous_requests_are_turned_away(site, triggered):
    query = {"warehouse": "dwh", "pipeline": "invoices", "part": "default"}
    for path in ("pipelines", "lane", "lane/chunks", "lane/throughput", "task"):
        answer = httpx.get(f"{site.url}/checkpoints/api/{path}", params=query, trust_env=False)
        assert answer.status_code == 401, path
