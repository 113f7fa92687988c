"""What is particular to checkpoints in Redis: damage, lost keys, eviction, lost answers."""

from __future__ import annotations

import json

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from airflow_checkpoint_etl.checkpoints.record import encode_chunk
from airflow_checkpoint_etl.checkpoints.redis import RedisCheckpointStore
from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.demo.servers import HOST, ValkeyServer
from airflow_checkpoint_etl.errors import (
    CheckpointEtlError,
    FencedError,
    ManifestConflictError,
    SchemaVersionError,
)
from airflow_checkpoint_etl.ports import StageRecord
from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Frontier, Lane, Stage

LANE = Lane("orders")
KEY = "checkpoint_etl:{orders/default}:extract"
LIFE = "9f3c27aa"


def at(seq=0, cursor=BEGIN, stage=Stage.EXTRACT):
    return Checkpoint(stage, Frontier(LIFE, 1, seq, cursor))


def chunk(seq, low, high, fence=1):
    return Chunk(LIFE, seq, low, high, 10, 9, f"x/{seq}.arrow", 1234, f"{seq:064x}", fence)


@pytest.fixture
def store(redis_connect):
    store = RedisCheckpointStore(redis_connect)
    yield store
    store.close()


@pytest.fixture
def filled(store):
    """A stage with three chunks, written by fence 5."""
    store.begin(LANE, 5, at())
    for seq, low in enumerate([BEGIN, "i8:10", "i8:20"], 1):
        store.append(LANE, 5, chunk(seq, low, f"i8:{seq * 10}", 5), at(seq, f"i8:{seq * 10}"))
    return store


def test_a_stage_is_one_key_whose_lane_is_the_hash_tag(filled, redis_client):
    assert redis_client.keys() == [KEY.encode()]
    assert redis_client.type(KEY) == b"hash"
    assert redis_client.ttl(KEY) == -1
    assert redis_client.hget(KEY, "cursor") == b"i8:30"
    assert redis_client.hexists(KEY, f"c:3:{LIFE}")


def test_braces_in_names_cannot_move_the_hash_tag(store, redis_client):
    store.begin(Lane("a{b}", "c/d%"), 1, at())
    assert redis_client.keys() == [b"checkpoint_etl:{a%7Bb%7D/c%2Fd%25}:extract"]


def test_a_lost_key_is_an_empty_record_and_the_append_after_it_conflicts(filled, redis_client):
    redis_client.delete(KEY)
    assert filled.read(LANE, Stage.EXTRACT) == StageRecord()
    with pytest.raises(ManifestConflictError, match="no readable record"):
        filled.append(LANE, 5, chunk(4, "i8:30", "i8:40", 5), at(4, "i8:40"))


@pytest.mark.parametrize("type_", ["string", "list"])
def test_a_key_of_another_type_is_a_fault_and_begin_replaces_it(store, redis_client, type_):
    redis_client.set(KEY, "x") if type_ == "string" else redis_client.rpush(KEY, "x")
    record = store.read(LANE, Stage.EXTRACT)
    assert (record.checkpoint, record.entries) == (None, ())
    assert "another type" in record.faults[0]
    with pytest.raises(ManifestConflictError):
        store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:10"))
    store.forget(LANE, Stage.EXTRACT, [1], LIFE)
    store.begin(LANE, 1, at())
    assert store.read(LANE, Stage.EXTRACT) == StageRecord(at(), 1)


def test_a_load_record_of_another_type_is_replaced_by_the_next_note(store, redis_client):
    redis_client.set(KEY.replace("extract", "load"), "x")
    store.note_loaded(LANE, at(3, "i8:30", Stage.LOAD))
    assert store.read(LANE, Stage.LOAD).checkpoint == at(3, "i8:30", Stage.LOAD)


@pytest.mark.parametrize(
    "field", ["fence", "incarnation", "generation", "seq", "cursor", "digest", "sum"]
)
@pytest.mark.parametrize("damage", ["truncated", "changed", "lost", "no text"])
def test_a_damaged_head_is_a_fault_that_refuses_nobody(filled, redis_client, field, damage):
    value = redis_client.hget(KEY, field)
    if damage == "lost":
        redis_client.hdel(KEY, field)
    else:
        damaged = {"truncated": value[:-1], "changed": b"9" + value, "no text": b"\xff\x00\xfe"}
        redis_client.hset(KEY, field, damaged[damage])
    record = filled.read(LANE, Stage.EXTRACT)
    assert (record.checkpoint, record.fence) == (None, 0)
    assert len(record.faults) == 1
    assert "head" in record.faults[0]
    assert [entry.seq for entry in record.entries] == [1, 2, 3]
    with pytest.raises(ManifestConflictError):
        filled.append(LANE, 5, chunk(4, "i8:30", "i8:40", 5), at(4, "i8:40"))
    filled.begin(LANE, 6, at(3, "i8:30"))
    rebuilt = filled.read(LANE, Stage.EXTRACT)
    assert (rebuilt.faults, rebuilt.fence, rebuilt.checkpoint) == ((), 6, at(3, "i8:30"))
    assert [entry.seq for entry in rebuilt.entries] == [1, 2, 3]


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_truncated_checkpoint_is_a_fault_and_the_fence_still_counts(filled, redis_client, cut):
    redis_client.hset(KEY, "checkpoint", redis_client.hget(KEY, "checkpoint")[:cut])
    record = filled.read(LANE, Stage.EXTRACT)
    assert (record.checkpoint, record.fence, len(record.faults)) == (None, 5, 1)
    with pytest.raises(FencedError):
        filled.begin(LANE, 4, at())
    filled.begin(LANE, 5, at(2, "i8:20"))
    assert filled.read(LANE, Stage.EXTRACT).faults == ()


