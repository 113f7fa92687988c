"""Pipelines: bad input fails where the DAG author writes it, and says what to write instead."""

from __future__ import annotations

import dataclasses
import pickle
from decimal import Decimal

import pytest

from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.errors import ConfigurationError
from airflow_checkpoint_etl.parameters import check_part, parse_size
from airflow_checkpoint_etl.pipeline import Pipeline

NAN = float("nan")


def a_source(**changes):
    return PostgresSource(**{"conn_id": "shop", "table": "public.orders"} | changes)


def a_warehouse(**changes):
    return PostgresWarehouse(**{"conn_id": "dwh", "table": "analytics.orders"} | changes)


def a_pipeline(**changes):
    return Pipeline(
        **{"pipeline_id": "orders", "source": a_source(), "warehouse": a_warehouse()} | changes
    )


def a_query(**changes):
    return a_source(
        **{
            "table": None,
            "query": "select * from orders join lines using (order_id)",
            "unique": True,
            "settle_tables": ("orders", "lines"),
        }
        | changes
    )


def refused(make, parameter, value):
    """The message of the error that making the value raises; it names the parameter and its value."""
    with pytest.raises(ConfigurationError) as error:
        make(**{parameter: value})
    fact, _, next_move = str(error.value).rpartition("; ")
    assert fact.startswith(f"{parameter}={value!r}: ")
    assert next_move
    return str(error.value)


# --- what is accepted -------------------------------------------------------------------------------


def test_the_smallest_pipeline_needs_two_connections_and_nothing_else():
    pipeline = a_pipeline()
    assert pipeline.checkpoint_connection == "dwh"
    assert pipeline.staging == "checkpoint"
    assert pipeline.source.cursor_columns == ("id",)
    assert pipeline.source.max_chunk_bytes == 32 * 1024 * 1024
    assert pipeline.staged_chunk_cap == 64 * 1024 * 1024


def test_a_checkpoint_connection_of_its_own_is_used():
    assert a_pipeline(checkpoint_conn_id="checkpoints").checkpoint_connection == "checkpoints"


@pytest.mark.parametrize("pipeline_id", ["a", "Orders_2.eu-west", "x" * 100, "{{ params.id }}"])
def test_a_pipeline_is_called_by_a_stable_name(pipeline_id):
    assert a_pipeline(pipeline_id=pipeline_id).asset_uri == f"checkpoint-etl://{pipeline_id}"


@pytest.mark.parametrize(
    "staging",
    ["checkpoint", "s3://bucket/prefix", "gs://bucket", "file:///tmp/x", "{{ var.value.s }}"],
)
def test_staging_is_the_checkpoint_store_or_a_url(staging):
    assert a_pipeline(staging=staging).staging == staging


def test_names_may_be_given_alone_as_a_list_or_as_a_tuple():
    for cursor in ("id", ["id"], ("id",)):
        assert a_source(cursor=cursor) == a_source(cursor=("id",))
    assert a_warehouse(write="upsert", key=["a", "b"]).key_columns == ("a", "b")
    assert a_source(columns=["a", "b"], text_columns="c").columns == ("a", "b")


@pytest.mark.parametrize(
    ("start_after", "values"),
    [
        ("41", ("41",)),
        (41, ("41",)),
        (Decimal("4.1"), ("4.1",)),
        (("41",), ("41",)),
        ([41], ("41",)),
        (None, None),
    ],
)
def test_a_start_is_one_text_per_cursor_column(start_after, values):
    assert a_pipeline(start_after=start_after).start_after == values


def test_a_start_of_a_composite_cursor_has_a_value_for_every_column():
    source = a_source(cursor=("updated_at", "id"))
    pipeline = a_pipeline(source=source, start_after=("2026-01-01 00:00:00+00", 7))
    assert pipeline.start_after == ("2026-01-01 00:00:00+00", "7")


def test_a_query_is_accepted_with_what_no_catalog_can_tell():
    assert a_query().identity()["source"].startswith("select")
    assert a_query(settle="none", settle_tables=()).settle == "none"


def test_a_sweep_needs_an_upsert_when_the_dag_is_parsed():
    swept = a_source(settle="sweep")
    with pytest.raises(ConfigurationError, match=r"settle='sweep': .*may be swept up and loaded"):
        a_pipeline(source=swept)
    upserting = a_warehouse(write="upsert", key=("id",))
    assert a_pipeline(source=swept, warehouse=upserting).source.settle == "sweep"


