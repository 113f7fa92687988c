"""In which form a run's chunks are staged: as Arrow, which a transform can read, or as copied.

Extract cannot see whether a transform follows. Its operator is told; what it was not told counts as "one
does", for which only the arrow form is right. With ``form="auto"`` the copy form is taken where nothing
stands against it, and the log says what did; with ``form="copy"`` that is an error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_checkpoint_etl.errors import TypeMismatchError

if TYPE_CHECKING:
    from airflow_checkpoint_etl.attempt import Attempt
    from airflow_checkpoint_etl.frames import Form
    from airflow_checkpoint_etl.ports import Ports

log = logging.getLogger(__name__)


def choose(ports: Ports, attempt: Attempt) -> Form:
    """Return the form that this attempt stages in: ``"arrow"`` or ``"copy"``.

    Raises:
        TypeMismatchError: copies are wanted, and source and target differ; names the columns.
    """
    if attempt.form == "arrow":
        return "arrow"
    columns = ports.source.copied_columns()
    if columns is None:
        return "arrow"
    faults = ports.warehouse.copy_faults(columns)
    if not faults:
        return "copy"
    lines = "".join(f"\n- {fault}" for fault in faults)
    if attempt.form == "copy":
        message = (
            f"{attempt.lane}: source and target are not alike, so rows cannot be copied as they are; "
            f"nothing was written:{lines}"
        )
        raise TypeMismatchError(message)
    log.info("extract %s: chunks are staged in arrow form, because:%s", attempt.lane, lines)
    return "arrow"