def test_an_old_checkpoint_beside_a_newer_head_is_a_fault(store, redis_client):
    store.begin(LANE, 1, at())
    old = redis_client.hget(KEY, "checkpoint")
    store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:10"))
    redis_client.hset(KEY, "checkpoint", old)
    assert "does not stand where the head does" in store.read(LANE, Stage.EXTRACT).faults[0]


@pytest.mark.parametrize("decode", [False, True])
def test_a_damaged_entry_is_left_out_and_named_and_begin_drops_it(
    filled, redis_connect, redis_client, decode
):
    field = f"c:2:{LIFE}"
    redis_client.hset(KEY, field, b"\xff" + redis_client.hget(KEY, field))
    store = RedisCheckpointStore(lambda: redis_connect(decode_responses=decode))
    record = store.read(LANE, Stage.EXTRACT)
    assert [entry.seq for entry in record.entries] == [1, 3]
    assert record.checkpoint == at(3, "i8:30")
    (fault,) = record.faults
    assert "manifest entry 2" in fault
    store.begin(LANE, 6, at(3, "i8:30"))
    assert store.read(LANE, Stage.EXTRACT).faults == ()
    assert not redis_client.hexists(KEY, field)
    store.close()


def test_an_entry_under_another_chunks_name_is_a_fault(filled, redis_client):
    redis_client.hset(KEY, f"c:2:{LIFE}", encode_chunk(chunk(1, BEGIN, "i8:10", 5)))
    redis_client.hset(KEY, "c:nonsense", "x")
    record = filled.read(LANE, Stage.EXTRACT)
    assert [entry.seq for entry in record.entries] == [1, 3]
    assert len(record.faults) == 2
    filled.begin(LANE, 5, at(3, "i8:30"))
    assert filled.read(LANE, Stage.EXTRACT).faults == ()


def test_a_record_of_a_newer_package_is_refused_not_rebuilt(filled, redis_client, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("airflow_checkpoint_etl.checkpoints.record.VERSION", 2)
        redis_client.hset(KEY, f"c:2:{LIFE}", encode_chunk(chunk(2, "i8:10", "i8:20", 5)))
    for operation in (
        lambda: filled.read(LANE, Stage.EXTRACT),
        lambda: filled.begin(LANE, 6, at()),
    ):
        with pytest.raises(SchemaVersionError, match="upgrade airflow-checkpoint-etl"):
            operation()


def test_the_scripts_survive_a_flush_of_the_script_cache(filled, redis_client):
    redis_client.script_flush()
    filled.append(LANE, 5, chunk(4, "i8:30", "i8:40", 5), at(4, "i8:40"))
    assert len(filled.read(LANE, Stage.EXTRACT).entries) == 4


def test_values_are_readable_json_for_people(filled, redis_client):
    entry = json.loads(redis_client.hget(KEY, f"c:3:{LIFE}"))
    assert entry["body"]["high"] == "i8:30"
    assert entry["body"]["rows"] == 9


def test_an_evicting_server_is_warned_about(store, redis_client):
    assert store.preflight() == []
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        (warning,) = store.preflight()
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert "allkeys-lru" in warning
    assert "set maxmemory-policy to noeviction" in warning


def test_a_server_that_hides_its_settings_is_not_warned_about(redis_client, redis_connect):
    redis_client.acl_setuser(
        "etl",
        enabled=True,
        nopass=True,
        keys=["checkpoint_etl:*"],
        commands=["+@all", "-info", "-config"],
    )
    store = RedisCheckpointStore(lambda: redis_connect(username="etl", password="x"))
    try:
        assert store.preflight() == []
        store.begin(LANE, 1, at())
        assert store.read(LANE, Stage.EXTRACT).checkpoint == at()
    finally:
        store.close()
        redis_client.acl_deluser("etl")


def test_a_full_server_is_a_clear_error_and_changes_nothing(filled, redis_client):
    before = filled.read(LANE, Stage.EXTRACT)
    redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(CheckpointEtlError, match="out of memory"):
            filled.append(LANE, 5, chunk(4, "i8:30", "i8:40", 5), at(4, "i8:40"))
        assert filled.read(LANE, Stage.EXTRACT) == before
    finally:
        redis_client.config_set("maxmemory", "0")


def test_a_client_that_retries_after_a_lost_answer_appends_once(redis_connect, redis_client):
    client = redis_connect(retry=Retry(NoBackoff(), 3), retry_on_error=[redis.ConnectionError])
    store = RedisCheckpointStore(lambda: client)
    store.begin(LANE, 1, at())
    send, lost = client.parse_response, []

    def lose_the_first_answer(connection, command, **options):
        answer = send(connection, command, **options)
        if command == "EVALSHA" and not lost:
            lost.append(answer)
            connection.disconnect()
            raise redis.ConnectionError
        return answer

    client.parse_response = lose_the_first_answer
    store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:10"))
    assert lost
    record = store.read(LANE, Stage.EXTRACT)
    assert (record.checkpoint, len(record.entries)) == (at(1, "i8:10"), 1)
    store.close()


def test_a_server_that_lost_its_last_writes_continues_from_what_it_has(tmp_path):
    with ValkeyServer(settings={"appendonly": "yes", "appendfsync": "always"}) as server:
        store = RedisCheckpointStore(lambda: redis.Redis(host=HOST, port=server.port))
        store.begin(LANE, 1, at())
        server.kill()
        server.start()
        store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:10"))
        assert store.read(LANE, Stage.EXTRACT).checkpoint == at(1, "i8:10")
        store.close()
