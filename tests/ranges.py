"""A world whose range is planned: what tests of range parts drive."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from airflow_checkpoint_etl.planner import Cutting, Planner
from airflow_checkpoint_etl.range_plans import MAIN_PART
from tests.support import World

if TYPE_CHECKING:
    from airflow_checkpoint_etl.range_plans import ClosedPlan

STAGES = ("extract", "transform", "load")


@dataclass
class PlannedWorld(World):
    """A pipeline whose range is loaded in parts, each stage of a part by a world of its own part."""

    @classmethod
    def of(cls, world: World) -> Self:
        return cls(**{one.name: getattr(world, one.name) for one in dataclasses.fields(World)})

    def insert(self, rows: int) -> None:
        """Insert rows, and have the source's statistics know of them."""
        super().insert(rows)
        self.fetch("analyze orders", at="source")

    def of_part(self, key: str) -> Self:
        return dataclasses.replace(self, part=key)

    def planner(self, run: str = "run_1", task: str = "plan", **owner: Any) -> tuple[Planner, Any]:
        runner, ports = self.of_part(MAIN_PART).runner(task, run, **owner)
        return Planner(ports, runner._attempt), ports

    def plan(self, cutting: Cutting | None = None, run: str = "run_1", **owner: Any) -> list[str]:
        planner, ports = self.planner(run, "plan", **owner)
        try:
            return planner.plan(cutting or Cutting(parts=4, rows_per_part=200))
        finally:
            ports.close()

    def close(self, run: str = "run_1", **owner: Any) -> ClosedPlan | None:
        planner, ports = self.planner(run, "close", **owner)
        try:
            return planner.close()
        finally:
            ports.close()

    def load_part(self, key: str, run: str = "run_1", function: Any = None, **options: Any) -> list:
        return self.of_part(key).run(run, function=function, **options)

    def everything(self, cutting: Cutting | None = None, run: str = "run_1") -> ClosedPlan | None:
        """A whole DAG run: plan, every part, close."""
        for key in self.plan(cutting, run):
            self.load_part(key, run)
        return self.close(run)

    # --- looking at it -------------------------------------------------------------------------

    def main(self) -> tuple[str, int]:
        """The main lane's cursor and chunk number."""
        ((at, seq),) = self.fetch(
            f"select cursor, seq from checkpoint_etl.lane where part = '{MAIN_PART}'"
        )
        return at, seq

    def rows_of(self, key: str) -> int:
        ((rows,),) = self.fetch(
            f"select coalesce(sum(rows), 0)::int from checkpoint_etl.ledger"
            f" where part = '{key}' and rewound_at is null"
        )
        return rows
