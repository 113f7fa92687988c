"""Checks of the values a DAG author writes; each says which parameter, what is wrong and what to write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from airflow_checkpoint_etl.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME_PART: Final = re.compile(r'"((?:[^"]|"")*)"|([^".]+)')
_LONGEST_NAME: Final = 63
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,119}")
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?\s*")
_UNITS: Final = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
}


def parse_size(value: int | str, parameter: str) -> int:
    """Return a size in bytes from a number of bytes or a text such as ``"32MiB"``.

    Raises:
        ConfigurationError: not a size, or not positive.
    """
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    size = (
        int(float(match[1]) * _UNITS[match[2] or "B"])
        if match
        else value
        if isinstance(value, int) and not isinstance(value, bool)
        else 0
    )
    if size <= 0:
        raise invalid(parameter, value, "not a positive size", 'write bytes or e.g. "32MiB"')
    return size


def is_templated(text: str) -> bool:
    """Whether a text is a Jinja template, of which nothing is known yet."""
    return "{{" in text or "{%" in text


def require_text(parameter: str, value: Any, what: str) -> None:
    """Raise ConfigurationError unless the value is a text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise invalid(parameter, value, f"must be {what}", f"pass {what} as a string")


def require_table(parameter: str, value: Any) -> None:
    """Raise ConfigurationError unless the value names a table, with or without its schema."""
    require_text(parameter, value, "a table name")
    if "\x00" in value:
        raise invalid(parameter, value, "holds a NUL, which no name can", "take it out")
    check_names(parameter, value, [] if is_templated(value) else name_parts(value))


def name_parts(name: str) -> list[str]:
    """Split the name of a table at its dots: ``sales."my.orders"`` is two parts."""
    return [
        quoted.replace('""', '"') or plain.strip() for quoted, plain in _NAME_PART.findall(name)
    ]


def check_names(parameter: str, value: Any, names: Iterable[str]) -> None:
    """Refuse what PostgreSQL would cut off in silence: the rest may be the name of something else."""
    for name in names:
        if "\x00" in name:
            raise invalid(parameter, value, "holds a NUL, which no name can", "take it out")
        if len(name.encode(errors="replace")) > _LONGEST_NAME and not is_templated(name):
            raise invalid(parameter, value, "PostgreSQL keeps 63 bytes of a name", "shorten it")


def names_of(parameter: str, value: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return one column name or several as a tuple; raises ConfigurationError for anything else."""
    names = (value,) if isinstance(value, str) else value
    names = tuple(names) if isinstance(names, (tuple, list)) else (None,)
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise invalid(parameter, value, "must be column names", "pass a name or a tuple of names")
    if len(set(names)) != len(names):
        raise invalid(parameter, value, "names a column twice", "name every column once")
    return names


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_positive(parameter: str, value: float | None) -> None:
    """Raise ConfigurationError unless the value is a number above zero."""
    if not is_number(value) or not value > 0:  # "not >" refuses NaN too
        raise invalid(parameter, value, "must be positive", "pass a number above zero")


def require_not_negative(parameter: str, value: float) -> None:
    """Raise ConfigurationError unless the value is zero seconds or more."""
    if not is_number(value) or not value >= 0:
        raise invalid(parameter, value, "must not be negative", "pass a number of seconds")


def require_block(parameter: str, value: Any) -> None:
    """Raise ConfigurationError unless the value is a pipeline's source or warehouse."""
    if not callable(getattr(value, "identity", None)):
        raise invalid(parameter, value, f"is no {parameter}", f"pass a {parameter} object")


def require_choice(parameter: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigurationError unless the value is one of the choices."""
    if value not in choices:
        raise invalid(
            parameter, value, f"must be one of {', '.join(choices)}", "choose one of them"
        )


def check_part(part: str) -> str:
    """Return ``part`` when it is a valid part key.

    Raises:
        ConfigurationError: it is empty, too long or holds other characters.
    """
    if not isinstance(part, str) or not (_PART.fullmatch(part) or is_templated(part)):
        msg = "part"
        raise invalid(
            msg,
            part,
            "must hold letters, digits and '_.:+-', at most 120 characters",
            "key parts by value, e.g. part='tenant-7'; never by map index",
        )
    return part
