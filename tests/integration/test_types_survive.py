"""Every value of every type reaches the target as it was: source, staged bytes, target, compared in SQL."""

from __future__ import annotations

import uuid

import psycopg
import pytest
from psycopg import sql

from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.endpoints import PostgresSource, PostgresWarehouse
from airflow_checkpoint_etl.errors import PreflightError, TypeMismatchError, ValueNotCarriedError
from airflow_checkpoint_etl.frames import Frames
from airflow_checkpoint_etl.sources.postgres import PostgresReader
from airflow_checkpoint_etl.staging import codec
from airflow_checkpoint_etl.warehouses.frames import FrameTable
from airflow_checkpoint_etl.warehouses.target import TargetTable

TS = "timestamp without time zone"
TZ = "timestamp with time zone"

# What the load's transaction sets; it must write values as the source's session did.
SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "3",
    "bytea_output": "hex",
}
# What the database's owner may have set, so that nothing here works by chance.
HOSTILE = {
    "timezone": "Asia/Tokyo",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "0",
    "bytea_output": "escape",
}
TYPES = """
    create schema app;
    create type mood as enum ('sad', 'it''s "ok"', 'größe✓', 'with, comma', '');
    create type app."Odd Type" as enum ('a', 'b');
    create domain price as numeric(12,2) check (value > 0);
    create domain label as varchar(20) not null default 'x';
    create domain days as integer[];
    create type address as (street text, number integer, price numeric(12,2), since timestamptz, span interval, raw bytea, share float8);
    create type floats as range (subtype = float8);
"""

TEXTS = [
    "", " ", "  padded  ", "a'b", 'a"b', r"\N", r"a\nb\\c", "line\nbreak\r\nand\ttab", "NULL", "null",
    "größe ✓ 🎉 \U0001f468‍👩‍👧 ﷽ é é", "\x01\x1f\x7f", "%s %% {x} $1", "a" * 100_000, "{1,2}", "(1,2)",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "0.000", "1.50", "-1.5", "NaN", "Infinity", "-Infinity", "1e1000", "1e-1000",
    "9" * 1000 + "." + "1" * 1000, "-" + "1234567890" * 100, "10000", "0.0001", "123456789.123456789",
]  # fmt: skip
MOMENTS = [
    "2026-01-01 00:00:00", "1970-01-01 00:00:00", "1969-12-31 23:59:59.999999", "2000-01-01 00:00:00.000001",
    "0044-03-15 12:00:00.5 BC", "4714-11-24 00:00:00 BC", "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999",
    "2026-03-29 02:30:00", "99999-01-01 00:00:00",
]  # fmt: skip
FLOATS = [
    "0", "-0", "1.5", "0.1", "NaN", "Infinity", "-Infinity", "5e-324", "-2.2250738585072014e-308",
    "1.7976931348623157e308", "9007199254740993", "123456789.123456789",
]  # fmt: skip
JSONS = [
    "1", '"x"', "null", "true", "[]", "{}", "123456789012345678901234567890.1234567890123456789", "1E400",
    '{"b": 1, "a": [1, {"c": "\\u00e9 \\" \\\\ \\n"}]}', '"🎉"', '{"a": 1.10}', "[1,   2]",
]  # fmt: skip

