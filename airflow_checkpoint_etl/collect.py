"""Collection: removes staged files that nobody needs any more.

Three kinds of them, told apart by the file's name alone:

* what was staged for a chunk whose rows have been durably loaded for a grace period;
* what a dead life of the lane has left (it was rewound, reset or resynced), after the grace period;
* orphans: staged by an attempt that a newer one has replaced, in no manifest, older than the grace period.

Files are deleted before their manifest entries: a crash between the two leaves entries below the load
frontier, which nobody reads. Doing it twice is the same as once, and it can run beside any stage.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.protocol import Stage

if TYPE_CHECKING:
    import datetime as dt

    from airflow_checkpoint_etl.frames import Form
    from airflow_checkpoint_etl.ports import Ports, StageRecord
    from airflow_checkpoint_etl.protocol import Lane

_UNFIT: Final = ".unfit"
_NAME: Final = re.compile(
    r"(?P<incarnation>[^/]+)/(?P<stage>[a-z]+)/"
    r"(?P<seq>\d{12,})-f(?P<fence>\d+)-(?P<at>\d+)-[0-9a-f]+\.(?:arrow|copy)"
)


class StagedName(NamedTuple):
    """What a staged file's name says.

    Attributes:
        incarnation: the lane's life it was staged in.
        stage: the stage that staged it.
        seq: its chunk's number.
        fence: the fence of the attempt that staged it.
        at: when, in seconds since 1970 by the worker's clock.
    """

    incarnation: str
    stage: str
    seq: int
    fence: int
    at: int


def lane_prefix(lane: Lane) -> str:
    """Return the prefix under which everything of a lane is staged."""
    return f"{lane.pipeline}/{lane.part}/"


def staged_prefix(lane: Lane, incarnation: str) -> str:
    """Return the prefix under which all staged files of one life of a lane are."""
    return f"{lane_prefix(lane)}{incarnation}/"


def staged_name(
    lane: Lane, stage: Stage, file: StagedName, digest: str, form: Form = "arrow"
) -> str:
    """Return the name of a staged file. The fence and the digest make it immutable."""
    return (
        f"{staged_prefix(lane, file.incarnation)}{stage}/"
        f"{file.seq:012d}-f{file.fence}-{file.at}-{digest[:16]}.{form}"
    )


def read_name(lane: Lane, name: str) -> StagedName | None:
    """Read a staged file's name, or that of a mark or of a killed put's leftover beside it."""
    found = _NAME.match(name.removeprefix(lane_prefix(lane)))
    if found is None:
        return None
    return StagedName(
        found["incarnation"],
        found["stage"],
        int(found["seq"]),
        int(found["fence"]),
        int(found["at"]),
    )


def unfit_mark(name: str) -> str:
    """Return the name of the mark that says a staged file is unfit: damaged, or refused by a load.

    Files never change, and a stage keeps what it has staged. The mark beside a file makes its stage
    stage it anew when it runs again; it is collected with the file.
    """
    return f"{name}{_UNFIT}"


def collect(ports: Ports, lane: Lane, grace: dt.timedelta) -> int:
    """Delete a lane's staged files that nobody needs; return how many.

    Args:
        ports: the pipeline's ports.
        lane: the lane.
        grace: how long a file is kept after its rows are loaded, or after it was staged in vain.
    """
    names = ports.staging.names(lane_prefix(lane))
    # Read after the files were listed: a file that was appended to a manifest meanwhile is in it.
    records = {stage: ports.checkpoints.read(lane, stage) for stage in Stage}
    state = ports.warehouse.lane(lane)
    if state is None:
        return 0
    incarnation = state.frontier.incarnation
    safe = ports.warehouse.loaded_before(lane, incarnation, grace)
    needed = {
        entry.name
        for record in records.values()
        for entry in record.entries
        if entry.incarnation == incarnation
    }
    oldest = time.time() - grace.total_seconds()

    def is_dead(name: str) -> bool:
        file = read_name(lane, name)
        if file is None:
            return False
        if file.incarnation != incarnation:
            return file.at <= oldest
        if file.seq <= safe:
            return True
        is_orphan = name.removesuffix(_UNFIT) not in needed
        return is_orphan and file.at <= oldest and file.fence < _fence(records, file.stage)

    dead = [name for name in names if is_dead(name)]
    failpoint("collect.before_delete")
    if dead:
        ports.staging.delete(dead)
        failpoint("collect.after_delete")
    for stage in (Stage.EXTRACT, Stage.TRANSFORM):
        seqs = [
            entry.seq
            for entry in records[stage].entries
            if entry.incarnation == incarnation and entry.seq <= safe
        ]
        if seqs:
            ports.checkpoints.forget(lane, stage, seqs, incarnation)
            failpoint("collect.after_forget")
    return len(dead)


def _fence(records: dict[Stage, StageRecord], stage: str) -> int:
    """The newest fence the store knows of a stage: an older one can append nothing any more."""
    return records[Stage(stage)].fence if stage in list(Stage) else 0
