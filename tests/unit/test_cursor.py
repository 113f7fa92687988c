"""Cursors: their canonical text is exact, equal values have equal texts, and order is Python's."""

from __future__ import annotations

import datetime as dt
import functools
import json
import uuid
from decimal import Decimal

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from airflow_checkpoint_etl.cursor import (
    BEGIN,
    KIND_BY_SQL_TYPE,
    KINDS,
    Bound,
    CursorError,
    IncomparableError,
    bounds,
    compare,
    decode,
    display,
    encode,
    share,
)

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

ZONES = st.timezones() | st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))
)
NUMERICS = (
    st.decimals(allow_nan=False, allow_infinity=False)
    | st.integers(-(10**400), 10**400).map(Decimal)
    | st.tuples(st.integers(-(10**300), 10**300), st.integers(-300, 50)).map(
        lambda pair: Decimal(f"{pair[0]}E{pair[1]}")
    )
)


def _is_plain(moment):
    """Whether a zone neither skips nor repeats a time: Python calls those unequal to every other zone's."""
    return moment.replace(fold=0).utcoffset() == moment.replace(fold=1).utcoffset()


VALUES = {
    "i2": st.integers(-(2**15), 2**15 - 1),
    "i4": st.integers(-(2**31), 2**31 - 1),
    "i8": st.integers(-(2**63), 2**63 - 1),
    "num": NUMERICS,
    "txt": st.text(),
    "uuid": st.uuids(),
    "d": st.dates(),
    "ts": st.datetimes(),
    "tz": st.datetimes(
        min_value=dt.datetime(1, 1, 3),  # noqa: DTZ001  Hypothesis adds the zone
        max_value=dt.datetime(9999, 12, 29),  # noqa: DTZ001
        timezones=ZONES,
    ).filter(_is_plain),
}
ORDERED = sorted(VALUES.keys() - {"txt"})


ANY_TAGS = st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3)
ORDERED_TAGS = st.lists(st.sampled_from(ORDERED), min_size=1, max_size=3)
ONE_SCALED_TAG = st.sampled_from(["i2", "i8", "num", "d", "ts", "tz"]).map(lambda tag: [tag])


def cursors():
    """Strategy for (tags, values)."""
    return ANY_TAGS.flatmap(
        lambda chosen: st.tuples(
            st.just(tuple(chosen)), st.tuples(*(VALUES[tag] for tag in chosen))
        )
    )


@st.composite
def alike(draw, count, tags=ORDERED_TAGS):
    """Strategy for several cursors of the same, orderable type, as (values, text), often close together."""
    chosen = tuple(draw(tags))
    pools = [draw(st.lists(VALUES[tag], min_size=1, max_size=3)) for tag in chosen]
    rows = [tuple(draw(st.sampled_from(pool)) for pool in pools) for _ in range(count)]
    return [(row, encode(chosen, row)) for row in rows]


def sign(left, right):
    return (left > right) - (left < right)


# --- the text form --------------------------------------------------------------------------------


@given(cursors())
def test_decoding_returns_what_was_encoded(cursor):
    tags, values = cursor
    assert decode(encode(tags, values)) == tuple(zip(tags, values, strict=True))


@given(cursors())
def test_encoding_again_gives_the_same_text(cursor):
    tags, values = cursor
    text = encode(tags, values)
    assert encode(tags, [value for _, value in decode(text)]) == text


@pytest.mark.parametrize(
    ("tag", "value", "text"),
    [
        ("i2", -(2**15), "i2:-32768"),
        ("i4", 2**31 - 1, "i4:2147483647"),
        ("i8", 2**63 - 1, "i8:9223372036854775807"),
        ("i8", -(2**63), "i8:-9223372036854775808"),
        ("i8", 0, "i8:0"),
        ("num", Decimal("12.50"), "num:12.5"),
        ("num", Decimal("1E+3"), "num:1000"),
        ("num", Decimal("1E-10"), "num:0.0000000001"),
        ("num", 7, "num:7"),
        ("num", Decimal("9" * 300 + "." + "1" * 300), "num:" + "9" * 300 + "." + "1" * 300),
        ("txt", "", "txt:"),
        ("txt", 'a:"]\n[é𝄞', 'txt:a:"]\n[é𝄞'),
        ("txt", BEGIN, "txt:begin"),
        ("uuid", uuid.UUID(int=255), "uuid:00000000-0000-0000-0000-0000000000ff"),
        ("d", dt.date(1, 1, 1), "d:0001-01-01"),
        ("d", dt.date(9999, 12, 31), "d:9999-12-31"),
        ("ts", dt.datetime(1, 1, 1), "ts:0001-01-01T00:00:00.000000"),  # noqa: DTZ001
        (
            "tz",
            dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC),
            "tz:9999-12-31T23:59:59.999999Z",
        ),
    ],
)
def test_every_kind_has_one_text_even_at_its_ends(tag, value, text):
    assert encode((tag,), (value,)) == text
    assert decode(text) == ((tag, value),)