VALUES = {
    "smallint": ["0", "-32768", "32767"],
    "integer": ["0", "-2147483648", "2147483647"],
    "bigint": ["0", "-9223372036854775808", "9223372036854775807", "9007199254740993"],
    "boolean": ["true", "false"],
    "real": ["0", "-0", "1.5", "0.1", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38"],
    "double precision": FLOATS,
    "numeric": NUMBERS,
    "numeric(12,2)": ["0", "1.50", "-9999999999.99", "9999999999.99"],
    "numeric(38,10)": ["9" * 28 + "." + "9" * 10, "-0.0000000001"],
    "numeric(38,0)": ["9" * 38, "-" + "9" * 38],
    "numeric(38,38)": ["0." + "9" * 38, "-0." + "0" * 37 + "1"],
    "numeric(39,2)": ["9" * 37 + ".99", "NaN"],
    "numeric(1000,500)": ["9" * 500 + "." + "1" * 500, "NaN"],
    "numeric(3,-2)": ["12300", "-99900"],
    "numeric(2,4)": ["0.0012"],
    "text": TEXTS,
    "character varying": TEXTS,
    "character varying(9)": ["", "größe ✓🎉", " a ", "123456789"],
    "character(5)": ["", "ab", "a  b", "größe"],
    "character": ["", "a", "é"],
    "name": ["", "a b", "größe", "x" * 63],
    '"char"': ["", "a", "\\377"],
    "json": [*JSONS, '{"a":1,"a":2}', ' {  "a" :\n\t1 } '],
    "jsonb": JSONS,
    "jsonpath": ['$."a"[*] ? (@ > 1)'],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", str(uuid.UUID(int=1))],
    "bytea": ["", "\\x00", "\\x00ff00", "\\x5c4e", "\\x" + "00ff" * 50_000],
    "date": ["2026-01-01", "0044-03-15 BC", "4714-11-24 BC", "5874897-12-31", "1969-12-31"],
    "time without time zone": ["00:00:00", "23:59:59.999999", "12:34:56.000001"],
    "time(3) without time zone": ["12:34:56.789"],
    "time with time zone": ["12:34:56.123456+05:30", "24:00:00-12", "00:00:00+15:59:59"],
    TS: MOMENTS,
    "timestamp(3) without time zone": ["2026-01-01 00:00:00.123", "1969-12-31 23:59:59.999"],
    "timestamp(0) without time zone": ["0044-03-15 12:00:00 BC"],
    TZ: [f"{moment[:-3]}+00 BC" if moment.endswith(" BC") else f"{moment}+00" for moment in MOMENTS],
    "timestamp(4) with time zone": ["2026-01-01 00:00:00.1234+05:45", "1883-11-18 12:03:57-04:56:02"],
    "interval": [
        "1 month", "30 days", "720 hours", "1 year -2 months 3 days -04:05:06.789", "-1 month +1 day", "00:00:00",
        "-00:00:00.000001", "178000000 years", "infinity", "-infinity", "1 day -23:59:59.999999",
    ],
    "interval day to second": ["1 day 02:03:04.5"],
    "interval(2)": ["00:00:00.12", "1 mon -00:00:00.99"],
    "interval year to month": ["1 year 2 months", "-5 months"],
    "integer[]": ["{}", "{1,NULL,-3}", "{{1,2},{3,NULL}}", "[0:1]={7,8}", "{{{1}},{{2}}}"],
    "bigint[]": ["{9007199254740993}"],
    "text[]": [r'{a,"",NULL,"null","with \"quotes\"","back\\slash","com,ma","{brace}","line' + "\n" + r'break",größe✓}', "{{a,b},{NULL,d}}"],
    "numeric(12,2)[]": ["{1.50,NULL,NaN}"],
    "character varying(3)[]": ["{abc,NULL}"],
    "timestamp(3) with time zone[]": ["{2026-01-01 00:00:00.123+00,infinity}"],
    "timestamp without time zone[]": ["{0044-03-15 12:00:00.5 BC}"],
    "double precision[]": ["{NaN,-0,5e-324,0.1}"],
    "bytea[]": [r'{"\\x00ff",NULL}'],
    "interval[]": ["{1 mon,30 days}"],
    "jsonb[]": [r'{"{\"a\": [1, null]}",null,NULL}'],
    "uuid[]": ["{00000000-0000-0000-0000-000000000001}"],
    "boolean[]": ["{t,f,NULL}"],
    "mood": ["sad", 'it\'s "ok"', "größe✓", "with, comma", ""],
    "mood[]": ['{sad,"it\'s \\"ok\\"",NULL}'],
    'app."Odd Type"': ["a", "b"],
    "price": ["1.50", "9999999999.99"],
    "price[]": ["{1.50,NULL}"],
    "days": ["{1,2}", "{}"],
    "address": ['("Main ""St"", 1",7,1.50,"2026-01-01 00:00:00+00",P1M-2DT-3S,"\\\\x00ff",0.1)', "(,,,,,,)", '("",,,,,,NaN)'],
    "address[]": ['{"(a,1,2.50,,,,)",NULL}'],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32", "10.1.2.3/24"],
    "cidr": ["10.0.0.0/8", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(5)": ["10101", "00000"],
    "bit varying": ["", "1", "1010101010101"],
    "bit varying(7)": ["101"],
    "int4range": ["empty", "[1,5)", "(,)", "[3,)"],
    "numrange": ["[1.50,2.5]", "(1e1000,)"],
    "tsrange": ['["2026-01-01 00:00:00.000001","infinity")', '("0044-03-15 12:00:00 BC",)'],
    "tstzrange": ['["2026-01-01 00:00:00+00",)'],
    "daterange": ["[2026-01-01,infinity)"],
    "int8multirange": ["{}", "{[1,3),[5,)}"],
    "floats": ["[0.1,NaN)"],
    "tsvector": ["'a':1A,2 'it''s':3", ""],
    "tsquery": ["'a' & !'b':*A <2> 'c'"],
    "point": ["(1.5,-0)", "(NaN,Infinity)"],
    "line": ["{1,2,3}"],
    "lseg": ["[(0,0),(1,0.1)]"],
    "box": ["(1,1),(0,0)"],
    "path": ["((0,0),(1,1))", "[(0,0),(1,1)]"],
    "polygon": ["((0,0),(1,1),(2,0))"],
    "circle": ["<(0,0),0.1>"],
    "oid": ["0", "4294967295"],
    "xid8": ["18446744073709551615"],
    "pg_lsn": ["16/B374D848"],
    "tid": ["(4294967295,65535)"],
}  # fmt: skip

AS_TEXT = {
    "date": ["infinity", "-infinity", "2026-01-01", "0044-03-15 BC"],
    TS: ["infinity", "-infinity", "294276-12-31 23:59:59.999999", "0044-03-15 12:00:00.5 BC"],
    TZ: ["infinity", "-infinity", "294276-12-31 23:59:59.999999+00", "0044-03-15 12:00:00.5+00 BC"],
    "timestamp(3) with time zone": ["infinity", "2026-01-01 00:00:00.123+00"],
    "time without time zone": ["24:00:00", "00:00:00.000001"],
    "numeric(12,2)": ["NaN", "1.50"],
    "double precision": FLOATS,
    "real": ["0.1", "1e-45", "-0"],
    "boolean": ["true", "false"],
    "integer": ["-2147483648"],
    "uuid": [str(uuid.UUID(int=1))],
    "bytea": ["\\x005cff", ""],
    "jsonb": JSONS,
    "text": TEXTS,
}
"""Values Arrow's own type cannot hold, for a column named in text_columns."""


class Course:
    """A database with a source and a target of one column each, and the way between them."""

    def __init__(self, dsn):
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True)

    def connect(self):
        return psycopg.connect(self.dsn)

    def prepare(self, pg_type, values, target_type=None):
        self.connection.execute(
            "drop schema if exists src, dst cascade; create schema src; create schema dst"
        )
        self.connection.execute(f"create table src.t (id bigint primary key, x {pg_type})")
        self.connection.execute(f"create table dst.t (id bigint, x {target_type or pg_type})")
        with self.connection.transaction():
            self._set()
            for number, value in enumerate(values):
                self.connection.execute(
                    f"insert into src.t values (%s, %s::text::{pg_type})", (number, value)
                )

    def _set(self):
        for name, value in SETTINGS.items():
            self.connection.execute("select set_config(%s, %s, true)", (name, value))

    def read(self, text_columns=(), form="arrow"):
        source = PostgresSource(
            conn_id="s",
            table="src.t",
            settle="none",
            chunk_rows=3,
            text_columns=text_columns,
        )
        reader = PostgresReader(source, self.connect)
        try:
            high = reader.settle(BEGIN).target
            at = BEGIN
            while at != high:
                read = reader.read(at, high, form)
                yield codec.decode(codec.encode(read.table))
                at = read.high
        finally:
            reader.close()

    def load(self, chunks, table="t", **options):
        warehouse = TargetTable(PostgresWarehouse(conn_id="w", table="dst.t", **options), ("id",))
        warehouse.check(self.connection)
        copied = FrameTable(warehouse)
        for number, chunk in enumerate(chunks):
            if isinstance(chunk, Frames):
                copied.accept(self.connection, chunk.columns)
                with self.connection.transaction():
                    self._set()
                    written = copied.write(self.connection, chunk.columns, chunk.blocks(), number)
                    assert written == chunk.num_rows
                continue
            warehouse.accept(self.connection, chunk.schema)
            with self.connection.transaction():
                self._set()
                assert warehouse.write(self.connection, chunk, number) == chunk.num_rows

    def differences(self):
        """Rows of one table that the other lacks, both ways, by their text."""
        with self.connection.transaction():
            self._set()
            return self.connection.execute(
                "(select 'lost', s::text from src.t s except all select 'lost', d::text from dst.t d) "
                "union all "
                "(select 'new', d::text from dst.t d except all select 'new', s::text from src.t s)"
            ).fetchall()


@pytest.fixture(scope="module")
def course(postgres_server):
    name = f"types_{uuid.uuid4().hex[:8]}"
    dsn = postgres_server.create_database(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TYPES)
        for setting, value in HOSTILE.items():
            statement = sql.SQL("alter database {} set {} to {}")
            connection.execute(
                statement.format(*map(sql.Identifier, (name, setting)), sql.Literal(value))
            )
    made = Course(dsn)
    yield made
    made.connection.close()
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)')


