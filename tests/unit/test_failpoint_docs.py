"""The list of failpoints in the docs is the list in the code."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_checkpoint_etl.protocol import Stage

ROOT = Path(__file__).parents[2]


def points_in_code():
    found = set()
    for path in (ROOT / "airflow_checkpoint_etl").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'failpoint\("([a-z._]+)"\)', text))
        for name in re.findall(r'failpoint\(f"\{(?:claim\.)?stage\}\.([a-z_]+)"\)', text):
            found.add(f"*.{name}")
    return found


def test_every_failpoint_is_documented_and_every_documented_one_exists():
    documented = set(
        re.findall(
            r"`([a-z]+\.[a-z_]+)`", (ROOT / "docs/failpoints.md").read_text(encoding="utf-8")
        )
    )
    exact = {point for point in points_in_code() if not point.startswith("*")}
    general = {point.removeprefix("*") for point in points_in_code() if point.startswith("*")}
    possible = exact | {f"{stage}{name}" for stage in Stage for name in general}
    assert exact <= documented
    assert documented <= possible
    assert all(any(point.endswith(name) for point in documented) for name in general)
