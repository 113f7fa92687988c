"""One run of a DAG in Airflow, with a failure and a retry in it: what everybody who watches is told."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jsonschema
import psycopg
import pytest

from tests.statsd import StatsdListener
from tests.support import ORDERS, World

ROOT = Path(__file__).resolve().parents[2]
FACET = ROOT / "docs" / "openlineage" / "CheckpointRunFacet.json"
RUN_EVENT = Path(__file__).with_name("openlineage_run_event.json")


def connection_uri(dsn):
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    return "postgres://{user}@{host}:{port}/{dbname}".format(**parts)


@pytest.fixture(scope="module")
def observed(postgres_server, valkey_server, tmp_path_factory):
    """The run's own account, the lineage events and the statsd lines."""
    home = tmp_path_factory.mktemp("observed")
    dsns = [postgres_server.create_database(name) for name in ("observed_shop", "observed_dwh")]
    world = World(*dsns, None)
    world.fetch(ORDERS, at="source")
    world.insert(1000)
    with StatsdListener() as listener:
        environment = listener.environment | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__API__BASE_URL": "https://airflow.example.org/team/",
            "AIRFLOW__OPENLINEAGE__NAMESPACE": "tests",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(home / "events"), "append": True}
            ),
            "AIRFLOW_CONN_SHOP": connection_uri(world.source_dsn),
            "AIRFLOW_CONN_DWH": connection_uri(world.warehouse_dsn),
            "PYTHONPATH": str(ROOT),
        }
        run = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("observed_run.py"))],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
        sent = listener.heard()
    told = json.loads(run.stdout.strip().splitlines()[-1])
    events = [json.loads(line) for line in (home / "events").read_text().splitlines()]
    yield told | {"events": events, "statsd": sent, "home": home, "world": world}
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        for name in ("observed_shop", "observed_dwh"):
            connection.execute(f"drop database {name} with (force)")


def test_the_run_ends_well_and_every_row_is_there_once(observed):
    assert observed["state"] == "success"
    observed["world"].assert_exact(target="orders")


# --- metrics -----------------------------------------------------------------------------------------


def metrics(observed, name, **tags):
    """The values sent under a name, and their kinds, of those that carry these tags."""
    return [
        (sent.value, sent.kind)
        for sent in observed["statsd"]
        if sent.name == f"checkpoint_etl.{name}" and tags.items() <= sent.tags.items()
    ]


@pytest.mark.parametrize("stage", ["extract", "transform", "load"])
def test_rows_bytes_and_chunks_are_counted_per_stage(observed, stage):
    tags = {
        "stage": stage,
        "pipeline": "orders",
        "part": "default",
        "dag_id": "observed",
        "task_id": f"orders.{stage}",
    }
    assert [value for value, _ in metrics(observed, "rows_in", **tags)] == [400, 400, 200]
    assert sum(value for value, _ in metrics(observed, "rows", **tags)) == 1000
    assert metrics(observed, "chunks", **tags) == [(1, "c")] * 3
    assert all(value > 1000 for value, _ in metrics(observed, "bytes", **tags))
    durations = metrics(observed, "chunk.duration", **tags)
    assert len(durations) == 3
    assert all(kind == "ms" and 0 < value < 60_000 for value, kind in durations)
    assert metrics(observed, "finished", **tags) == [(1, "c")]


def test_the_progress_of_a_stage_ends_at_one(observed):
    assert metrics(observed, "progress", stage="load") == [(0.4, "g"), (0.8, "g"), (1, "g")]


def test_the_lag_is_the_age_of_the_bound_and_the_loads_alone(observed):
    lags = [value for value, kind in metrics(observed, "lag", stage="load") if kind == "g"]
    assert len(lags) == 4  # three chunks and the end
    assert 0 < lags[0] <= lags[-1] < 240
    assert lags == sorted(lags)
    assert metrics(observed, "lag", stage="extract") == []


def test_waiting_for_late_transactions_is_timed(observed):
    ((waited, kind),) = metrics(observed, "waited", stage="extract", on="settle")
    assert kind == "ms"
    assert waited > 0


def test_a_failure_is_counted_by_its_type_and_its_retry_counts_what_it_kept(observed):
    assert metrics(observed, "failed") == [(1, "c")]
    assert metrics(observed, "failed", stage="transform", error="TransformError") == [(1, "c")]
    assert metrics(observed, "resumed_chunks") == [(1, "c")]
    assert metrics(observed, "fenced") == []
    assert metrics(observed, "quarantined") == []