def test_the_comparison_sees_the_smallest_difference(course):
    course.prepare("interval", ["1 month"])
    course.load(course.read())
    course.connection.execute("update dst.t set x = '30 days'")
    assert [side for side, _ in course.differences()] == ["lost", "new"]


@pytest.mark.parametrize("pg_type", VALUES)
def test_every_value_of_a_type_survives(course, pg_type):
    values = [*VALUES[pg_type], None]
    course.prepare(pg_type, values)
    course.load(course.read())
    assert course.differences() == []
    ((count, nulls),) = course.connection.execute(
        "select count(*), count(*) - count(x) from dst.t"
    ).fetchall()
    assert (count, nulls) == (len(values), 1)


@pytest.mark.parametrize("pg_type", AS_TEXT)
def test_values_arrow_cannot_hold_survive_as_text(course, pg_type):
    course.prepare(pg_type, [*AS_TEXT[pg_type], None])
    course.load(course.read(text_columns=("x",)))
    assert course.differences() == []


@pytest.mark.parametrize(
    ("source", "target", "value", "arrives"),
    [
        ("smallint", "bigint", "7", "7"),
        ("bigint", "smallint", "7", "7"),
        ("bigint", "numeric", "9223372036854775807", "9223372036854775807"),
        ("integer", "numeric(12,2)", "7", "7.00"),
        ("integer", "double precision", "7", "7"),
        ("real", "double precision", "1.5", "1.5"),
        ("numeric(12,4)", "numeric(12,2)", "1.2300", "1.23"),
        ("numeric(12,2)", "numeric", "1.50", "1.50"),
        ("numeric(12,2)", "numeric(60,4)", "1.50", "1.5000"),
        ("numeric(50,2)", "numeric(60,4)", "1.50", "1.5000"),
        ("numeric(12,2)", "price", "1.50", "1.50"),
        ("price", "numeric(12,2)", "1.50", "1.50"),
        ("character varying(5)", "text", "abc", "abc"),
        ("text", "character varying(5)", "abc", "abc"),
        ("text", "label", "abc", "abc"),
        ("character(5)", "character(9)", "abc", "abc      "),
        ("timestamp(3) without time zone", TS, "2026-01-01 00:00:00.123", "2026-01-01 00:00:00.123"),
        ("jsonb", "json", '{"a": 1}', '{"a": 1}'),
        ("jsonb", "text", '{"a": 1}', '{"a": 1}'),
        ("text", "jsonb", '{"a":1}', '{"a": 1}'),
        ("mood", "text", "sad", "sad"),
        ("text", "mood", "sad", "sad"),
        ("interval", "text", "1 month", "P1M"),
        ("integer[]", "days", "{1,2}", "{1,2}"),
        ("bit varying(4)", "bit varying(9)", "101", "101"),
        ("interval(2)", "interval", "0.12 s", "PT0.12S"),
    ],
)  # fmt: skip
def test_exact_widenings_are_carried(course, source, target, value, arrives):
    course.prepare(source, [value], target)
    course.load(course.read())
    with course.connection.transaction():
        course._set()
        (found,) = course.connection.execute("select format('%s', x) from dst.t").fetchone()
    assert found == arrives


