"""Named SQL: statements kept in .sql files beside this module, each under a ``-- name:`` line."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def load(file: str) -> dict[str, bytes]:
    """Return the statements of a file by name, as bytes, which psycopg takes for trusted SQL."""
    text = (files(__package__) / file).read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {
        name: statement.strip().encode()
        for name, statement in zip(parts[::2], parts[1::2], strict=True)
    }
