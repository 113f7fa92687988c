"""A per-record transform with declared columns: what it gets, what it returns, what is carried."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_checkpoint_etl import Reject
from airflow_checkpoint_etl.columns import field_of
from airflow_checkpoint_etl.errors import ConfigurationError, TransformError
from airflow_checkpoint_etl.protocol import Chunk
from airflow_checkpoint_etl.transform import CallableTransformer
from airflow_checkpoint_etl.values import SLICE

TYPES = {
    "id": "bigint",
    "email": "text",
    "amount": "numeric(12,2)",
    "seen_at": "timestamp with time zone",
    "token": "uuid",
    "born": "date",
}
CHUNK = Chunk("i", 1, "i8:0", "i8:9", 9, 9, "", 0, "", 1)


def table_of(rows=6, **columns):
    values = {
        "id": list(range(1, rows + 1)),
        "email": [f"Ann{n}@Example.com" if n % 3 else None for n in range(rows)],
        "amount": [Decimal(n) / 4 for n in range(rows)],
        "seen_at": [
            dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=n) for n in range(rows)
        ],
        "token": [uuid.UUID(int=n) for n in range(rows)],
        "born": [dt.date(2000, 1, 1 + n % 28) for n in range(rows)],
    } | columns
    fields = [field_of(name, pg_type) for name, pg_type in TYPES.items()]
    arrays = [pa.array(values[field.name], field.type) for field in fields]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def apply(function, table=None, state=None, columns=("email", "amount"), **options):
    transformer = CallableTransformer(function, cursor_columns=("id",), columns=columns, **options)
    return transformer.apply(table_of() if table is None else table, state, CHUNK)


def test_a_record_holds_the_declared_columns_and_the_row_keeps_the_others():
    got = []

    def clean(record):
        got.append(set(record))
        return {"email": (record["email"] or "none").lower()}

    made = apply(clean).table
    assert got == [{"email", "amount"}] * 6
    assert made.schema.equals(table_of().schema, check_metadata=True)
    assert made.drop(["email"]).equals(table_of().drop(["email"]))
    assert made["email"].to_pylist()[:2] == ["none", "ann1@example.com"]


def test_a_returned_column_replaces_the_carried_one_whether_declared_or_not():
    made = apply(lambda record: {"born": dt.date(1990, 5, 17), "amount": Decimal(1)}).table
    assert made["born"].to_pylist() == [dt.date(1990, 5, 17)] * 6
    assert made["amount"].to_pylist() == [Decimal("1.00")] * 6
    assert made.column_names == list(TYPES)


def test_none_drops_the_row_and_a_list_repeats_the_carried_columns():
    def spread(record):
        size = int(record["amount"] * 4)
        return None if size == 0 else [{"copy": n} for n in range(size % 3)]

    made = apply(spread).table
    assert made["id"].to_pylist() == [2, 3, 3, 5, 6, 6]
    assert made["token"].to_pylist() == [uuid.UUID(int=n) for n in (1, 2, 2, 4, 5, 5)]
    assert made["copy"].to_pylist() == [0, 0, 1, 0, 0, 1]


def test_a_column_that_is_not_returned_for_a_record_stays_as_it_was():
    def mend(record):
        return {} if record["email"] is None else {"email": record["email"].upper(), "born": None}

    made = apply(mend).table
    assert made["email"].to_pylist()[:3] == [None, "ANN1@EXAMPLE.COM", "ANN2@EXAMPLE.COM"]
    assert made["born"].to_pylist()[:2] == [dt.date(2000, 1, 1), None]
    assert made["id"].to_pylist() == [1, 2, 3, 4, 5, 6]


def test_a_new_column_has_to_be_returned_for_every_record():
    def mark(record):
        return {"flag": True} if record["email"] else {}

    with pytest.raises(TransformError, match=r"id=2 of chunk 1.*new: \['flag'\]"):
        apply(mark)


def test_all_rows_may_be_dropped():
    assert apply(lambda _: None).table.num_rows == 0


def test_an_unknown_column_is_named_with_those_there_are():
    with pytest.raises(ConfigurationError, match=r"no column 'mail'; they have id, email"):
        apply(lambda record: record, columns=["mail"])


@pytest.mark.parametrize("columns", ["email", [], ["email", "email"], [1], {"email": "text"}])
def test_columns_are_a_list_of_different_names(columns):
    with pytest.raises(ConfigurationError, match="columns="):
        CallableTransformer(lambda record: record, columns=columns)


def test_a_batch_takes_no_columns():
    with pytest.raises(ConfigurationError, match='mode="record"'):
        CallableTransformer(lambda table: table, "batch", columns=["email"])


def test_state_and_output_columns_work_as_for_whole_records():
    def count(record, state):
        state["seen"] += 1
        return {"number": state["seen"], "email": None}

    made = apply(
        count, initial_state={"seen": 0}, output_columns={"number": "int4"}, state='{"seen":4}'
    )
    assert made.state == '{"seen":10}'
    assert made.table["number"].to_pylist() == [5, 6, 7, 8, 9, 10]
    assert made.table.schema.field("number").type == pa.int32()


def test_a_rejected_record_is_the_whole_record():
    def strict(record):
        if record["email"] is None:
            message = "no address"
            raise Reject(message)
        return {"email": record["email"].lower()}

    transformer = CallableTransformer(strict, cursor_columns=("id",), columns=["email"]).rejecting()
    made = transformer.apply(table_of(), None, CHUNK)
    assert made.rejects.records.column_names == list(TYPES)
    assert made.rejects.records["id"].to_pylist() == [1, 4]
    assert made.rejects.reasons == ("no address", "no address")
    assert made.table["id"].to_pylist() == [2, 3, 5, 6]
    assert made.table["token"].to_pylist() == [uuid.UUID(int=n) for n in (1, 2, 4, 5)]


def test_a_value_that_does_not_fit_rejects_its_record_and_not_the_carried_ones():
    def convert(record):
        return {"amount": "many" if record["email"] is None else record["amount"] + 1}

    transformer = CallableTransformer(convert, cursor_columns=("id",), columns=["email", "amount"])
    made = transformer.rejecting().apply(table_of(), None, CHUNK)
    assert made.rejects.records["id"].to_pylist() == [1, 4]
    assert made.table["amount"].to_pylist() == [Decimal(n) / 4 + 1 for n in (1, 2, 4, 5)]


def test_a_date_python_does_not_have_matters_only_where_it_is_declared():
    far = table_of(born=pa.array([0, 10**7, 1, 2, 3, 4], pa.int32()).cast(pa.date32()))
    made = apply(lambda record: {"email": "x"}, far).table
    assert made["born"].cast(pa.int32()).to_pylist()[1] == 10**7
    transformer = CallableTransformer(
        lambda record: record, cursor_columns=("id",), columns=["born"]
    )
    rejected = transformer.rejecting().apply(far, None, CHUNK)
    assert rejected.rejects.records["id"].to_pylist() == [2]
    assert rejected.table["id"].to_pylist() == [1, 3, 4, 5, 6]


def test_a_failing_record_of_a_later_slice_is_named_by_its_cursor_alone():
    table = table_of(SLICE + 10)
    last = table["amount"][SLICE + 5].as_py()

    def fail(record):
        if record["amount"] == last:
            raise ValueError(record["email"])
        return record

    with pytest.raises(TransformError, match=f"id={SLICE + 6} of chunk 1") as caught:
        apply(fail, table)
    assert "Example" not in str(caught.value)


# --- whole records: the same results, with less of it made anew -------------------------------------


@given(
    st.lists(
        st.sampled_from(["keep", "drop", "twice", "change", "replace"]), min_size=1, max_size=30
    )
)
def test_whole_records_come_out_as_they_were_returned(actions):
    table = table_of(len(actions))
    records = iter(actions)
    expected = []

    def act(record):
        action = next(records)
        changed = record | {"email": "changed"} if action == "change" else dict(record)
        if action == "replace":
            changed["token"] = uuid.UUID(str(changed["token"]))  # equal, and another object
        made = {"drop": None, "twice": [changed, record]}.get(action, changed)
        expected.extend(made if isinstance(made, list) else [made] if made else [])
        return made

    made = CallableTransformer(act, cursor_columns=("id",)).apply(table, None, CHUNK).table
    assert made.to_pylist() == expected
    if expected:
        assert made.schema.equals(table.schema, check_metadata=True)


def test_a_record_changed_in_place_does_not_change_what_came_in():
    table = table_of()

    def change(record):
        record["email"] = "changed"
        return record

    made = CallableTransformer(change).apply(table, None, CHUNK).table
    assert made["email"].to_pylist() == ["changed"] * 6
    assert table.equals(table_of())
