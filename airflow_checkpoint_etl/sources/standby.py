"""Reading from a hot standby: late transactions are seen on its primary only, and arrive by replay.

A standby shows rows without the locks and transactions behind them. So the bound is taken on the
standby, its late transactions are waited for on the primary, and then the standby is waited for until
it has replayed everything that they wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_checkpoint_etl.errors import MissingPrivilegeError, SettleTimeoutError
from airflow_checkpoint_etl.sources import catalog, queries
from airflow_checkpoint_etl.sources.failures import refuse
from airflow_checkpoint_etl.sources.waiting import wait_until

if TYPE_CHECKING:
    from airflow_checkpoint_etl.endpoints import PostgresSource
    from airflow_checkpoint_etl.sources.interrupt import Interruptible
    from airflow_checkpoint_etl.sources.session import Session


def check_primary(session: Session, primary: Session, config: PostgresSource) -> None:
    """Check that two connections lead to a standby and to its primary.

    Raises:
        PreflightError: they do not; waiting on another server would lose rows.
        MissingPrivilegeError: a role may not know which server it is on.
    """
    if catalog.is_standby(primary):
        raise refuse(
            config,
            "settle_conn_id",
            "this server is a standby itself, and sees no running transactions",
            "name the connection of the primary",
        )
    here, there = catalog.server_identity(session), catalog.server_identity(primary)
    for found in (here, there):
        if "system_identifier" not in found:
            message = (
                f"settle_conn_id={config.settle_conn_id!r}: the role may not read the system "
                "identifier, which shows that this is the primary of the standby that is read; grant "
                "it EXECUTE on function pg_control_system() on the primary"
            )
            raise MissingPrivilegeError(message)
    for fact in ("system_identifier", "database"):
        if here[fact] != there[fact]:
            raise refuse(
                config,
                "settle_conn_id",
                f"this is not the primary of the standby that is read ({fact} {there[fact]}, and "
                f"{here[fact]} there)",
                "name the connection of its primary, to the same database",
            )


def wait_for_replay(
    session: Session, primary: Session, interruptible: Interruptible, deadline: float
) -> None:
    """Wait until a standby shows all that its primary has written up to now.

    Raises:
        SettleTimeoutError: it does not by the deadline, a monotonic time.
    """
    statements = queries.load("settle.sql")
    position, header = primary.fetch(statements["written_position"])[0]
    written = {"position": position, "header": header}

    def replayed() -> bool:
        return bool(session.fetch(statements["has_replayed"], written)[0][0])

    if not wait_until(replayed, interruptible, deadline):
        message = (
            f"the standby {session.source} has not replayed the primary's log up to {position} within "
            "settle_timeout: it lags behind, or follows another server; see pg_stat_replication on "
            "the primary"
        )
        raise SettleTimeoutError(message)
