"""The benchmark harness at a tiny size: it measures, compares what arrived, and writes its page."""

from __future__ import annotations

import dataclasses
import json

from benchmarks import transfer
from benchmarks.__main__ import main
from benchmarks.peers.registry import PEERS

ROWS = 2000
BY_HAND = PEERS[0]
CORRUPTING = dataclasses.replace(
    BY_HAND, name="corrupting", function="benchmarks.peers.corrupting:run", share=1.0
)


def measure(folder, *only):
    names = [word for name in only for word in ("--only", name)]
    command = ["--rows", str(ROWS), "--repetitions", "1", "--case", "transfer", *names]
    assert main([*command, "--output", str(folder)]) == 0
    return json.loads((folder / "benchmarks.json").read_text())["transfer"]["found"]


def test_one_command_measures_the_chain_beside_its_limit_and_writes_page_and_plot(tmp_path):
    found = measure(tmp_path, "batch transform")
    assert [one["name"] for one in found["medians"]] == [transfer.LIMIT, "batch transform"]
    assert all(one["verdict"]["exact"] and one["rows"] == ROWS for one in found["medians"])
    run = found["runs"]["batch transform"][0]
    assert list(run["stages"]) == ["extract", "transform", "load"]
    assert run["seconds"] >= sum(run["stages"].values())
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| **batch transform**<br>" in page
    assert "python -m benchmarks --rows 2000" in page
    assert "<svg" in (tmp_path / "images" / "benchmarks.svg").read_text()


def test_a_way_that_changes_one_value_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PEERS", (CORRUPTING,))
    limit, corrupting = measure(tmp_path, "corrupting")["medians"]
    assert limit["verdict"]["exact"]
    assert corrupting["verdict"] == {
        "exact": False,
        "rows": ROWS,
        "words": "values changed in score",
    }
    page = (tmp_path / "benchmarks.md").read_text()
    assert "**not the source's**: values changed in score" in page