@pytest.mark.parametrize(
    ("source", "target", "value"),
    [
        (TS, TZ, "2026-01-01"),
        (TZ, TS, "2026-01-01"),
        (TZ, "timestamp(3) with time zone", "2026-01-01"),
        ("date", "integer", "2026-01-01"),
        ("date", TS, "2026-01-01"),
        ("double precision", "bigint", "1"),
        ("double precision", "real", "1"),
        ("double precision", "numeric(12,2)", "1"),
        ("numeric", "numeric(12,2)", "1"),
        ("numeric(50,3)", "numeric(50,2)", "1"),
        ("numeric", "double precision", "1"),
        ("bigint", "text", "1"),
        ("text", "bigint", "1"),
        ("text", "uuid", "00000000-0000-0000-0000-000000000001"),
        ("uuid", "bytea", "00000000-0000-0000-0000-000000000001"),
        ("bytea", "uuid", "\\x00000000000000000000000000000001"),
        ("json", "jsonb", "1"),
        ("interval", "interval(0)", "1 s"),
        ("interval", "interval year to month", "1 month"),
        ("character varying(9)", "character varying(5)", "a"),
        ("bit(5)", "bit(6)", "10101"),
        ("time with time zone", "time without time zone", "10:00+00"),
        ("integer[]", "bigint[]", "{1}"),
        ("numeric(12,4)[]", "numeric(12,2)[]", "{1.5}"),
        ("tsrange", "tstzrange", "[2026-01-01,)"),
        ("inet", "cidr", "10.0.0.0/8"),
        ("mood", 'app."Odd Type"', "sad"),
        ("boolean", "integer", "true"),
        ("xid8", "bigint", "1"),
    ],
)
def test_an_unequal_type_is_refused_before_any_row(course, source, target, value):
    course.prepare(source, [value], target)
    with pytest.raises(TypeMismatchError, match="cannot take these rows") as raised:
        course.load(course.read())
    assert 'column "x"' in str(raised.value)
    assert course.connection.execute("select count(*) from dst.t").fetchone() == (0,)


