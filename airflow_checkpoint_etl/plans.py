"""What a rewind would do, for whoever asks first: the command line, the MCP server, the UI.

A plan is a dry run: everything is counted in the transaction that would do it, which is then rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.errors import RewindError, invalid
from airflow_checkpoint_etl.insights.words import span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.admin import Admin
    from airflow_checkpoint_etl.insights import LaneInsight
    from airflow_checkpoint_etl.ports import Rewound

BEGINNING: Final = "beginning"
"""How people write the position before every value."""
_INTEGERS: Final = frozenset({"i2", "i4", "i8"})


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """What a rewind did, or would do.

    Attributes:
        pipeline: the pipeline's id.
        part: the part's key.
        warehouse_conn_id: the warehouse.
        incarnation: the lane's life that the plan is about: another one makes it void.
        generation: the same, for people.
        asked: the id that was asked for.
        from_seq: the lane's last chunk.
        from_cursor: the load frontier.
        to_seq: the last chunk that stays.
        to_cursor: the boundary that the lane goes back to: at or below what was asked.
        chunks: chunks that are taken back.
        rows: rows they had loaded.
        deleted: rows deleted from the target; None when they are left there.
        quarantined: quarantined records dropped with their chunks.
        warnings: what to know before doing it, a sentence each.
    """

    pipeline: str
    part: str
    warehouse_conn_id: str
    incarnation: str
    generation: int
    asked: str
    from_seq: int
    from_cursor: str
    to_seq: int
    to_cursor: str
    chunks: int
    rows: int
    deleted: int | None
    quarantined: int
    warnings: tuple[str, ...] = ()

    @property
    def from_shown(self) -> str:
        """The load frontier, for people."""
        return cursors.display(self.from_cursor)

    @property
    def to_shown(self) -> str:
        """Where the lane goes back to, for people."""
        return cursors.display(self.to_cursor)


def read_cursor(seen: LaneInsight, values: Sequence[str]) -> str:
    """Return the canonical cursor of values as people write them: ``812,000`` or ``2026-03-01T00:00Z 42``.

    Args:
        seen: the lane, whose load frontier says which types the values have.
        values: one per cursor column, or :data:`BEGINNING`.

    Raises:
        ConfigurationError: a value is none of its column's type, or there are too few or too many.
        RewindError: the lane has loaded nothing, so there is nowhere to go back to.
    """
    if tuple(values) == (BEGINNING,):
        return cursors.BEGIN
    at = seen.summary.position.cursor
    if at == cursors.BEGIN:
        message = f"{seen.lane} is at the beginning; there is nowhere to go back to"
        raise RewindError(message)
    tags = [tag for tag, _ in cursors.decode(at)]
    written = [
        value.replace(",", "") if tag in _INTEGERS else value
        for tag, value in zip(tags, values, strict=False)
    ] + list(values[len(tags) :])
    try:
        return cursors.parse(tags, written)
    except cursors.CursorError as error:
        msg = "to"
        raise invalid(
            msg,
            " ".join(values),
            str(error),
            f"write it like the load's position, {cursors.display(at)}",
        ) from None


def plan_rewind(
    admin: Admin,
    seen: LaneInsight,
    asked: str,
    *,
    delete_rows: bool | None = None,
    allow_duplicates: bool = False,
) -> RewindPlan:
    """Return what a rewind to the chunk boundary at or below a cursor would do; nothing is changed.

    Args:
        admin: the commands over the lane.
        seen: the lane, read before.
        asked: canonical cursor text.
        delete_rows: as for :meth:`~airflow_checkpoint_etl.admin.Admin.rewind`.
        allow_duplicates: as for :meth:`~airflow_checkpoint_etl.admin.Admin.rewind`.

    Raises:
        RewindError: the rows above it cannot be taken back.
    """
    point = admin.boundary(asked)
    rewound = admin.rewind(point, delete_rows=delete_rows, allow_duplicates=allow_duplicates)
    return told_rewind(seen, asked, rewound)


def told_rewind(seen: LaneInsight, asked: str, rewound: Rewound) -> RewindPlan:
    """Return a rewind's outcome, or its dry run's, with what is to be known about it."""
    summary = seen.summary
    return RewindPlan(
        summary.pipeline,
        summary.part,
        summary.warehouse_conn_id,
        rewound.before.incarnation,
        rewound.before.generation,
        asked,
        rewound.before.seq,
        rewound.before.cursor,
        rewound.after.seq,
        rewound.after.cursor,
        rewound.chunks,
        rewound.rows,
        rewound.deleted,
        rewound.quarantined,
        tuple(_warnings(seen, asked, rewound)),
    )


def _warnings(seen: LaneInsight, asked: str, rewound: Rewound) -> list[str]:
    found = []
    if asked not in {rewound.after.cursor, cursors.BEGIN}:
        found.append(
            f"{cursors.display(asked)} is not where a chunk ends: the boundary below it is "
            f"{cursors.display(rewound.after.cursor)}"
        )
    if rewound.chunks and rewound.deleted is None:
        found.append(
            f"the {rewound.rows:,} rows of these chunks stay in the target, to be replaced by key or, "
            "where it is appended to, doubled"
        )
    found += [
        f"{stage.stage} is being worked on by {stage.owner.task} of {stage.owner.run_id} (try "
        f"{stage.owner.try_number}), which can write nothing afterwards and fails; its lease runs out in "
        f"{span(stage.lease_seconds)}"
        for stage in seen.summary.stages
        if stage.owner is not None and stage.lease_seconds > 0
    ]
    return found
