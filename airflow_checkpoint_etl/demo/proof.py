"""The demonstration's proof: figures from the ledger and from SQL, and how they look in a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from rich import box
from rich.table import Table
from rich.text import Text

from airflow_checkpoint_etl import cursor as cursors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from airflow_checkpoint_etl.demo.airflow_api import TaskTry
    from airflow_checkpoint_etl.demo.orders import Comparison

_TRIES = """
select try_number, count(*), sum(rows_in)::bigint, sum(rows)::bigint,
       (array_agg(low order by seq))[1], (array_agg(high order by seq desc))[1]
from checkpoint_etl.ledger
where run_id = %s
group by try_number
order by try_number
"""
_CHAIN = """
select count(*), count(distinct seq), min(seq), max(seq),
       count(*) filter (where low <> before)
from (select seq, low, lag(high, 1, low) over (order by seq) as before
      from checkpoint_etl.ledger) as chunks
"""


@dataclass(frozen=True, slots=True)
class LoadTry:
    """What one try of the load committed, as the ledger has it."""

    number: int
    chunks: int
    rows_in: int
    rows: int
    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Proof:
    """Everything the last screen shows.

    Attributes:
        tries: every try of every task, as Airflow tells.
        loads: what each try of the load committed, as the ledger tells.
        chunks: ledger rows.
        is_chain: whether chunk numbers are 1..n, each once, each starting where the one before ended.
        comparison: source and warehouse, compared in SQL.
        seconds: from the first task to the end of the run.
    """

    tries: tuple[TaskTry, ...]
    loads: tuple[LoadTry, ...]
    chunks: int
    is_chain: bool
    comparison: Comparison
    seconds: float

    @property
    def was_killed_midway(self) -> bool:
        """Whether both the killed try and the one after it loaded something."""
        return len(self.loads) > 1

    @property
    def holds(self) -> bool:
        """Whether there was a kill midway and yet every row is there exactly once."""
        return self.was_killed_midway and self.is_chain and self.comparison.equal


def committed(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """Return (source rows, chunks) that the ledger says are loaded."""
    row = connection.execute(
        "select coalesce(sum(rows_in), 0)::bigint, count(*) from checkpoint_etl.ledger"
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def collect(
    warehouse_dsn: str,
    run_id: str,
    tries: Iterable[TaskTry],
    comparison: Comparison,
    seconds: float,
) -> Proof:
    """Read the ledger and put the proof together."""
    with psycopg.connect(warehouse_dsn) as connection:
        loads = tuple(LoadTry(*row) for row in connection.execute(_TRIES, [run_id]).fetchall())
        chain = connection.execute(_CHAIN).fetchone()
    chunks, distinct, first, last, gaps = chain or (0, 0, 0, 0, 0)
    is_chain = chunks == distinct == last and first == 1 and gaps == 0
    return Proof(tuple(tries), loads, chunks, is_chain, comparison, seconds)


# --- how it looks ------------------------------------------------------------------------------------


def show(console: Console, proof: Proof) -> None:
    """Print the proof."""
    console.print()
    console.print(_tries_table(proof))
    console.print(_loads_table(proof))
    console.print(_verdict_table(proof))
    style, verdict = ("bold green", "Exactly once.") if proof.holds else ("bold red", "NOT proven.")
    resumed = proof.loads[-1].low if proof.was_killed_midway else None
    detail = f" Try 2 of load resumed at id {cursors.display(resumed)}." if resumed else ""
    console.print(Text(f"{verdict}{detail} {proof.seconds:.1f} s for the DAG run.", style=style))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in columns:
        is_number = name not in {"task", "ended", "check", "result"}
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    return table


def _tries_table(proof: Proof) -> Table:
    table = _table("What Airflow did", "task", "try", "ended", "seconds")
    killed = {("load", one.number) for one in proof.loads[:-1]}
    for one in proof.tries:
        ended = one.state or "unknown"
        if (one.task_id, one.try_number) in killed:
            ended = "killed with -9"
        seconds = (
            f"{(one.ended - one.started).total_seconds():.1f}" if one.started and one.ended else "-"
        )
        style = "red" if ended == "killed with -9" else None
        table.add_row(one.task_id, str(one.try_number), ended, seconds, style=style)
    return table


def _loads_table(proof: Proof) -> Table:
    table = _table(
        "What each try of load committed", "try", "chunks", "rows", "after id", "up to id"
    )
    for one in proof.loads:
        table.add_row(
            str(one.number),
            f"{one.chunks:,}",
            f"{one.rows:,}",
            cursors.display(one.low),
            cursors.display(one.high),
        )
    return table


def _verdict_table(proof: Proof) -> Table:
    result = proof.comparison
    table = _table("Source against warehouse, in SQL", "check", "result")
    for check, value, is_right in (
        ("rows expected", f"{result.expected:,}", True),
        ("rows loaded", f"{result.loaded:,}", result.loaded == result.expected),
        ("missing (EXCEPT ALL)", f"{result.missing:,}", result.missing == 0),
        ("unexpected (EXCEPT ALL)", f"{result.unexpected:,}", result.unexpected == 0),
        ("duplicates", f"{result.duplicates:,}", result.duplicates == 0),
        (
            "ledger",
            f"{proof.chunks} chunks, each once" if proof.is_chain else "broken",
            proof.is_chain,
        ),
        ("killed midway", "yes" if proof.was_killed_midway else "no", proof.was_killed_midway),
    ):
        table.add_row(check, Text(value, style="green" if is_right else "bold red"))
    return table
