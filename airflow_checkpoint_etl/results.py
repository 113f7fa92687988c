"""What a per-record callable returned for a chunk, held by column.

Rows come in blocks: rows with the same columns, one after the other. A column whose every value is the
very object that was handed to the callable is not kept at all: the chunk's own column is taken for it,
with no value converted. So a transform pays for the columns it changes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_checkpoint_etl.records import misfits, to_arrow
from airflow_checkpoint_etl.values import to_python

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from airflow_checkpoint_etl.values import Columns


@dataclass(frozen=True, slots=True)
class Block:
    """Rows with the same columns.

    Attributes:
        columns: values by column; None where every value is the one that came in.
        origins: for each row, the position of the record it was made from.
    """

    columns: dict[str, list[Any] | None]
    origins: Sequence[int]

    @property
    def names(self) -> frozenset[str]:
        """The columns' names."""
        return frozenset(self.columns)

    def without(self, rejected: Container[int]) -> Block:
        """Return the rows that were made from other records than these."""
        left = [place for place, origin in enumerate(self.origins) if origin not in rejected]
        if len(left) == len(self.origins):
            return self
        return Block(
            {
                name: None if values is None else [values[place] for place in left]
                for name, values in self.columns.items()
            },
            [self.origins[place] for place in left],
        )


def block_of(
    rows: Sequence[dict[str, Any]], places: Sequence[int], came: Columns, positions: Sequence[int]
) -> Block:
    """Return rows with equal keys as a block.

    Args:
        rows: what the callable returned.
        places: for each of them, the place of its record among ``came``.
        came: the values that the records were made of.
        positions: the records' positions in the chunk.
    """
    one_to_one = places == list(range(len(positions)))
    columns: dict[str, list[Any] | None] = {}
    for name in rows[0]:
        values = list(map(itemgetter(name), rows))
        before = came.get(name)
        if before is not None and not one_to_one:
            before = [before[place] for place in places]
        same = before is not None and all(map(is_, values, before))
        columns[name] = None if same else values
    origins = positions if one_to_one else [positions[place] for place in places]
    return Block(columns, origins)


@dataclass(frozen=True, slots=True)
class Results:
    """The rows made from one chunk.

    Attributes:
        source: the chunk's rows.
        merged: whether a row is its record with what the callable returned put over it.
        output_columns: declared PostgreSQL types by column.
        blocks: the rows.
    """

    source: pa.Table
    merged: bool
    output_columns: Mapping[str, str]
    blocks: list[Block] = field(default_factory=list)

    def required(self, block: Block) -> frozenset[str]:
        """The columns of a block that every other block has to have too.

        A merged row takes what was not returned from its record, which has no new columns.
        """
        return block.names - frozenset(self.source.column_names) if self.merged else block.names

    def usual(self) -> frozenset[str]:
        """The required columns that most rows have."""
        counts: Counter[frozenset[str]] = Counter()
        for block in self.blocks:
            counts[self.required(block)] += len(block.origins)
        return counts.most_common(1)[0][0] if counts else frozenset()

    def without(self, rejected: Container[int]) -> Results:
        """Return the rows that were made from other records than these."""
        blocks = [block.without(rejected) for block in self.blocks]
        return replace(self, blocks=[block for block in blocks if block.origins])

    def misfits(self) -> dict[int, str]:
        """Say of which records a value has no type in its column, and why, by the record's position."""
        origins = self._origins()
        odd = misfits(self._changed(), self.source.schema, self.output_columns)
        return {origins[place]: reason for place, reason in odd.items()}

    def table(self) -> pa.Table:
        """Build the table; it has no columns where there are no rows.

        Raises:
            ValueNotCarriedError: a column's values are of mixed or unknown types.
        """
        if not self.blocks:
            return pa.table({})
        names, changed = self._names(), self._changed()
        taken = self._taken([name for name in names if name not in changed])
        arrays, fields = [], []
        for name in names:
            if name in changed:
                declared = self.output_columns.get(name)
                array, column_field = to_arrow(name, changed[name], self.source.schema, declared)
            else:
                array, column_field = taken.column(name), taken.schema.field(name)
            arrays.append(array)
            fields.append(column_field)
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    # --- inside ----------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """The columns, in the order of their first appearance; a record's own first when merged."""
        returned = chain.from_iterable(block.columns for block in self.blocks)
        own = self.source.column_names if self.merged else []
        return list(dict.fromkeys(chain(own, returned)))

    def _origins(self) -> list[int]:
        return list(chain.from_iterable(block.origins for block in self.blocks))

    def _taken(self, names: Sequence[str]) -> pa.Table:
        """Return columns of the chunk, with a row for every row that was made."""
        columns, origins = self.source.select(names), self._origins()
        if origins == list(range(self.source.num_rows)):
            return columns
        return columns.combine_chunks().take(pa.array(origins, pa.int64()))

    def _changed(self) -> Columns:
        """Return the values of every column that is not as it came, or has to have another type."""
        return {
            name: list(chain.from_iterable(self._values(name)))
            for name in self._names()
            if name in self.output_columns
            or any(block.columns.get(name) is not None for block in self.blocks)
        }

    def _values(self, name: str) -> Iterator[list[Any]]:
        for block in self.blocks:
            values = block.columns.get(name)
            if values is None:  # as it came
                column = self.source.column(name).take(pa.array(block.origins, pa.int64()))
                values = to_python(column, self.source.schema.field(name))
            yield values
