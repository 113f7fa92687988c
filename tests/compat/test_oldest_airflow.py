"""The package on the oldest Airflow it supports, in a virtual environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.compat, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
"""What an installation with the oldest supported Airflow resolves to; Airflow's version is in it."""


@pytest.fixture(scope="module")
def python():
    """The interpreter of an environment with the oldest Airflow and this package."""
    # Not in pytest's own temporary folder: the sessions started below are newer ones, which clear old folders.
    with tempfile.TemporaryDirectory(prefix="checkpoint-etl-oldest-") as home:
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        interpreter = Path(home) / "bin" / "python"
        package = f"{ROOT}[test]"
        install = [interpreter, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, package]
        subprocess.run(install, check=True)
        yield interpreter


@pytest.mark.parametrize(
    "selection",
    [
        ["tests/unit", "tests/integration/test_runner.py", "tests/integration/test_operators.py"],
        ["tests/e2e/test_kill.py", "-k", "load and redis"],
    ],
    ids=["unit and integration", "end to end"],
)
def test_the_tests_pass_on_the_oldest_supported_airflow(python, selection):
    environment = {key: value for key, value in os.environ.items() if "AIRFLOW" not in key}
    ran = subprocess.run(
        # Its dependencies' deprecations are the old release's own.
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *selection],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
