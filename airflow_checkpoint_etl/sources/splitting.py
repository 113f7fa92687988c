"""Cutting a range of a source into parts of about equal rows, without counting the table.

Three ways, each taken where the one before cannot tell:

1. the histogram that ANALYZE keeps of the cursor's first column: its bounds have equal numbers of rows
   between them. Not where it is stale, where few of its bounds are in the range, or where the column's
   values repeat so much that it says little about the whole cursor;
2. a sample: the keys in some of the table's pages, picked by TABLESAMPLE SYSTEM;
3. interpolation between the ends, for numbers, times and uuids; skew makes such parts unequal.

A cut is the cursor of a row that is there, looked up in the order the source is read in. So cuts ascend
in that order, whatever a collation says, and a composite cursor is cut at whole keys. How well the parts
are balanced is a matter of speed; that they tile the range is not left to any estimate.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from airflow_checkpoint_etl import cursor as cursors
from airflow_checkpoint_etl.sources import positions, queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow_checkpoint_etl.sources.keyset import Keyset
    from airflow_checkpoint_etl.sources.planning import Plan
    from airflow_checkpoint_etl.sources.session import Session

_BOUNDS_PER_PART: Final = 5
"""Histogram bounds in the range that a part needs for its cut to be worth something."""
_STALE: Final = 0.1
"""The share of changed rows above which a histogram is not believed."""
_REPEATED: Final = 0.05
"""The share of rows in common values above which a column's histogram says too little."""

_UNNOTICED: Final = 0.03
"""The share of rows that may have come since the last ANALYZE without another look at the table."""

_SAMPLED_PAGES: Final = 400
"""Pages a sample looks at: a cut is then off by some 2 % of the range."""
_SAMPLED_ROWS_PER_PART: Final = 200
_KEPT_ROWS: Final = 2_000
"""Keys of the sample that are fetched."""
_SAMPLEABLE: Final = frozenset("rpm")
_SPACED: Final = frozenset({"i2", "i4", "i8", "num", "uuid", "d", "ts", "tz"})
"""Types whose values have distances."""
_BEGINNING: Final = dt.datetime(1, 1, 1)  # noqa: DTZ001  only differences from it are used


def rows_after(session: Session, plan: Plan, low: str) -> int:
    """Return an estimate of the rows above ``low``.

    PostgreSQL's own, from its statistics. These know nothing of rows that came above the last ANALYZE, so
    where many have changed since, some pages are looked at as well.
    """
    estimate, relation = _estimate(session, plan.keyset, low), plan.relation
    if low == cursors.BEGIN or relation is None or relation.kind not in _SAMPLEABLE:
        return estimate
    statements, parameters = queries.load("splitting.sql"), {"relation": relation.oid}
    if session.fetch(statements["changed"], parameters)[0][0] < _UNNOTICED:
        return estimate
    pages = session.fetch(statements["pages"], parameters)[0][0]
    percent = min(100.0, 100.0 * _SAMPLED_PAGES / max(1, pages))
    above, looked_at = session.fetch(_unfiltered(plan.keyset).sampled_above(low, percent))[0]
    share: float = above / max(1, looked_at)
    if share < _UNNOTICED:
        return estimate
    everything = _estimate(session, plan.keyset, cursors.BEGIN)
    return max(estimate, int(share * everything))


def _estimate(session: Session, keyset: Keyset, low: str) -> int:
    ((document,),) = session.fetch(keyset.estimated(low))
    return int(document[0]["Plan"]["Plan Rows"])


