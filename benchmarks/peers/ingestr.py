"""ingestr: a table to a table by its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(source: str, target: str, rows: int) -> None:
    """Move rows with ``ingestr ingest``; runs in ingestr's own environment."""
    command = [
        str(Path(sys.executable).parent / "ingestr"),
        "ingest",
        "--yes",
        "--source-uri",
        source,
        "--source-table",
        f"query:select * from public.events where id <= {rows}",
        "--dest-uri",
        target,
        "--dest-table",
        "public.ingestr_peer",
    ]
    variables = os.environ | {"INGESTR_DISABLE_TELEMETRY": "true", "TELEMETRY_DISABLED": "true"}
    done = subprocess.run(
        command,
        env=variables,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-1000:])