@pytest.mark.parametrize(
    ("source", "target", "value"),
    [
        ("bigint", "integer", "2147483648"),
        ("bigint", "double precision", "9007199254740993"),
        ("numeric(12,4)", "numeric(12,2)", "1.2345"),
        ("numeric(12,2)", "numeric(4,2)", "123.45"),
        ("numeric(12,2)", "price", "-1"),
        ("text", "character varying(3)", "abcd"),
        ("text", "character varying(3)", "abc "),
        ("text", "character(3)", "abcd"),
        ("text", "jsonb", "{"),
        ("text", "jsonb", '"\\u0000"'),
        ("text", "mood", "unknown"),
    ],
)
def test_a_value_that_would_change_is_refused(course, source, target, value):
    course.prepare(source, [value], target)
    with pytest.raises(ValueNotCarriedError) as raised:
        course.load(course.read())
    assert 'column "x"' in str(raised.value) or "SQLSTATE 23514" in str(raised.value)
    assert course.connection.execute("select count(*) from dst.t").fetchone() == (0,)


def test_a_composite_that_lost_precision_on_the_way_is_noticed(course):
    """Two databases may define a type of one name differently; only reading back can tell."""
    course.prepare("address", ["(a,1,1.50,,P1M,,)"])
    chunks = list(course.read())
    course.connection.execute(
        "create schema if not exists other; drop type if exists other.address cascade"
    )
    course.connection.execute(
        "create type other.address as (street text, number integer, price numeric(12,1), since timestamptz, "
        "span interval, raw bytea, share float8)"
    )
    course.connection.execute("drop table dst.t; create table dst.t (id bigint, x other.address)")
    with pytest.raises(ValueNotCarriedError, match="not read back as the same text"):
        course.load(chunks)


def test_xml_is_carried_where_the_server_has_it(course):
    try:
        course.prepare(
            "xml", ["<a b='1'>x &amp; y</a>", "text only", "<?xml version='1.0'?><a/>", None]
        )
    except psycopg.errors.FeatureNotSupported:
        # Without libxml no value can be stored, but a column can exist and be NULL.
        course.prepare("xml", [None])
    course.load(course.read())
    assert course.differences() == []


