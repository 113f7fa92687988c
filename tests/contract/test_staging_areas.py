"""One contract over every staging area."""

from __future__ import annotations

import threading

import fsspec
import pytest

from airflow_checkpoint_etl.errors import (
    ChunkTooLargeError,
    MissingDependencyError,
    PreflightError,
    StagedChunkError,
)
from airflow_checkpoint_etl.staging.object_storage import ObjectStorageStagingArea
from airflow_checkpoint_etl.staging.postgres import PostgresStagingArea
from airflow_checkpoint_etl.staging.redis import RedisStagingArea
from airflow_checkpoint_etl.testing import InMemoryStagingArea

CAP = 1 << 20
NAME = "orders/default/9f3c27aa/extract/000000000012-f3-0123456789ab.arrow"
DATA = bytes(range(256)) * 33


@pytest.fixture(
    params=[
        "memory",
        "redis",
        "redis that decodes",
        "redis cluster",
        "postgres",
        "file",
        "memory://",
        "s3",
    ]
)
def new_area(request, tmp_path):
    """Makes staging areas that share one backend, each with a connection of its own."""
    made = []
    kind = request.param
    if kind == "memory":
        shared = InMemoryStagingArea(CAP)
        build = lambda: shared  # noqa: E731
    elif kind == "redis cluster":
        connect = request.getfixturevalue("cluster_connect")
        build = lambda: RedisStagingArea(connect, CAP)  # noqa: E731
    elif kind.startswith("redis"):
        connect = request.getfixturevalue("redis_connect")
        decode = kind.endswith("decodes")
        build = lambda: RedisStagingArea(lambda: connect(decode_responses=decode), CAP)  # noqa: E731
    elif kind == "postgres":
        database = request.getfixturevalue("database")
        build = lambda: PostgresStagingArea(database.connect, CAP)  # noqa: E731
    elif kind == "file":
        base = f"file://{tmp_path}/staged here/and deeper"
        build = lambda: ObjectStorageStagingArea(base, None, CAP)  # noqa: E731
    elif kind == "memory://":
        base = request.getfixturevalue("memory_url")
        build = lambda: ObjectStorageStagingArea(base, None, CAP)  # noqa: E731
    else:
        base, conn_id = request.getfixturevalue("s3_bucket")
        build = lambda: ObjectStorageStagingArea(f"{base}/some/prefix", conn_id, CAP)  # noqa: E731

    def make():
        made.append(build())
        return made[-1]

    yield make
    for area in made:
        area.close()


@pytest.fixture
def memory_url():
    """fsspec's in-memory object store, attached to Airflow as a remote one."""
    from airflow.sdk.io.store import attach

    storage = fsspec.filesystem("memory", skip_instance_cache=True)
    storage.store.clear()
    attach("memory", fs=storage)
    yield "memory://staged"
    storage.store.clear()


@pytest.fixture
def area(new_area):
    area = new_area()
    area.preflight()
    return area


def test_preflight_leaves_nothing_behind(area):
    area.preflight()
    assert area.names("") == []


def test_a_file_comes_back_byte_for_byte(area, new_area):
    area.put(NAME, DATA)
    assert area.get(NAME) == DATA
    assert area.size(NAME) == len(DATA)
    other = new_area()
    assert other.get(NAME) == DATA
    assert other.names("orders/") == [NAME]


def test_bytes_that_are_no_text_and_no_bytes_at_all_come_back_too(area):
    for number, data in enumerate([b"", b"\x00", b"\xff\xfe\x00", bytes(CAP)]):
        area.put(f"odd/{number}", data)
        assert area.get(f"odd/{number}") == data
        assert area.size(f"odd/{number}") == len(data)


def test_the_same_bytes_may_be_stored_again(area, new_area):
    area.put(NAME, DATA)
    area.put(NAME, DATA)
    new_area().put(NAME, DATA)
    assert area.names("") == [NAME]


@pytest.mark.parametrize("other", [DATA[:-1], DATA[:-1] + b"x", b""])
def test_other_bytes_under_the_same_name_are_refused(area, other):
    area.put(NAME, DATA)
    with pytest.raises(StagedChunkError, match="exists already and holds other bytes"):
        area.put(NAME, other)
    assert area.get(NAME) == DATA
    assert area.size(NAME) == len(DATA)


def test_a_missing_file_is_a_clear_error(area):
    with pytest.raises(
        StagedChunkError, match=r"nowhere/x\.arrow is missing .*clear it with Downstream"
    ):
        area.get("nowhere/x.arrow")
    assert area.size("nowhere/x.arrow") is None


