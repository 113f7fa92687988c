"""What all commands share: where connections come from, how errors end, and how answers are printed."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.platform import getuser
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from airflow_checkpoint_etl.errors import CheckpointEtlError
from airflow_checkpoint_etl.hooks.insights import Warehouses
from airflow_checkpoint_etl.insights import as_json
from airflow_checkpoint_etl.parameters import check_part
from airflow_checkpoint_etl.protocol import Lane

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from airflow_checkpoint_etl.insights import LaneSummary

FAILED: Final = 1
USAGE: Final = 2
CHECK_FAILED: Final = 3


def use_metadata_connections() -> None:
    """Have this process find connections that are kept in Airflow's metadata database.

    Outside of Airflow's own servers and tasks only the environment and secrets backends are asked.
    """
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"


def command(function: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Make a function a command: errors of this package end it with a message and a code."""

    @suppress_logs_and_warning
    @providers_configuration_loaded
    @functools.wraps(function)
    def run(args: argparse.Namespace) -> None:
        use_metadata_connections()
        try:
            function(args)
        except CheckpointEtlError as error:
            end(FAILED, str(error))

    return run


def end(code: int, message: str) -> NoReturn:
    """End the command with a message on stderr."""
    print(message, file=sys.stderr)  # noqa: T201  a command's answer
    raise SystemExit(code)


def say(message: str, args: argparse.Namespace) -> None:
    """Say something beside the answer: where that is for a program, on stderr."""
    stream = sys.stdout if args.output == "table" else sys.stderr
    print(message, file=stream)


def warehouses(args: argparse.Namespace) -> Warehouses:
    """Return the warehouses to look into."""
    return Warehouses(args.warehouse_conn_id)


def lane_of(args: argparse.Namespace) -> Lane:
    """Return the lane that the arguments name."""
    return Lane(args.pipeline, check_part(args.part))


def actor(face: str = "airflow checkpoints") -> str:
    """Return who acts and through what, for the audit: the user of the operating system."""
    return f"{getuser()} ({face})"


def answer(view: Any, rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print an answer: the whole view for programs (json, yaml), rows of it for people.

    Args:
        view: views of the read model.
        rows: what a table shows of them.
        args: the command's arguments.
    """
    console = AirflowConsole()
    if args.output == "json":
        console.print_as_json(as_json(view))
    elif args.output == "yaml":
        console.print_as_yaml(as_json(view))
    else:
        shown = [{name: _cell(value) for name, value in row.items()} for row in rows]
        console.print_as(data=shown, output=args.output)


def _cell(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def check_stuck(seen: Sequence[LaneSummary], args: argparse.Namespace) -> None:
    """End with 3 when that was asked for and a lane is stuck."""
    stuck = [str(lane.lane) for lane in seen if lane.state.condition.needs_somebody]
    if args.fail_if_stuck and stuck:
        end(CHECK_FAILED, f"stuck: {', '.join(stuck)}")


def confirmed(args: argparse.Namespace) -> bool:
    """Whether to act: told to, and the pipeline's name was typed where somebody can be asked."""
    if not args.execute:
        say("dry run: nothing was changed; add --execute to do it", args)
        return False
    if args.yes:
        return True
    if not sys.stdin.isatty():
        end(USAGE, "--execute needs --yes where nobody can be asked")
    typed = input(f"type the pipeline's name, {args.pipeline}, to do it: ")
    if typed.strip() != args.pipeline:
        end(FAILED, "that is not its name; nothing was changed")
    return True