@pytest.fixture
def wide(course):
    """A source with a column of every type, a row of every value and one of NULLs; an empty target."""
    columns = ", ".join(f"column_{number} {name}" for number, name in enumerate(VALUES))
    course.connection.execute(
        "drop schema if exists src, dst cascade; create schema src; create schema dst"
    )
    for schema in ("src", "dst"):
        course.connection.execute(f"create table {schema}.t (id bigint primary key, {columns})")
    longest = max(map(len, VALUES.values()))
    places = ", ".join(f"%s::text::{name}" for name in VALUES)
    with course.connection.transaction():
        course._set()
        for row in range(longest):
            values = [each[row % len(each)] for each in VALUES.values()]
            course.connection.execute(f"insert into src.t values (%s, {places})", (row, *values))
        course.connection.execute("insert into src.t (id) values (%s)", (longest,))
    return course


def test_all_types_travel_together(wide):
    wide.load(wide.read())
    assert wide.differences() == []
    counts = wide.connection.execute(
        "select (select count(*) from src.t), (select count(*) from dst.t)"
    )
    assert counts.fetchone() == (max(map(len, VALUES.values())) + 1,) * 2


def test_an_upsert_carries_the_same_values_again_and_again(wide):
    for _ in range(2):
        wide.load(wide.read(), write="upsert", key="id")
        assert wide.differences() == []


def test_a_created_table_has_the_sources_types(wide):
    wide.connection.execute("drop table dst.t")
    wide.load(wide.read(), create_table=True, lineage="never")
    assert wide.differences() == []
    types = (
        "select format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = '{}.t'::regclass and attnum > 1 order by attnum"
    )
    (sources, created) = (
        [name for (name,) in wide.connection.execute(types.format(schema))]
        for schema in ("src", "dst")
    )
    # A query's result has the type below a domain, so that is what the rows bring.
    below = {"price": "numeric(12,2)", "days": "integer[]"}
    assert created == [below.get(name, name) for name in sources]


@pytest.mark.parametrize("pg_type", ["money", "regclass"])
def test_types_that_mean_something_else_elsewhere_are_refused(course, pg_type):
    course.prepare(pg_type, [None])
    with pytest.raises((TypeMismatchError, PreflightError), match=pg_type):
        course.load(course.read())


# --- copy form ------------------------------------------------------------------------------------

COPIED = {name: [*values, *AS_TEXT.get(name, [])] for name, values in VALUES.items()}
"""Every value of every type: copied, none of them needs a way of its own."""


@pytest.mark.parametrize("pg_type", COPIED)
def test_every_value_of_a_type_survives_being_copied(course, pg_type):
    values = [*COPIED[pg_type], None]
    course.prepare(pg_type, values)
    chunks = list(course.read(form="copy"))
    assert {type(chunk) for chunk in chunks} == {Frames}
    course.load(chunks)
    assert course.differences() == []
    ((count, nulls),) = course.connection.execute(
        "select count(*), count(*) - count(x) from dst.t"
    ).fetchall()
    assert (count, nulls) == (len(values), 1)


def test_all_types_are_copied_together(wide):
    wide.load(wide.read(form="copy"))
    assert wide.differences() == []


def test_an_upsert_copies_the_same_values_again_and_again(wide):
    for _ in range(2):
        wide.load(wide.read(form="copy"), write="upsert", key="id")
        assert wide.differences() == []


def test_a_table_created_for_copies_has_the_sources_types(wide):
    wide.connection.execute("drop table dst.t")
    wide.load(wide.read(form="copy"), create_table=True)
    columns = ", ".join(["id", *(f"column_{number}" for number in range(len(VALUES)))])
    wide.connection.execute(
        f"create table dst.seen as select {columns} from dst.t; drop table dst.t; "
        "alter table dst.seen rename to t"
    )
    assert wide.differences() == []


