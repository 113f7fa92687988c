"""Servers whose files are in memory: creating a database is creating 300 files, and a test makes two."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY = Path("/dev/shm")
ROOM = 2 << 30
"""Bytes that must be free: a write-ahead log takes up to ``max_wal_size``, a database 8 MB."""

FAST = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}
"""Settings of a PostgreSQL whose files need not outlive the machine."""

Made = TypeVar("Made")


def in_memory(make: Callable[[], Made]) -> Made:
    """Make something, with its temporary directory in memory where the system has room for it."""
    with pytest.MonkeyPatch.context() as patch:
        if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
            patch.setattr(tempfile, "tempdir", str(MEMORY))
        return make()
