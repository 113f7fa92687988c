"""What a source is refused for before anything is written, and what it is told instead."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from airflow_checkpoint_etl import guarantee
from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.endpoints import PostgresSource
from airflow_checkpoint_etl.errors import MissingPrivilegeError, PreflightError
from airflow_checkpoint_etl.sources import catalog
from airflow_checkpoint_etl.sources.postgres import PostgresReader
from tests.conftest import Database

RESET = """
do $$
declare
  name text;
begin
  for name in select nspname from pg_namespace where nspname !~ '^pg_|^information_schema$' loop
    execute format('drop schema %I cascade', name);
  end loop;
  create schema public;
  grant usage on schema public to public;
end
$$
"""


@pytest.fixture(scope="module")
def one_database(postgres_server):
    """One database for all these many small tests: making one costs more than a test."""
    name = f"preflight_{uuid.uuid4().hex[:8]}"
    yield Database(postgres_server.create_database(name))
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)')


@pytest.fixture
def database(one_database):
    one_database.execute(RESET)
    return one_database


@pytest.fixture
def preflight(database):
    """Runs preflight on the test's database, by default as its owner."""

    def run(user=None, start_after=None, **options: Any):
        source = PostgresSource(**{"conn_id": "shop", "table": "t", **options})
        dsn = psycopg.conninfo.make_conninfo(database.dsn, **({"user": user} if user else {}))
        reader = PostgresReader(source, lambda: psycopg.connect(dsn), start_after)
        try:
            return reader.preflight()
        finally:
            reader.close()

    return run


@pytest.fixture
def role(database, postgres_server):
    """A role that may log in and nothing more, dropped after the test."""
    name = f"reader_{database.dsn.rsplit('_', 1)[1]}"
    database.execute(f"create role {name} login")
    yield name
    database.execute(f"drop owned by {name}")
    database.execute(f"drop role {name}")


def guaranteed(facts):
    return str(guarantee.of(facts.promise, write="append"))


SERIAL = "create table t (id bigserial primary key, v text)"


def test_a_sequence_backed_table_settles_by_locks_and_promises_exactly_once(database, preflight):
    database.execute("create table t (id bigint generated always as identity primary key)")
    facts = preflight()
    assert facts.settle == "locks"
    assert guaranteed(facts).startswith("exactly-once:")
    assert facts.start == BEGIN
    ((oid, name, system),) = database.execute(
        "select 't'::regclass::oid::text, current_database(), system_identifier::text"
        " from pg_control_system()"
    )
    assert facts.identity == {
        "database": name,
        "system_identifier": system,
        "timeline": "1",
        "relation": "public.t",
        "relation_oid": oid,
    }


def test_an_unreadable_control_file_leaves_its_facts_out(database, preflight, role):
    database.execute(SERIAL)
    database.execute(f"grant select on t to {role}")
    functions = ("pg_control_system()", "pg_walfile_name(pg_lsn)")
    try:
        for function in functions:
            database.execute(f"revoke execute on function {function} from public")
        facts = preflight(user=role)
    finally:
        for function in functions:
            database.execute(f"grant execute on function {function} to public")
    assert set(facts.identity) == {"database", "relation", "relation_oid"}
    assert facts.settle == "locks"


