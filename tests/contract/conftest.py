"""Backends for the contract suites: clients of one Valkey, and of a cluster of one node."""

from __future__ import annotations

import time

import pytest
import redis

from airflow_checkpoint_etl.demo.servers import HOST, ValkeyServer, free_port


@pytest.fixture
def redis_connect(valkey_server, redis_client):
    """Makes clients of an empty Valkey."""

    def connect(**options):
        return redis.Redis(host=HOST, port=valkey_server.port, **options)

    return connect


@pytest.fixture(scope="session")
def cluster_server():
    with ValkeyServer(settings={"cluster-enabled": "yes", "cluster-port": str(free_port())}) as server:
        node = redis.Redis(host=HOST, port=server.port)
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 30
        while node.cluster("INFO").get("cluster_state") != "ok" and time.monotonic() < deadline:
            time.sleep(0.05)
        node.close()
        yield server


@pytest.fixture
def cluster_connect(cluster_server):
    """Makes cluster clients of an empty cluster."""

    def connect(**options):
        return redis.cluster.RedisCluster(host=HOST, port=cluster_server.port, **options)

    client = connect()
    client.flushall()
    client.close()
    return connect