def test_a_composite_is_a_json_array_of_tagged_texts():
    text = encode(("tz", "txt"), (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 'say "é", [1]\n'))
    assert text == r'["tz:2026-01-01T00:00:00.000000Z","txt:say \"é\", [1]\n"]'
    assert json.loads(text)[1] == 'txt:say "é", [1]\n'


@given(NUMERICS, st.integers(0, 40))
@example(Decimal("-0"), 3)
@example(Decimal("-0E-5"), 0)
@example(Decimal("0E+9"), 0)
def test_equal_numbers_have_equal_texts_whatever_zeros_trail(number, zeros):
    digits = format(number, "f")
    padded = Decimal((digits if "." in digits else digits + ".") + "0" * zeros + "0")
    assert padded == number
    assert encode(("num",), (padded,)) == encode(("num",), (number,))


def test_there_is_no_negative_zero():
    assert encode(("num",), (Decimal("-0.000"),)) == "num:0"


@given(st.datetimes(min_value=dt.datetime(2, 1, 1), max_value=dt.datetime(9998, 1, 1)), ZONES)  # noqa: DTZ001
def test_one_instant_has_one_text_in_every_time_zone(instant, zone):
    in_utc = instant.replace(tzinfo=dt.UTC)
    assert encode(("tz",), (in_utc.astimezone(zone),)) == encode(("tz",), (in_utc,))


@given(
    st.sampled_from(ORDERED).flatmap(lambda tag: st.tuples(st.just(tag), VALUES[tag], VALUES[tag]))
)
def test_texts_are_equal_exactly_when_values_are(case):
    tag, left, right = case
    assert (encode((tag,), (left,)) == encode((tag,), (right,))) == (left == right)


@pytest.mark.parametrize(
    "text",
    [
        "i8:007",
        "i8:-0",
        "i8:+1",
        "i8: 1",
        "i8:1_000",
        "i8:1.0",
        "i8:٤٢",
        "i8:",
        "num:1.50",
        "num:1.",
        "num:.5",
        "num:01",
        "num:-0",
        "num:1E+3",
        "num:1E+999999999",
        "num:NaN",
        "num:Infinity",
        "num:1_000",
        "num:",
        "uuid:00000000000000000000000000000000",
        "uuid:{00000000-0000-0000-0000-000000000000}",
        "uuid:0000000A-0000-0000-0000-000000000000",
        "d:20260101",
        "d:2026-W01-4",
        "d:2026-02-30",
        "ts:2026-01-01",
        "ts:2026-01-01T00:00:00",
        "ts:2026-01-01 00:00:00.000000",
        "ts:2026-01-01T00:00:00.000000Z",
        "tz:2026-01-01T00:00:00.000000",
        "tz:2026-01-01T00:00:00.000000+00:00",
        "tz:2026-01-01T02:00:00.000000+02:00Z",
    ],
)
def test_a_text_that_is_not_canonical_is_refused_by_name(text):
    with pytest.raises(CursorError) as refused:
        decode(text)
    assert str(refused.value).startswith(f"{text!r} is not ")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('["i8:1", "i8:2"]', 'is not canonical; expected ["i8:1","i8:2"]'),
        (r'["i8:1","txt:\u00e9"]', 'is not canonical; expected ["i8:1","txt:é"]'),
        (
            '["i8:1","i8:02"]',
            "'i8:02' is not a valid cursor value: '02' is not a canonical integer",
        ),
        ('["begin","i8:1"]', "'begin' is not a type-tagged cursor value"),
        ('["i8:1"]', "is not a composite cursor of two or more values"),
        ("[]", "is not a composite cursor of two or more values"),
        ("[1,2]", "is not a composite cursor of two or more values"),
        ('["i8:1",["i8:2"]]', "is not a composite cursor of two or more values"),
        ('["i8:1","i8:2"', "is not a composite cursor: "),
    ],
)
def test_a_composite_that_is_not_canonical_is_refused_with_the_reason(text, fact):
    with pytest.raises(CursorError) as refused:
        decode(text)
    assert fact in str(refused.value)


