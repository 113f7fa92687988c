"""What people write by hand: the last ID in a store, the rows in a warehouse. Either order does harm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from protocol_model_walk import Step, walk

ROWS = 2


class ByHand(NamedTuple):
    """The last ID in the store, the rows that are loaded, and what the script does next with a row."""

    last_id: int = 0
    loaded: tuple[int, ...] = ()
    doing: str = "read"
    row: int = 0
    kills: int = 1


def _steps(state: ByHand, store_first: bool):
    if state.kills and state.doing not in {"read", "done"}:
        after = state._replace(doing="read", kills=state.kills - 1)
        yield Step("kill", "the script is killed and starts again", after)
    if state.doing == "read":
        row = state.last_id + 1
        doing = "done" if row > ROWS else "note" if store_first else "load"
        fault = None
        if doing == "done" and len(set(state.loaded)) < ROWS:
            fault = f"all is done but only {len(set(state.loaded))} of {ROWS} rows are loaded"
        words = f"the script reads the last ID, {state.last_id}"
        yield Step("read", words, state._replace(doing=doing, row=row), fault)
    elif state.doing == "load":
        loaded = tuple(sorted((*state.loaded, state.row)))
        after = state._replace(loaded=loaded, doing="read" if store_first else "note")
        times = loaded.count(state.row)
        fault = f"row {state.row} is in the warehouse {times} times" if times > 1 else None
        yield Step("load", f"the script loads row {state.row}", after, fault)
    elif state.doing == "note":
        after = state._replace(last_id=state.row, doing="load" if store_first else "read")
        yield Step("note", f"the script stores {state.row} as the last ID", after)


@pytest.mark.parametrize(
    ("store_first", "harm"),
    [
        (False, "row 1 is in the warehouse 2 times"),
        (True, "all is done but only 1 of 2 rows are loaded"),
    ],
    ids=["stored after the rows", "stored before the rows"],
)
def test_a_last_id_in_a_store_of_its_own_does_harm(store_first, harm):
    found = walk(ByHand(), lambda state: _steps(state, store_first))
    assert found.violation == harm, str(found)


@pytest.mark.parametrize("store_first", [False, True])
def test_it_does_none_as_long_as_nothing_goes_wrong(store_first):
    found = walk(ByHand(kills=0), lambda state: _steps(state, store_first))
    assert found.violation is None, str(found)