# --- spans -------------------------------------------------------------------------------------------


def test_every_chunk_and_every_wait_is_a_span(observed):
    for stage in ("extract", "transform", "load"):
        chunks = [span for span in observed["spans"] if span["name"] == f"{stage} chunk"]
        assert [span["attributes"]["checkpoint_etl.chunk"] for span in chunks] == [1, 2, 3]
        assert [span["attributes"]["checkpoint_etl.rows"] for span in chunks] == [400, 400, 200]
        assert all(span["seconds"] > 0 for span in chunks)
    (wait,) = [span for span in observed["spans"] if span["name"] == "extract wait"]
    assert wait["attributes"]["checkpoint_etl.on"] == "settle"


# --- the Storage tab and the link --------------------------------------------------------------------


def test_the_storage_tab_shows_where_the_stage_is(observed):
    stored = observed["storage"]["orders.load"]
    stored = json.loads(stored) if isinstance(stored, str) else stored
    assert stored | {"at": None} == {
        "doing": "finished",
        "pipeline": "orders",
        "part": "default",
        "stage": "load",
        "generation": 1,
        "kept_chunks": 0,
        "chunk": 3,
        "chunks": 3,
        "rows": 1000,
        "last": "1,000",
        "target": "1,000",
        "progress": 1.0,
        "at": None,
    }


@pytest.mark.parametrize("stage", ["extract", "transform", "load"])
def test_a_task_links_to_its_pipelines_page(observed, stage):
    link = observed["links"][f"orders.{stage}"]
    address = urlsplit(json.loads(link) if link.startswith('"') else link)
    assert f"{address.scheme}://{address.netloc}{address.path}" == (
        "https://airflow.example.org/team/plugin/checkpoints"
    )
    assert parse_qs(address.query) == {
        "warehouse": ["dwh"],
        "pipeline": ["orders"],
        "part": ["default"],
    }


def test_the_asset_event_says_what_was_loaded_and_how_sure_that_is(observed):
    (extra,) = observed["asset_events"]
    assert extra == {
        "part": "default",
        "first": "begin",
        "last": "i8:1000",
        "rows": 1000,
        "rejected": 0,
        "first_chunk": 1,
        "last_chunk": 3,
        "chunks": 3,
        "kept_chunks": 0,
        "generation": 1,
        "guarantee": "exactly-once",
    }


# --- lineage -----------------------------------------------------------------------------------------


def events(observed, stage, kind):
    return [
        event
        for event in observed["events"]
        if event["job"]["name"] == f"observed.orders.{stage}" and event["eventType"] == kind
    ]


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [
        ("extract", ["START", "COMPLETE"]),
        ("transform", ["START", "FAIL", "START", "COMPLETE"]),
        ("load", ["START", "COMPLETE"]),
    ],
)
def test_a_try_has_an_event_when_it_starts_and_when_it_ends(observed, stage, kinds):
    name = f"observed.orders.{stage}"
    assert [e["eventType"] for e in observed["events"] if e["job"]["name"] == name] == kinds


def test_the_graph_leads_from_the_source_through_the_staging_area_to_the_target(observed):
    source, target = (
        psycopg.conninfo.conninfo_to_dict(dsn)
        for dsn in (observed["world"].source_dsn, observed["world"].warehouse_dsn)
    )
    server = f"postgres://{source['host']}:{source['port']}"
    staged = "checkpoint-etl://orders"
    for kind in ("START", "COMPLETE"):
        ends = {
            stage: [
                [(each["namespace"], each["name"]) for each in event[side]]
                for side in ("inputs", "outputs")
            ]
            for stage in ("extract", "transform", "load")
            for event in events(observed, stage, kind)
        }
        assert ends == {
            "extract": [
                [(server, f"{source['dbname']}.public.orders")],
                [(staged, "default/extract")],
            ],
            "transform": [[(staged, "default/extract")], [(staged, "default/transform")]],
            "load": [
                [(staged, "default/transform")],
                [(server, f"{target['dbname']}.public.orders")],
            ],
        }