def test_a_lag_and_a_primary_are_named_where_they_mean_something():
    assert a_source(settle="lag", settle_lag=30).settle_lag == 30
    assert a_source(settle_conn_id="primary").settle_conn_id == "primary"
    assert a_query(settle="lag", settle_lag=30, settle_tables=()).settle == "lag"


def test_zero_is_no_limit_where_that_makes_sense():
    assert a_warehouse(statement_timeout=0).statement_timeout == 0
    assert a_pipeline(staging_grace=0).staging_grace == 0


# --- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (1, 1),
        ("512", 512),
        ("1B", 1),
        ("1KiB", 1024),
        ("1 kB", 1000),
        ("1KB", 1000),
        (" 32MiB ", 32 * 1024**2),
        ("2MB", 2_000_000),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("1GB", 10**9),
    ],
)
def test_a_size_is_a_number_of_bytes_or_has_a_unit(size, count):
    assert parse_size(size, "chunk_bytes") == count
    assert a_source(chunk_bytes=size).chunk_bytes == count
    assert a_pipeline(max_staged_chunk=size).max_staged_chunk == count


@pytest.mark.parametrize(
    "size", [0, -1, 1.5, True, None, "", "MiB", "1 mib", "-1MiB", "1e3", "0.1B", "0"]
)
@pytest.mark.parametrize(
    ("make", "parameter"), [(a_source, "chunk_bytes"), (a_pipeline, "max_staged_chunk")]
)
def test_what_is_no_positive_size_is_refused(make, parameter, size):
    message = refused(make, parameter, size)
    assert message.endswith('not a positive size; write bytes or e.g. "32MiB"')


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "parameter", "value", "rule"),
    [
        (a_source, "conn_id", "", "must be an Airflow connection id"),
        (a_source, "conn_id", " ", "must be an Airflow connection id"),
        (a_source, "conn_id", None, "must be an Airflow connection id"),
        (a_source, "table", None, "exactly one of table and query"),
        (a_source, "table", "", "must be a table name"),
        (a_source, "table", ("public", "orders"), "must be a table name"),
        (a_source, "cursor", (), "is empty"),
        (a_source, "cursor", None, "must be column names"),
        (a_source, "cursor", 7, "must be column names"),
        (a_source, "cursor", ("id", ""), "must be column names"),
        (a_source, "cursor", ("id", 7), "must be column names"),
        (a_source, "columns", ("a", "a"), "names a column twice"),
        (a_source, "text_columns", " ", "must be column names"),
        (a_source, "settle_tables", {"orders"}, "must be column names"),
        (a_source, "settle", "wait", "must be one of auto, locks, transactions, sweep, lag, none"),
        (a_source, "settle_timeout", 0, "must be positive"),
        (a_source, "settle_timeout", NAN, "must be positive"),
        (a_source, "settle_timeout", "60", "must be positive"),
        (a_source, "settle_timeout", None, "must be positive"),
        (a_source, "on_settle_timeout", "wait", "must be one of fail, finish"),
        (a_source, "on_source_reset", "resync", "must be one of fail, continue"),
        (a_source, "settle_lag", 5, 'is for settle="lag" alone'),
        (
            lambda settle_lag: a_source(settle="lag", settle_lag=settle_lag),
            "settle_lag",
            None,
            "must be positive",
        ),
        (a_source, "settle_conn_id", "", "must be an Airflow connection id"),
        (
            lambda settle_conn_id: a_source(settle="none", settle_conn_id=settle_conn_id),
            "settle_conn_id",
            "primary",
            "nobody is waited for",
        ),
        (a_query, "settle", "sweep", "do not say which transaction wrote them"),
        (a_source, "chunk_rows", 0, "must be positive"),
        (a_source, "chunk_rows", True, "must be positive"),
        (a_source, "chunk_rows", 0.5, "must be whole"),
        (a_query, "query", "", "must be a SELECT statement"),
        (a_query, "unique", False, "no index can prove that a query's cursor is unique"),
        (a_query, "settle_tables", (), "the writers to wait for are unknown for a query"),
        (a_warehouse, "conn_id", "", "must be an Airflow connection id"),
        (a_warehouse, "table", " ", "must be a table name"),
        (a_warehouse, "table", None, "must be a table name"),
        (a_warehouse, "write", "replace", "must be one of append, upsert"),
        (a_warehouse, "lineage", "yes", "must be one of auto, always, never"),
        (a_warehouse, "key", 7, "must be column names"),
        (a_warehouse, "lock_timeout", 0, "must be positive"),
        (a_warehouse, "statement_timeout", -1, "must not be negative"),
        (a_warehouse, "statement_timeout", NAN, "must not be negative"),
        (a_pipeline, "pipeline_id", "", "must start with a letter"),
        (a_pipeline, "pipeline_id", "2orders", "must start with a letter"),
        (a_pipeline, "pipeline_id", "orders/eu", "must start with a letter"),
        (a_pipeline, "pipeline_id", "x" * 101, "at most 100"),
        (a_pipeline, "pipeline_id", "orders\n", "must start with a letter"),
        (a_pipeline, "pipeline_id", None, "must start with a letter"),
        (a_pipeline, "source", "shop", "is no source"),
        (a_pipeline, "warehouse", None, "is no warehouse"),
        (a_pipeline, "checkpoint_conn_id", "", "must be an Airflow connection id"),
        (a_pipeline, "staging_conn_id", " ", "must be an Airflow connection id"),
        (a_pipeline, "staging", "bucket/prefix", 'must be "checkpoint" or an object storage URL'),
        (a_pipeline, "staging", None, 'must be "checkpoint" or an object storage URL'),
        (a_pipeline, "staging_grace", -1, "must not be negative"),
        (a_pipeline, "staging_grace", NAN, "must not be negative"),
        (a_pipeline, "staging_grace", "900", "must not be negative"),
        (a_pipeline, "start_after", ("1", "2"), "the cursor has 1 column(s)"),
        (a_pipeline, "start_after", (), "the cursor has 1 column(s)"),
        (a_pipeline, "start_after", (None,), "a cursor value is exact and never NULL"),
        (a_pipeline, "start_after", 1.5, "a cursor value is exact and never NULL"),
        (a_pipeline, "start_after", True, "a cursor value is exact and never NULL"),
    ],
)
def test_a_bad_parameter_is_refused_with_its_name_value_rule_and_the_next_move(
    make, parameter, value, rule
):
    assert rule in refused(make, parameter, value)


