"""The DAGs in the documentation: parsed and stored as the DAG processor does it, with no connection there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_checkpoint_etl import checkpoint_retry_policy

DOCS = Path(__file__).resolve().parents[2] / "docs"
DAGS = {
    "orders_are_on_time": "deadlines.md",
    "orders_within_forty_minutes": "deadlines.md",
    "quickstart_orders": "quickstart.md",
}


def listings(page):
    """The Python listings of a page that are whole DAG files."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )
    return [block for block in blocks if "with DAG(" in block]


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    from tests.airflow_dagbag import make_dag_bag

    folder = tmp_path_factory.mktemp("dags")
    for page in sorted(set(DAGS.values())):
        for number, text in enumerate(listings(page)):
            (folder / f"{Path(page).stem}_{number}.py").write_text(text)
    return make_dag_bag(str(folder), "documented")


def test_every_listing_is_a_dag(bag):
    assert bag.import_errors == {}
    assert set(bag.dags) == set(DAGS)


@pytest.mark.parametrize("name", [name for name, page in DAGS.items() if page == "deadlines.md"])
def test_a_deadline_is_stored_with_its_dag(bag, name):
    from airflow.serialization import serialized_objects

    # SerializedDAG was both the stored form and its serializer before Airflow 3.2.
    serialization = getattr(
        serialized_objects, "DagSerialization", serialized_objects.SerializedDAG
    )
    stored = serialization.to_dict(bag.dags[name])
    read = serialization.from_dict(stored)
    assert set(read.task_ids) == set(bag.dags[name].task_ids)
    (deadline,) = bag.dags[name].deadline
    assert "SmtpNotifier" in str(deadline.callback.path)
    assert "SmtpNotifier" in str(stored)


def test_the_tasks_of_a_load_keep_their_retry_policy_and_their_link(bag):
    expected = checkpoint_retry_policy()
    for task in bag.dags["orders_within_forty_minutes"].tasks:
        # Where Airflow has none, None stood in default_args and was passed over.
        assert type(getattr(task, "retry_policy", None)) is type(expected)
        assert [link.name for link in task.operator_extra_links] == ["Checkpoints"]
