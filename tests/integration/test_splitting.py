"""A range is cut into parts of about equal rows, and the table is not counted for it."""

from __future__ import annotations

import itertools

import pytest

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.endpoints import PostgresSource
from airflow_checkpoint_etl.sources.postgres import PostgresReader
from airflow_checkpoint_etl.sources.splitting import Splitter

ROWS = 40_000
PARTS = 4


class Splitting:
    """One source table and a reader of it."""

    def __init__(self, database, **source):
        self.database = database
        self.source = {"conn_id": "shop", "table": "facts", "settle": "none"} | source
        self.reader = PostgresReader(PostgresSource(**self.source), database.connect)

    def newest(self):
        return self.reader.settle(cursors.BEGIN).target

    def split(self, low=cursors.BEGIN, target=None, parts=PARTS):
        return self.reader.split(low, target or self.newest(), parts)

    def sizes(self, cuts, low=cursors.BEGIN, target=None):
        """How many rows each part has, read as a pipeline reads them; the parts must tile the range."""
        target = target or self.newest()
        ends = [low, *cuts, target]
        return [
            self.reader.read_again(one, other).table.num_rows
            for one, other in itertools.pairwise(ends)
        ]

    def assert_balanced(self, cuts, rows, within=0.25):
        sizes = self.sizes(cuts)
        assert len(sizes) == PARTS
        assert sum(sizes) == rows
        assert max(sizes) <= rows / PARTS * (1 + within), sizes


@pytest.fixture
def splitting(database):
    made = []

    def make(definition, *, analyze=False, **source):
        database.execute(f"create table facts ({definition})")
        made.append(Splitting(database, **source))
        return made[-1]

    yield make
    for one in made:
        one.reader.close()


def fill(database, select, *, analyze):
    database.execute(f"insert into facts {select}")
    if analyze:
        database.execute("analyze facts")


@pytest.mark.parametrize("analyze", [True, False])
@pytest.mark.parametrize(
    ("definition", "cursor", "select"),
    [
        pytest.param(
            "id bigint primary key, note text",
            "id",
            f"select n, 'a note' from generate_series(1, {ROWS}) n",
            id="integers",
        ),
        pytest.param(
            "id bigint primary key, note text",
            "id",
            # Nine tenths of the rows in a thousandth of the range.
            f"select case when n <= {ROWS} * 0.9 then n else n * 1000 end, 'a note'"
            f" from generate_series(1, {ROWS}) n",
            id="skewed-integers",
        ),
        pytest.param(
            "at timestamptz primary key, note text",
            "at",
            "select timestamptz '2026-01-01' + n * n * interval '1 ms', 'a note'"
            f" from generate_series(1, {ROWS}) n",
            id="timestamps-that-thin-out",
        ),
        pytest.param(
            "day date, id bigint, primary key (day, id)",
            ("day", "id"),
            # Three days, of which one has nine tenths of the rows.
            "select date '2026-01-01' + case when n % 20 = 0 then 0 when n % 20 = 1 then 2 else 1 end, n"
            f" from generate_series(1, {ROWS}) n",
            id="composite-with-a-heavy-day",
        ),
        pytest.param(
            "at timestamp, id bigint, primary key (at, id)",
            ("at", "id"),
            f"select timestamp '2026-01-01' + n / 3 * interval '1 s', n from generate_series(1, {ROWS}) n",
            id="composite-of-times",
        ),
        pytest.param(
            "id uuid primary key, note text",
            "id",
            f"select md5(n::text)::uuid, 'a note' from generate_series(1, {ROWS}) n",
            id="uuids",
        ),
        pytest.param(
            'code text collate "C" primary key',
            "code",
            "select (array['a', 'B', 'c', 'Z', 'ä'])[1 + n % 5] || md5(n::text)"
            f" from generate_series(1, {ROWS}) n",
            id="text-in-a-collation",
        ),
    ],
)
def test_parts_have_about_equal_rows(splitting, definition, cursor, select, analyze):
    made = splitting(definition, cursor=cursor)
    fill(made.database, select, analyze=analyze)
    made.assert_balanced(made.split(), ROWS)


def test_the_table_is_not_counted(splitting):
    made = splitting("id bigint primary key, note text", cursor="id")
    select = f"select n, repeat('x', 500) from generate_series(1, {ROWS}) n"
    for analyze in (False, True):
        made.database.execute("truncate facts")
        fill(made.database, select, analyze=analyze)
        made.database.execute("select pg_stat_reset()")
        made.reader.close()
        cuts = made.split()
        made.reader.close()  # which tells the statistics
        ((read,),) = made.database.execute(
            "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)"
            " from pg_stat_user_tables where relname = 'facts'"
        )
        assert len(cuts) == PARTS - 1
        assert read < ROWS / 4, f"{read} rows were read"


