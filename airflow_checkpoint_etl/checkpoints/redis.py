"""The checkpoint store in Redis (or Valkey): one hash per lane and stage.

Redis may lose any suffix of its writes, or a whole key, and bring old values back. So everything of a
stage is one key, which is lost or kept as a whole; every record carries a checksum; and what a reader
cannot verify is a fault that the stage rebuilds from the warehouse, never "no state"::

    checkpoint_etl:{orders/default}:extract
        fence incarnation generation seq digest cursor sum     plain text, compared in Lua
        checkpoint                                             checksummed JSON
        c:12:9f3c...                                           one per manifest entry, checksummed JSON

The braces make the lane a cluster's hash tag. Keys have no time to live. Every write is one script over
one key that recognises its own earlier success: a client that retries after a lost answer is right.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import redis

from airflow_checkpoint_etl.checkpoints.record import (
    decode_checkpoint,
    decode_chunk,
    encode_checkpoint,
    encode_chunk,
)
from airflow_checkpoint_etl.checkpoints.rules import Head, check_pair, conflict, refuse_older
from airflow_checkpoint_etl.errors import CheckpointEtlError, CorruptRecordError
from airflow_checkpoint_etl.ports import StageRecord
from airflow_checkpoint_etl.redis_session import (
    RedisSession,
    is_out_of_memory,
    is_wrong_type,
    read_script,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Lane, Stage
    from airflow_checkpoint_etl.redis_session import Argument, Client, Script

_PACKAGE: Final = "airflow_checkpoint_etl.checkpoints"
_BEGIN: Final = read_script(_PACKAGE, "head.lua", "begin.lua")
_APPEND: Final = read_script(_PACKAGE, "head.lua", "append.lua")
_NOTE_LOADED: Final = read_script(_PACKAGE, "head.lua", "note_loaded.lua")

_SUMMED: Final = (b"fence", b"incarnation", b"generation", b"seq", b"digest", b"cursor")
_ENTRY: Final = re.compile(rb"c:([0-9]+):(.*)", re.DOTALL)
_FIELDS_PER_COMMAND: Final = 1000


@dataclass(frozen=True, slots=True)
class _Reading:
    """A stage's record, and the names of the fields in it that could not be read."""

    record: StageRecord
    unreadable: tuple[bytes, ...] = ()


class RedisCheckpointStore:
    """Checkpoints and manifests in Redis.

    Args:
        connect: makes a client of a single server, a sentinel's primary or a cluster.
        prefix: what every key starts with.
    """

    def __init__(self, connect: Callable[[], Client], prefix: str = "checkpoint_etl") -> None:
        self._session = RedisSession(connect)
        # A brace in the prefix would open the hash tag too early.
        self._prefix = quote(prefix, safe=":/")

    def preflight(self) -> list[str]:
        """Connect, and return a warning when Redis may throw checkpoints away."""
        self._session.client.ping()
        policies = sorted(
            {
                str(node.get("maxmemory_policy", "noeviction"))
                for node in self._session.memory_settings()
            }
            - {"noeviction"}
        )
        return [
            f"the checkpoint Redis may evict checkpoints (maxmemory-policy is {policy}); they would be "
            f"rebuilt from the warehouse, at the cost of extracting again; set maxmemory-policy to "
            f"noeviction"
            for policy in policies
        ]

    def read(self, lane: Lane, stage: Stage) -> StageRecord:
        """Return what is stored; an empty record when nothing is.

        Raises:
            SchemaVersionError: a newer version of this package wrote it.
        """
        return self._read(lane, stage).record

    def begin(self, lane: Lane, fence: int, checkpoint: Checkpoint) -> None:
        """Take over one stage's record; unreadable parts of it are dropped.

        Raises:
            FencedError: a newer fence wrote here.
            SchemaVersionError: a newer version of this package wrote here.
        """
        stage = checkpoint.stage
        reading = self._read(lane, stage)
        frontier = checkpoint.frontier
        answer, *rest = self._run(
            _BEGIN,
            lane,
            stage,
            str(fence),
            frontier.incarnation,
            str(frontier.generation),
            str(frontier.seq),
            frontier.cursor,
            encode_checkpoint(checkpoint),
            *reading.unreadable,
        )
        if answer == b"fenced":
            refuse_older(lane, stage, fence, int(rest[0]))

    def append(self, lane: Lane, fence: int, chunk: Chunk, checkpoint: Checkpoint) -> None:
        """Add one manifest entry and move the checkpoint; succeeds again when it did before.

        Raises:
            FencedError: a newer fence wrote here.
            ManifestConflictError: the record is gone, unreadable or stands elsewhere.
        """
        check_pair(chunk, checkpoint)
        stage = checkpoint.stage
        answer, *rest = self._run(
            _APPEND,
            lane,
            stage,
            str(fence),
            chunk.incarnation,
            str(checkpoint.frontier.generation),
            str(chunk.seq),
            chunk.digest,
            chunk.high,
            encode_checkpoint(checkpoint),
            str(chunk.seq - 1),
            chunk.low,
            encode_chunk(chunk),
        )
        if answer == b"fenced":
            refuse_older(lane, stage, fence, int(rest[0]))
        if answer == b"conflict":
            raise conflict(lane, stage, fence, chunk, _head(rest) if rest else None)

    def note_loaded(self, lane: Lane, checkpoint: Checkpoint) -> None:
        """Record the load frontier; never backwards."""
        frontier = checkpoint.frontier
        self._run(
            _NOTE_LOADED,
            lane,
            checkpoint.stage,
            frontier.incarnation,
            str(frontier.generation),
            str(frontier.seq),
            frontier.cursor,
            encode_checkpoint(checkpoint),
        )

    def forget(self, lane: Lane, stage: Stage, seqs: Sequence[int], incarnation: str) -> None:
        """Drop manifest entries whose chunks were loaded and collected."""
        names = [f"c:{seq}:{incarnation}" for seq in seqs]
        for start in range(0, len(names), _FIELDS_PER_COMMAND):
            some = names[start : start + _FIELDS_PER_COMMAND]
            try:
                self._session.command("HDEL", self._key(lane, stage), *some)
            except redis.ResponseError as error:
                # A key of another type holds no entries; the next begin replaces it.
                if not is_wrong_type(error):
                    raise

    def close(self) -> None:
        """Close the client, if there is one."""
        self._session.close()

    def _key(self, lane: Lane, stage: Stage) -> str:
        pipeline, part = (quote(text, safe=":+") for text in (lane.pipeline, lane.part))
        return f"{self._prefix}:{{{pipeline}/{part}}}:{stage}"

    def _run(self, script: Script, lane: Lane, stage: Stage, *arguments: Argument) -> list[bytes]:
        try:
            return self._session.run(script, self._key(lane, stage), *arguments)
        except redis.ResponseError as error:
            if not is_out_of_memory(error):
                raise
            message = (
                f"{stage} of {lane}: Redis is out of memory (it is at maxmemory) and stored no "
                f"checkpoint; give it more, or keep checkpoints in a postgres connection"
            )
            raise CheckpointEtlError(message) from error

    def _read(self, lane: Lane, stage: Stage) -> _Reading:
        try:
            fields: dict[bytes, bytes] = self._session.command("HGETALL", self._key(lane, stage))
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            fault = f"{stage} of {lane}: the record's key holds another type than a hash"
            return _Reading(StageRecord(faults=(fault,)))
        return _parse(f"{stage} of {lane}", stage, fields) if fields else _Reading(StageRecord())


