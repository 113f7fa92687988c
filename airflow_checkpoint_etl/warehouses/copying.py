"""Arrow rows into PostgreSQL by binary COPY: encoding, the staging table, and the upsert.

Nothing here commits. Rows are encoded batch by batch, so memory stays bounded by a batch and not by
the chunk's encoded size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pgpq import ArrowToPostgresBinaryEncoder
from pgpq.encoders import LargeStringEncoderBuilder, StringEncoderBuilder
from pgpq.schema import Jsonb
from psycopg import sql
from psycopg.rows import tuple_row

from airflow_checkpoint_etl.ahead import one_ahead
from airflow_checkpoint_etl.errors import ValueNotCarriedError
from airflow_checkpoint_etl.warehouses.convert import LossError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import psycopg

    from airflow_checkpoint_etl.warehouses.wire import ColumnPlan

_BATCH_BYTES: Final = 4 << 20
_MOST_BATCH_ROWS: Final = 65_536


class Encoder:
    """Encodes tables of one plan as the bytes of a binary COPY.

    Args:
        plans: the columns, in the order of the COPY.
        target: the target table, for messages.
        constant: a bigint that is added to every row as a last column; None for none.
    """

    def __init__(
        self, plans: tuple[ColumnPlan, ...], target: str, constant: int | None = None
    ) -> None:
        self._plans = plans
        self._target = target
        self._constant = constant
        # Columns are numbered here: their names may be anything, and the encoder prints its own.
        fields = [pa.field(str(place), plan.route.wire) for place, plan in enumerate(plans)]
        if constant is not None:
            fields.append(pa.field(str(len(plans)), pa.int64()))
        self._schema = pa.schema(fields)
        self._builders = {
            field.name: ArrowToPostgresBinaryEncoder.infer_encoder(field) for field in fields
        }
        for place, plan in enumerate(plans):
            if plan.route.jsonb:
                field = fields[place]
                large = pa.types.is_large_string(field.type)
                builder = LargeStringEncoderBuilder if large else StringEncoderBuilder
                self._builders[field.name] = builder.new_with_output(field, Jsonb())

    def encode(self, table: pa.Table) -> Iterator[bytes]:
        """Yield the bytes of one COPY.

        Raises:
            ValueNotCarriedError: a value does not fit its target column; names the column.
        """
        encoder = ArrowToPostgresBinaryEncoder.new_with_encoders(self._schema, self._builders)
        yield encoder.write_header()
        for batch in table.to_batches(max_chunksize=_batch_rows(table)):
            arrays = [self._converted(plan, batch.column(plan.name)) for plan in self._plans]
            if self._constant is not None:
                arrays.append(pa.repeat(pa.scalar(self._constant, pa.int64()), batch.num_rows))
            ready = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
            try:
                encoded = encoder.write_batch(ready)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  its text may hold a value
                message = (
                    f"target {self._target}: a chunk could not be encoded ({type(error).__name__}); "
                    "nothing of it was written"
                )
                raise ValueNotCarriedError(message) from None
            yield encoded
        yield encoder.finish()

    def misfits(self, table: pa.Table) -> dict[int, str]:
        """Say which rows hold a value that does not fit its target column, and why."""
        found: dict[int, str] = {}
        for plan in self._plans:
            waiting = [(0, table.num_rows)]
            while waiting:
                start, stop = waiting.pop()
                piece = table.column(plan.name).slice(start, stop - start).combine_chunks()
                try:
                    converted = self._converted(plan, piece)
                except ValueNotCarriedError as error:
                    if stop - start == 1:
                        found.setdefault(start, str(error))
                    else:
                        middle = (start + stop) // 2
                        waiting += [(middle, stop), (start, middle)]
                    continue
                for place in _with_nul(converted):
                    words = (
                        f'target {self._target}: column "{plan.name}": a text holds a NUL character'
                    )
                    found.setdefault(start + place, words)
        return found

    def _converted(self, plan: ColumnPlan, array: pa.Array) -> pa.Array:
        try:
            return plan.route.conversion(array)
        except LossError as error:
            words = str(error)
        except pa.ArrowException:  # its text holds the value
            words = "a value does not fit without loss"
        message = (
            f'target {self._target}: column "{plan.name}" arrives as {plan.arrives} and goes to '
            f"{plan.target.pg_type}: {words}; correct it in the transform, or widen the target "
            "column. Nothing of this chunk was written"
        )
        raise ValueNotCarriedError(message)


def _with_nul(array: pa.Array) -> list[int]:
    """Return where texts hold the one character that PostgreSQL's do not have."""
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        return []
    places: list[int] = pc.indices_nonzero(pc.match_substring(array, "\0")).to_pylist()
    return places


