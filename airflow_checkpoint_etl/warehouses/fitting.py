"""Writing the rows that a target takes, and finding those it refuses.

The chunk is written as a whole first, in a savepoint. When the target refuses it, it is halved until the
culprits stand alone; small pieces are tried row by row. Only what says something about rows is taken as
a refusal (:class:`ValueNotCarriedError`): a lost connection, a lock or statement timeout, a deadlock, a
full disk, a missing privilege or a changed table end the load as they always do.

Pieces are written in the order of the chunk, so that of two rows with one unique key the first is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.errors import ValueNotCarriedError
from airflow_checkpoint_etl.failpoints import failpoint
from airflow_checkpoint_etl.warehouses.loading import write_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    import pyarrow as pa

    from airflow_checkpoint_etl.warehouses.loading import Accepted

_FEW: Final = 4
"""Units that are tried one by one rather than halved: with many culprits halving finds nothing out."""

_SUFFIX: Final = ". Nothing of this chunk was written"


def write_fitting(
    connection: psycopg.Connection[Any],
    accepted: Accepted,
    table: pa.Table,
    ledger_id: int,
    bounds: Sequence[int],
) -> dict[int, str]:
    """Write what fits within the caller's transaction; return why the other units were refused.

    Args:
        connection: with an open transaction.
        accepted: the plan for the rows.
        table: the rows.
        ledger_id: the chunk's ledger row.
        bounds: where each unit begins, and the number of rows at the end.
    """
    refused: dict[int, str] = {}
    waiting = [(0, len(bounds) - 1)]
    while waiting:
        start, stop = waiting.pop()
        first, after = bounds[start], bounds[stop]
        if first == after:
            continue
        piece = table.slice(first, after - first)
        try:
            with connection.transaction():  # a savepoint
                write_rows(connection, accepted, piece, ledger_id)
        except ValueNotCarriedError as error:
            if stop - start == len(bounds) - 1:
                failpoint("quarantine.before_halving")
            if stop - start == 1:
                refused[start] = str(error).removesuffix(_SUFFIX)
            elif stop - start <= _FEW:
                waiting += [(unit, unit + 1) for unit in reversed(range(start, stop))]
            else:
                middle = (start + stop) // 2
                waiting += [(middle, stop), (start, middle)]  # the last one is next
    return refused