def _head(values: Sequence[bytes]) -> Head:
    """Return the head from its values in the order of a script's answer."""
    fence, incarnation, generation, seq, cursor, digest = (
        value.decode(errors="replace") for value in values
    )
    return Head(int(fence), incarnation, int(generation), int(seq), cursor, digest)


def _parse(what: str, stage: Stage, fields: Mapping[bytes, bytes]) -> _Reading:
    """Read a stage's hash, leaving out and naming what is unreadable."""
    faults: list[str] = []
    unreadable: list[bytes] = []
    entries: list[Chunk] = []
    fence, checkpoint = 0, None
    try:
        head = _verified_head(fields)
        fence = head.fence
        checkpoint = _verified_checkpoint(fields, stage, head)
    except CorruptRecordError as error:
        faults.append(f"{what}: {error}")
    for name, value in fields.items():
        if not name.startswith(b"c:"):
            continue
        try:
            entries.append(_verified_entry(name, value))
        except CorruptRecordError as error:
            unreadable.append(name)
            faults.append(f"{what}: {error}")
    entries.sort(key=lambda entry: entry.seq)
    record = StageRecord(checkpoint, fence, tuple(entries), tuple(faults))
    return _Reading(record, tuple(unreadable))


def _verified_head(fields: Mapping[bytes, bytes]) -> Head:
    missing = [name.decode() for name in (*_SUMMED, b"sum") if name not in fields]
    if missing:
        message = f"the head lacks {', '.join(missing)}"
        raise CorruptRecordError(message)
    summed = b"\n".join(fields[name] for name in _SUMMED)
    if hashlib.sha1(summed, usedforsecurity=False).hexdigest().encode() != fields[b"sum"]:
        message = "the head fails its checksum"
        raise CorruptRecordError(message)
    names = (b"fence", b"incarnation", b"generation", b"seq", b"cursor", b"digest")
    return _head([fields[name] for name in names])


def _verified_checkpoint(fields: Mapping[bytes, bytes], stage: Stage, head: Head) -> Checkpoint:
    if b"checkpoint" not in fields:
        message = "the checkpoint is missing"
        raise CorruptRecordError(message)
    checkpoint = decode_checkpoint(fields[b"checkpoint"])
    if (
        checkpoint.stage is not stage
        or Head.at(checkpoint.frontier, head.fence, head.digest) != head
    ):
        message = "the checkpoint does not stand where the head does"
        raise CorruptRecordError(message)
    return checkpoint


def _verified_entry(name: bytes, value: bytes) -> Chunk:
    match = _ENTRY.fullmatch(name)
    seq = match[1].decode() if match else "of an unreadable number"
    try:
        chunk = decode_chunk(value)
    except CorruptRecordError as error:
        message = f"manifest entry {seq}: {error}"
        raise CorruptRecordError(message) from error
    if name != f"c:{chunk.seq}:{chunk.incarnation}".encode():
        message = f"manifest entry {seq} holds another chunk"
        raise CorruptRecordError(message)
    return chunk