@pytest.mark.parametrize(
    ("source", "target", "value"),
    [
        (TS, TZ, "2026-01-01"),
        ("numeric(12,4)", "numeric(12,2)", "1.2345"),
        ("numeric", "numeric(12,2)", "1"),
        ("numeric(12,2)", "numeric", "1"),
        ("double precision", "bigint", "1"),
        ("date", "integer", "2026-01-01"),
        ("integer", "real", "1"),
        ("bigint", TS, "1"),
        ("text", "bytea", "a"),
        ("character varying(9)", "character varying(5)", "a"),
        ("character(5)", "character varying(5)", "a"),
        ("integer[]", "integer", "{1}"),
        ("numeric(12,4)[]", "numeric(12,2)[]", "{1.2345}"),
        ("tsrange", "tstzrange", "[2026-01-01,)"),
        ("floats", "int8range", "[1,2)"),
        ("inet", "cidr", "10.0.0.0/8"),
        ("mood", "text", "sad"),
        ("mood", 'app."Odd Type"', "sad"),
        ("interval", "interval(0)", "1.5 s"),
        ("timestamp(3) without time zone", TS, "2026-01-01"),
    ],
)
def test_copies_of_an_unequal_type_are_refused_before_any_row(course, source, target, value):
    course.prepare(source, [value], target)
    with pytest.raises(TypeMismatchError, match="cannot take these rows") as raised:
        course.load(course.read(form="copy"))
    assert 'column "x"' in str(raised.value)
    assert course.connection.execute("select count(*) from dst.t").fetchone() == (0,)


@pytest.mark.parametrize(
    ("pg_type", "other", "value"),
    [
        ("address", "app.address as (street text, number integer, price numeric(12,1))", None),
        ("floats", "app.floats as range (subtype = int8)", "[1,2)"),
        ("mood[]", "app.mood as enum ('sad')", "{sad}"),
    ],
)
def test_a_type_of_the_same_name_and_another_definition_is_refused(course, pg_type, other, value):
    name = other.split(" as ")[0]
    array = "[]" if pg_type.endswith("[]") else ""
    course.connection.execute(f"drop type if exists {name} cascade; create type {other}")
    try:
        course.prepare(pg_type, [value], f"{name}{array}")
        with pytest.raises(TypeMismatchError, match='column "x"'):
            course.load(course.read(form="copy"))
    finally:
        course.connection.execute(f"drop type {name} cascade")


def test_a_domain_and_the_type_below_it_have_the_same_bytes(course):
    for source, target in (("price", "numeric(12,2)"), ("numeric(12,2)", "price")):
        course.prepare(source, ["1.50"], target)
        course.load(course.read(form="copy"))
        assert course.differences() == []


def test_a_copied_value_that_a_domain_forbids_is_refused(course):
    course.prepare("numeric(12,2)", ["-1"], "price")
    with pytest.raises(ValueNotCarriedError, match="SQLSTATE 23514"):
        course.load(course.read(form="copy"))


def test_a_target_that_changed_between_two_chunks_is_noticed(course):
    course.prepare("numeric(12,2)", ["1.25", "2.25", "3.25", "4.25"])
    chunks = course.read(form="copy")
    warehouse = FrameTable(TargetTable(PostgresWarehouse(conn_id="w", table="dst.t"), ("id",)))
    first = next(chunks)
    with course.connection.transaction():
        warehouse.write(course.connection, first.columns, first.blocks(), 1)
    course.connection.execute("alter table dst.t alter x type numeric(12,1)")
    second = next(chunks)
    with (
        pytest.raises(TypeMismatchError, match=r'"x": numeric\(12,2\) was copied'),
        course.connection.transaction(),
    ):
        warehouse.write(course.connection, second.columns, second.blocks(), 2)


def test_a_source_that_changed_between_two_chunks_is_noticed(course):
    course.prepare("numeric(12,2)", ["1.25", "2.25", "3.25", "4.25"])
    chunks = course.read(form="copy")
    first = next(chunks)
    course.connection.execute("alter table src.t alter x type numeric(12,3)")
    second = next(chunks)
    assert [column.pg_type for column in first.columns] == ["bigint", "numeric(12,2)"]
    assert [column.pg_type for column in second.columns] == ["bigint", "numeric(12,3)"]
    course.load([first])
    with pytest.raises(TypeMismatchError, match='column "x"'):
        course.load([second])