@dataclass(frozen=True, slots=True)
class Splitter:
    """Cuts ranges of one source.

    Attributes:
        session: the source's connections.
        plan: how it is read.
    """

    session: Session
    plan: Plan

    def split(self, low: str, target: str, parts: int) -> tuple[str, ...]:
        """Return at most ``parts - 1`` cuts strictly inside ``(low, target]``, ascending."""
        if parts < 2 or low == target:  # noqa: PLR2004  one part is no split
            return ()
        for candidates in (self._by_histogram, self._by_sample, self._by_distance):
            cuts = candidates(low, target, parts)
            if cuts is not None:
                return cuts
        return ()

    # --- the three ways --------------------------------------------------------------------------

    def _by_histogram(self, low: str, target: str, parts: int) -> tuple[str, ...] | None:
        relation, tag = self.plan.relation, self.plan.tags[0]
        if relation is None or relation.kind != "r" or relation.has_children or tag == "txt":
            return None
        origin = self.plan.key_origins[0]
        rows = self.session.fetch(
            queries.load("splitting.sql")["histogram"],
            {"relation": relation.oid, "column": origin.name if origin else ""},
        )
        if not rows:
            return None
        bounds, repeated, changed = rows[0]
        if repeated > _REPEATED or changed > _STALE:
            return None
        inside = self._inside(bounds, low, target)
        if len(inside) < _BOUNDS_PER_PART * parts:
            return None
        # The first bound is the range's beginning, the last one its end.
        last = len(inside) - 1
        return self._at_rows(
            [inside[round(last * cut / parts)] for cut in range(1, parts)], low, target
        )

    def _inside(self, bounds: Sequence[str], low: str, target: str) -> list[str]:
        """The histogram bounds between two cursors' first values, compared as the column compares."""
        kind = sql.SQL(cursors.KINDS[self.plan.tags[0]].sql_type)
        conditions = [
            sql.SQL("value::{0} {1} {2}::{0}").format(kind, sql.SQL(operator), sql.Literal(text))
            for operator, position in ((">", low), ("<=", target))
            for text in [bound.text for bound in cursors.bounds(position)[:1]]
        ]
        found = self.session.fetch(
            sql.SQL(
                "select value from unnest({}::text[]) with ordinality as h (value, place)"
                " where {} order by place"
            ).format(sql.Literal(list(bounds)), sql.SQL(" and ").join(conditions))
        )
        return [row[0] for row in found]

    def _by_sample(self, low: str, target: str, parts: int) -> tuple[str, ...] | None:
        relation = self.plan.relation
        if relation is None or relation.kind not in _SAMPLEABLE:
            return None
        keyset, key = _unfiltered(self.plan.keyset), self.plan.keyset.key
        pages = self.session.fetch(
            queries.load("splitting.sql")["pages"], {"relation": relation.oid}
        )[0][0]
        # The target is about the newest row: what is above the low is what is to be cut.
        inside = max(1, rows_after(self.session, replace(self.plan, keyset=keyset), low))
        everything = max(inside, _estimate(self.session, keyset, cursors.BEGIN))
        share = max(
            _SAMPLED_ROWS_PER_PART * parts / inside,
            _SAMPLED_PAGES / max(1.0, pages * inside / everything),
        )
        percent = min(100.0, 100.0 * share)
        rows = self.session.fetch(keyset.sampled(low, target, percent, _KEPT_ROWS))
        if len(rows) < _BOUNDS_PER_PART * parts:
            return None
        found = [positions.from_texts(key, self.plan.tags, row) for row in rows]
        cuts = [found[len(found) * cut // parts - 1] for cut in range(1, parts)]
        return _distinct(cuts, low, target)

    def _by_distance(self, low: str, target: str, parts: int) -> tuple[str, ...] | None:
        tag, key = self.plan.tags[0], self.plan.keyset.key
        if tag not in _SPACED:
            return None
        start = low
        if start == cursors.BEGIN:
            rows = self.session.fetch(_unfiltered(self.plan.keyset).oldest(target))
            if not rows:
                return None
            start = positions.from_texts(key, self.plan.tags, rows[0])
        first, last = (_number(cursors.decode(at)[0][1]) for at in (start, target))
        texts = [
            _text(tag, first + (last - first) * Fraction(cut, parts)) for cut in range(1, parts)
        ]
        return self._at_rows(texts, low, target)

    # --- cuts ------------------------------------------------------------------------------------

    def _at_rows(self, texts: Iterable[str], low: str, target: str) -> tuple[str, ...]:
        """Return the highest keys whose first value is at or below each of some values."""
        keyset = _unfiltered(self.plan.keyset)
        cuts = []
        for text in texts:
            rows = self.session.fetch(keyset.newest(low, target, clock=text))
            if rows:
                cuts.append(positions.from_texts(keyset.key, self.plan.tags, rows[0]))
        return _distinct(cuts, low, target)


def _unfiltered(keyset: Keyset) -> Keyset:
    """The same without its row filter: a cut need not be a row that is read, and is found at once."""
    return replace(keyset, where=None)


def _distinct(cuts: Sequence[str], low: str, target: str) -> tuple[str, ...]:
    """The cuts without repetitions and without the range's own ends, in their order."""
    return tuple(cut for cut in dict.fromkeys(cuts) if cut not in {low, target})


def _number(value: cursors.CursorValue) -> Fraction:
    """A value's place on a line, exactly: microseconds for times, days for dates."""
    if isinstance(value, dt.datetime):
        since = value.replace(tzinfo=None) - _BEGINNING
        return Fraction(since // dt.timedelta(microseconds=1))
    if isinstance(value, dt.date):
        return Fraction(value.toordinal())
    if isinstance(value, uuid.UUID):
        return Fraction(value.int)
    assert isinstance(value, (int, Decimal))  # noqa: S101  text has no distances
    return Fraction(value)


def _text(tag: str, place: Fraction) -> str:
    """The value at a place on the line, as PostgreSQL reads it."""
    at = place.numerator // place.denominator
    value: Any = at
    if tag in {"ts", "tz"}:
        value = _BEGINNING + dt.timedelta(microseconds=at)
        value = value.replace(tzinfo=dt.UTC) if tag == "tz" else value
    elif tag == "d":
        value = dt.date.fromordinal(at)
    elif tag == "uuid":
        value = uuid.UUID(int=at)
    return cursors.KINDS[tag].encode(value)