def test_a_gap_at_the_end_of_a_table_is_cut_within_itself(splitting):
    made = splitting("id bigint primary key, note text", cursor="id")
    fill(made.database, f"select n, 'a note' from generate_series(1, {ROWS}) n", analyze=True)
    cuts = made.split("i8:32000")
    assert made.sizes(cuts, "i8:32000") == pytest.approx([2000] * 4, rel=0.3)


def test_a_stale_histogram_is_not_believed(splitting):
    made = splitting("id bigint primary key, note text", cursor="id")
    fill(made.database, f"select n, 'a' from generate_series(1, {ROWS // 4}) n", analyze=True)
    grown = f"select {ROWS} * 100 + n, 'a' from generate_series(1, {ROWS - ROWS // 4}) n"
    fill(made.database, grown, analyze=False)
    made.database.execute("select pg_stat_force_next_flush()")
    plan = made.reader._plan()
    assert Splitter(made.reader._session, plan)._by_histogram("begin", made.newest(), 4) is None
    made.assert_balanced(made.split(), ROWS)


def test_partitions_are_sampled_together(database):
    database.execute(
        "create table facts (id bigint primary key, note text) partition by range (id)"
    )
    for number in range(4):
        database.execute(
            f"create table facts_{number} partition of facts"
            f" for values from ({number * 10_000}) to ({(number + 1) * 10_000})"
        )
    made = Splitting(database, cursor="id")
    fill(database, f"select n, 'a note' from generate_series(1, {ROWS - 1}) n", analyze=False)
    made.assert_balanced(made.split(), ROWS - 1)
    made.reader.close()


def test_a_view_is_cut_by_distance(database):
    database.execute("create table underneath (id bigint primary key)")
    database.execute(f"insert into underneath select generate_series(1, {ROWS})")
    database.execute("create view facts as select id from underneath")
    made = Splitting(database, cursor="id", unique=True)
    made.assert_balanced(made.split(), ROWS)
    made.reader.close()


@pytest.mark.parametrize(
    ("definition", "values"),
    [
        ("at timestamptz", "timestamptz '2026-01-01' + n * interval '1 minute'"),
        ("at timestamp", "timestamp '2026-01-01' + n * interval '1 minute'"),
        ("at numeric", "n / 4.0"),
        ("at uuid", "lpad(to_hex(n), 8, '0') || '-0000-0000-0000-000000000000'"),
    ],
)
def test_values_with_distances_are_cut_by_them(database, definition, values):
    kind = definition.split()[1]
    database.execute(f"create table underneath ({definition} primary key)")
    database.execute(
        f"insert into underneath select ({values})::{kind} from generate_series(1, 4000) n"
    )
    database.execute("create view facts as select at from underneath")
    made = Splitting(database, cursor="at", unique=True)
    made.assert_balanced(made.split(), 4000)
    made.reader.close()


def test_a_view_ordered_by_text_is_not_cut(database):
    database.execute("create table underneath (code text primary key)")
    database.execute("insert into underneath select md5(n::text) from generate_series(1, 100) n")
    database.execute("create view facts as select code from underneath")
    made = Splitting(database, cursor="code", unique=True)
    assert made.split() == ()
    made.reader.close()


def test_more_parts_than_rows_are_fewer_parts(splitting):
    made = splitting("id bigint primary key", cursor="id")
    fill(made.database, "select generate_series(1, 3)", analyze=False)
    cuts = made.split(parts=8)
    assert list(cuts) == sorted(set(cuts))
    assert sum(made.sizes(cuts)) == 3
    assert all(made.sizes(cuts))


def test_one_part_or_no_gap_is_no_split(splitting):
    made = splitting("id bigint primary key", cursor="id")
    fill(made.database, "select generate_series(1, 100)", analyze=False)
    assert made.split(parts=1) == ()
    assert made.split("i8:100", "i8:100") == ()


def test_a_gap_that_came_since_the_last_analyze_is_noticed(splitting):
    made = splitting("id bigint primary key, note text", cursor="id")
    fill(made.database, f"select n, 'a' from generate_series(1, {ROWS}) n", analyze=True)
    made.database.execute("alter table facts set (autovacuum_enabled = off)")
    came = f"select n, 'a' from generate_series({ROWS} + 1, {ROWS} + {ROWS // 2}) n"
    fill(made.database, came, analyze=False)
    made.database.execute("select pg_stat_force_next_flush()")
    assert made.reader.rows_after(f"i8:{ROWS}") == pytest.approx(ROWS / 2, rel=0.3)


def test_the_estimate_of_a_gap_is_near_the_truth(splitting):
    made = splitting("id bigint primary key, note text", cursor="id")
    fill(made.database, f"select n, 'a' from generate_series(1, {ROWS}) n", analyze=True)
    assert made.reader.rows_after(cursors.BEGIN) == pytest.approx(ROWS, rel=0.1)
    assert made.reader.rows_after("i8:30000") == pytest.approx(ROWS / 4, rel=0.2)
    assert made.reader.rows_after(f"i8:{ROWS}") < ROWS / 50