def test_a_file_above_the_cap_is_refused_and_not_stored(area):
    with pytest.raises(ChunkTooLargeError, match="1,048,577 bytes, above the cap of 1,048,576"):
        area.put(NAME, bytes(CAP + 1))
    assert area.size(NAME) is None
    assert area.names("") == []


def test_deleted_files_are_gone_and_missing_ones_are_no_error(area):
    names = [f"orders/default/life/extract/{number}" for number in range(3)]
    for name in names:
        area.put(name, name.encode())
    area.delete([names[0], "orders/default/life/extract/9", names[2]])
    area.delete([names[0]])
    area.delete([])
    assert area.names("") == [names[1]]
    assert area.get(names[1]) == names[1].encode()
    assert area.size(names[0]) is None
    area.put(names[0], b"other bytes now")
    assert area.get(names[0]) == b"other bytes now"


def test_names_are_listed_by_prefix_and_nothing_else_matches(area):
    stored = [
        "orders/default/a/extract/1",
        "orders/default/a/extract/10",
        "orders/default/a/transform/1",
        "orders/default/ab/extract/1",
        "orders_2/default/a/extract/1",
        "orders%2/x[1]*?/1",
    ]
    for name in stored:
        area.put(name, b"x")
    assert area.names("") == sorted(stored)
    assert area.names("orders/default/a/") == stored[:3]
    assert area.names("orders/default/a") == stored[:4]
    assert area.names("orders/default/a/extract/1") == stored[:2]
    assert area.names("orders_") == [stored[4]]
    assert area.names("orders%") == [stored[5]]
    assert area.names("orders%2/x[1]*?/") == [stored[5]]
    assert area.names("order?") == []
    assert area.names("nothing/here/") == []


def test_a_file_put_by_another_process_is_seen_at_once(area, new_area):
    other = new_area()
    assert area.size(NAME) is None
    assert area.names("orders/") == []
    other.put(NAME, DATA)
    assert area.size(NAME) == len(DATA)
    assert area.names("orders/") == [NAME]
    other.delete([NAME])
    assert area.size(NAME) is None
    assert area.names("orders/") == []


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", "nul\x00"])
def test_names_cannot_leave_the_area(area, name):
    with pytest.raises(ValueError, match="is no name of a staged file"):
        area.put(name, b"x")


