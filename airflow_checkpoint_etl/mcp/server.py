"""The server: which tools there are, and what clients are told about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

from airflow_checkpoint_etl import __version__

if TYPE_CHECKING:
    from airflow_checkpoint_etl.mcp.tools import Tools

_INSTRUCTIONS: Final = (
    "Checkpointed ETL pipelines of an Airflow deployment. A lane is one part of a pipeline; it has three "
    "stages (extract, transform, load), each with a last id. Begin with list_pipelines; explain says why a "
    "lane does not go on and what to do. Going back (rewind), releasing a lease and replaying rejected "
    "records are planned first; show the plan to the user and act only when they agree."
)
_READS: Final = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_DESTROYS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
_CHANGES: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


def make_server(tools: Tools) -> MCPServer[None]:
    """Return the server; without permission to act it has no tools that do."""
    server: MCPServer[None] = MCPServer(
        "checkpoint-etl",
        title="Checkpoint ETL",
        instructions=_INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
    )
    for read in (
        tools.list_pipelines,
        tools.get_checkpoint,
        tools.explain,
        tools.get_lag,
        tools.list_chunks,
        tools.get_quarantine,
        tools.plan_rewind,
        tools.plan_release,
        tools.plan_replay,
    ):
        server.add_tool(read, annotations=_READS)
    if tools.may_act:
        server.add_tool(tools.rewind, annotations=_DESTROYS)
        server.add_tool(tools.release, annotations=_DESTROYS)
        server.add_tool(tools.replay, annotations=_CHANGES)
    return server