@pytest.mark.parametrize(
    ("ddl", "options", "message"),
    [
        (SERIAL, {"table": "nowhere"}, r"table='nowhere': .*no table nowhere; check the name"),
        ('create table "Orders" (id int)', {"table": "orders"}, r'did you mean public\."Orders"\?'),
        ("create schema s; create table s.t (id int)", {}, r"did you mean s\.t\?"),
        ("create sequence t", {}, r"table='t': t is no table or view"),
        (SERIAL, {"table": 'a."b'}, r"table='a\.\"b'"),
        (SERIAL, {"cursor": "ID"}, r"cursor=\('ID',\): .*no column 'ID'; it has id, v"),
        (SERIAL, {"columns": ("w",)}, r"columns=\('w',\): .*no column 'w'"),
        (SERIAL, {"text_columns": ("w",)}, r"text_columns=\('w',\): .*no column 'w'"),
        (
            "create table t (id int unique, v int)",
            {},
            r"cursor=\('id',\): id may be NULL.*alter the column to NOT NULL",
        ),
        (
            "create table t (a int not null, b int, unique (a, b))",
            {"cursor": ("a", "b")},
            "b may be NULL",
        ),
        (
            (
                "create table t (id int unique); insert into t values (null);"
                " alter table t add constraint c not null id not valid"
            ),
            {},
            "id may be NULL",
        ),
        (
            (
                "create table t (id int constraint n not null no inherit);"
                " create table u () inherits (t)"
            ),
            {"unique": True, "settle": "none"},
            "id may be NULL",
        ),
        (
            "create table t (id float8 primary key)",
            {},
            "double precision, which has no exact order",
        ),
        ("create table t (id inet primary key)", {}, "is inet, which is not one a cursor can have"),
        ("create table t (id char(3) primary key)", {}, r"is character\(3\)"),
        ("create table t (id int not null)", {}, "no unique index proves .*unique=True"),
        (
            "create table t (id int not null, v int); create unique index on t (id) where v > 0",
            {},
            "no unique index",
        ),
        ("create table t (id int not null unique deferrable)", {}, "no unique index"),
        ("create table t (id int not null, b int not null, unique (id, b))", {}, "no unique index"),
        (
            "create table t (id int not null); create unique index on t (abs(id))",
            {},
            "no unique index",
        ),
        (
            "create table t (id int primary key); create table u () inherits (t)",
            {"settle": "none"},
            "no unique index",
        ),
        (
            "create table t (id int not null)",
            {"unique": True},
            r"no index serves this order.*btree index on \(id\).*allow_sort=True",
        ),
        (
            "create table t (a int not null, b int not null, primary key (b, a))",
            {"cursor": ("a", "b")},
            "no index serves this order",
        ),
        (
            "create table t (a int not null, b int not null); create unique index on t (a, b desc)",
            {"cursor": ("a", "b"), "settle": "none"},
            None,  # the index gives a, and b is sorted within it
        ),
        (
            "create table t (id text not null); create unique index on t (id text_pattern_ops)",
            {"settle": "none"},
            "no index serves this order",
        ),
        (
            "create table t (id int not null); create unique index on t (id); create view v as select * from t",
            {"table": "v"},
            "no unique index",
        ),
        (
            "create table t (id int); create view v as select * from t",
            {"table": "v", "unique": True, "settle": "none"},
            "no index serves this order",
        ),
        (
            "create table t (id int unique); insert into t values (null); create view v as select * from t",
            {"table": "v", "unique": True, "settle": "none"},
            r"some rows have NULL in it",
        ),
        (
            "create table t (id int primary key, m money)",
            {},
            r"column m: its type money .*columns=",
        ),
        (
            "create table t (id int primary key, m regclass[])",
            {},
            r"column m: its type regclass\[\]",
        ),
        (
            SERIAL,
            {
                "table": None,
                "query": "select 1 as id, row(1, 2) as pair",
                "unique": True,
                "settle": "none",
            },
            "column pair: its type record",
        ),
        (
            SERIAL,
            {"table": None, "query": "select id, id from t", "unique": True, "settle": "none"},
            "several columns named id",
        ),
        (
            SERIAL,
            {"table": None, "query": "selec id", "unique": True, "settle": "none"},
            "source 'shop' refuses the statement .*42601 SyntaxError",
        ),
        (SERIAL, {"where": "v ="}, "refuses the statement .*42601"),
        (SERIAL, {"where": "nope > 1"}, r"42703 UndefinedColumn: column \"nope\""),
        (SERIAL, {"start_after": ("abc",)}, r"start_after=\('abc',\): .*type \(int8\)"),
        (SERIAL, {"start_after": ("1", "2")}, r"the cursor has 1 column"),
        (SERIAL, {"settle": "locks", "settle_tables": ("nope",)}, "no table nope"),
        (
            SERIAL + "; create view v as select * from t",
            {"settle": "locks", "settle_tables": ("v",)},
            "'v' is no table",
        ),
    ],
)
def test_a_source_that_would_lose_rows_is_refused_by_parameter(
    database, preflight, ddl, options, message
):
    database.execute(ddl)
    if message is None:
        preflight(**options)
        return
    with pytest.raises(PreflightError, match=message) as caught:
        preflight(**options)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("ddl", "doubt"),
    [
        ("create table t (id int primary key)", "no sequence is behind 'id'"),
        ("create table t (id uuid primary key)", "made by its writers"),
        ("create table t (id date primary key)", "made by its writers"),
        (
            "create table t (id bigint generated always as identity (cache 20) primary key)",
            "cache 20",
        ),
        (
            "create table t (id bigint generated always as identity (increment 2) primary key)",
            "increment 2",
        ),
        (
            "create table t (id bigint generated always as identity (increment -1) primary key)",
            "increment -1",
        ),
        ("create table t (id bigint generated always as identity (cycle) primary key)", "cycles"),
        (
            "create sequence s; create table t (id bigint default nextval('s') * 1000 + 7 primary key)",
            "more than nextval",
        ),
        (
            (
                "create table t (id bigserial, primary key (id)) partition by range (id);"
                " create sequence other; create table t_1 partition of t default;"
                " alter table t_1 alter id set default nextval('other')"
            ),
            "several sequences are behind 'id'",
        ),
        (
            (
                "create table base (id bigserial primary key); create materialized view t as select * from base;"
                " create unique index on t (id)"
            ),
            "materialized view",
        ),
    ],
)
def test_auto_refuses_where_exactly_once_cannot_be_proven(database, preflight, ddl, doubt):
    database.execute(ddl)
    with pytest.raises(PreflightError, match=f"settle='auto': exactly-once .*because .*{doubt}"):
        preflight()
    declared = preflight(settle="transactions")
    assert declared.settle == "transactions"
    assert "not proven" in guaranteed(declared)
    assert "are missed" in guaranteed(preflight(settle="none"))


