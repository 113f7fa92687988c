"""The quarantine's tables: records are put there by a load, and taken out by a replay.

A replay is one transaction that holds the lane's row, so that two of them, or one and a load or a rewind,
come one after the other. Rows are written as a load writes them, under the ledger id of the chunk they
came from: a rewind finds them by it, and an upsert lets no older version replace a newer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa

from airflow_checkpoint_etl.errors import PreflightError, ReplayError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.ports import Replayed
from airflow_checkpoint_etl.postgres import read_statements
from airflow_checkpoint_etl.protocol import Chunk, Stage
from airflow_checkpoint_etl.quarantine import payloads
from airflow_checkpoint_etl.streams import MAX_DECODED, read_streams, write_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_checkpoint_etl.ports import ReplayRequest
    from airflow_checkpoint_etl.postgres import Row, Session
    from airflow_checkpoint_etl.protocol import Lane
    from airflow_checkpoint_etl.quarantine import Rejects
    from airflow_checkpoint_etl.transform import Transformer
    from airflow_checkpoint_etl.warehouses.target import TargetTable

SQL: Final = read_statements("airflow_checkpoint_etl.warehouses", "quarantine.sql")

_UNREADABLE: Final = (
    "restore checkpoint_etl.quarantine_file, or rewind the lane to before the chunk"
)


def keep(session: Session, ledger_id: int, stage: Stage, rejects: Rejects, first: int) -> None:
    """Write a chunk's rejected records within the caller's transaction.

    Args:
        session: the session with the load's transaction.
        ledger_id: the chunk's ledger row.
        stage: the stage that rejected them.
        rejects: the records.
        first: the ordinal of the first of them.
    """
    data = write_streams([rejects.records])
    session.rows(SQL["keep_file"], {"ledger_id": ledger_id, "stage": stage.value, "data": data})
    told = zip(rejects.cursors, rejects.reasons, payloads(rejects.records), strict=True)
    with session.connection.cursor() as command, command.copy(SQL["keep_records"]) as copy:
        for position, (cursor, reason, payload) in enumerate(told):
            copy.write_row(
                (ledger_id, first + position, stage.value, position, cursor, reason, payload)
            )


class Replay:
    """One replay of a lane's quarantine, inside the caller's transaction, with the lane locked.

    Args:
        session: the session with the transaction.
        target: the table to write into.
        lane: the lane.
    """

    def __init__(self, session: Session, target: TargetTable, lane: Lane) -> None:
        self._session, self._target, self._lane = session, target, lane
        self._records = self._released = self._rows = 0

    def run(self, request: ReplayRequest) -> Replayed:
        """Try the records again; see ``ports.WarehouseAdmin``."""
        transformer = request.transformer
        stages = [Stage.LOAD] if transformer is None else [Stage.TRANSFORM, Stage.LOAD]
        if transformer is not None:
            if transformer.stateful:
                message = (
                    f"{self._lane}: a transform with state cannot be replayed, for what came after the "
                    "rejected records rests on a state without them; nothing was changed. Mend the "
                    "transform and rewind the lane to before the first of them"
                )
                raise ReplayError(message)
            transformer = transformer.rejecting()
        parameters = {
            "pipeline": self._lane.pipeline,
            "part": self._lane.part,
            "stages": [stage.value for stage in stages],
        }
        for row in self._session.rows(SQL["chunks"], parameters):
            for stage in stages:
                self._replay_chunk(row, stage, transformer)
        (left,) = self._session.row(SQL["left"], parameters) or (0,)
        return Replayed(self._records, self._released, self._rows, left)

    def _replay_chunk(self, row: Row, stage: Stage, transformer: Transformer | None) -> None:
        key = {"ledger_id": row[0], "stage": stage.value}
        taken = self._session.rows(SQL["take"], key)
        if not taken:
            return
        failpoint("replay.after_take")
        found = self._session.row(SQL["file"], key)
        file = read_streams(bytes(found[0]), MAX_DECODED, _UNREADABLE)[0] if found else None
        positions = [record[1] for record in taken]
        if file is None or max(positions) >= file.num_rows:
            message = (
                f"{self._lane}: the records quarantined under ledger row {row[0]} are not in their file; "
                f"nothing was changed. {_UNREADABLE.capitalize()}"
            )
            raise ReplayError(message)
        failed, rows = self._try(file.take(positions), row, stage, transformer)
        failpoint("replay.after_rows")
        again = [
            key
            | dict(zip(("ordinal", "position", "cursor"), taken[place][:3], strict=True))
            | {"reason": reason, "payload": taken[place][4], "created_at": taken[place][5]}
            for place, reason in failed.items()
        ]
        with self._session.connection.cursor() as command:
            command.executemany(SQL["put_back"], again)
        released = len(taken) - len(failed)
        self._session.rows(SQL["drop_file"], key)
        self._session.rows(SQL["released"], key | {"rows": rows, "released": released})
        self._records += len(taken)
        self._released += released
        self._rows += rows

    def _try(
        self, records: pa.Table, row: Row, stage: Stage, transformer: Transformer | None
    ) -> tuple[dict[int, str], int]:
        """Return why records failed again, by place, and how many rows the others brought."""
        places = list(range(records.num_rows))
        if stage is Stage.LOAD or transformer is None:
            return self._write([(records, places, [*places, records.num_rows])], row[0])
        failed: dict[int, str] = {}
        made: list[tuple[int, pa.Table]] = []
        chunk = _chunk_of(row)
        for place in places:  # one by one, so that every row is known to be of its record
            result = transformer.apply(records.slice(place, 1), None, chunk)
            if result.rejects is not None:
                failed[place] = result.rejects.reasons[0]
            elif result.table.num_rows:
                made.append((place, result.table))
        refused, rows = self._write(_joined(made), row[0])
        return failed | refused, rows

    def _write(
        self, groups: Sequence[tuple[pa.Table, list[int], list[int]]], ledger_id: int
    ) -> tuple[dict[int, str], int]:
        """Write tables whose units are records; return the refused places and the rows written."""
        refused: dict[int, str] = {}
        rows = 0
        for table, places, bounds in groups:
            self._target.accept(self._session.connection, table.schema)
            reasons = self._target.write_fitting(
                self._session.connection, table, ledger_id, bounds, replayed=True
            )
            refused |= {places[unit]: reason for unit, reason in reasons.items()}
            rows += table.num_rows - sum(bounds[unit + 1] - bounds[unit] for unit in reasons)
        return refused, rows


def check_target(
    session: Session, target: TargetTable, lane: Lane, loaded_into: int | None
) -> None:
    """Check that the target is the table the lane loads into.

    Raises:
        ReplayError: it was dropped, replaced, or is another one.
    """
    try:
        facts = target.describe(session.connection)
    except PreflightError as error:
        raise ReplayError(str(error)) from error
    if loaded_into is None or (facts is not None and facts.oid == loaded_into):
        return
    message = (
        f"{lane}: the target is not the table it loads into (oid {loaded_into}); nothing was changed. "
        "Replay with the pipeline the lane belongs to, and restore its table if it was dropped"
    )
    raise ReplayError(message)


def _joined(
    made: Sequence[tuple[int, pa.Table]],
) -> list[tuple[pa.Table, list[int], list[int]]]:
    """Join neighbouring results of equal columns: table, places of its records, where each begins."""
    groups: list[tuple[list[pa.Table], list[int], list[int]]] = []
    for place, table in made:
        if not groups or not groups[-1][0][0].schema.equals(table.schema, check_metadata=True):
            groups.append(([], [], [0]))
        tables, places, bounds = groups[-1]
        tables.append(table)
        places.append(place)
        bounds.append(bounds[-1] + table.num_rows)
    return [
        (pa.concat_tables(tables).combine_chunks(), places, bounds)
        for tables, places, bounds in groups
    ]


def _chunk_of(row: Row) -> Chunk:
    """The chunk a transform is told of, for its messages."""
    _, incarnation, seq, low, high, fence = row
    return Chunk(incarnation, seq, low, high, 0, 0, "", 0, "", fence)
