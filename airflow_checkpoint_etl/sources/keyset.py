"""The SELECTs a source is read with, composed and quoted by psycopg.sql.

Values stand in them as quoted literals with a cast (ADBC uses the fast COPY protocol only without bind
parameters). Every key column is qualified: a bare name in ORDER BY would mean the output column, which
for a column that travels as text would order numbers as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg import sql

from airflow_checkpoint_etl import cursor as cursors

if TYPE_CHECKING:
    from collections.abc import Sequence

TRANSACTION_TURN: Final = 1 << 32
"""After how many transactions the 32 bits that a row keeps of a transaction's number come round."""

_QUERY_ALIAS = "source_rows"


def _trusted(text: str) -> sql.SQL:
    """Mark the DAG author's own SQL as such; it is code, not input."""
    return sql.SQL(text)


def _literal(bound: cursors.Bound) -> sql.Composable:
    return sql.Literal(bound.text) + _trusted(f"::{bound.sql_type}")


def _tuple(parts: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL("({})").format(sql.SQL(", ").join(parts))


def start_after_texts(tags: Sequence[str], values: Sequence[str]) -> sql.Composed:
    """Select given texts as PostgreSQL spells them after casting each to its tag's type."""
    casts = [
        sql.Literal(value) + _trusted(f"::{cursors.KINDS[tag].sql_type}::text")
        for tag, value in zip(tags, values, strict=True)
    ]
    return sql.SQL("select {}").format(sql.SQL(", ").join(casts))


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the result.

    Attributes:
        name: its name.
        pg_type: its PostgreSQL type, as ``format_type`` spells it.
        as_text: carry it as text although Arrow has a type for it.
        cast: select it as PostgreSQL's text form.
    """

    name: str
    pg_type: str
    as_text: bool = False
    cast: bool = False


@dataclass(frozen=True, slots=True)
class Keyset:
    """A relation or query with its order.

    Attributes:
        schema: the table's schema; None for a query.
        table: the table's name; None for a query.
        query: the query's text; None for a table.
        key: the cursor's columns, in order.
        where: the row filter's text.
        columns: what is selected; may be empty while it is not known yet.
    """

    schema: str | None
    table: str | None
    query: str | None
    key: tuple[str, ...]
    where: str | None = None
    columns: tuple[Column, ...] = ()

    def column(self, name: str) -> sql.Composable:
        """Return a column's fully qualified name."""
        if self.query is None:
            return sql.Identifier(self.schema or "", self.table or "", name)
        return sql.Identifier(_QUERY_ALIAS, name)

    @property
    def _relation(self) -> sql.Composable:
        if self.query is None:
            return sql.Identifier(self.schema or "", self.table or "")
        # On a line of its own, so that a trailing comment ends with it.
        text = self.query.strip().removesuffix(";")
        return sql.SQL("(\n{}\n) as {}").format(_trusted(text), sql.Identifier(_QUERY_ALIAS))

    @property
    def _key(self) -> list[sql.Composable]:
        return [self.column(name) for name in self.key]

    def _compare(self, operator: str, position: str) -> list[sql.Composable]:
        """Return ``(key) operator (position)``; nothing for the position before every value."""
        bounds = cursors.bounds(position)
        if not bounds:
            return []
        values = _tuple([_literal(bound) for bound in bounds])
        return [_tuple(self._key) + _trusted(f" {operator} ") + values]

    def _select(
        self,
        what: Sequence[sql.Composable],
        conditions: Sequence[sql.Composable],
        *,
        ordered: bool = True,
        direction: str = "",
        limit: int | None = None,
    ) -> sql.Composed:
        every = list(conditions)
        if self.where is not None:
            every.append(sql.SQL("(\n{}\n)").format(_trusted(self.where)))
        statement = sql.SQL("select {} from {}").format(sql.SQL(", ").join(what), self._relation)
        if every:
            statement += sql.SQL(" where ") + sql.SQL(" and ").join(every)
        if ordered:
            order = sql.SQL(", ").join(part + _trusted(direction) for part in self._key)
            statement += sql.SQL(" order by ") + order
        if limit is not None:
            statement += _trusted(f" limit {limit:d}")
        return statement

    @property
    def _selected(self) -> list[sql.Composable]:
        return [
            self.column(column.name) + _trusted("::text as ") + sql.Identifier(column.name)
            if column.cast
            else self.column(column.name)
            for column in self.columns
        ]

    def chunk(self, low: str, high: str, limit: int | None) -> sql.Composed:
        """Select the rows of ``(low, high]`` in order, at most ``limit``."""
        conditions = [*self._compare(">", low), *self._compare("<=", high)]
        return self._select(self._selected, conditions, limit=limit)

    def nth(self, low: str, high: str, number: int) -> sql.Composed:
        """Select the key, as text, of the ``number``-th row of ``(low, high]``, if there are as many."""
        conditions = [*self._compare(">", low), *self._compare("<=", high)]
        what = [part + sql.SQL("::text") for part in self._key]
        return self._select(what, conditions, limit=1) + _trusted(f" offset {number - 1:d}")

    def copied(self, low: str, high: str) -> sql.Composed:
        """Copy the rows of ``(low, high]`` out, every column in its own type's binary form."""
        conditions = [*self._compare(">", low), *self._compare("<=", high)]
        rows = self._select([self.column(column.name) for column in self.columns], conditions)
        return sql.SQL("copy ({}) to stdout (format binary)").format(rows)

    def late(self, low: str, high: str, limit: int, since: int | None) -> sql.Composed:
        """Select the rows of ``(low, high]`` that a transaction wrote which is not older than one.

        A row's ``xmin`` is the last 32 bits of a transaction's number. Rows that are compared at all
        are less than 2^31 transactions apart, so the difference modulo 2^32 says which is older. Of a
        frozen row, whose number may come from an earlier turn of the counter, it may say so wrongly:
        such a row is read once more, which an upsert allows, and never left out. A row written under
        a savepoint has the number of a subtransaction, which is above its transaction's.

        Args:
            low: exclusive lower end.
            high: inclusive upper end.
            limit: how many rows at most.
            since: the oldest transaction's 64-bit number; None for rows of any age.
        """
        conditions = [*self._compare(">", low), *self._compare("<=", high)]
        if since is not None:
            conditions.append(
                sql.SQL("(({}::text::int8 - {}) & {}) < {}").format(
                    self.column("xmin"),
                    sql.Literal(since % TRANSACTION_TURN),
                    sql.Literal(TRANSACTION_TURN - 1),
                    sql.Literal(TRANSACTION_TURN // 2),
                )
            )
        return self._select(self._selected, conditions, limit=limit)

    def reaches(self, position: str) -> sql.Composed:
        """Select whether any row, also one that the row filter hides, is at or above a position."""
        return sql.SQL("select exists (select from {} where {})").format(
            self._relation, sql.SQL(" and ").join(self._compare(">=", position))
        )

    def explained(self, limit: int) -> sql.Composed:
        """Select the plan of reading a chunk, as JSON."""
        return sql.SQL("explain (format json) {}").format(
            self.chunk(cursors.BEGIN, cursors.BEGIN, limit)
        )

    def shape(self, names: Sequence[str]) -> sql.Composed:
        """Select no rows of some columns, for their types and for the statement's own errors."""
        return self._select([self.column(name) for name in names], [], limit=0)

    def everything(self) -> sql.Composed:
        """Select no rows of all columns."""
        return sql.SQL("select * from {} limit 0").format(self._relation)

    def newest(
        self, after: str, until: str | None = None, clock: str | None = None
    ) -> sql.Composed:
        """Select the largest key beyond ``after``, as text.

        Args:
            after: exclusive lower end.
            until: inclusive upper end of the whole key, canonical cursor text.
            clock: inclusive upper end of the first key column alone, as PostgreSQL's text.
        """
        conditions = self._compare(">", after)
        if until is not None:
            conditions += self._compare("<=", until)
        if clock is not None:
            conditions.append(self._key[0] + sql.SQL(" <= ") + sql.Literal(clock))
        what = [part + sql.SQL("::text") for part in self._key]
        return self._select(what, conditions, direction=" desc", limit=1)

    def oldest(self, until: str) -> sql.Composed:
        """Select the smallest key up to ``until``, as text."""
        what = [part + sql.SQL("::text") for part in self._key]
        return self._select(what, self._compare("<=", until), limit=1)

    def estimated(self, low: str) -> sql.Composed:
        """Select the plan of reading everything above ``low``, as JSON: it says how many rows."""
        every = self._select([], self._compare(">", low), ordered=False)
        return sql.SQL("explain (format json) {}").format(every)

    def sampled(self, low: str, high: str, percent: float, limit: int) -> sql.Composed:
        """Select keys of ``(low, high]`` from some of the table's pages, in order, as text.

        Args:
            low: exclusive lower end.
            high: inclusive upper end.
            percent: what share of the pages is looked at, above 0 and up to 100.
            limit: about how many keys to return of those found there, evenly.
        """
        conditions = [*self._compare(">", low), *self._compare("<=", high)]
        names = [sql.Identifier(f"key_{number}") for number in range(len(self.key))]
        keys = [
            key + sql.SQL("::text as ") + name for key, name in zip(self._key, names, strict=True)
        ]
        return sql.SQL(
            "select {names} from (select {keys}, row_number() over (order by {order}) as place,"
            " count(*) over () as found from {relation} tablesample system ({percent}){where}) as keys"
            " where place % greatest(1, found / {limit}) = 0 order by place"
        ).format(
            names=sql.SQL(", ").join(names),
            keys=sql.SQL(", ").join(keys),
            order=sql.SQL(", ").join(self._key),
            relation=self._relation,
            percent=sql.Literal(percent),
            where=sql.SQL(" where ") + sql.SQL(" and ").join(conditions)
            if conditions
            else sql.SQL(""),
            limit=sql.Literal(limit),
        )

    def sampled_above(self, low: str, percent: float) -> sql.Composed:
        """Select how many rows in some of the pages are above a position, and how many there are."""
        return sql.SQL(
            "select count(*) filter (where {}), count(*) from {} tablesample system ({})"
        ).format(
            sql.SQL(" and ").join(self._compare(">", low)), self._relation, sql.Literal(percent)
        )

    def null_keys(self) -> sql.Composed:
        """Select whether any row has a NULL in its key, which no keyset read would ever return."""
        nulls = sql.SQL(" or ").join(part + sql.SQL(" is null") for part in self._key)
        rows = self._select([], [sql.SQL("({})").format(nulls)], ordered=False)
        return sql.SQL("select exists ({})").format(rows)

    def at_or_past(self, position: str, target: str) -> sql.Composed:
        """Select whether ``position >= target`` in the columns' own collations.

        The empty first arm gives each column the collation of the source's column.
        """
        keys = sql.SQL(", ").join(self._key)
        names = [sql.Identifier(f"key_{number}") for number in range(len(self.key))]

        def side(at: str, alias: str) -> sql.Composable:
            values = sql.SQL(", ").join(_literal(bound) for bound in cursors.bounds(at))
            return sql.SQL("(select {} from {} where false union all select {}) as {} ({})").format(
                keys, self._relation, values, sql.Identifier(alias), sql.SQL(", ").join(names)
            )

        def row(alias: str) -> sql.Composable:
            return _tuple([sql.SQL("{}.{}").format(sql.Identifier(alias), name) for name in names])

        return sql.SQL("select {} >= {} from {}, {}").format(
            row("here"), row("there"), side(position, "here"), side(target, "there")
        )