@pytest.mark.parametrize("text", ["", "42", ":42", "i16:42", "I8:42", " i8:42", BEGIN])
def test_a_text_without_a_known_tag_is_refused_and_the_tags_are_named(text):
    with pytest.raises(
        CursorError, match="is not a type-tagged cursor value; known tags: i2, i4, i8"
    ):
        decode(text)


@given(st.text())
def test_any_text_decodes_to_its_own_value_or_is_refused(text):
    try:
        values = decode(text)
    except CursorError:
        return
    assert encode([tag for tag, _ in values], [value for _, value in values]) == text


# --- values that are no cursor --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "value", "fact"),
    [
        ("i8", 2**63, r"9223372036854775808 is outside the range of a 64-bit integer"),
        ("i8", -(2**63) - 1, r"-9223372036854775809 is outside the range"),
        ("i4", 2**31, r"2147483648 is outside the range of a 32-bit integer"),
        ("i2", 2**15, r"32768 is outside the range of a 16-bit integer \[-32768, 32767\]"),
        ("i8", 1.0, "float is not an integer"),
        ("i8", "1", "str is not an integer"),
        ("i8", True, "bool is not an integer"),
        ("num", 0.1, "float is not an exact number"),
        ("num", False, "bool is not an exact number"),
        ("num", Decimal("NaN"), "must be finite"),
        ("num", Decimal("-Infinity"), "must be finite"),
        ("txt", b"a", "bytes is not text"),
        ("uuid", "00000000-0000-0000-0000-000000000000", "str is not a uuid"),
        ("d", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "datetime is not a date"),
        ("d", "2026-01-01", "str is not a date"),
        ("ts", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "a datetime without time zone"),
        ("ts", dt.date(2026, 1, 1), "a datetime without time zone"),
        ("tz", dt.datetime(2026, 1, 1), "a datetime with a time zone"),  # noqa: DTZ001
        (
            "tz",
            dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5))),
            "outside the years 1 to 9999 in UTC",
        ),
        ("i8", None, "a cursor value is NULL; cursor columns must be NOT NULL"),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_refused_with_the_reason(tag, value, fact):
    with pytest.raises(CursorError, match=fact):
        encode((tag,), (value,))


@pytest.mark.parametrize(("tags", "values"), [((), ()), (("i8",), (1, 2)), (("i8", "i8"), (1,))])
def test_tags_and_values_must_pair_up(tags, values):
    with pytest.raises(
        CursorError, match=rf"of {len(tags)} column\(s\) got {len(values)} value\(s\)"
    ):
        encode(tags, values)


# --- order ----------------------------------------------------------------------------------------


@given(alike(2))
def test_order_is_the_order_of_the_values(pair):
    (left, left_text), (right, right_text) = pair
    assert compare(left_text, right_text) == sign(left, right)


@given(alike(2))
def test_comparing_the_other_way_round_gives_the_opposite(pair):
    (_, left), (_, right) = pair
    assert compare(left, right) == -compare(right, left)


@given(alike(3))
def test_order_is_transitive(triple):
    low, middle, high = sorted((text for _, text in triple), key=functools.cmp_to_key(compare))
    assert compare(low, middle) <= 0
    assert compare(middle, high) <= 0
    assert compare(low, high) <= 0


@given(cursors())
def test_the_beginning_comes_before_every_value(cursor):
    text = encode(*cursor)
    assert compare(BEGIN, text) == -1
    assert compare(text, BEGIN) == 1
    assert compare(BEGIN, BEGIN) == 0


def test_neighbours_that_a_double_cannot_tell_apart_are_ordered():
    assert compare("i8:9007199254740992", "i8:9007199254740993") == -1
    assert compare("num:0." + "3" * 60 + "3", "num:0." + "3" * 60 + "4") == -1


@given(st.text(), st.text())
def test_text_refuses_to_be_ordered_outside_its_database(left, right):
    assume(left != right)
    with pytest.raises(
        IncomparableError, match="ordered by their column's collation; ask the database"
    ):
        compare(f"txt:{left}", f"txt:{right}")


@given(st.text())
def test_equal_texts_are_equal_in_every_collation(text):
    assert compare(f"txt:{text}", f"txt:{text}") == 0


def test_a_composite_with_text_is_ordered_where_the_text_does_not_decide():
    assert compare('["i8:1","txt:b"]', '["i8:2","txt:a"]') == -1
    assert compare('["txt:a","i8:1"]', '["txt:a","i8:2"]') == -1
    with pytest.raises(IncomparableError):
        compare('["txt:a","i8:1"]', '["txt:b","i8:1"]')


