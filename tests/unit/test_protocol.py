"""The one rule: a frontier moves from exactly chunk.low to chunk.high, and nothing else moves it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.protocol import (
    NO_STATE,
    Checkpoint,
    Chunk,
    Frontier,
    IllegalMove,
    Lane,
    Owner,
    Stage,
    digest_of_state,
    misfit,
    reconcile,
    rewind,
)

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

LIFE = "5f1c"
OTHER_LIFE = "a07e"


def at(number):
    return cursors.encode(("i8",), (number,))


def a_frontier(**changes):
    return dataclasses.replace(Frontier(LIFE, 1, 0, cursors.BEGIN), **changes)


def a_chunk(frontier, end, **changes):
    """The chunk that continues a frontier up to ``end``."""
    chunk = Chunk(
        incarnation=frontier.incarnation,
        seq=frontier.seq + 1,
        low=frontier.cursor,
        high=at(end),
        rows_in=3,
        rows=2,
        name=f"{frontier.seq + 1}.arrow",
        size=10,
        digest=f"digest {frontier.seq + 1}",
        fence=1,
        state_in=frontier.state_digest,
    )
    return dataclasses.replace(chunk, **changes)


STATES = st.none() | st.sampled_from(["0", '{"total": 1}', '{"total": 2}'])


@st.composite
def chains(draw, start=None, min_size=0, max_size=6):
    """Strategy for (start, chunks): a legal sequence of moves."""
    frontier = start or draw(
        st.builds(a_frontier, seq=st.integers(0, 3), cursor=st.integers(-9, 0).map(at))
    )
    first, chunks = frontier, []
    lengths = st.lists(st.integers(1, 5), min_size=min_size, max_size=max_size)
    position = cursors.decode(frontier.cursor)[0][1] if frontier.cursor != cursors.BEGIN else 0
    for length in draw(lengths):
        position += length
        chunk = a_chunk(frontier, position, state=draw(STATES))
        frontier = frontier.advance(chunk)
        chunks.append(chunk)
    return first, tuple(chunks)


def ends_of(start, chunks):
    """Every frontier on the way, the first one included."""
    return list(
        itertools.accumulate(chunks, lambda frontier, chunk: frontier.advance(chunk), initial=start)
    )


ILLEGAL = {
    "another life": ({"incarnation": OTHER_LIFE}, "belongs to another life of the lane"),
    "the same number again": (
        {"seq": 4},
        "the frontier is at chunk 4, so chunk 4 is not the next one",
    ),
    "a number left out": ({"seq": 6}, "the frontier is at chunk 4, so chunk 6 is not the next one"),
    "a gap": ({"low": at(41)}, r"the frontier is at i8:40 but chunk 5 is \(i8:41, i8:60\]"),
    "an overlap": ({"low": at(20)}, r"the frontier is at i8:40 but chunk 5 is \(i8:20, i8:60\]"),
    "another state before": ({"state_in": "f00"}, "made from another transform state"),
    "no rows of the axis": ({"high": at(40)}, r"does not ascend: \(i8:40, i8:40\]"),
    "backwards": ({"high": at(39)}, r"does not ascend: \(i8:40, i8:39\]"),
    "back to the beginning": ({"high": cursors.BEGIN}, r"does not ascend: \(i8:40, begin\]"),
    "an end of another type": ({"high": "d:2026-01-01"}, "does not ascend"),
    "an end that is no cursor": ({"high": "60"}, "does not ascend"),
}


# --- Frontier.advance and misfit --------------------------------------------------------------------


@given(chains())
def test_legal_moves_tile_the_axis(chain):
    start, chunks = chain
    frontiers = ends_of(start, chunks)
    assert [(chunk.low, chunk.high) for chunk in chunks] == [
        (before.cursor, after.cursor) for before, after in itertools.pairwise(frontiers)
    ]
    assert [frontier.seq for frontier in frontiers] == list(
        range(start.seq, start.seq + len(chunks) + 1)
    )


@given(chains(min_size=1))
def test_the_state_digests_link_from_chunk_to_chunk(chain):
    start, chunks = chain
    for chunk, (before, after) in zip(
        chunks, itertools.pairwise(ends_of(start, chunks)), strict=True
    ):
        assert chunk.state_in == before.state_digest
        assert after.state_digest == digest_of_state(chunk.state)


@given(chains(min_size=1))
def test_a_move_changes_neither_the_life_nor_the_generation(chain):
    start, chunks = chain
    last = ends_of(start, chunks)[-1]
    assert (last.incarnation, last.generation) == (start.incarnation, start.generation)


@given(chains(min_size=1), st.data())
def test_only_the_next_chunk_of_a_chain_fits(chain, data):
    start, chunks = chain
    frontiers = ends_of(start, chunks)
    done = data.draw(st.integers(0, len(chunks)))
    for position, chunk in enumerate(chunks):
        assert (misfit(frontiers[done], chunk) is None) == (position == done)


@pytest.mark.parametrize(("changes", "reason"), ILLEGAL.values(), ids=ILLEGAL.keys())
def test_an_illegal_move_raises_with_its_reason_and_changes_nothing(changes, reason):
    frontier = a_frontier(seq=4, cursor=at(40))
    chunk = a_chunk(frontier, 60, **changes)
    with pytest.raises(IllegalMove, match=reason):
        frontier.advance(chunk)
    assert frontier == a_frontier(seq=4, cursor=at(40))
    assert misfit(frontier, chunk) is not None


@given(
    st.builds(a_frontier, seq=st.integers(0, 3), cursor=st.integers(0, 3).map(at)),
    st.builds(
        a_chunk,
        st.builds(a_frontier, seq=st.integers(0, 3), cursor=st.integers(0, 3).map(at)),
        st.integers(0, 4),
        incarnation=st.sampled_from([LIFE, OTHER_LIFE]),
        state_in=st.sampled_from([NO_STATE, "f00"]),
    ),
)
def test_a_move_is_made_from_exactly_low_or_not_at_all(frontier, chunk):
    legal = (
        (chunk.incarnation, chunk.seq, chunk.low, chunk.state_in)
        == (frontier.incarnation, frontier.seq + 1, frontier.cursor, frontier.state_digest)
    ) and cursors.compare(chunk.low, chunk.high) < 0
    if legal:
        assert frontier.advance(chunk).cursor == chunk.high
    else:
        with pytest.raises(IllegalMove):
            frontier.advance(chunk)


def test_text_cursors_move_since_only_their_database_knows_their_order():
    frontier = a_frontier(seq=1, cursor="txt:b")
    chunk = a_chunk(frontier, 0, high="txt:A")
    assert frontier.advance(chunk).cursor == "txt:A"


def test_a_stage_does_not_run_ahead_of_the_stage_before_it():
    frontier = a_frontier(seq=4, cursor=at(40))
    chunk = a_chunk(frontier, 60)
    assert frontier.advance(chunk, before=a_frontier(seq=5, cursor=at(60))).seq == 5
    with pytest.raises(IllegalMove, match="runs ahead of the stage before it, which is at 4"):
        frontier.advance(chunk, before=a_frontier(seq=4, cursor=at(40)))


def test_a_stage_before_in_another_life_has_passed_nothing():
    frontier = a_frontier(seq=4, cursor=at(40))
    with pytest.raises(IllegalMove, match="runs ahead"):
        frontier.advance(
            a_chunk(frontier, 60), before=a_frontier(seq=9, cursor=at(90), incarnation=OTHER_LIFE)
        )


# --- reconcile --------------------------------------------------------------------------------------


@given(chains(), st.data())
def test_reconcile_finds_the_whole_chain_in_any_order(chain, data):
    start, chunks = chain
    found = reconcile(start, data.draw(st.permutations(chunks)), stateful=True)
    assert found.kept == chunks
    assert found.frontier == ends_of(start, chunks)[-1]
    assert found.cut == ()
    assert found.reason is None


@given(chains(min_size=1), st.data())
def test_reconcile_leaves_out_what_the_warehouse_has(chain, data):
    start, chunks = chain
    loaded = data.draw(st.integers(0, len(chunks)))
    found = reconcile(ends_of(start, chunks)[loaded], chunks, stateful=True)
    assert found.kept == chunks[loaded:]
    assert found.cut == ()


@given(chains(min_size=1), st.data())
def test_reconcile_keeps_the_longest_prefix_and_cuts_the_rest(chain, data):
    start, chunks = chain
    lost = data.draw(st.integers(0, len(chunks) - 1))
    found = reconcile(start, chunks[:lost] + chunks[lost + 1 :], stateful=True)
    assert found.kept == chunks[:lost]
    assert found.cut == chunks[lost + 1 :]
    assert found.frontier == ends_of(start, chunks)[lost]
    assert (found.reason is None) == (lost == len(chunks) - 1)


@given(
    chains(min_size=1),
    st.data(),
    st.sampled_from([{"low": at(999)}, {"state_in": "f00"}, {"high": cursors.BEGIN}]),
)
def test_reconcile_ends_at_the_first_entry_that_does_not_fit(chain, data, damage):
    start, chunks = chain
    bad = data.draw(st.integers(0, len(chunks) - 1))
    entries = list(chunks)
    entries[bad] = dataclasses.replace(entries[bad], **damage)
    found = reconcile(start, entries, stateful=True)
    assert found.kept == chunks[:bad]
    assert found.cut == tuple(entries[bad:])
    assert found.reason == misfit(found.frontier, entries[bad])


@given(chains(), chains(start=a_frontier(incarnation=OTHER_LIFE)))
def test_reconcile_ignores_entries_of_another_life(chain, dead):
    start, chunks = chain
    assert reconcile(start, dead[1] + chunks, stateful=True) == reconcile(
        start, chunks, stateful=True
    )


@given(chains(), st.lists(st.integers(1, 99).map(at), max_size=3))
def test_reconcile_ignores_what_lies_at_or_below_the_anchor_whatever_it_is(chain, cuts):
    start, chunks = chain
    below = [a_chunk(start, 1, seq=start.seq - number, low=low) for number, low in enumerate(cuts)]
    assert reconcile(start, [*below, *chunks], stateful=True).kept == chunks


@given(chains(min_size=1), st.data())
def test_reconciling_again_changes_nothing(chain, data):
    start, chunks = chain
    entries = data.draw(st.lists(st.sampled_from(chunks), unique=True))
    once = reconcile(start, entries, stateful=True)
    assert reconcile(start, once.kept, stateful=True).kept == once.kept


def test_an_extracted_chain_has_no_state_whatever_state_the_warehouse_has():
    anchor = a_frontier(seq=2, cursor=at(20), state_digest=digest_of_state("7"))
    stateless = dataclasses.replace(anchor, state_digest=NO_STATE)
    chunk = a_chunk(stateless, 30)
    assert reconcile(anchor, [chunk], stateful=False).kept == (chunk,)
    assert reconcile(anchor, [chunk], stateful=False).frontier.state_digest == NO_STATE


def test_a_transformed_chain_must_start_from_the_warehouse_state():
    anchor = a_frontier(seq=2, cursor=at(20), state_digest=digest_of_state("7"))
    forked = a_chunk(anchor, 30, state_in=digest_of_state("8"))
    found = reconcile(anchor, [forked], stateful=True)
    assert found.kept == ()
    assert found.cut == (forked,)
    assert "another transform state" in found.reason


def test_an_empty_manifest_leaves_the_stage_at_the_warehouse():
    anchor = a_frontier(seq=2, cursor=at(20))
    assert reconcile(anchor, [], stateful=True).frontier == anchor


# --- rewind -----------------------------------------------------------------------------------------


@given(chains(), st.data())
def test_a_rewind_goes_to_any_boundary_in_a_new_life(chain, data):
    start, chunks = chain
    frontiers = ends_of(start, chunks)
    to = data.draw(st.sampled_from(frontiers))
    found = rewind(frontiers[-1], ends_of(start, chunks), to.cursor, OTHER_LIFE)
    assert found == dataclasses.replace(to, incarnation=OTHER_LIFE, generation=start.generation + 1)


@given(chains(min_size=1))
def test_after_a_rewind_no_old_chunk_fits(chain):
    start, chunks = chain
    frontiers = ends_of(start, chunks)
    for to in frontiers:
        found = rewind(frontiers[-1], ends_of(start, chunks), to.cursor, OTHER_LIFE)
        assert reconcile(found, chunks, stateful=True).kept == ()
        assert all(misfit(found, chunk) for chunk in chunks)


@pytest.mark.parametrize(
    "to",
    [at(15), at(40), "i8:020", "nonsense"],
    ids=["inside", "above", "not canonical", "no cursor"],
)
def test_a_rewind_to_anything_but_a_boundary_is_refused(to):
    start, chunks = a_frontier(), []
    frontier = start
    for high in (10, 20, 30):
        chunks.append(a_chunk(frontier, high))
        frontier = frontier.advance(chunks[-1])
    with pytest.raises(
        IllegalMove, match="is no chunk boundary at or below the load frontier i8:30"
    ):
        rewind(frontier, ends_of(start, chunks), to, OTHER_LIFE)


def test_a_rewind_never_goes_forward():
    ahead = [a_frontier(), a_frontier(seq=1, cursor=at(10)), a_frontier(seq=2, cursor=at(20))]
    with pytest.raises(IllegalMove, match="i8:20 is no chunk boundary"):
        rewind(a_frontier(seq=1, cursor=at(10)), ahead, at(20), OTHER_LIFE)


def test_a_rewind_without_a_new_incarnation_is_refused():
    with pytest.raises(IllegalMove, match="a rewind needs a new incarnation"):
        rewind(a_frontier(), [(0, cursors.BEGIN, NO_STATE)], cursors.BEGIN, LIFE)


# --- checkpoints, lanes, owners ---------------------------------------------------------------------


@given(chains())
def test_a_checkpoint_counts_the_rows_and_carries_the_last_state(chain):
    start, chunks = chain
    checkpoint = Checkpoint(Stage.TRANSFORM, start)
    for number, chunk in enumerate(chunks):
        checkpoint = checkpoint.advance(chunk, at=f"moment {number}")
    assert checkpoint.frontier == ends_of(start, chunks)[-1]
    assert checkpoint.rows_in == 3 * len(chunks)
    assert checkpoint.rows == 2 * len(chunks)
    if chunks:
        assert checkpoint.state == chunks[-1].state
        assert checkpoint.updated_at == f"moment {len(chunks) - 1}"
        assert checkpoint.frontier.state_digest == digest_of_state(checkpoint.state)


@pytest.mark.parametrize(("changes", "reason"), ILLEGAL.values(), ids=ILLEGAL.keys())
def test_a_checkpoint_refuses_what_its_frontier_refuses(changes, reason):
    checkpoint = Checkpoint(Stage.LOAD, a_frontier(seq=4, cursor=at(40)), rows=7)
    with pytest.raises(IllegalMove, match=reason):
        checkpoint.advance(a_chunk(checkpoint.frontier, 60, **changes), at="now")
    assert checkpoint == Checkpoint(Stage.LOAD, a_frontier(seq=4, cursor=at(40)), rows=7)


def test_a_checkpoint_refuses_to_run_ahead_of_the_stage_before():
    checkpoint = Checkpoint(Stage.LOAD, a_frontier())
    with pytest.raises(IllegalMove, match="runs ahead"):
        checkpoint.advance(a_chunk(checkpoint.frontier, 5), at="now", before=a_frontier())


def test_a_checkpoint_shows_its_state_to_nobody_by_accident():
    assert "secret" not in repr(Checkpoint(Stage.TRANSFORM, a_frontier(), state='"secret"'))


def test_the_digest_of_a_state_is_of_its_text_and_no_state_has_none():
    assert digest_of_state(None) == NO_STATE
    assert digest_of_state("") == hashlib.sha256(b"").hexdigest() != NO_STATE
    assert digest_of_state('"é"') == hashlib.sha256('"é"'.encode()).hexdigest()


def test_values_of_the_protocol_cannot_be_changed():
    frontier = a_frontier()
    for value in (frontier, a_chunk(frontier, 1), Checkpoint(Stage.LOAD, frontier), Lane("orders")):
        name = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, "other")


def test_every_stage_but_the_first_has_one_before_it():
    assert [stage.before for stage in Stage] == [None, Stage.EXTRACT, Stage.TRANSFORM]


def test_a_lane_is_called_by_its_pipeline_and_part():
    assert str(Lane("orders")) == "orders"
    assert str(Lane("orders", "tenant-7")) == "orders[tenant-7]"


def test_a_retry_is_the_same_task_and_a_sibling_is_not():
    owner = Owner("daily", "run 1", "load", try_number=1, ti_id="a", host="here")
    retry = dataclasses.replace(owner, try_number=2, ti_id="b", host="there")
    assert retry.task == owner.task
    for change in ({"dag_id": "x"}, {"run_id": "x"}, {"task_id": "x"}, {"map_index": 3}):
        assert dataclasses.replace(owner, **change).task != owner.task
    assert str(retry) == "daily.load of run 1, try 2"
