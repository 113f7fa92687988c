"""What ``airflow providers list`` says."""

from __future__ import annotations

import json
import subprocess
import sys


def test_airflow_lists_the_provider():
    command = [sys.executable, "-m", "airflow", "providers", "list", "--output", "json"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    listed = json.loads(out[out.index("[{") :])
    assert "airflow-checkpoint-etl" in [provider["package_name"] for provider in listed]
