"""The staging area in object storage or a folder, through Airflow's ObjectStoragePath.

A file appears whole or not at all. Object stores give that by themselves: one put makes one object, and
its acknowledgement means that it is durable. In a folder, the bytes are written under a temporary name
beside the final one, flushed to the disk and linked to the final name, which never replaces a file.

A put that was killed in a folder leaves its temporary file, which :meth:`names` lists: its name starts
with the final name, so that collecting orphans removes it too.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.errors import MissingDependencyError, PreflightError
from airflow_checkpoint_etl.staging.checks import check_cap, check_name, check_same, missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import ObjectStoragePath

_FOLDERS: Final = frozenset({"file", "local"})
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_TEMPORARY: Final = ".tmp"


class ObjectStorageStagingArea:
    """Staged files under a URL.

    Args:
        base: where the files are kept: ``"s3://bucket/prefix"``, ``"gs://..."``, ``"file:///..."``.
        conn_id: the Airflow connection to use; None for the scheme's default credentials.
        cap: bytes one file may have.
    """

    def __init__(self, base: str, conn_id: str | None, cap: int) -> None:
        self._base = base.rstrip("/")
        self._conn_id = conn_id
        self._cap = cap

    def preflight(self) -> None:
        """Store a small file, read it and delete it again.

        Raises:
            PreflightError: there is no such bucket or folder, or writing to it is not allowed.
            MissingDependencyError: the scheme's library is not installed.
        """
        name, data = f"preflight-{uuid.uuid4().hex}", b"preflight"
        try:
            self.put(name, data)
            readable = self._storage.cat_file(self._full(name)) == data
            self.delete([name])
        except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
            message = (
                f"{self._base} cannot be written and read: {type(error).__name__}; create the bucket "
                f"or folder and allow the connection {self._conn_id or 'in use'} to put, get, list "
                f"and delete in it"
            )
            raise PreflightError(message) from error
        if not readable:
            message = f"{self._base} returns other bytes than were stored; use another staging area"
            raise PreflightError(message)

    def put(self, name: str, data: bytes) -> None:
        """Store a file durably.

        Raises:
            ChunkTooLargeError: it is larger than the cap.
            StagedChunkError: other bytes have this name.
        """
        check_cap(name, len(data), self._cap, self._base)
        if self.size(name) is not None:
            check_same(name, same=self.get(name) == data)
        elif self._is_folder:
            self._write(name, data)
        else:
            # Between the look and the put only the same attempt could store this name, which holds
            # its fence and its content's digest: there is nothing different to overwrite.
            self._storage.pipe_file(self._full(name), data)

    def get(self, name: str) -> bytes:
        """Return a file; raises StagedChunkError when it is missing."""
        try:
            return bytes(self._storage.cat_file(self._full(name)))
        except FileNotFoundError as error:
            raise missing(name, self._base) from error

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when it is missing."""
        # Another process may have put or deleted it since this one listed the directory.
        self._storage.invalidate_cache()
        try:
            info = self._storage.info(self._full(name))
        except FileNotFoundError:
            return None
        return int(info["size"]) if info.get("type") == "file" else None

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; missing ones are no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._storage.rm_file(self._full(name))

    def names(self, prefix: str) -> list[str]:
        """Return the names of stored files under a prefix, in order."""
        folder = prefix.rpartition("/")[0]
        self._storage.invalidate_cache()
        try:
            paths = self._storage.find(self._full(folder) if folder else self._root)
        except FileNotFoundError:
            return []
        found = (str(path).removeprefix(self._root).lstrip("/") for path in paths)
        return sorted(name for name in found if name.startswith(prefix))

    def close(self) -> None:
        """There is no connection of its own to close; Airflow keeps its file systems."""

    @cached_property
    def _path(self) -> ObjectStoragePath:
        from airflow.sdk import ObjectStoragePath  # noqa: PLC0415  slow, and only needed to stage

        return ObjectStoragePath(self._base, conn_id=self._conn_id)

    @cached_property
    def _storage(self) -> Any:
        """The fsspec file system behind the URL."""
        try:
            return self._path.fs
        except (ImportError, ValueError) as error:
            # Airflow knows a scheme only when the provider that brings it is installed.
            if isinstance(error, ValueError) and "No filesystem registered" not in str(error):
                raise
            scheme = self._base.partition("://")[0]
            extra = _EXTRAS.get(scheme)
            package = (
                f"'airflow-checkpoint-etl[{extra}]'" if extra else f"the provider of {scheme}://"
            )
            message = f"staging in {scheme}:// needs another package; run: pip install {package}"
            raise MissingDependencyError(message) from error

    @cached_property
    def _root(self) -> str:
        return str(self._path.path).rstrip("/")

    @property
    def _is_folder(self) -> bool:
        return self._base.partition("://")[0] in _FOLDERS

    def _full(self, name: str) -> str:
        check_name(name)
        return f"{self._root}/{name}"

    def _write(self, name: str, data: bytes) -> None:
        final = Path(self._full(name))
        self._make_folder(final.parent)
        temporary = final.with_name(f"{final.name}.{uuid.uuid4().hex}{_TEMPORARY}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, final)
            except FileExistsError:
                check_same(name, same=self.get(name) == data)
            except OSError:
                # A file system without hard links; the name holds the attempt's fence and the
                # content's digest, so nothing different can be overwritten.
                temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(final.parent)

    def _make_folder(self, folder: Path) -> None:
        """Create a folder and its parents, each of them durably."""
        missing_folders = []
        while not folder.is_dir():
            missing_folders.append(folder)
            folder = folder.parent
        for one in reversed(missing_folders):
            one.mkdir(exist_ok=True)
            _flush_folder(one.parent)


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
