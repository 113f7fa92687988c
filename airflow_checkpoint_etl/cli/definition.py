"""Which commands there are and what they take; light, because every ``airflow`` command imports it."""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    GroupCommand,
    lazy_load_command,
)

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}

EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 an error, said on stderr; 2 wrong usage; 3 a check failed (--max-lag, "
    "--max-ids, --fail-if-stuck)."
)


def seconds(text: str) -> float:
    """Read a span of time as people write it: ``90``, ``15m``, ``2h``, ``1d``."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        message = f"{text!r} is no span of time; write seconds, or e.g. 15m, 2h, 1d"
        raise argparse.ArgumentTypeError(message)
    return float(found[1]) * _SECONDS[found[2] or "s"]


def _count(text: str) -> int:
    try:
        number = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        number = -1
    if number < 0:
        message = f"{text!r} is no number, 0 or more"
        raise argparse.ArgumentTypeError(message)
    return number


def _flag(name: str, help_text: str) -> Arg:
    return Arg((name,), help=help_text, action="store_true")


ARG_PIPELINE = Arg(("pipeline",), help="The pipeline's id")
ARG_SEARCH = Arg(
    ("--search",),
    help="Only lanes whose pipeline, part, source or target holds this text",
    default="",
)
ARG_PART = Arg(("--part",), help="The part's key (default: default)", default="default")
ARG_WAREHOUSE = Arg(
    ("--warehouse-conn-id",),
    help="The Airflow connection of the warehouse to look into; may be repeated "
    "(default: the option warehouse_conn_ids in section checkpoint_etl)",
    action="append",
)
ARG_LIMIT = Arg(
    ("--limit",), help="How many at most, up to 200 (default: 50)", type=_count, default=50
)
ARG_TOKEN = Arg(("--token",), help="Where the next page begins, as the page before says")
ARG_BEFORE = Arg(("--before",), help="Only chunks below this number", type=_count)
ARG_ASK_SOURCE = _flag("--ask-source", "Also ask the source for its newest id (touches the source)")
ARG_FAIL_IF_STUCK = _flag("--fail-if-stuck", "Exit with 3 when a lane that is shown is stuck")
ARG_MAX_LAG = Arg(
    ("--max-lag",),
    help="Exit with 3 when rows committed longer ago than this may be missing, e.g. 15m",
    type=seconds,
)
ARG_MAX_IDS = Arg(
    ("--max-ids",), help="Exit with 3 when more ids than this are left to load", type=_count
)
ARG_TO = Arg(
    ("--to",),
    help="Where to go back to, as people write it, one value per cursor column: 812000, or "
    "2026-03-01T00:00:00Z 42, or beginning. The chunk boundary at or below it is taken",
    nargs="+",
    required=True,
    metavar="VALUE",
)
ARG_DELETE_ROWS = _flag(
    "--delete-rows", "Delete the rows above the point also where they would be replaced by key"
)
ARG_ALLOW_DUPLICATES = _flag(
    "--allow-duplicates", "Accept that an append without lineage loads those rows a second time"
)
ARG_REASON = Arg(("--reason",), help="Why, for the audit", default="")
ARG_EXECUTE = _flag(
    "--execute", "Do it; without, only what would be done is shown and nothing is changed"
)
ARG_YES = Arg(
    ("-y", "--yes"),
    help="Do not ask for the pipeline's name; needed with --execute where nobody can be asked",
    action="store_true",
)
ARG_STAGE = Arg(
    ("--stage",),
    help="The stage whose lease is ended",
    choices=("extract", "transform", "load"),
    required=True,
)
ARG_RECORDS = _flag("--records", "List the records (by id and reason) instead of the reasons")
ARG_SHOW_VALUES = _flag("--show-values", "With --records: their values, too")
ARG_REPLAY = _flag(
    "--replay", "Try what the load had rejected again; with --execute what fits now is kept"
)
ARG_GRACE = Arg(
    ("--grace",),
    help="How long a file is kept after its rows are loaded, e.g. 15m (default: the pipeline's)",
    type=seconds,
)
ARG_TRANSPORT = Arg(
    ("--transport",),
    help="How clients talk to it (default: stdio)",
    choices=("stdio", "http"),
    default="stdio",
)
ARG_HOST = Arg(
    ("--host",), help="Where to listen with http (default: 127.0.0.1)", default="127.0.0.1"
)
ARG_PORT = Arg(
    ("--port",), help="Where to listen with http (default: 8765)", type=_count, default=8765
)
ARG_ALLOWED_HOST = Arg(
    ("--allowed-host",),
    help="A Host header to accept with http beside the own address, e.g. mcp.example.org; may be repeated",
    action="append",
)
ARG_ALLOW_ACTIONS = _flag(
    "--allow-actions", "Let clients rewind, release and replay, each with a confirmation token"
)
ARG_ALLOW_ROW_VALUES = _flag("--allow-row-values", "Let clients see quarantined records' values")

_ONE: Final = (ARG_PIPELINE, ARG_PART, ARG_WAREHOUSE)
_SHOWN: Final = (ARG_OUTPUT, ARG_VERBOSE)
_ACTS: Final = (ARG_REASON, ARG_EXECUTE, ARG_YES, *_SHOWN)


def _command(name: str, help_text: str, args: tuple[Arg, ...]) -> ActionCommand:
    module = "reading" if name in {"list", "show", "chunks", "lag"} else "acting"
    function = f"{name}_" if name == "list" else name
    return ActionCommand(
        name=name,
        help=help_text,
        func=lazy_load_command(f"airflow_checkpoint_etl.cli.{module}.{function}"),
        args=args,
        epilog=EXIT_CODES,
    )


COMMANDS: Final = (
    _command(
        "list",
        "List lanes and what they are up to",
        (ARG_SEARCH, ARG_WAREHOUSE, ARG_LIMIT, ARG_TOKEN, ARG_FAIL_IF_STUCK, *_SHOWN),
    ),
    _command(
        "show",
        "Show a lane as a whole: stages, what it is up to, and the next move",
        (*_ONE, ARG_ASK_SOURCE, ARG_FAIL_IF_STUCK, *_SHOWN),
    ),
    _command(
        "chunks", "List loaded chunks, the newest first", (*_ONE, ARG_BEFORE, ARG_LIMIT, *_SHOWN)
    ),
    _command(
        "lag",
        "Show how far a lane is behind, and check it",
        (*_ONE, ARG_ASK_SOURCE, ARG_MAX_LAG, ARG_MAX_IDS, *_SHOWN),
    ),
    _command(
        "rewind",
        "Go back to a chunk boundary; the next run loads again from there",
        (*_ONE, ARG_TO, ARG_DELETE_ROWS, ARG_ALLOW_DUPLICATES, *_ACTS),
    ),
    _command(
        "reset",
        "Go back to the start, and forget which source, target, cursor and filter it had",
        (*_ONE, ARG_DELETE_ROWS, ARG_ALLOW_DUPLICATES, *_ACTS),
    ),
    _command(
        "resync",
        "Take the warehouse as it is, e.g. after it was restored: what was staged is dead",
        (*_ONE, *_ACTS),
    ),
    _command(
        "release",
        "End a stage's lease; its owner can write nothing from then on",
        (*_ONE, ARG_STAGE, *_ACTS),
    ),
    _command(
        "quarantine",
        "Show rejected records, or replay what the load had rejected",
        (*_ONE, ARG_RECORDS, ARG_SHOW_VALUES, ARG_REPLAY, ARG_LIMIT, *_ACTS),
    ),
    _command(
        "gc",
        "Delete staged files that nobody needs; every load does it for its own lane",
        (*_ONE, ARG_GRACE, *_SHOWN),
    ),
    ActionCommand(
        name="mcp",
        help="Serve the read model to MCP clients",
        func=lazy_load_command("airflow_checkpoint_etl.mcp.command.mcp"),
        args=(
            ARG_WAREHOUSE,
            ARG_TRANSPORT,
            ARG_HOST,
            ARG_PORT,
            ARG_ALLOWED_HOST,
            ARG_ALLOW_ACTIONS,
            ARG_ALLOW_ROW_VALUES,
        ),
    ),
)


def get_checkpoint_cli_commands() -> list[Any]:
    """Return the commands, for Airflow's provider discovery."""
    return [
        GroupCommand(
            name="checkpoints",
            help="See and steer checkpointed pipelines",
            subcommands=COMMANDS,
        )
    ]
