"""One contract over every checkpoint store: what the runner may rely on, whichever it is given."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from airflow_checkpoint_etl.checkpoints.postgres import PostgresCheckpointStore
from airflow_checkpoint_etl.checkpoints.redis import RedisCheckpointStore
from airflow_checkpoint_etl.cursor import BEGIN
from airflow_checkpoint_etl.errors import FencedError, ManifestConflictError
from airflow_checkpoint_etl.ports import StageRecord
from airflow_checkpoint_etl.protocol import (
    Checkpoint,
    Chunk,
    Frontier,
    IllegalMove,
    Lane,
    Stage,
    digest_of_state,
)
from airflow_checkpoint_etl.testing import InMemoryCheckpointStore

LANE = Lane("orders")
LIFE, NEXT_LIFE = "9f3c27aa", "0b51d4ee"
HUGE = 2**63 - 1


@pytest.fixture(params=["memory", "redis", "redis that decodes", "redis cluster", "postgres"])
def new_store(request):
    """Makes stores that share one backend, each with a connection of its own."""
    made = []
    if request.param == "memory":
        shared = InMemoryCheckpointStore()
        build = lambda: shared  # noqa: E731
    elif request.param == "redis cluster":
        connect = request.getfixturevalue("cluster_connect")
        build = lambda: RedisCheckpointStore(connect)  # noqa: E731
    elif request.param.startswith("redis"):
        connect = request.getfixturevalue("redis_connect")
        decode = request.param.endswith("decodes")
        build = lambda: RedisCheckpointStore(lambda: connect(decode_responses=decode))  # noqa: E731
    else:
        database = request.getfixturevalue("database")
        build = lambda: PostgresCheckpointStore(database.connect)  # noqa: E731

    def make():
        made.append(build())
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(new_store):
    store = new_store()
    assert store.preflight() == []
    return store


def at(seq=0, cursor=BEGIN, *, stage=Stage.EXTRACT, life=LIFE, generation=1, **rest):
    return Checkpoint(stage, Frontier(life, generation, seq, cursor), **rest)


def chunk(seq, low, high, *, fence=1, life=LIFE, **rest):
    values = {
        "rows_in": 10,
        "rows": 9,
        "name": f"orders/default/{life}/extract/{seq:012}-f{fence}-abc.arrow",
        "size": 1234,
        "digest": f"{seq:064x}",
    }
    return Chunk(life, seq, low, high, fence=fence, **(values | rest))


def append(store, seq, low, high, *, fence=1, lane=LANE, start=None, **rest):
    one = chunk(seq, low, high, fence=fence, **rest)
    store.append(lane, fence, one, at(seq, high, life=one.incarnation))
    return one


def filled(store, upto=3, fence=1, lane=LANE):
    store.begin(lane, fence, at())
    lows = [BEGIN, *(f"i8:{seq * 10}" for seq in range(1, upto))]
    return [
        append(store, n, low, f"i8:{n * 10}", fence=fence, lane=lane)
        for n, low in enumerate(lows, 1)
    ]


# --- reading back --------------------------------------------------------------------------------


def test_a_stage_that_was_never_written_is_an_empty_record(store):
    assert store.read(LANE, Stage.EXTRACT) == StageRecord()


def test_every_field_comes_back_as_it_was_written(store):
    state = '{"seen":"é\\u0000\\n","n":9007199254740993}'
    begun = Checkpoint(
        stage=Stage.TRANSFORM,
        frontier=Frontier(LIFE, 2**60 + 1, HUGE - 1, f"i8:{HUGE - 1}", digest_of_state("{}")),
        rows_in=2**53 + 1,
        rows=2**53 + 3,
        updated_at="2026-01-01T00:00:00.000001+00:00",
        state="{}",
    )
    store.begin(LANE, 2**62 + 1, begun)
    assert store.read(LANE, Stage.TRANSFORM) == StageRecord(begun, 2**62 + 1)

    one = chunk(
        HUGE,
        f"i8:{HUGE - 1}",
        f"i8:{HUGE}",
        fence=2**62 + 1,
        rows_in=HUGE,
        rows=HUGE,
        size=HUGE,
        name="orders/default/ü/x.arrow",
        input_digest="f" * 64,
        state_in=digest_of_state("{}"),
        state=state,
        staged_at="2026-01-01T00:00:00Z",
    )
    after = replace(
        begun,
        frontier=replace(
            begun.frontier, seq=HUGE, cursor=f"i8:{HUGE}", state_digest=digest_of_state(state)
        ),
        state=state,
    )
    store.append(LANE, 2**62 + 1, one, after)
    assert store.read(LANE, Stage.TRANSFORM) == StageRecord(after, 2**62 + 1, (one,))


@pytest.mark.parametrize(
    "cursor",
    [
        'txt:naïve "quotes" \\ and\nnewline {braces} % \U0001f600',
        '["tz:2026-01-01T00:00:00.000001Z","i8:9007199254740993"]',
        "num:123456789012345678901234567890.000000001",
        "txt:",
    ],
)
def test_any_cursor_text_is_kept_and_compared_exactly(store, cursor):
    store.begin(LANE, 1, at(7, cursor))
    assert store.read(LANE, Stage.EXTRACT).checkpoint.frontier.cursor == cursor
    append(store, 8, cursor, "i8:1")
    assert [entry.low for entry in store.read(LANE, Stage.EXTRACT).entries] == [cursor]


def test_entries_come_back_in_the_order_of_their_numbers(store):
    chunks = filled(store, upto=12)
    record = store.read(LANE, Stage.EXTRACT)
    assert record.entries == tuple(chunks)
    assert record.checkpoint == at(12, "i8:120")
    assert record.faults == ()


def test_another_connection_reads_the_same(store, new_store):
    filled(store)
    assert new_store().read(LANE, Stage.EXTRACT) == store.read(LANE, Stage.EXTRACT)


def test_lanes_parts_and_stages_never_mix(store):
    lanes = [
        Lane("orders"),
        Lane("orders", "tenant-7"),
        Lane("orders.tenant", "7"),
        Lane("a", "b{c}/d:e"),
        Lane("a/b{c}", "d:e"),
    ]
    for number, lane in enumerate(lanes, 1):
        for stage in Stage:
            store.begin(lane, number, at(number, f"i8:{number}", stage=stage))
    append(store, 2, "i8:1", "i8:99", lane=lanes[0])
    for number, lane in enumerate(lanes, 1):
        for stage in Stage:
            record = store.read(lane, stage)
            appended_here = (lane, stage) == (lanes[0], Stage.EXTRACT)
            assert record.fence == number
            assert record.checkpoint.stage is stage
            assert record.checkpoint.frontier.seq == number + appended_here
            assert len(record.entries) == appended_here


# --- begin ---------------------------------------------------------------------------------------


def test_begin_keeps_the_chain_and_drops_what_is_above_it(store):
    chunks = filled(store, upto=4)
    store.begin(LANE, 2, at(2, "i8:20"))
    record = store.read(LANE, Stage.EXTRACT)
    assert record == StageRecord(at(2, "i8:20"), 2, tuple(chunks[:2]))
    append(store, 3, "i8:20", "i8:25", fence=2)


def test_begin_in_a_new_life_drops_every_entry_of_the_old_one(store):
    filled(store)
    begun = at(2, "i8:20", life=NEXT_LIFE, generation=2)
    store.begin(LANE, 2, begun)
    assert store.read(LANE, Stage.EXTRACT) == StageRecord(begun, 2)


def test_begin_leaves_the_other_stages_alone(store):
    filled(store)
    store.begin(LANE, 9, at(stage=Stage.TRANSFORM, life=NEXT_LIFE))
    assert len(store.read(LANE, Stage.EXTRACT).entries) == 3


def test_begin_twice_with_the_same_fence_comes_to_the_same(store):
    for _ in range(2):
        store.begin(LANE, 1, at(5, "i8:50"))
    assert store.read(LANE, Stage.EXTRACT) == StageRecord(at(5, "i8:50"), 1)


def test_an_older_fence_cannot_begin(store):
    store.begin(LANE, 10, at())
    with pytest.raises(FencedError, match="fence 9 is older than fence 10"):
        store.begin(LANE, 9, at(7, "i8:70"))
    assert store.read(LANE, Stage.EXTRACT) == StageRecord(at(), 10)


def test_fences_are_compared_as_whole_numbers(store):
    store.begin(LANE, 2**53 + 1, at())
    with pytest.raises(FencedError):
        store.begin(LANE, 2**53, at())
    store.begin(LANE, 2**53 + 2, at())
    with pytest.raises(FencedError):
        store.begin(LANE, 9, at())


# --- append --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seq", "low", "life", "fact"),
    [
        (5, "i8:30", LIFE, "stands at chunk 3, at i8:30"),
        (3, "i8:30", LIFE, "stands at chunk 3"),
        (4, "i8:29", LIFE, "stands at chunk 3, at i8:30"),
        (4, "i8:30", NEXT_LIFE, "another life"),
    ],
)
def test_a_chunk_that_is_not_the_next_one_conflicts(store, seq, low, life, fact):
    filled(store)
    before = store.read(LANE, Stage.EXTRACT)
    with pytest.raises(ManifestConflictError, match=fact):
        append(store, seq, low, "i8:40", life=life)
    assert store.read(LANE, Stage.EXTRACT) == before


def test_a_record_that_is_gone_conflicts(store):
    with pytest.raises(ManifestConflictError, match="no readable record"):
        append(store, 1, BEGIN, "i8:10")
    assert store.read(LANE, Stage.EXTRACT) == StageRecord()


def test_an_older_fence_cannot_append(store):
    filled(store)
    store.begin(LANE, 2, at(3, "i8:30"))
    with pytest.raises(FencedError, match="fence 1 is older than fence 2"):
        append(store, 4, "i8:30", "i8:40", fence=1)
    assert store.read(LANE, Stage.EXTRACT).checkpoint == at(3, "i8:30")


def test_a_newer_fence_must_begin_before_it_appends(store):
    filled(store)
    with pytest.raises(ManifestConflictError, match="begun by fence 1, this attempt has fence 2"):
        append(store, 4, "i8:30", "i8:40", fence=2)


def test_an_append_whose_acknowledgement_was_lost_succeeds_again(store):
    chunks = filled(store)
    again = append(store, 3, "i8:20", "i8:30")
    assert again == chunks[2]
    assert store.read(LANE, Stage.EXTRACT).entries == tuple(chunks)


@pytest.mark.parametrize("change", [{"digest": "f" * 64}, {"high": "i8:31"}])
def test_another_chunk_under_the_same_number_conflicts(store, change):
    filled(store)
    values = {"high": "i8:30"} | change
    with pytest.raises(ManifestConflictError):
        append(store, 3, "i8:20", **values)


def test_a_checkpoint_that_is_not_the_one_after_the_chunk_is_refused(store):
    store.begin(LANE, 1, at())
    with pytest.raises(IllegalMove):
        store.append(LANE, 1, chunk(1, BEGIN, "i8:10"), at(1, "i8:11"))


def test_exactly_one_of_many_concurrent_appends_wins(store, new_store):
    store.begin(LANE, 1, at())
    stores = [new_store() for _ in range(8)]
    barrier = threading.Barrier(len(stores))
    outcomes = []

    def race(number, mine):
        barrier.wait()
        try:
            append(mine, 1, BEGIN, f"i8:{number}", digest=f"{number:064x}")
            outcomes.append(number)
        except ManifestConflictError:
            outcomes.append(None)

    threads = [
        threading.Thread(target=race, args=(number, mine)) for number, mine in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number in outcomes if number is not None]
    assert (len(outcomes), len(winners)) == (8, 1)
    (entry,) = store.read(LANE, Stage.EXTRACT).entries
    assert entry.high == f"i8:{winners[0]}"


def test_one_store_can_be_shared_by_threads(store):
    store.begin(LANE, 1, at())
    outcomes = []

    def write(number):
        lane = Lane("orders", f"part-{number}")
        filled(store, lane=lane)
        outcomes.append(len(store.read(lane, Stage.EXTRACT).entries))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [3] * 4


# --- the load frontier ---------------------------------------------------------------------------


def loaded(seq, *, life=LIFE, generation=1, **rest):
    return at(seq, f"i8:{seq}", stage=Stage.LOAD, life=life, generation=generation, **rest)


def noted(store):
    return store.read(LANE, Stage.LOAD).checkpoint


def test_the_load_frontier_moves_forwards_only(store):
    for seq, expected in [(2**53, 2**53), (7, 2**53), (2**53 + 1, 2**53 + 1), (2**53, 2**53 + 1)]:
        store.note_loaded(LANE, loaded(seq))
        assert noted(store) == loaded(expected)


def test_the_load_frontier_enters_a_new_life_only_with_a_higher_generation(store):
    store.note_loaded(LANE, loaded(50, generation=9))
    store.note_loaded(LANE, loaded(60, life=NEXT_LIFE, generation=9))
    store.note_loaded(LANE, loaded(60, life=NEXT_LIFE, generation=8))
    assert noted(store) == loaded(50, generation=9)
    store.note_loaded(LANE, loaded(20, life=NEXT_LIFE, generation=10))
    assert noted(store) == loaded(20, life=NEXT_LIFE, generation=10)
    store.note_loaded(LANE, loaded(99, generation=9))
    assert noted(store) == loaded(20, life=NEXT_LIFE, generation=10)


def test_noting_the_load_frontier_keeps_the_fence(store):
    store.begin(LANE, 5, loaded(1))
    store.note_loaded(LANE, loaded(2))
    assert store.read(LANE, Stage.LOAD) == StageRecord(loaded(2), 5)
    with pytest.raises(FencedError):
        store.begin(LANE, 4, loaded(1))


def test_concurrent_notes_end_at_the_highest(store, new_store):
    stores = [new_store() for _ in range(6)]
    barrier = threading.Barrier(len(stores))

    def note(number, mine):
        barrier.wait()
        for seq in range(number, 60, 6):
            mine.note_loaded(LANE, loaded(seq))

    threads = [
        threading.Thread(target=note, args=(number, mine)) for number, mine in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert noted(store) == loaded(59)


# --- forget --------------------------------------------------------------------------------------


def test_forget_drops_exactly_the_named_entries(store):
    chunks = filled(store, upto=5)
    store.forget(LANE, Stage.EXTRACT, [1, 3, 77], LIFE)
    record = store.read(LANE, Stage.EXTRACT)
    assert record.entries == (chunks[1], chunks[3], chunks[4])
    assert record.checkpoint == at(5, "i8:50")


def test_forget_of_another_life_or_of_nothing_drops_nothing(store):
    chunks = filled(store)
    store.forget(LANE, Stage.EXTRACT, [1, 2], NEXT_LIFE)
    store.forget(LANE, Stage.EXTRACT, [], LIFE)
    store.forget(LANE, Stage.TRANSFORM, [1], LIFE)
    assert store.read(LANE, Stage.EXTRACT).entries == tuple(chunks)


def test_forget_of_thousands_works(store):
    filled(store)
    store.forget(LANE, Stage.EXTRACT, range(1, 5001), LIFE)
    assert store.read(LANE, Stage.EXTRACT).entries == ()


def test_the_chain_goes_on_after_everything_was_forgotten(store):
    filled(store)
    store.forget(LANE, Stage.EXTRACT, [1, 2, 3], LIFE)
    append(store, 4, "i8:30", "i8:40")
    assert [entry.seq for entry in store.read(LANE, Stage.EXTRACT).entries] == [4]


def test_a_closed_store_connects_again_when_used(store):
    filled(store)
    store.close()
    store.close()
    assert len(store.read(LANE, Stage.EXTRACT).entries) == 3
