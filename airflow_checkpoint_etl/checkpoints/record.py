"""A stored record is JSON text with a checksum; text that fails it is corrupt, never "no state".

PURE: no IO, no clock, no logging. A record is written in exactly one way (keys sorted, no spaces,
ASCII) and read only when it is written that way, so that every changed byte is seen::

    {"body":{...},"kind":"chunk","sha256":"...","version":1}

The checksum covers everything else in the record, the version too: a damaged version number is
damage, and an intact newer one is a newer package's record, which this one refuses to guess at.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.errors import CorruptRecordError, SchemaVersionError
from airflow_checkpoint_etl.protocol import Checkpoint, Chunk, Frontier, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = 1
"""Version of the record's form; it goes up when a field of a chunk or checkpoint changes."""

_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "int": int,
    "str": str,
    "str | None": (str, NoneType),
}


def encode_chunk(chunk: Chunk) -> str:
    """Return the record of one manifest entry."""
    return _pack("chunk", _values(chunk))


def decode_chunk(text: str | bytes) -> Chunk:
    """Return the manifest entry of a record.

    Raises:
        CorruptRecordError: the record is damaged.
        SchemaVersionError: a newer version of this package wrote it.
    """
    return Chunk(**_checked(Chunk, _unpack("chunk", text)))


def encode_checkpoint(checkpoint: Checkpoint) -> str:
    """Return the record of a checkpoint."""
    return _pack("checkpoint", _checkpoint_body(checkpoint))


def decode_checkpoint(text: str | bytes) -> Checkpoint:
    """Return the checkpoint of a record.

    Raises:
        CorruptRecordError: the record is damaged.
        SchemaVersionError: a newer version of this package wrote it.
    """
    body = _unpack("checkpoint", text)
    frontier, stage = body.pop("frontier", None), body.pop("stage", None)
    if not isinstance(frontier, dict) or stage not in list(Stage):
        message = "the record of a checkpoint lacks its stage or its frontier"
        raise CorruptRecordError(message)
    rest = _checked(Checkpoint, body, without=("stage", "frontier"))
    return Checkpoint(stage=Stage(stage), frontier=Frontier(**_checked(Frontier, frontier)), **rest)


def checksum(checkpoint: Checkpoint, fence: int, digest: str) -> str:
    """Return the checksum of a stage's head, for a store that keeps it in columns.

    Args:
        checkpoint: the stage's checkpoint.
        fence: the newest fence that wrote there.
        digest: content digest of the chunk that was appended last; empty after a begin.
    """
    return _sha256(
        _canonical(
            {
                "body": {
                    "checkpoint": _checkpoint_body(checkpoint),
                    "digest": digest,
                    "fence": fence,
                },
                "kind": "head",
                "version": VERSION,
            }
        )
    )


def _checkpoint_body(checkpoint: Checkpoint) -> dict[str, Any]:
    return _values(checkpoint) | {
        "stage": checkpoint.stage.value,
        "frontier": _values(checkpoint.frontier),
    }


def _values(value: Chunk | Checkpoint | Frontier) -> dict[str, Any]:
    return {item.name: getattr(value, item.name) for item in fields(value)}


def _checked(
    form: type[Chunk | Checkpoint | Frontier],
    body: Mapping[str, Any],
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the body when it has exactly the fields of ``form``, each of its type."""
    declared = {item.name: item.type for item in fields(form) if item.name not in without}
    wrong = sorted(
        set(declared) ^ set(body)
        | {
            name
            for name, kind in declared.items()
            if name in body
            and (isinstance(body[name], bool) or not isinstance(body[name], _TYPES[str(kind)]))
        }
    )
    if wrong:
        message = f"a record of {form.__name__} has wrong fields: {', '.join(wrong)}"
        raise CorruptRecordError(message)
    return dict(body)


def _pack(kind: str, body: Mapping[str, Any]) -> str:
    content = {"body": body, "kind": kind, "version": VERSION}
    return _canonical({**content, "sha256": _sha256(_canonical(content))})


def _unpack(kind: str, text: str | bytes) -> dict[str, Any]:
    try:
        text = text.decode("ascii") if isinstance(text, bytes) else text
        content = json.loads(text)
        canonical = isinstance(content, dict) and _canonical(content) == text
    except (ValueError, RecursionError):  # whose repr may quote the record
        message = f"the record of a {kind} is no JSON text ({len(text):,} bytes)"
        raise CorruptRecordError(message) from None
    stored = content.pop("sha256", None) if canonical else None
    if stored is None or _sha256(_canonical(content)) != stored:
        message = f"the record of a {kind} fails its checksum ({len(text):,} bytes)"
        raise CorruptRecordError(message)
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        message = (
            f"the record of a {kind} has version {version}, but this package knows versions up to "
            f"{VERSION}; upgrade airflow-checkpoint-etl"
        )
        raise SchemaVersionError(message)
    if content.get("kind") != kind or not isinstance(content.get("body"), dict):
        message = f"a record of another kind stands where a {kind} belongs"
        raise CorruptRecordError(message)
    return dict(content["body"])


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
