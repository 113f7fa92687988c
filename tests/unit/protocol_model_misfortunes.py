"""What happens to the world while attempts work, and the collector, which works beside them.

A store or a warehouse that loses any suffix of its writes falls back to something it once was. That
moment is chosen when it comes: the world saves itself, and may later fall back to what was saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol_model_lives import put, rewind_lane
from protocol_model_values import (
    Attempt,
    Move,
    boundaries,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol_model_values import Protocol, Shared, Store, Warehouse, World


class Misfortunes:
    """What can happen in one world."""

    def __init__(self, protocol: Protocol, world: World, empty: Store) -> None:
        self.protocol, self.world, self.empty = protocol, world, empty

    def moves(self, shared: Shared) -> Iterator[Move]:
        """Everything that can happen now."""
        left = shared.left
        if left.losses:
            yield from self._store_loses(shared)
        if left.rewinds:
            yield from self._rewinds(shared)
        if left.failovers:
            yield from self._fails_over(shared)
        if left.deletions and shared.staged:
            for name in sorted(shared.staged):
                after = shared._replace(
                    staged=shared.staged - {name}, left=left._replace(deletions=left.deletions - 1)
                )
                yield Move("deletion", f"the staged file {name} vanishes", after)
        if left.arrivals:
            source = shared.source._replace(rows=shared.source.rows + 1)
            after = shared._replace(source=source, left=left._replace(arrivals=left.arrivals - 1))
            yield Move("arrival", f"row {source.rows} appears in the source", after)
        if shared.source.late:
            after = shared._replace(source=shared.source._replace(late=False))
            yield Move("commit", "row 1 commits in the source", after)
        if left.replacements:
            source = shared.source._replace(version=shared.source.version + 1)
            after = shared._replace(
                source=source, left=left._replace(replacements=left.replacements - 1)
            )
            words = f"the source is failed over; row {self.world.rows} is another one now"
            yield Move("replacement", words, after)
        if left.clears:
            yield from self._clears(shared)

    def _store_loses(self, shared: Shared) -> Iterator[Move]:
        left = shared.left._replace(losses=shared.left.losses - 1)
        if shared.store != self.empty:
            after = shared._replace(store=self.empty, saved_store=None, left=left)
            yield Move("loss", "the store loses everything", after)
            if shared.saved_store is None:
                yield Move(
                    "save", "the store saves itself", shared._replace(saved_store=shared.store)
                )
        if shared.saved_store not in {None, shared.store}:
            after = shared._replace(store=shared.saved_store, saved_store=None, left=left)
            yield Move("loss", "the store falls back to what it had saved", after)

    def _rewinds(self, shared: Shared) -> Iterator[Move]:
        left = shared.left._replace(rewinds=shared.left.rewinds - 1)
        for boundary in boundaries(shared.warehouse.lane, shared.warehouse.ledger):
            if boundary.seq <= shared.warehouse.lane.seq:
                after = rewind_lane(self.protocol, shared, boundary.cursor)._replace(left=left)
                yield Move("rewind", f"the lane is rewound to {until(boundary)}", after)

    def _fails_over(self, shared: Shared) -> Iterator[Move]:
        saved = shared.saved_warehouse
        if saved is None:
            words = "the standby has all of the warehouse"
            yield Move("save", words, shared._replace(saved_warehouse=shared.warehouse))
        elif saved != shared.warehouse:
            after = shared._replace(
                warehouse=saved,
                saved_warehouse=None,
                failed_over=True,
                left=shared.left._replace(failovers=shared.left.failovers - 1),
                promises=tuple(promise._replace(green=False) for promise in shared.promises),
            )
            yield Move(
                "failover",
                f"the warehouse fails over to the standby, at row {until(saved.lane)}",
                after,
                fault=self._uncovered(shared, saved),
            )

    @staticmethod
    def _uncovered(shared: Shared, saved: Warehouse) -> str | None:
        """Say which chunk's file is collected though its rows were lost with the old primary."""
        if shared.staged is None:
            return None
        for chunk in shared.warehouse.ledger:
            if chunk not in saved.ledger and chunk.name not in shared.staged:
                return f"the file of chunk {chunk.seq} is collected but its rows are not durable"
        return None

    def _clears(self, shared: Shared) -> Iterator[Move]:
        left = shared.left._replace(clears=shared.left.clears - 1)
        for run, promise in enumerate(shared.promises):
            if promise.target < 0 or not (promise.green or self.world.clears_early):
                continue
            clear = promise.clear + 1
            for stages in (self.world.stages, self.world.stages[-1:]):
                whole = stages is self.world.stages
                asked = promise.asked + whole
                green = promise.green and not whole
                told = promise._replace(clear=clear, asked=asked, green=green)
                after = shared._replace(left=left, promises=put(shared.promises, run, told))
                count = attempts_of(self.world)
                more = tuple(
                    Attempt(stage, run, clear=clear)
                    for stage in stages
                    for _ in range(count[self.world.stages.index(stage)])
                )
                what = "extract with Downstream" if whole else "only the load"
                yield Move("clear", f"{what} of run {run + 1} is cleared", after, more=more)


def attempts_of(world: World) -> tuple[int, ...]:
    """Return the number of attempts of each stage."""
    if isinstance(world.attempts, int):
        return (world.attempts,) * len(world.stages)
    return world.attempts


class Collector:
    """G: removes what is staged for loaded chunks, and orphans; it lists first and deletes then."""

    def __init__(self, protocol: Protocol, world: World) -> None:
        self.protocol, self.makers = protocol, world.stages[:-1]

    def moves(self, shared: Shared, collector: Attempt) -> Iterator[Move]:
        """List what is dead, or delete what was listed."""
        if collector.doing == "deleting":
            staged = shared.staged - collector.names
            done = collector._replace(doing="waiting", names=frozenset())
            words = f"the collector deletes {', '.join(sorted(collector.names))}"
            yield Move(
                "collect",
                words,
                shared._replace(staged=staged),
                done,
                fault=self._harm(shared, collector.names),
            )
        elif shared.left.collections:
            names = frozenset(name for name in shared.staged if self._is_dead(shared, name))
            if names:
                left = shared.left._replace(collections=shared.left.collections - 1)
                listed = collector._replace(doing="deleting", names=names)
                words = f"the collector lists {', '.join(sorted(names))}"
                yield Move("list", words, shared._replace(left=left), listed)

    def _is_dead(self, shared: Shared, name: str) -> bool:
        incarnation, stage, rest = name.split("/")
        seq, fence, *_ = rest.split("-")
        durable = shared.warehouse
        if self.protocol.collects == "durable" and shared.saved_warehouse is not None:
            durable = shared.saved_warehouse  # younger than that is within the grace period
        if any(
            (chunk.incarnation, chunk.seq) == (incarnation, int(seq)) for chunk in durable.ledger
        ):
            return True
        record = shared.store.records[self.makers.index(stage)]
        if any(entry.name == name for entry in record.entries):
            return False
        return not self.protocol.fence_in_name or int(fence.removeprefix("f")) < record.fence

    def _harm(self, shared: Shared, names: frozenset[str]) -> str | None:
        """Say which file goes that the manifest names and the warehouse has yet to load."""
        lane = shared.warehouse.lane
        for record in shared.store.records:
            for entry in record.entries:
                if (
                    entry.name in names
                    and entry.incarnation == lane.incarnation
                    and entry.seq > lane.seq
                ):
                    return f"the file of chunk {entry.seq}, which is yet to be loaded, is collected"
        return None
