"""Static parts: a pipeline divided by a filter per part (a tenant, a region, a hash).

Each part is a lane of its own, with its own checkpoint, and nobody plans or closes anything. Together the
filters should name every row once; a row that moves from one part's filter to another's is read by both or
by neither, so they must rest on columns that do not change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.errors import invalid
from airflow_checkpoint_etl.filters import check_filter
from airflow_checkpoint_etl.parameters import check_part
from airflow_checkpoint_etl.range_plans import is_planned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.pipeline import Pipeline


@dataclass(frozen=True)
class Part:
    """A static part: a key, and the rows it stands for.

    Attributes:
        key: the part's key, by value: ``"eu"``, ``"tenant-7"``; never a number that counts parts.
        where: an SQL row filter, beside the source's own; it must be immutable per row.
    """

    key: str
    where: str

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        check_part(self.key)
        if is_planned(self.key):
            msg = "key"
            raise invalid(msg, self.key, "is the key of a plan's part", "choose another one")
        if not isinstance(self.where, str) or not self.where.strip():
            msg = "where"
            raise invalid(msg, self.where, "must be an SQL row filter", "pass a condition")
        check_filter("where", self.where)


def divided(pipeline: Pipeline, parts: Sequence[Part]) -> Pipeline:
    """Return the pipeline with a filter that, for each part, is the source's own and the part's.

    Raises:
        ConfigurationError: two parts have one key.
    """
    keys = [part.key for part in parts]
    doubled = sorted({key for key in keys if keys.count(key) > 1})
    if doubled:
        msg = "parts"
        raise invalid(msg, doubled, "is there twice", "give every part a key of its own")
    own = pipeline.source.where
    arms = [
        f'{{% {"elif" if position else "if"} task.part == "{part.key}" %}}{_both(own, part.where)}'
        for position, part in enumerate(parts)
    ]
    return replace(pipeline, source=replace(pipeline.source, where="".join(arms) + "{% endif %}"))


def _both(own: str | None, where: str) -> str:
    # On lines of their own, so that a trailing comment ends with its line.
    return where if own is None else f"(\n{own}\n) and (\n{where}\n)"
