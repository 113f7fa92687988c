"""``checkpoint-etl-demo``: the example DAG in a real Airflow, a kill in the middle, and a proof."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import NoReturn

from airflow_checkpoint_etl.errors import MissingDependencyError

_MOST_ROWS = 50_000_000
_FEWEST_ROWS = 30_000
_INTERRUPTED = 130


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="checkpoint-etl-demo",
        description=(
            "Runs the example DAG in a real Airflow on embedded PostgreSQL and Valkey, kills the load "
            "task with -9 midway, lets Airflow retry it, and proves in SQL that every row arrived "
            "exactly once. Everything runs on loopback and is removed at the end."
        ),
    )
    parser.add_argument(
        "--rows", type=int, default=300_000, help="orders in the source (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoints",
        choices=("redis", "postgres"),
        default="redis",
        help="where checkpoints are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave Airflow's UI up until Ctrl-C, and print its URL"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long one step may take (default: %(default)g)",
    )
    options = parser.parse_args(words)
    if not _FEWEST_ROWS <= options.rows <= _MOST_ROWS:
        parser.error(f"--rows {options.rows}: must be {_FEWEST_ROWS:,} to {_MOST_ROWS:,}")
    if options.timeout <= 0:
        parser.error(f"--timeout {options.timeout:g}: must be positive")
    return options


def _interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001  a signal handler's arguments
    raise KeyboardInterrupt


def main(words: list[str] | None = None) -> int:
    """Run the demonstration; the exit code is 0 only when the proof holds.

    Args:
        words: the command line's arguments; ``sys.argv`` when left out.
    """
    options = _arguments(words)
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.markup import escape  # noqa: PLC0415

        from airflow_checkpoint_etl.demo import proof, story  # noqa: PLC0415
        from airflow_checkpoint_etl.demo.airflow_api import AirflowApiError  # noqa: PLC0415
        from airflow_checkpoint_etl.demo.servers import ServerError  # noqa: PLC0415
    except ImportError as error:
        message = "run: pip install 'airflow-checkpoint-etl[demo]'"
        msg = f"{error}; {message}"
        raise MissingDependencyError(msg) from error
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # so that everything is removed then too
    found: proof.Proof | None = None
    try:
        with console.status("") as status:

            def say(what: str) -> None:
                console.print(f"[dim]•[/dim] {escape(what)}", highlight=False)
                status.update(escape(what))

            with story.set_up(options.rows, options.checkpoints, say) as stage:
                found = story.play(stage, options.rows, say, options.timeout)
                status.stop()
                proof.show(console, found)
                if options.keep:
                    console.print(f"\nAirflow's UI: {stage.airflow.url}  (Ctrl-C ends everything)")
                    threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopped; everything is removed", highlight=False)
        if found is None:
            return _INTERRUPTED
    except (AirflowApiError, ServerError) as error:
        console.print(f"[bold red]failed[/bold red]: {escape(str(error))}", highlight=False)
        return 1
    return 0 if found is not None and found.holds else 1


if __name__ == "__main__":
    sys.exit(main())