@pytest.mark.parametrize(
    ("left", "right"),
    [("i8:1", "num:2"), ("i8:1", '["i8:1","i8:2"]'), ("d:2026-01-01", "txt:2026-01-02")],
)
def test_cursors_of_different_types_have_no_order(left, right):
    with pytest.raises(
        CursorError, match="cursors of different types cannot be ordered"
    ) as refused:
        compare(left, right)
    assert repr(left) in str(refused.value)
    assert repr(right) in str(refused.value)


def test_integers_of_every_width_are_in_one_order():
    """A column that outgrew its type is altered to a wider one, and its values stay."""
    assert compare("i4:1", "i8:2") == -1
    assert compare("i8:2147483648", "i4:2147483647") == 1
    assert compare("i2:7", "i8:7") == 0
    assert compare('["i4:1","i8:5"]', '["i8:1","i4:4"]') == 1


# --- what others make of it -----------------------------------------------------------------------


@given(cursors())
def test_bounds_name_the_type_and_the_text_of_every_column(cursor):
    tags, values = cursor
    found = bounds(encode(tags, values))
    assert [bound.sql_type for bound in found] == [KINDS[tag].sql_type for tag in tags]
    again = [KINDS[tag].decode(bound.text) for tag, bound in zip(tags, found, strict=True)]
    assert tuple(again) == values


def test_bounds_of_a_composite_and_of_the_beginning():
    assert bounds('["tz:2026-01-01T00:00:00.000000Z","i8:42"]') == (
        Bound("timestamptz", "2026-01-01T00:00:00.000000Z"),
        Bound("int8", "42"),
    )
    assert bounds(BEGIN) == ()


def test_every_kind_is_found_by_its_sql_type_and_varchar_is_text():
    assert {KIND_BY_SQL_TYPE[kind.sql_type] for kind in KINDS.values()} == set(KINDS.values())
    assert KIND_BY_SQL_TYPE["varchar"] is KINDS["txt"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (BEGIN, "the beginning"),
        ("i8:812000", "812,000"),
        ("num:1234567.89", "1,234,567.89"),
        ("num:0.0000000001", "0.0000000001"),
        ("txt:ab", "ab"),
        ("d:2026-01-01", "2026-01-01"),
        (
            '["tz:2026-01-01T00:00:00.000000Z","i8:42"]',
            "2026-01-01 00:00:00+00:00, 42",
        ),
    ],
)
def test_a_cursor_is_shown_as_people_write_it(text, shown):
    assert display(text) == shown


@given(alike(3))
def test_a_share_is_between_zero_and_one_or_unknown(triple):
    low, at, high = (text for _, text in triple)
    found = share(low, at, high)
    assert found is None or 0 <= found <= 1


@given(alike(3, tags=ONE_SCALED_TAG))
def test_a_share_grows_with_the_cursor(triple):
    low, at, high = sorted((text for _, text in triple), key=functools.cmp_to_key(compare))
    assume(compare(low, high) < 0)
    assert share(low, low, high) == 0
    assert share(low, high, high) == 1
    assert share(low, at, high) is not None


@pytest.mark.parametrize(
    ("low", "at", "high", "part"),
    [
        ("i8:0", "i8:25", "i8:100", 0.25),
        ("i8:50", "i8:25", "i8:100", 0.0),
        ("i8:0", "i8:200", "i8:100", 1.0),
        (BEGIN, "i8:25", "i8:100", 0.25),
        ("i8:9223372036854775805", "i8:9223372036854775806", "i8:9223372036854775807", 0.5),
        ("num:0", "num:" + "5" + "0" * 400, "num:1" + "0" * 401, 0.5),
        ("d:2026-01-01", "d:2026-01-02", "d:2026-01-05", 0.25),
        ('["i8:0","txt:z"]', '["i8:1","txt:b"]', '["i8:4","txt:a"]', 0.25),
    ],
)
def test_a_share_is_exact_where_a_float_would_not_be(low, at, high, part):
    assert share(low, at, high) == part


@pytest.mark.parametrize(
    ("low", "at", "high"),
    [
        ("i8:0", BEGIN, "i8:9"),
        ("i8:0", "i8:1", BEGIN),
        ("i8:9", "i8:9", "i8:9"),
        (BEGIN, "i8:-5", "i8:-1"),
        (BEGIN, "tz:2026-01-01T00:00:00.000000Z", "tz:2026-01-02T00:00:00.000000Z"),
        ("txt:a", "txt:b", "txt:c"),
        ("uuid:00000000-0000-0000-0000-000000000000",) * 3,
    ],
)
def test_a_share_is_unknown_where_no_scale_tells_it(low, at, high):
    assert share(low, at, high) is None
