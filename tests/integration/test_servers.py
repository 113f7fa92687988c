"""The embedded servers that everything else stands on."""

from __future__ import annotations

from airflow_checkpoint_etl.demo.servers import PostgresServer


def test_a_stopped_server_leaves_no_process_and_no_directory():
    with PostgresServer() as server:
        process, directory = server.process, server.directory
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None
    assert not directory.exists()


def test_a_killed_server_comes_back_with_its_data(database, postgres_server):
    with PostgresServer() as server:
        import psycopg

        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("create table kept as select 1 as id")
        server.kill()
        server.start()
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("select id from kept").fetchone() == (1,)


def test_each_test_gets_an_empty_redis(redis_client):
    assert redis_client.dbsize() == 0
