"""Backends for the contract suites: clients of one Valkey, and of a cluster of one node."""

from __future__ import annotations

import json
import time
import uuid

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
    with ValkeyServer(
        settings={"cluster-enabled": "yes", "cluster-port": str(free_port())}
    ) as server:
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


@pytest.fixture(scope="session")
def s3_server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=HOST, port=free_port(), verbose=False)
    server.start()
    yield f"http://{HOST}:{server._server.server_port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """A fresh bucket's URL and the Airflow connection that reaches it."""
    import boto3

    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **keys)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    client.close()
    connection = {
        "conn_type": "aws",
        "login": "testing",
        "password": "testing",
        "extra": {"region_name": "us-east-1", "endpoint_url": s3_server},
    }
    # A connection id of its own: Airflow caches file systems by it.
    conn_id = name.replace("-", "_")
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    return f"s3://{name}", conn_id
