"""Row filters: refusing, when the DAG is parsed, what makes a filter say something else later.

A frontier passes the rows that the filter hides. If the filter later shows one of them (``created_at <
now()``), it is never read; if a row moves from one part's filter to another's, it is read twice or never.
Only what can be seen in the text is refused: a function of the user's own may hide anything.
"""

from __future__ import annotations

import re
from typing import Final

from airflow_checkpoint_etl.errors import invalid

_QUOTED: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_CHANGING: Final = re.compile(
    r"\b(?:"
    r"(?:now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|random|random_normal"
    r"|gen_random_uuid|uuidv7|nextval|currval|lastval|txid_current|pg_current_xact_id"
    r"|current_setting|pg_backend_pid)\s*\("
    r"|current_(?:timestamp|date|time|user|role|catalog|schema)\b"
    r"|(?:localtimestamp|localtime|session_user)\b"
    r")",
    re.IGNORECASE,
)
_CHANGING_LITERAL: Final = re.compile(
    r"'\s*(?:now|today|yesterday|tomorrow)\s*'\s*::"
    r"|\b(?:date|time|timestamp|timestamptz)\s+'\s*(?:now|today|yesterday|tomorrow)\s*'",
    re.IGNORECASE,
)


def check_filter(parameter: str, where: str | None) -> None:
    """Refuse a row filter that names the time, the session or chance.

    Raises:
        ConfigurationError: it does; the message names what was found.
    """
    if where is None:
        return
    found = _CHANGING.search(_QUOTED.sub(" ", where)) or _CHANGING_LITERAL.search(where)
    if found is None:
        return
    raise invalid(
        parameter,
        where,
        f"{found[0].rstrip('(').strip()} says something else later, and a row that the filter hid when "
        "the frontier passed it is never read",
        "compare columns with constants only",
    )
