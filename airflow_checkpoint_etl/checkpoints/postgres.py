"""The checkpoint store in PostgreSQL: a table of heads and a table of manifest entries.

Every write is one transaction that compares before it sets. A broken connection is replaced once and
the write runs again; whether it had committed the first time is unknown, and need not be known:

* ``begin``, ``note_loaded`` and ``forget`` come to the same when they are done twice.
* ``append`` compares with exactly where the record stands. If the first one committed, the second
  finds the record at this very chunk, by number, upper end, digest and fence, and succeeds; if the
  first one is still under way, the second waits for its row lock and then finds the same. If anything
  else stands there, the outcome is a ManifestConflictError, and the stage reconciles.

A head that fails its checksum cannot refuse anybody: it is reported as a fault and rebuilt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg

from airflow_checkpoint_etl.checkpoints import record
from airflow_checkpoint_etl.checkpoints.rules import (
    Head,
    appended,
    check_pair,
    conflict,
    moves,
    refuse_older,
)
from airflow_checkpoint_etl.errors import CorruptRecordError, ManifestConflictError
from airflow_checkpoint_etl.migrations import read_script
from airflow_checkpoint_etl.ports import StageRecord
from airflow_checkpoint_etl.postgres_session import PostgresSession
from airflow_checkpoint_etl.protocol import Checkpoint, Frontier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_checkpoint_etl.postgres_session import Session
    from airflow_checkpoint_etl.protocol import Chunk, Lane, Stage

COMPONENT: Final = "checkpoints"
SCRIPTS: Final = (read_script("airflow_checkpoint_etl.checkpoints", "postgres.sql"),)

# One stage's head, and its manifest as three arrays in the order of seq: one statement, one snapshot.
_READ: Final = """
    select c.fence, c.incarnation, c.generation, c.seq, c.cursor, c.state_digest,
        c.swept, c.rows_in, c.rows, c.state, c.updated_at, c.digest, c.checksum,
        m.incarnations, m.seqs, m.entries
    from (values (1)) as always (one)
    left join checkpoint_etl.checkpoint as c
        on c.pipeline = %(pipeline)s and c.part = %(part)s and c.stage = %(stage)s
    cross join (
        select array_agg(incarnation order by seq, incarnation) as incarnations,
            array_agg(seq order by seq, incarnation) as seqs,
            array_agg(entry order by seq, incarnation) as entries
        from checkpoint_etl.manifest
        where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s
    ) as m
"""

# Makes sure that there is a head to lock. Nobody else sees this empty one: it is set in the same
# transaction, or rolled back with it.
_ENSURE: Final = """
    insert into checkpoint_etl.checkpoint (
        pipeline, part, stage, fence, incarnation, generation, seq, cursor, state_digest,
        swept, rows_in, rows, updated_at, digest, checksum
    )
    values (%(pipeline)s, %(part)s, %(stage)s, 0, '', 0, 0, '', '', '', 0, 0, '', '', '')
    on conflict (pipeline, part, stage) do nothing
"""

# The head alone, locked until the transaction ends.
_LOCK: Final = """
    select fence, incarnation, generation, seq, cursor, state_digest,
        swept, rows_in, rows, state, updated_at, digest, checksum
    from checkpoint_etl.checkpoint
    where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s
    for update
"""

# The head set to a checkpoint, whatever stood there.
_SET: Final = """
    update checkpoint_etl.checkpoint
    set fence = %(fence)s, incarnation = %(incarnation)s, generation = %(generation)s,
        seq = %(seq)s, cursor = %(cursor)s, state_digest = %(state_digest)s,
        swept = %(swept)s, rows_in = %(rows_in)s, rows = %(rows)s, state = %(state)s,
        updated_at = %(updated_at)s, digest = %(digest)s, checksum = %(checksum)s
    where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s
"""

# The compare-and-set: the head moves from exactly chunk.low, and only then is there a new entry.
_APPEND: Final = f"""
    with moved as (
        {_SET}
            and checkpoint.fence = %(fence)s
            and checkpoint.incarnation = %(incarnation)s
            and checkpoint.seq = %(seq_before)s
            and checkpoint.cursor = %(low)s
        returning pipeline, part, stage, incarnation, seq
    )
    insert into checkpoint_etl.manifest (pipeline, part, stage, incarnation, seq, entry)
    select pipeline, part, stage, incarnation, seq, %(entry)s::text from moved
    on conflict (pipeline, part, stage, incarnation, seq) do update set entry = excluded.entry