def _batch_rows(table: pa.Table) -> int:
    """Return how many rows make about ``_BATCH_BYTES``."""
    per_row: int = table.nbytes // max(1, table.num_rows)
    return max(1, min(_MOST_BATCH_ROWS, _BATCH_BYTES // max(1, per_row)))


def copy_rows(
    connection: psycopg.Connection[Any],
    into: sql.Composable,
    columns: Iterable[str],
    chunks: Iterable[bytes],
) -> int:
    """Run one binary COPY and return how many rows the server took.

    The next piece is encoded while the server takes the present one.
    """
    statement = sql.SQL("copy {} ({}) from stdin (format binary)").format(into, names(columns))
    with connection.cursor(row_factory=tuple_row) as command:
        with command.copy(statement) as copy:
            for chunk in one_ahead(chunks, "encode"):
                copy.write(chunk)
        return command.rowcount


def names(columns: Iterable[str]) -> sql.Composed:
    """Return quoted names, separated by commas."""
    return sql.SQL(", ").join(sql.Identifier(column) for column in columns)


def create_arrivals(plans: Iterable[ColumnPlan], arrivals: sql.Identifier) -> sql.Composed:
    """Return the statement that makes the temporary table for one chunk.

    A column that PostgreSQL shall cast is text there; every other one has its target's type and
    collation, so that what is compared there compares as it does in the target.
    """
    lines = [
        sql.SQL("{} {}").format(
            sql.Identifier(plan.name),
            sql.SQL("text") if plan.route.cast else _declared(plan),
        )
        for plan in plans
    ]
    return sql.SQL("create temporary table {} ({}) on commit drop").format(
        arrivals, sql.SQL(", ").join(lines)
    )


def _declared(plan: ColumnPlan) -> sql.SQL:
    collation = plan.target.collation
    return _type(plan.target.pg_type + (f" collate {collation}" if collation else ""))


def _type(name: str) -> sql.SQL:
    """Take a type's name into a statement; it comes from the catalog, quoted as SQL writes it."""
    return sql.SQL(name)


def _cast_columns(plans: Iterable[ColumnPlan]) -> sql.Composed:
    """Return the select list that gives every column its target's type, under its own name."""
    return sql.SQL(", ").join(
        sql.SQL("{0}::{1} as {0}").format(sql.Identifier(plan.name), _type(plan.target.cast_type))
        if plan.route.cast
        else sql.Identifier(plan.name)
        for plan in plans
    )


def count_losses(plans: Iterable[ColumnPlan], arrivals: sql.Composable) -> sql.Composed | None:
    """Return the query that counts, per checked column, the values a cast would change."""
    counts = [
        sql.SQL("count(*) filter (where {})").format(
            sql.SQL(plan.route.check.condition).format(value=sql.Identifier(plan.name))
        )
        for plan in plans
        if plan.route.check is not None
    ]
    if not counts:
        return None
    return sql.SQL("select {} from {}").format(sql.SQL(", ").join(counts), arrivals)


def insert_all(
    target: sql.Identifier,
    plans: tuple[ColumnPlan, ...],
    arrivals: sql.Composable,
    lineage: dict[str, int],
) -> sql.Composed:
    """Return the INSERT of every arrived row, in the order of arrival."""
    constants = [sql.SQL(", {}").format(sql.Literal(value)) for value in lineage.values()]
    return sql.SQL("insert into {} ({}) select {}{} from {}").format(
        target,
        names([*(plan.name for plan in plans), *lineage]),
        _cast_columns(plans),
        sql.Composed(constants),
        arrivals,
    )


def count_not_taken(
    target: sql.Identifier,
    plans: tuple[ColumnPlan, ...],
    arrivals: sql.Composable,
    key: tuple[str, ...],
    cursor_columns: tuple[str, ...],
) -> sql.Composed:
    """Return the query that counts arrived rows of which the target has neither this nor a newer version.

    An upsert leaves older versions out, so the number of rows it touched does not tell.
    """

    def row(alias: str, columns: tuple[str, ...]) -> sql.Composable:
        return sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns)

    return sql.SQL(
        "select count(*) from (select {rows} from {arrivals}) arrived where not exists ("
        "select from {target} as standing where ({key}) = ({arrived_key}) "
        "and (({cursor}) >= ({arrived_cursor})) is not false)"
    ).format(
        rows=_cast_columns(plans),
        arrivals=arrivals,
        target=target,
        key=row("standing", key),
        arrived_key=row("arrived", key),
        cursor=row("standing", cursor_columns),
        arrived_cursor=row("arrived", cursor_columns),
    )


def upsert_newest(
    target: sql.Identifier,
    plans: tuple[ColumnPlan, ...],
    arrivals: sql.Composable,
    lineage: dict[str, int],
    key: tuple[str, ...],
    cursor_columns: tuple[str, ...],
    *,
    replayed: bool = False,
) -> sql.Composed:
    """Return the INSERT .. ON CONFLICT of the newest version of every key.

    A chunk may hold several versions of a key: the one with the highest cursor is kept, and among
    equals the one that arrived last. A row in the target is replaced unless it is newer; a target row
    without a cursor value counts as older. Cursors are compared as the target's types.

    Replayed rows come late: of two versions with one cursor (a row that was swept up again) the one of
    the later chunk stays, where the target keeps lineage and so can tell.
    """
    versions = [*cursor_columns, *(lineage if replayed else ())]
    columns = [*(plan.name for plan in plans), *lineage]
    changed = [name for name in columns if name not in key]
    constants = [sql.SQL(", {}").format(sql.Literal(value)) for value in lineage.values()]
    newest = sql.SQL("select distinct on ({key}) * from ({rows}) arrived order by {order}").format(
        key=names(key),
        rows=sql.SQL("select {}, ctid as _ck_place from {}").format(_cast_columns(plans), arrivals),
        order=sql.SQL(", ").join(
            [
                *(sql.Identifier(name) for name in key),
                *(sql.SQL("{} desc").format(sql.Identifier(name)) for name in cursor_columns),
                sql.SQL("_ck_place desc"),
            ]
        ),
    )
    action: sql.Composable = sql.SQL("do nothing")
    if changed:
        action = sql.SQL("do update set {changes} where (({old}) <= ({new})) is not false").format(
            changes=sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in changed
            ),
            old=sql.SQL(", ").join(sql.Identifier("standing", name) for name in versions),
            new=sql.SQL(", ").join(sql.Identifier("excluded", name) for name in versions),
        )
    return sql.SQL(
        "insert into {target} as standing ({columns}) select {selected}{constants} from ({newest}) newest "
        "on conflict ({key}) {action}"
    ).format(
        target=target,
        columns=names(columns),
        selected=names(plan.name for plan in plans),
        constants=sql.Composed(constants),
        newest=newest,
        key=names(key),
        action=action,
    )
