"""sling: a table to a table by its command line."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def program() -> str:
    """Return sling's binary: the one in its own wheel for Linux, or the one that its package brings."""
    wheel = importlib.util.find_spec("sling_linux_amd64")
    if wheel is None or wheel.origin is None:
        return str(Path(sys.executable).parent / "sling")
    binary = Path(wheel.origin).parent / "bin" / "sling-linux-amd64"
    binary.chmod(0o755)
    return str(binary)


def run(source: str, target: str, rows: int) -> None:
    """Move rows with ``sling run``; runs in sling's own environment."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-etl-sling-") as home:
        command = [
            program(),
            "run",
            "--src-conn",
            source,
            "--src-stream",
            f"select * from public.events where id <= {rows}",
            "--tgt-conn",
            target,
            "--tgt-object",
            "public.sling_peer",
            "--mode",
            "full-refresh",
        ]
        variables = os.environ | {"SLING_HOME_DIR": home, "SLING_DISABLE_TELEMETRY": "true"}
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


if __name__ == "__main__":  # shows that it runs
    subprocess.run([program(), "--version"], check=True)
