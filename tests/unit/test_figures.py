"""A run of the tests says what was injected, and sums up what its workers report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
from tests.figures import (
    pytest_collection_finish,
    pytest_runtest_logreport,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)
"""
TESTS = """
import pytest
from tests import figures

figures.seeded("drawn while tests are collected")

@pytest.mark.parametrize("seed", [1, 2])
def test_one(seed):
    figures.seeded(seed)
    figures.injected("SIGKILL", point=f"load.before_commit@{seed}")
    figures.compared(100, 0, 0, 0)
    with figures.damaged("damage noticed"):
        figures.compared(100, 1, 0, 0)
    figures.noted("lost by a control", seed)
    assert seed == 1
"""
QUIET = "def test_nothing():\n    pass\n"


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_run_ends_with_its_figures(tmp_path, workers):
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "test_loud.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "test_quiet.py").write_text(QUIET, encoding="utf-8")
    kept = tmp_path / "figures.json"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "CHECKPOINT_ETL_FIGURES": str(kept)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        "test_loud.py: 1 passed, 1 FAILED; 1 points; 2 seed(s); SIGKILL 2; 2 comparisons of 200 rows: "
        "missing 0, extra 0, doubled 0; damage noticed 2; lost by a control 3\n"
    ) in ran.stdout
    assert "in all: 1 passed, 1 FAILED; 1 points; 2 seed(s); SIGKILL 2; 2 comp" in ran.stdout
    assert "test_quiet.py" not in ran.stdout.partition("what was injected")[2]
    found = json.loads(kept.read_text(encoding="utf-8"))["test_loud.py"]
    assert (found["seeds"], found["points"]) == (["1", "2"], ["load.before_commit"])
    assert found["injected"] == {"SIGKILL": 2}