def test_a_table_and_a_query_at_once_are_refused():
    with pytest.raises(ConfigurationError, match=r"table='orders': exactly one of table and query"):
        a_query(table="orders")


def test_an_upsert_needs_a_key():
    with pytest.raises(ConfigurationError, match=r"key=\(\): upsert needs key columns; pass key="):
        a_warehouse(write="upsert")


def test_an_append_takes_no_key():
    with pytest.raises(
        ConfigurationError, match=r"key=\('id',\): append takes no key; leave it out"
    ):
        a_warehouse(key="id")


@pytest.mark.parametrize(
    "part", ["default", "tenant-7", "2026-01-01T00:00:00+00:00", "0", "{{ ds }}"]
)
def test_a_part_is_called_by_a_value(part):
    assert check_part(part) == part


@pytest.mark.parametrize("part", ["", "a b", "a/b", "-a", "x" * 121, "a\n", None, 7])
def test_a_part_that_cannot_be_a_key_is_refused(part):
    with pytest.raises(ConfigurationError, match="never by map index") as error:
        check_part(part)
    assert str(error.value).startswith(f"part={part!r}: must hold letters, digits")


# --- value objects ----------------------------------------------------------------------------------


def test_nothing_in_a_pipeline_can_be_changed():
    pipeline = a_pipeline()
    for value in (pipeline, pipeline.source, pipeline.warehouse):
        for item in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, item.name, "other")


def test_equal_pipelines_are_equal_keys_and_survive_pickling():
    assert a_pipeline() == a_pipeline()
    assert len({a_pipeline(), a_pipeline()}) == 1
    assert pickle.loads(pickle.dumps(a_pipeline())) == a_pipeline()


def test_a_repr_is_short_stable_and_says_what_flows_where():
    expected = (
        "Pipeline(orders: PostgresSource(shop:public.orders by id) -> "
        "PostgresWarehouse(dwh:analytics.orders append))"
    )
    assert repr(a_pipeline()) == repr(a_pipeline()) == expected


def test_a_repr_shows_neither_queries_nor_filters_nor_places():
    pipeline = a_pipeline(
        source=a_query(query="select 'hush'", where="token = 'hush'"),
        staging="s3://hush:hush@bucket",
        start_after="hush",
    )
    assert "hush" not in repr(pipeline)
    assert "0x" not in repr(pipeline)


# --- templates --------------------------------------------------------------------------------------


def shout(text):
    return text.replace("{{ x }}", "rendered")