"""

# The head moved on by one chunk within its life: nearly always what a note of the load frontier is.
_NEXT: Final = f"""
    {_SET}
        and checkpoint.fence = %(fence)s
        and checkpoint.incarnation = %(incarnation)s
        and checkpoint.seq = %(seq)s - 1
"""

# What a begin leaves behind of an earlier life, or of a chain that was cut.
_DROP: Final = """
    delete from checkpoint_etl.manifest
    where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s
        and (incarnation <> %(incarnation)s or seq > %(seq)s)
"""

# Entries by number. The numbers come as text, because some connections adapt every list to JSON.
_FORGET: Final = """
    delete from checkpoint_etl.manifest
    where pipeline = %(pipeline)s and part = %(part)s and stage = %(stage)s
        and incarnation = %(incarnation)s
        and seq = any(string_to_array(%(seqs)s, ',')::bigint[])
"""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A head that passed its checksum, and its checkpoint."""

    head: Head
    checkpoint: Checkpoint


class PostgresCheckpointStore:
    """Checkpoints and manifests in PostgreSQL.

    Args:
        connect: makes a psycopg connection for this store alone.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._session = PostgresSession(connect, COMPONENT, SCRIPTS)

    def preflight(self) -> list[str]:
        """Connect, create or migrate the tables; there is nothing to warn about.

        Raises:
            SchemaVersionError: a newer version of this package made the tables.
            MissingPrivilegeError: the role may not create or use them; the message says what to run.
        """
        self._session.open()
        return []

    def read(self, lane: Lane, stage: Stage) -> StageRecord:
        """Return what is stored; an empty record when nothing is.

        Raises:
            SchemaVersionError: a newer version of this package wrote it.
        """

        def work(session: Session) -> tuple[StageRecord, list[int]]:
            return _read(session, lane, stage)

        return self._session.run(work)[0]

    def begin(self, lane: Lane, fence: int, checkpoint: Checkpoint) -> None:
        """Take over one stage's record; unreadable parts of it are dropped.

        Raises:
            FencedError: a newer fence wrote here.
            SchemaVersionError: a newer version of this package wrote here.
        """
        stage = checkpoint.stage
        values = _key(lane, stage) | _columns(checkpoint, fence)

        def work(session: Session) -> None:
            stored = _claim(session, stage, values)
            if stored is not None:
                refuse_older(lane, stage, fence, stored.head.fence)
            session.execute(_SET, values)
            session.execute(_DROP, values)
            _, unreadable = _read(session, lane, stage)
            if unreadable:
                session.execute(_FORGET, values | {"seqs": _list(unreadable)})

        self._session.transact(work)

    def append(self, lane: Lane, fence: int, chunk: Chunk, checkpoint: Checkpoint) -> None:
        """Add one manifest entry and move the checkpoint; succeeds again when it did before.

        Raises:
            FencedError: a newer fence wrote here.
            ManifestConflictError: the record is gone, unreadable or stands elsewhere.
        """
        check_pair(chunk, checkpoint)
        stage = checkpoint.stage
        values = (
            _key(lane, stage)
            | _columns(checkpoint, fence, chunk.digest)
            | {"seq_before": chunk.seq - 1, "low": chunk.low, "entry": record.encode_chunk(chunk)}
        )

        def work(session: Session) -> None:
            if session.execute(_APPEND, values).rowcount:
                return
            session.execute(_LOCK, values)
            stored = _unpack(stage, session.fetchone())
            head = stored.head if stored else None
            if not appended(lane, stage, fence, chunk, head):
                # It would fit now: another attempt moved the record between the two statements.
                raise conflict(lane, stage, fence, chunk, head)

        try:
            self._session.run(work)
        except (
            psycopg.errors.SerializationFailure,
            psycopg.errors.DeadlockDetected,
        ) as error:
            # Only where the server's default isolation is stricter than READ COMMITTED.
            message = f"{stage} of {lane}: another attempt wrote at the same moment; reconcile"
            raise ManifestConflictError(message) from error
        except CorruptRecordError as error:
            raise conflict(lane, stage, fence, chunk, None) from error

    def note_loaded(self, lane: Lane, checkpoint: Checkpoint) -> None:
        """Record the load frontier; never backwards."""
        stage = checkpoint.stage
        values = _key(lane, stage) | _columns(checkpoint, fence=0)
        if self._session.run(lambda session: session.execute(_NEXT, values).rowcount):
            return

        def work(session: Session) -> None:
            stored = _claim(session, stage, _key(lane, stage))
            head = stored.head if stored else None
            if moves(head, checkpoint):
                fence = head.fence if head else 0
                session.execute(_SET, _key(lane, stage) | _columns(checkpoint, fence))

        self._session.transact(work)

    def forget(self, lane: Lane, stage: Stage, seqs: Sequence[int], incarnation: str) -> None:
        """Drop manifest entries whose chunks were loaded and collected."""
        if not seqs:
            return
        values = _key(lane, stage) | {"incarnation": incarnation, "seqs": _list(seqs)}

        def work(session: Session) -> None:
            session.execute(_FORGET, values)

        self._session.run(work)

    def close(self) -> None:
        """Close the connection, if one is open."""
        self._session.close()


def _key(lane: Lane, stage: Stage) -> dict[str, Any]:
    return {"pipeline": lane.pipeline, "part": lane.part, "stage": stage.value}


def _list(seqs: Sequence[int]) -> str:
    return ",".join(str(seq) for seq in seqs)


def _columns(checkpoint: Checkpoint, fence: int, digest: str = "") -> dict[str, Any]:
    """Return the columns of a head that stands at ``checkpoint``."""
    frontier = checkpoint.frontier
    return {
        "fence": fence,
        "incarnation": frontier.incarnation,
        "generation": frontier.generation,
        "seq": frontier.seq,
        "cursor": frontier.cursor,
        "state_digest": frontier.state_digest,
        "swept": frontier.swept,
        "rows_in": checkpoint.rows_in,
        "rows": checkpoint.rows,
        "state": checkpoint.state,
        "updated_at": checkpoint.updated_at,
        "digest": digest,
        "checksum": record.checksum(checkpoint, fence, digest),
    }


def _unpack(stage: Stage, row: tuple[Any, ...] | None) -> _Stored | None:
    """Return a stored head; None when there is none.

    Raises:
        CorruptRecordError: it fails its checksum.
    """
    if row is None or row[0] is None:
        return None
    fence, incarnation, generation, seq, cursor, state_digest, swept, *rest = row
    rows_in, rows, state, updated_at, digest, checksum = rest
    frontier = Frontier(incarnation, generation, seq, cursor, state_digest, swept)
    checkpoint = Checkpoint(stage, frontier, rows_in, rows, updated_at, state)
    if record.checksum(checkpoint, fence, digest) != checksum:
        message = "the checkpoint fails its checksum"
        raise CorruptRecordError(message)
    return _Stored(Head.at(frontier, fence, digest), checkpoint)


def _claim(session: Session, stage: Stage, key: dict[str, Any]) -> _Stored | None:
    """Lock a stage's head; None when it is new or damaged, and so can be set to anything."""
    new = session.execute(_ENSURE, key).rowcount == 1
    session.execute(_LOCK, key)
    try:
        return None if new else _unpack(stage, session.fetchone())
    except CorruptRecordError:
        return None