def test_a_logical_subscription_behind_a_table_is_no_ground_for_exactly_once(database, preflight):
    database.execute(SERIAL)
    database.execute(
        "create subscription s connection 'host=127.0.0.1 port=1' publication p"
        " with (connect = false, slot_name = none)"
    )
    database.execute(
        "insert into pg_subscription_rel (srsubid, srrelid, srsubstate)"
        " select oid, 't'::regclass, 'r' from pg_subscription"
    )
    try:
        with pytest.raises(PreflightError, match="logical subscription"):
            preflight()
    finally:
        database.execute("delete from pg_subscription_rel")
        database.execute("drop subscription s")


@pytest.mark.parametrize("mode", ["auto", "locks", "transactions"])
def test_a_standby_is_refused_unless_missed_rows_are_accepted(
    database, preflight, mode, monkeypatch
):
    database.execute(SERIAL)
    monkeypatch.setattr(catalog, "is_standby", lambda session: True)
    with pytest.raises(PreflightError, match="the server is a standby"):
        preflight(settle=mode)
    assert preflight(settle="none").settle == "none"


def test_a_foreign_table_is_refused_unless_missed_rows_are_accepted(database, preflight):
    database.execute("create extension file_fdw")
    database.execute("create server files foreign data wrapper file_fdw")
    database.execute("create table t (id bigserial, v text) partition by range (id)")
    database.execute(
        "create foreign table t_1 partition of t default server files options (filename '/dev/null')"
    )
    options = {"unique": True, "allow_sort": True}
    database.execute("alter table t alter id set not null")
    for mode in ("auto", "locks", "transactions"):
        with pytest.raises(PreflightError, match="foreign table"):
            preflight(settle=mode, **options)
    assert preflight(settle="none", **options).settle == "none"


@pytest.mark.parametrize(
    ("ddl", "options", "settle"),
    [
        (SERIAL, {}, "locks"),
        ("create table t (id smallserial primary key)", {}, "locks"),
        (
            "create sequence s; create table t (id int default nextval('s') primary key)",
            {},
            "locks",
        ),
        (
            "create table t (id int generated by default as identity, n int, primary key (id, n))",
            {"cursor": ("id", "n")},
            "locks",
        ),
        (
            "create table t (at timestamptz, id int, primary key (at, id))",
            {"cursor": ("at", "id")},
            "transactions",
        ),
        ("create table t (at timestamp(0) primary key)", {"cursor": "at"}, "transactions"),
        (
            "create domain d as bigint; create table t (id d default 1 primary key, at timestamptz not null unique)",
            {"cursor": "at"},
            "transactions",
        ),
        (
            "create table t (id bigserial primary key) partition by range (id); create table t_1 partition of t default",
            {},
            "locks",
        ),
        (
            "create table t (id bigserial primary key) partition by range (id); create table t_1 partition of t default",
            {"table": "t_1"},
            "locks",
        ),
        (
            "create table t (id bigint generated always as identity primary key) partition by range (id); create table t_1 partition of t default",
            {"table": "t_1"},
            "locks",
        ),
        ("create table t (id bigserial not null); create unique index on t (id desc)", {}, "locks"),
        (
            "create table t (id bigserial not null, at timestamptz not null, primary key (id)); create index on t (at)",
            {"cursor": ("at", "id")},
            "transactions",
        ),
        ("create table t (id bigserial not null)", {"unique": True, "allow_sort": True}, "locks"),
        (
            SERIAL,
            {
                "table": None,
                "query": "select id as n, v from t",
                "cursor": "n",
                "unique": True,
                "settle_tables": ("t",),
            },
            "locks",
        ),
        (
            "create table t (id int, at timestamptz not null); create index on t (at, id); create view v as select * from t",
            {"table": "v", "cursor": ("at", "id"), "unique": True},
            "transactions",
        ),
    ],
)
def test_auto_chooses_by_where_the_cursor_comes_from(database, preflight, ddl, options, settle):
    database.execute(ddl)
    facts = preflight(**options)
    assert facts.settle == settle
    assert guaranteed(facts).startswith("exactly-once")
    assert "not proven" not in guaranteed(facts)


