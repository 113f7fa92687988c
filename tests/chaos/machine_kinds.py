"""The two kinds of pipeline whose histories are explored, and what each must look like at any time."""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from airflow_checkpoint_etl import cursor as cursors
from tests.chaos.machine import Histories, few
from tests.chaos.machine_rig import STAGES, UPDATE


class Appending(Histories):
    """Rows that never change, by id, in append mode, through a transform that counts them."""

    configuration: ClassVar[dict[str, Any]] = {
        "source": {"cursor": "id", "settle": "locks", "settle_timeout": 0.03, "chunk_rows": 5},
        "warehouse": {"lock_timeout": 0.2},
    }

    @rule(earlier=st.integers(0, 9))
    def reprocess(self, earlier: int) -> None:
        """Clear a run that is to be loaded again; one that is not done, or was rewound, resumes."""
        run = f"run_{1 + earlier % self.run_number}"
        self.clears[run] += 1
        self.world.attempt["on_clear"] = "reprocess"
        try:
            for stage in STAGES:
                self._try(stage, run)
        finally:
            self.world.attempt["on_clear"] = "resume"

    def _transform(self, stage: str) -> dict[str, Any]:
        if stage != "transform":
            return {}
        return {"function": count, "initial_state": {"rows": 0}}

    def compare(self, at: str, state: str, loaded: list[tuple[Any, ...]]) -> None:
        highest = 0 if at == cursors.BEGIN else int(at.removeprefix("i8:"))
        there = self.rig.source(
            f"select id, customer, updated_at from orders where id <= {highest} order by id"
        )
        assert loaded == there, f"the target is not the source's rows up to {highest}"
        counted = f'{{"rows":{len(there)}}}'
        assert state in ({counted, ""} if not there else {counted}), "the state was lost or forked"


class Updating(Histories):
    """Rows that change."""

    @rule(rows=few)
    def update(self, rows: int) -> None:
        """Newer versions of some rows, committed at once."""
        self.rig.source(UPDATE.format(rows))

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2), rows=few, back=st.booleans())
    def writer_updates(self, which: int, rows: int, back: bool) -> None:
        """Newer versions as of when the writer began, in a savepoint that may be rolled back."""
        writer = self.writers[which % len(self.writers)]
        writer.execute("savepoint here")
        writer.execute(UPDATE.format(rows))
        writer.execute("rollback to here" if back else "release here")


class Upserting(Updating):
    """Rows that change, by (updated_at, id), in upsert mode, passed on as they are."""

    configuration: ClassVar[dict[str, Any]] = {
        "source": {
            "cursor": ("updated_at", "id"),
            "settle": "transactions",
            "settle_timeout": 0.03,
            "chunk_rows": 5,
        },
        "warehouse": {"write": "upsert", "key": "id", "lock_timeout": 0.2},
    }

    def compare(self, at: str, state: str, loaded: list[tuple[Any, ...]]) -> None:
        """A row whose version is below the cursor is there as it is; others may be there older."""
        if at == cursors.BEGIN:
            assert loaded == []
            return
        (_, moment), (_, number) = cursors.decode(at)
        bound = f"(updated_at, id) <= ('{moment.isoformat()}'::timestamptz, {number})"
        now = set(self.rig.source(f"select id, customer, updated_at from orders where {bound}"))
        ever = set(self.rig.source(f"select id, customer, updated_at from versions where {bound}"))
        assert now <= set(loaded), "a settled version is missing, or an older one stands for it"
        assert set(loaded) <= ever, "a row is in the target that was never committed"


class Sweeping(Updating):
    """Rows that change and commit late, by id and unsettled, swept up by later runs, in upsert mode."""

    configuration: ClassVar[dict[str, Any]] = {
        "source": {"cursor": "id", "settle": "sweep", "chunk_rows": 5},
        "warehouse": {"write": "upsert", "key": "id", "lock_timeout": 0.2},
    }

    def compare(self, at: str, state: str, loaded: list[tuple[Any, ...]]) -> None:
        """Nothing is there that was never committed; what is missing comes with a later run."""
        highest = 0 if at == cursors.BEGIN else int(at.removeprefix("i8:"))
        ever = set(
            self.rig.source(f"select id, customer, updated_at from versions where id <= {highest}")
        )
        assert set(loaded) <= ever, "a row is in the target that was never committed"


def count(record: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    state["rows"] += 1
    return record