def _read(session: Session, lane: Lane, stage: Stage) -> tuple[StageRecord, list[int]]:
    """Return a stage's record, and the numbers of the entries that could not be read."""
    session.execute(_READ, _key(lane, stage))
    *head, incarnations, seqs, entries = session.fetchone() or (None, None, None, None)
    faults: list[str] = []
    stored = None
    try:
        stored = _unpack(stage, tuple(head))
    except CorruptRecordError as error:
        faults.append(f"{stage} of {lane}: {error}")
    chunks: list[Chunk] = []
    unreadable: list[int] = []
    for incarnation, seq, entry in zip(incarnations or (), seqs or (), entries or (), strict=True):
        try:
            chunk = record.decode_chunk(entry)
            if (chunk.incarnation, chunk.seq) != (incarnation, seq):
                message = "it holds another chunk"
                raise CorruptRecordError(message)  # noqa: TRY301  one place turns it into a fault
            chunks.append(chunk)
        except CorruptRecordError as error:
            unreadable.append(seq)
            faults.append(f"{stage} of {lane}: manifest entry {seq}: {error}")
    checkpoint, fence = (stored.checkpoint, stored.head.fence) if stored else (None, 0)
    return StageRecord(checkpoint, fence, tuple(chunks), tuple(faults)), unreadable
