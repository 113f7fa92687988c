"""``checkpoint-etl-mcp`` and ``airflow checkpoints mcp``: starts the server."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.errors import CheckpointEtlError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the server as its own command."""
    from airflow_checkpoint_etl.cli.definition import COMMANDS  # noqa: PLC0415

    (definition,) = [command for command in COMMANDS if command.name == "mcp"]
    parser = argparse.ArgumentParser(prog="checkpoint-etl-mcp", description=definition.help)
    for arg in definition.args:
        arg.add_to_parser(parser)
    mcp(parser.parse_args(arguments))


def mcp(args: argparse.Namespace) -> None:
    """Serve the read model to MCP clients."""
    try:
        _serve(args)
    except CheckpointEtlError as error:
        print(error, file=sys.stderr)  # noqa: T201  a command's answer
        raise SystemExit(1) from None


def _serve(args: argparse.Namespace) -> None:
    try:
        from airflow_checkpoint_etl.mcp.server import make_server  # noqa: PLC0415
        from airflow_checkpoint_etl.mcp.tools import Tools  # noqa: PLC0415
    except ImportError as error:
        if (error.name or "").split(".")[0] != "mcp":
            raise
        message = (
            "the MCP server needs the package mcp; run: pip install 'airflow-checkpoint-etl[mcp]'"
        )
        raise MissingDependencyError(message) from None
    from airflow_checkpoint_etl.cli.frame import actor, use_metadata_connections  # noqa: PLC0415
    from airflow_checkpoint_etl.hooks.insights import Warehouses  # noqa: PLC0415
    from airflow_checkpoint_etl.mcp.http import bearer_token, serve  # noqa: PLC0415

    token = bearer_token() if args.transport == "http" else ""
    use_metadata_connections()
    tools = Tools(
        Warehouses(args.warehouse_conn_id),
        actor("MCP server"),
        may_act=args.allow_actions,
        may_show_values=args.allow_row_values,
    )
    server = make_server(tools)
    if args.transport == "stdio":
        server.run("stdio")
    else:
        serve(server, args.host, args.port, token, args.allowed_host or ())


if __name__ == "__main__":
    main()