def test_many_threads_store_one_file_once(new_area):
    areas = [new_area() for _ in range(6)]
    areas[0].preflight()
    barrier, outcomes = threading.Barrier(len(areas)), []

    def store(area):
        barrier.wait()
        try:
            area.put(NAME, DATA)
            outcomes.append("stored")
        except Exception as error:  # noqa: BLE001  every outcome is counted
            outcomes.append(error)

    threads = [threading.Thread(target=store, args=(area,)) for area in areas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["stored"] * 6
    assert areas[0].get(NAME) == DATA
    assert areas[0].names("") == [NAME]


# --- redis ---------------------------------------------------------------------------------------


@pytest.fixture
def small(redis_connect):
    """A Redis area of ten bytes and three files."""
    area = RedisStagingArea(redis_connect, 8, total_cap=10, max_files=3)
    yield area
    area.close()


def test_redis_refuses_more_bytes_than_all_files_may_have(small):
    small.put("a", b"12345678")
    with pytest.raises(
        StagedChunkError, match=r"8 of at most 10 bytes.*staging=\"s3://bucket/prefix\""
    ):
        small.put("b", b"123")
    assert small.names("") == ["a"]
    small.put("b", b"12")
    small.delete(["a"])
    small.put("c", b"12345678")


def test_redis_refuses_more_files_than_there_may_be(small):
    for name in "abc":
        small.put(name, b"1")
    with pytest.raises(StagedChunkError, match="3 of at most 3 files"):
        small.put("d", b"1")
    small.put("a", b"1")


def test_redis_counts_concurrent_puts_exactly(redis_connect):
    areas = [RedisStagingArea(redis_connect, 100, total_cap=300) for _ in range(8)]
    barrier, outcomes = threading.Barrier(8), []

    def store(number, area):
        barrier.wait()
        try:
            area.put(f"f{number}", bytes(100))
            outcomes.append(number)
        except StagedChunkError:
            pass
        finally:
            area.close()

    threads = [threading.Thread(target=store, args=pair) for pair in enumerate(areas)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 3


def test_an_old_count_without_its_file_is_not_listed_and_gives_way(small, redis_client):
    small.put("killed", b"12345678")
    redis_client.delete("checkpoint_etl:staged:killed")
    assert small.names("") == []
    with pytest.raises(StagedChunkError, match="8 of at most 10 bytes"):
        small.put("a", b"12345678")
    redis_client.hset("checkpoint_etl:staged_sizes", "killed", "8@1700000000")
    small.put("a", b"12345678")
    assert small.names("") == ["a"]


def test_a_file_without_its_count_is_listed_and_can_be_deleted(small, redis_client):
    small.put("a", b"1")
    redis_client.delete("checkpoint_etl:staged_sizes")
    assert small.names("") == ["a"]
    small.delete(["a"])
    assert redis_client.keys() == []


def test_keys_of_another_type_are_no_files_and_no_counts(small, redis_client):
    small.put("a", b"1")
    for key in ("checkpoint_etl:staged:a", "checkpoint_etl:staged_sizes"):
        redis_client.delete(key)
        redis_client.rpush(key, "not ours")
    assert small.names("") == []
    assert small.size("a") is None
    with pytest.raises(StagedChunkError, match="missing"):
        small.get("a")
    small.put("b", b"12345678")
    with pytest.raises(StagedChunkError, match="8 of at most 10 bytes"):
        small.put("c", b"123")
    small.delete(["a", "b"])
    assert redis_client.keys("*:staged:*") == []


def test_a_full_redis_is_a_clear_error_that_names_the_way_out(redis_connect, redis_client):
    area = RedisStagingArea(redis_connect, 32 << 20)
    redis_client.config_set(
        "maxmemory", str(redis_client.info("memory")["used_memory"] + (1 << 20))
    )
    try:
        refused = None
        for number in range(8):
            try:
                area.put(f"big/{number}", bytes(1 << 20))
            except StagedChunkError as error:
                refused = refused or str(error)
        stored = area.names("")
    finally:
        redis_client.config_set("maxmemory", "0")
        area.close()
    assert len(stored) < 8
    assert refused
    assert "out of memory" in refused
    assert 'staging="s3://bucket/prefix"' in refused


def test_a_redis_user_who_may_not_write_fails_the_preflight(redis_client, redis_connect):
    redis_client.acl_setuser("viewer", enabled=True, nopass=True, keys=["*"], commands=["+@read"])
    area = RedisStagingArea(lambda: redis_connect(username="viewer", password="x"), CAP)
    try:
        with pytest.raises(PreflightError, match="refuses to store staged files"):
            area.preflight()
    finally:
        area.close()
        redis_client.acl_deluser("viewer")


# --- object storage ------------------------------------------------------------------------------


def test_a_folder_never_shows_half_a_file(tmp_path, monkeypatch):
    area = ObjectStorageStagingArea(f"file://{tmp_path}", None, CAP)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        area.put("x", DATA)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_hard_links_works(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    area = ObjectStorageStagingArea(f"file://{tmp_path}", None, CAP)
    area.put("a/x", DATA)
    assert (area.get("a/x"), area.names("")) == (DATA, ["a/x"])


def test_a_temporary_file_of_a_killed_put_is_listed_under_its_name(tmp_path):
    area = ObjectStorageStagingArea(f"file://{tmp_path}", None, CAP)
    area.put("a/x-f3-abc.arrow", DATA)
    (tmp_path / "a" / "x-f4-def.arrow.0123.tmp").write_bytes(b"half")
    assert area.names("a/x-f4") == ["a/x-f4-def.arrow.0123.tmp"]
    area.delete(area.names("a/x-f4"))
    assert area.names("") == ["a/x-f3-abc.arrow"]


def test_a_folder_that_cannot_be_made_fails_the_preflight(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    area = ObjectStorageStagingArea(f"file://{tmp_path}/file/staged", None, CAP)
    with pytest.raises(PreflightError, match="cannot be written and read: NotADirectoryError"):
        area.preflight()


def test_a_bucket_that_does_not_exist_fails_the_preflight(s3_bucket):
    _, conn_id = s3_bucket
    area = ObjectStorageStagingArea("s3://no-such-bucket/x", conn_id, CAP)
    with pytest.raises(PreflightError, match="s3://no-such-bucket/x cannot be written and read"):
        area.preflight()


def test_a_scheme_without_its_package_says_what_to_install():
    area = ObjectStorageStagingArea("gs://bucket", None, CAP)
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'airflow-checkpoint-etl\[gcs\]'"
    ):
        area.preflight()