@pytest.mark.parametrize(
    "options",
    [
        {"query": "select t.id, u.v from t join u using (id)", "settle_tables": ("t", "u")},
        {"query": "select t.id + 0 as id from t", "settle_tables": ("t",), "allow_sort": True},
        {"query": "select u.id from u", "settle_tables": ("t",)},
        {"table": "v"},
        {"table": "joined"},
    ],
)
def test_a_query_or_view_needs_its_mode_declared_where_its_rows_origin_is_unclear(
    database, preflight, options
):
    database.execute(SERIAL)
    database.execute("create table u (id bigserial primary key, v text)")
    database.execute("create view v as select * from t")
    database.execute("create view joined as select t.id, u.v from t join u using (id)")
    options = {"unique": True, "table": None, **options}
    with pytest.raises(PreflightError, match="settle='auto'"):
        preflight(**options)
    facts = preflight(settle="locks", **options)
    assert facts.settle == "locks"
    assert "as declared" in guaranteed(facts)


def test_missing_privileges_are_named(database, preflight, role):
    database.execute("create table t (id bigserial primary key, a text, secret text)")
    with pytest.raises(MissingPrivilegeError, match="no SELECT privilege on id, a, secret"):
        preflight(user=role)
    database.execute(f"grant select (id, a) on t to {role}")
    with pytest.raises(MissingPrivilegeError, match="on secret; grant it, or name the columns"):
        preflight(user=role)
    assert preflight(user=role, columns=("a",)).settle == "locks"
    with pytest.raises(MissingPrivilegeError, match="42501"):
        preflight(user=role, columns=("a",), where="secret = 'x'")
    database.execute("revoke usage on schema public from public")
    with pytest.raises(PreflightError, match=r"public\.t exists; grant the role USAGE"):
        preflight(user=role)
    database.execute("create schema closed; create table closed.t (id int primary key)")
    with pytest.raises(MissingPrivilegeError, match="permission denied for schema closed"):
        preflight(user=role, table="closed.t")


def test_row_level_security_is_said_so_and_never_filters(database, preflight, role):
    database.execute(SERIAL)
    database.execute("alter table t enable row level security")
    database.execute("create policy few on t for select using (id > 5)")
    database.execute("create view v with (security_invoker) as select * from t")
    database.execute(f"grant select on t, v to {role}")
    with pytest.raises(PreflightError, match="table='t': row-level security would hide rows"):
        preflight(user=role)
    with pytest.raises(MissingPrivilegeError, match="row-level security"):
        preflight(user=role, table="v", unique=True, settle="none")
    database.execute(f"alter role {role} bypassrls")
    assert preflight(user=role).settle == "locks"


@pytest.mark.parametrize(
    ("column", "cursor", "given", "start"),
    [
        ("id bigint", "id", ("00042",), "i8:42"),
        ("id numeric(10,2)", "id", ("1.50",), "num:1.5"),
        ("id varchar(9)", "id", ("it's",), "txt:it's"),
        ("id timestamptz", "id", ("2026-07-01 12:00+02",), "tz:2026-07-01T10:00:00.000000Z"),
        ("id timestamp", "id", ("2026-07-01",), "ts:2026-07-01T00:00:00.000000"),
        ("id date, n int", ("id", "n"), ("20260701", "7"), '["d:2026-07-01","i4:7"]'),
    ],
)
def test_start_after_is_read_as_postgres_reads_it(
    database, preflight, column, cursor, given, start
):
    key = cursor if isinstance(cursor, str) else ", ".join(cursor)
    database.execute(f"create table t ({column}, primary key ({key}))")
    assert preflight(cursor=cursor, settle="none", start_after=given).start == start


def test_preflight_neither_reads_rows_nor_waits_for_writers(database, preflight):
    database.execute(SERIAL)
    database.execute("insert into t (v) values ('x')")
    with database.connect() as writer:
        writer.execute("insert into t (v) values ('y')")
        assert preflight(where="pg_sleep(60)::text is not null").settle == "locks"
        writer.rollback()
