"""Collection: removes staged chunks whose rows are durably loaded, after a grace period.

A file's name holds its chunk number, so everything staged for a loaded chunk goes, the orphans of
killed attempts with it. Files are deleted before their manifest entries: a crash between the two
leaves entries below the load frontier, which nobody reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    import datetime as dt

    from airflow_checkpoint_etl.ports import Ports
    from airflow_checkpoint_etl.protocol import Lane

_SEQ: Final = re.compile(r"/(\d{12,})-f\d+-[0-9a-f]+\.arrow(\.|$)")
"""A staged name, or what a killed put left beside it."""


def staged_prefix(lane: Lane, incarnation: str) -> str:
    """Return the prefix under which all of a lane's staged files are."""
    return f"{lane.pipeline}/{lane.part}/{incarnation}/"


def staged_name(
    lane: Lane, incarnation: str, stage: Stage, seq: int, fence: int, digest: str
) -> str:
    """Return the name of a staged file. The fence and the digest make it immutable."""
    return f"{staged_prefix(lane, incarnation)}{stage}/{seq:012d}-f{fence}-{digest[:16]}.arrow"


def unfit_mark(name: str) -> str:
    """Return the name of the mark that says a staged file is unfit: damaged, or refused by a load.

    Files never change, and a stage keeps what it has staged. The mark beside a file makes its stage
    stage it anew when it runs again; it is collected with the file.
    """
    return f"{name}.unfit"


def collect(ports: Ports, lane: Lane, grace: dt.timedelta) -> int:
    """Delete what is staged for chunks loaded longer than ``grace`` ago; return how many files.

    Doing it twice is the same as once; it can run beside any stage.
    """
    state = ports.warehouse.lane(lane)
    if state is None:
        return 0
    incarnation = state.frontier.incarnation
    safe = ports.warehouse.loaded_before(lane, incarnation, grace)
    if not safe:
        return 0
    staged = ports.staging.names(staged_prefix(lane, incarnation))
    dead = [name for name in staged if (match := _SEQ.search(name)) and int(match[1]) <= safe]
    if dead:
        ports.staging.delete(dead)
        failpoint("collect.after_delete")
    for stage in (Stage.EXTRACT, Stage.TRANSFORM):
        entries = ports.checkpoints.read(lane, stage).entries
        seqs = [entry.seq for entry in entries if entry.seq <= safe]
        if seqs:
            ports.checkpoints.forget(lane, stage, seqs, incarnation)
    return len(dead)