def test_only_templated_strings_are_given_to_the_renderer():
    seen = []

    def renderer(text):
        seen.append(text)
        return shout(text)

    pipeline = a_pipeline(
        pipeline_id="orders_{{ x }}",
        source=a_source(table="{{ x }}.orders", cursor=("updated_at", "{{ x }}"), where="a = 1"),
        staging="{% if 1 %}checkpoint{% endif %}",
    )
    rendered = pipeline.render(lambda text: renderer(text) if "{{" in text else "checkpoint")
    assert seen == ["orders_{{ x }}", "{{ x }}.orders", "{{ x }}"]
    assert rendered.pipeline_id == "orders_rendered"
    assert rendered.source.table == "rendered.orders"
    assert rendered.source.cursor == ("updated_at", "rendered")
    assert rendered.staging == "checkpoint"
    unchanged = dataclasses.replace(
        rendered,
        pipeline_id=pipeline.pipeline_id,
        source=pipeline.source,
        staging=pipeline.staging,
    )
    assert unchanged == pipeline


def test_rendering_leaves_the_original_as_it_was():
    pipeline = a_pipeline(pipeline_id="orders_{{ x }}")
    assert pipeline.render(shout) is not pipeline
    assert pipeline.pipeline_id == "orders_{{ x }}"


def test_a_pipeline_without_templates_is_its_own_rendered_copy():
    pipeline = a_pipeline(source=a_source(cursor=("a", "b"), columns=("a", "b", "c")))
    assert pipeline.render(lambda text: pytest.fail(f"rendered {text}")) is pipeline


@pytest.mark.parametrize(
    ("pipeline", "rendered", "rule"),
    [
        (a_pipeline(pipeline_id="{{ x }}"), "no name", "pipeline_id='no name': must start"),
        (a_pipeline(staging="{{ x }}"), "nowhere", "staging='nowhere': must be"),
        (a_pipeline(source=a_source(conn_id="{{ x }}")), "", "conn_id='': must be"),
        (a_pipeline(source=a_source(cursor=("id", "{{ x }}"))), "id", "names a column twice"),
        (a_pipeline(warehouse=a_warehouse(table="{{ x }}")), None, "table=None: must be"),
    ],
)
def test_what_a_template_becomes_is_validated_again(pipeline, rendered, rule):
    with pytest.raises(ConfigurationError) as error:
        pipeline.render(lambda _: rendered)
    assert rule in str(error.value)


# --- fingerprint ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        a_pipeline(source=a_source(table="public.invoices")),
        a_pipeline(source=a_query(query="select * from orders")),
        a_pipeline(source=a_source(cursor="updated_at")),
        a_pipeline(source=a_source(cursor=("id", "updated_at"))),
        a_pipeline(source=a_source(where="amount > 0")),
        a_pipeline(warehouse=a_warehouse(table="analytics.invoices")),
        a_pipeline(warehouse=a_warehouse(write="upsert", key="id")),
        a_pipeline(warehouse=a_warehouse(write="upsert", key=("id", "line"))),
    ],
    ids=repr,
)
def test_the_fingerprint_changes_with_source_cursor_filter_target_write_and_key(changed):
    assert changed.fingerprint() != a_pipeline().fingerprint()


@pytest.mark.parametrize(
    "changed",
    [
        a_pipeline(pipeline_id="other"),
        a_pipeline(checkpoint_conn_id="checkpoints"),
        a_pipeline(
            staging="s3://bucket", staging_conn_id="s3", staging_grace=1, max_staged_chunk=1
        ),
        a_pipeline(start_after="7"),
        a_pipeline(
            source=a_source(
                conn_id="replica",
                columns=("id", "amount"),
                text_columns=("amount",),
                unique=True,
                settle="locks",
                settle_tables=("orders",),
                settle_timeout=1,
                settle_conn_id="primary",
                on_settle_timeout="finish",
                on_source_reset="continue",
                chunk_rows=1,
                chunk_bytes=1,
                allow_sort=True,
            )
        ),
        a_pipeline(
            warehouse=a_warehouse(
                conn_id="other",
                create_table=True,
                lineage="always",
                lock_timeout=1,
                statement_timeout=1,
            )
        ),
        a_pipeline(source=a_source(cursor=["id"])),
    ],
)
def test_the_fingerprint_stays_when_anything_else_changes(changed):
    assert changed.fingerprint() == a_pipeline().fingerprint()


def test_the_fingerprint_is_the_same_in_every_process():
    assert a_pipeline().fingerprint() == (
        "edd2238ee44f3159120e7b929ec2e78f8248e8e62a169da75218056fcf8eb23c"
    )
