"""``python -m airflow_checkpoint_etl.cli``: the same, for an Airflow whose providers bring no commands."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.cli.definition import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, as ``airflow checkpoints`` does."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_checkpoint_etl.cli",
        description="See and steer checkpointed pipelines",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, epilog=command.epilog)
        for arg in command.args:
            arg.add_to_parser(sub)
        sub.set_defaults(func=command.func)
    args = parser.parse_args(arguments)
    args.func(args)


if __name__ == "__main__":
    main(sys.argv[1:])