def test_columns_rows_and_bytes_are_on_the_datasets(observed):
    (complete,) = events(observed, "load", "COMPLETE")
    (target,) = complete["outputs"]
    fields = {each["name"]: each["type"] for each in target["facets"]["schema"]["fields"]}
    assert fields["id"] == "bigint"
    assert fields["created_at"] == "timestamp with time zone"
    statistics = target["outputFacets"]["outputStatistics"]
    assert statistics["rowCount"] == 1000
    assert statistics["size"] > 1000
    (extracted,) = events(observed, "extract", "COMPLETE")
    (source,) = extracted["inputs"]
    assert source["inputFacets"]["inputStatistics"]["rowCount"] == 1000
    assert "amount" in {each["name"] for each in source["facets"]["schema"]["fields"]}


def test_the_facet_of_our_own_keeps_to_its_schema_in_every_event(observed):
    schema = json.loads(FACET.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    seen = 0
    for event in observed["events"]:
        facet = event["run"]["facets"].get("checkpointEtl")
        if facet is not None:
            jsonschema.validate({"checkpointEtl": facet}, schema)
            assert facet["_schemaURL"].startswith(schema["$id"])
            assert facet["_producer"].endswith("airflow-checkpoint-etl/tree/v0.1.0")
            seen += 1
    assert seen == 8


def test_the_facet_says_which_chunks_a_try_did_and_which_it_found(observed):
    def facet(kind):
        return events(observed, "transform", kind)[-1]["run"]["facets"]["checkpointEtl"]

    names = ("chunks", "keptChunks", "firstChunk", "lastChunk", "low", "high", "target")
    assert [facet("FAIL").get(name) for name in names] == [
        1,
        0,
        1,
        1,
        "begin",
        "i8:400",
        "i8:1000",
    ]
    assert facet("FAIL")["error"] == "TransformError"
    assert [facet("COMPLETE").get(name) for name in names] == [
        2,
        1,
        2,
        3,
        "i8:400",
        "i8:1000",
        "i8:1000",
    ]
    assert facet("COMPLETE")["guarantee"].startswith("exactly-once")
    assert facet("COMPLETE")["generation"] == 1


@pytest.fixture(scope="module")
def specification():
    """OpenLineage's, as far as our events make use of it: its client ships no schema."""
    dialect = jsonschema.Draft202012Validator
    return dialect(json.loads(RUN_EVENT.read_text()), format_checker=dialect.FORMAT_CHECKER)


def test_every_event_keeps_to_the_specification(observed, specification):
    assert len(observed["events"]) >= 8
    for event in observed["events"]:
        specification.validate(event)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda event: event.pop("run"), "'run' is a required property"),
        (lambda event: event.update(eventTime="yesterday"), "'yesterday' is not a 'date-time'"),
        (lambda event: event["run"].update(runId="7"), "'7' is not a 'uuid'"),
        (lambda event: event["job"].pop("namespace"), "'namespace' is a required property"),
        (
            lambda event: event["run"]["facets"]["checkpointEtl"].pop("_schemaURL"),
            "'_schemaURL' is a required property",
        ),
        (
            lambda event: event["outputs"][0]["outputFacets"]["outputStatistics"].update(
                size="big"
            ),
            "'big' is not of type 'integer'",
        ),
    ],
)
def test_an_event_beside_the_specification_would_be_found(
    observed, specification, spoil, complaint
):
    (event,) = copy.deepcopy(events(observed, "load", "COMPLETE"))
    spoil(event)
    with pytest.raises(jsonschema.ValidationError, match=re.escape(complaint)):
        specification.validate(event)


def test_every_event_is_one_for_the_clients_own_classes(observed):
    """They check times, ids, producers and URLs."""
    from openlineage.client import event_v2

    for event in observed["events"]:
        made = event_v2.RunEvent(
            eventType=event_v2.RunState[event["eventType"]],
            eventTime=event["eventTime"],
            run=event_v2.Run(**event["run"]),
            job=event_v2.Job(**event["job"]),
            inputs=[event_v2.InputDataset(**each) for each in event["inputs"]],
            outputs=[event_v2.OutputDataset(**each) for each in event["outputs"]],
            producer=event["producer"],
        )
        assert made.schemaURL == event["schemaURL"]


def test_nobody_is_told_a_row_or_a_password(observed):
    told = json.dumps([observed["events"], observed["spans"], observed["storage"]])
    rows = observed["world"].fetch("select count(*) from orders where customer like '%Brien%'")
    assert rows[0][0] > 500
    assert "Brien" not in told
    assert "did not answer" not in json.dumps(observed["spans"])
