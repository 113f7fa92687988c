"""What an attempt of a stage does, step by step; the letters are those of docs/protocol.md.

A step is what others can see at once: one statement in the warehouse or the store, or one reading of
either. What touches nothing that others see (reading settled rows, transforming, staging a file under
a name of its own) belongs to the step before it. The package's own functions make the moves; what a
warehouse and a store compare is written out here, and a :class:`Protocol` can leave any of it out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol_model_harm import harm_of_green
from protocol_model_lives import begin_life, put, rewind_lane
from protocol_model_values import (
    Attempt,
    Content,
    Move,
    Record,
    Run,
    after,
    at,
    boundaries,
    chain,
    content_of,
    make_chunk,
    moved,
    row_of,
    stands_at,
    until,
    version_of,
)

from airflow_checkpoint_etl.protocol import digest_of_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocol_model_values import Chunk, Frontier, Protocol, Shared, World

RESTORED = "a healthy attempt is told that the warehouse was restored"


class Stages:
    """The moves of attempts under one protocol, in one world."""

    def __init__(self, protocol: Protocol, world: World) -> None:
        self.protocol, self.world = protocol, world
        self.makers, self.cutter = world.stages[:-1], world.stages[0]
        self.notes = world.notes or world.failovers > 0
        self.still = not (world.arrivals or world.replacements or world.late)
        self.does = {
            "waiting": self._acquires,
            "clearing": self._clears,
            "aiming": self._aims,
            "reading": self._reads,
            "reconciling": self._reconciles,
            "beginning": self._begins,
            "settling": self._settles,
            "targeting": self._targets,
            "appending": self._appends,
            "lacking": self._lacks,
            "loading": self._loads,
            "writing": self._writes,
            "noting": self._notes,
            "finishing": self._finishes,
        }

    def moves(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """Every move this attempt can make now; the one it makes when all goes well comes first."""
        does = self.does.get(attempt.doing)
        if does is not None:
            yield from does(shared, attempt)
        if shared.left.restarts and attempt.doing not in {"waiting", "done"}:
            left = shared.left._replace(restarts=shared.left.restarts - 1)
            words = f"{attempt} is killed, to be started again"
            yield Move("kill", words, shared._replace(left=left), attempt.ends("waiting"))

    def _is_newest(self, shared: Shared, attempt: Attempt) -> bool:
        return shared.warehouse.fences[self.world.stages.index(attempt.stage)] == attempt.fence

    # --- A: acquire ------------------------------------------------------------------------------

    def _acquires(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        watches = attempt.stage == self.cutter and self.protocol.watches_source
        if watches and shared.source.version != 1:
            words = f"{attempt} finds another source and stops"
            yield Move("other source", words, shared, attempt.ends())
            return
        if self.world.sequential and attempt.run and not shared.promises[attempt.run - 1].green:
            return
        index, warehouse = self.world.stages.index(attempt.stage), shared.warehouse
        fence = warehouse.fences[index] + 1
        warehouse = warehouse._replace(fences=put(warehouse.fences, index, fence))
        if attempt.stage == "load":
            warehouse = warehouse._replace(load_fence=fence)
        at_once = self.protocol.pinned == "at acquire"
        doing = "aiming"
        if attempt.stage == self.cutter:
            doing = "clearing" if self.world.reprocesses else "reading"
        began = Attempt(
            attempt.stage,
            attempt.run,
            doing,
            attempt.clear,
            fence,
            warehouse.lane.incarnation if at_once else "",
            warehouse.life,
            shared.source.version,
        )
        words = f"{attempt.stage} of run {attempt.run + 1} starts, with fence {fence}"
        yield Move("start", words, shared._replace(warehouse=warehouse), began)

    def _clears(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """A cleared extract loads its finished run again: one transaction, or it just resumes."""
        warehouse, run = shared.warehouse, shared.warehouse.runs[attempt.run]
        promise = shared.promises[attempt.run]
        reached = until(warehouse.lane)
        if not self._is_newest(shared, attempt):
            yield Move("fenced", f"{attempt} is fenced", shared, attempt.ends())
            return
        found = run is not None and {
            "done": run.done,
            "clear number": run.clear < attempt.clear,
            "range": run.target <= reached,
        }
        chain_ends = {until(end) for end in boundaries(warehouse.lane, warehouse.ledger)}
        if (
            not found
            or not all(found[name] for name in self.protocol.reprocess_if)
            or run.low >= min(run.target, reached)
            or run.low not in chain_ends
        ):
            yield Move("resume", f"{attempt} resumes", shared, attempt._replace(doing="reading"))
            return
        again = rewind_lane(self.protocol, shared, at(run.low))
        target = reached if self.protocol.reprocess_to == "lane cursor" else run.target
        again_promised = promise._replace(
            target=max(target, promise.target), asked=max(0, promise.asked - 1)
        )
        goal = Run(again.warehouse.lane.incarnation, run.low, target, attempt.clear)
        again = again._replace(
            warehouse=again.warehouse._replace(runs=put(again.warehouse.runs, attempt.run, goal)),
            promises=put(shared.promises, attempt.run, again_promised),
        )
        fault = None
        if not promise.asked:
            fault = f"rows of run {attempt.run + 1} are deleted though nobody cleared it"
        elif not run.done:
            fault = f"rows of run {attempt.run + 1} are deleted though it was not done"
        began = attempt._replace(
            doing="reading",
            fence=again.warehouse.fences[0],
            incarnation=again.warehouse.lane.incarnation,
            life=again.warehouse.life,
        )
        words = f"{attempt} rewinds the lane to {run.low} to load its run again, up to {target}"
        yield Move("reprocess", words, again, began, fault=fault)

    def _aims(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """Read the target that extract has set; until there is one, nothing can be done."""
        if self.protocol.targets_in == "store":
            target = shared.store.targets[attempt.run]
            if target < 0:
                target = until(shared.warehouse.lane)
        else:
            run = shared.warehouse.runs[attempt.run]
            if run is None:
                return
            pinned = attempt.incarnation or shared.warehouse.lane.incarnation
            if run.incarnation != pinned:
                if shared.warehouse.lane.incarnation != pinned:
                    words = f"{attempt} notices the rewind and stops"
                    yield Move("rewound", words, shared, attempt.ends())
                return
            target = run.target
        words = f"{attempt} reads its run's target, {target}"
        yield Move("aim", words, shared, attempt._replace(doing="reading", target=target))

    # --- R: reconcile ----------------------------------------------------------------------------

    def _reads(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        if self.protocol.reads_first == "warehouse":
            reader = attempt._replace(doing="reconciling", lane=shared.warehouse.lane)
            yield Move("read", f"{attempt} reads the warehouse", shared, reader)
        else:
            reader = self._has_read_store(shared, attempt)._replace(doing="reconciling")
            yield Move("read", f"{attempt} reads the store", shared, reader)

    def _has_read_store(self, shared: Shared, attempt: Attempt) -> Attempt:
        noted = shared.store.noted if self.notes else None
        return attempt._replace(seen=self._entries(shared, attempt.stage), noted=noted)

    def _entries(self, shared: Shared, stage: str) -> tuple[tuple[Chunk, ...], ...]:
        """The entries a stage reads: its own (load: the last maker's), and the other maker's."""
        records = shared.store.records
        if stage == "load":
            return (records[-1].entries,)
        own = self.makers.index(stage)
        if len(self.makers) == 1 or (own == 0 and shared.staged is None):
            return (records[own].entries,)
        return (records[own].entries, records[1 - own].entries)

    def _reconciles(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        lane = shared.warehouse.lane
        if self.protocol.reads_first == "warehouse":
            lane = attempt.lane
            attempt = self._has_read_store(shared, attempt)._replace(lane=None)
        if self.protocol.pinned == "never" or not attempt.incarnation:
            attempt = attempt._replace(incarnation=lane.incarnation)
        if lane.incarnation != attempt.incarnation:
            words = f"{attempt} notices the rewind and stops"
            yield Move("rewound", words, shared, attempt.ends())
            return
        if self.protocol.stops_when_restored and _is_ahead(attempt.noted, lane):
            yield from self._restored(shared, attempt)
            return
        stateful = self.world.stateful and attempt.stage in {self.makers[-1], "load"}
        kept = chain(lane, attempt.seen[0], self.protocol.compares, stateful)
        if attempt.stage == "load":
            words = f"{attempt} finds {len(kept)} chunk(s) to load"
            loader = attempt._replace(frontier=lane, chunks=kept, noted=None)
            yield Move("reconcile", words, shared, self._further(loader))
            return
        kept = self._with_files(shared, attempt, lane, kept)
        if attempt.stage != self.cutter:
            kept = self._continued(attempt, lane, kept)
        frontier = after(lane, kept, stateful)
        if stateful and self.protocol.state_from == "store":
            frontier = replace(frontier, state_digest=digest_of_state(shared.store.state))
        words = f"{attempt} reconciles: {len(kept)} chunk(s) kept, goes on at {until(frontier)}"
        seen = attempt.seen[1:] if attempt.stage != self.cutter else ()
        maker = attempt._replace(doing="beginning", frontier=frontier, seen=seen, noted=None)
        yield Move("reconcile", words, shared, maker)

    def _restored(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """The store is ahead of the warehouse: say so and stop, or follow the warehouse on request."""
        if attempt.stage == self.cutter and shared.left.resyncs:
            if not self._is_newest(shared, attempt):
                yield Move("fenced", f"{attempt} is fenced", shared, attempt.ends())
                return
            lane = shared.warehouse.lane
            lane = replace(lane, generation=lane.generation + shared.lives + 1)
            anew = begin_life(self.protocol, shared, lane, until(lane))
            floor = max(record.fence for record in shared.store.records) + 1
            fences = tuple(max(fence, floor) for fence in anew.warehouse.fences)
            anew = anew._replace(
                warehouse=anew.warehouse._replace(fences=fences, load_fence=fences[-1]),
                left=shared.left._replace(resyncs=shared.left.resyncs - 1),
            )
            again = attempt._replace(
                doing="reading",
                fence=fences[0],
                incarnation=anew.warehouse.lane.incarnation,
                life=anew.warehouse.life,
                seen=(),
                noted=None,
                frontier=None,
            )
            yield Move("resync", f"{attempt} follows the restored warehouse", anew, again)
            return
        words = f"{attempt} says that the warehouse was restored, and stops"
        fault = None if shared.failed_over else RESTORED
        yield Move("restored", words, shared, attempt.ends("restored"), fault=fault)

    def _with_files(
        self, shared: Shared, attempt: Attempt, lane: Frontier, kept: tuple[Chunk, ...]
    ) -> tuple[Chunk, ...]:
        """The chunks before the first whose file is gone though still needed."""
        if shared.staged is None or not self.protocol.looks_for_files:
            return kept
        needed_after = lane.seq
        if attempt.stage == self.cutter and len(attempt.seen) > 1:
            passed = chain(lane, attempt.seen[1], self.protocol.compares, self.world.stateful)
            for result, source in zip(passed, kept, strict=False):
                if result.name not in shared.staged or result.input_digest != source.digest:
                    break
                needed_after = source.seq
        for position, chunk in enumerate(kept):
            if chunk.seq > needed_after and chunk.name not in shared.staged:
                return kept[:position]
        return kept

    @staticmethod
    def _continued(attempt: Attempt, lane: Frontier, kept: tuple[Chunk, ...]) -> tuple[Chunk, ...]:
        """Step back to where the chunks of the stage before continue the kept ones."""
        sources = {
            each.seq: each for each in attempt.seen[1] if each.incarnation == lane.incarnation
        }
        for length in range(len(kept), -1, -1):
            reached = kept[length - 1].high if length else lane.cursor
            source = sources.get(lane.seq + length + 1)
            if row_of(reached) >= attempt.target or (source and source.low == reached):
                return kept[:length]
        return kept

    def _begins(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """The store takes over the attempt's fence and where it goes on, and drops the rest."""
        index, frontier = self.makers.index(attempt.stage), attempt.frontier
        record = shared.store.records[index]
        if record.fence > attempt.fence:
            if self._is_newest(shared, attempt):
                yield from self._restored(shared, attempt)
            else:
                words = f"{attempt} is fenced by the store"
                yield Move("fenced", words, shared, attempt.ends())
            return
        kept = tuple(
            entry
            for entry in record.entries
            if entry.incarnation == frontier.incarnation and entry.seq <= frontier.seq
        )
        begun = self._stored(shared, index, Record(attempt.fence, frontier, kept))
        words = f"{attempt} begins at {until(frontier)}"
        if attempt.target >= 0:
            yield from self._makes(begun, attempt, "begin", words)
        else:
            yield Move("begin", words, begun, attempt._replace(doing="settling"))

    @staticmethod
    def _stored(shared: Shared, index: int, record: Record) -> Shared:
        records = put(shared.store.records, index, record)
        return shared._replace(store=shared.store._replace(records=records))

    # --- E0: where the run ends ------------------------------------------------------------------

    def _settles(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """An unfinished run keeps its target; else take a bound below which no row can appear."""
        source = shared.source
        if self.protocol.watches_source and source.version != attempt.source:
            yield Move("cut off", f"{attempt} has lost its source", shared, attempt.ends())
            return
        if source.late and self.protocol.settles:
            return  # it waits for the transactions that may still commit rows below the bound
        bound = max(source.rows, until(attempt.frontier))
        settled = attempt._replace(doing="targeting", target=bound, source=source.version)
        if self.still:
            yield from self._targets(shared, settled)
        else:
            yield Move("settle", f"{attempt} settles the bound {bound}", shared, settled)

    def _targets(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        warehouse, incarnation = shared.warehouse, attempt.frontier.incarnation
        if not self._is_newest(shared, attempt):
            yield Move("fenced", f"{attempt} sets no target: fenced", shared, attempt.ends())
            return
        run, promise = warehouse.runs[attempt.run], shared.promises[attempt.run]
        if self.protocol.targets_in == "store":
            targets = put(shared.store.targets, attempt.run, attempt.target)
            shared = shared._replace(store=shared.store._replace(targets=targets))
            run = None
        if run is not None and not run.done and run.incarnation == incarnation:
            attempt, words = attempt._replace(target=run.target), "keeps its run's target"
        else:
            low = until(attempt.frontier)
            low = (
                low if run is None else min(low, run.low)
            )  # a cleared run began where it first did
            run = Run(incarnation, low, attempt.target, attempt.clear)
            runs = put(warehouse.runs, attempt.run, run)
            shared = shared._replace(warehouse=warehouse._replace(runs=runs))
            promise = promise._replace(source=attempt.source)
            promise = promise._replace(target=run.target)
            words = "sets its run's target"
        promise = promise._replace(target=max(promise.target, run.target), green=False)
        shared = shared._replace(promises=put(shared.promises, attempt.run, promise))
        yield from self._makes(shared, attempt, "target", f"{attempt} {words}, {run.target}")

    # --- E1-E3, T1-T3: making chunks -------------------------------------------------------------

    def _makes(self, shared: Shared, attempt: Attempt, kind: str, words: str) -> Iterator[Move]:
        """Make and stage the next chunk, which nobody sees yet; a part of the step before."""
        if until(attempt.frontier) >= attempt.target:
            yield Move(kind, words, shared, attempt.ends("done"))
        elif attempt.stage == self.cutter:
            yield from self._cuts(shared, attempt, kind, words)
        else:
            yield from self._transforms(shared, attempt, kind, words)

    def _cuts(self, shared: Shared, attempt: Attempt, kind: str, words: str) -> Iterator[Move]:
        low, source = until(attempt.frontier), shared.source
        if self.protocol.watches_source and source.version != attempt.source:
            yield Move(kind, f"{words}; it has lost its source", shared, attempt.ends())
            return
        for high in sorted({min(low + size, attempt.target) for size in self.world.chunk_rows}):
            rows = frozenset(
                (row, version_of(row, self.world.rows, source.version))
                for row in range(low + 1, high + 1)
                if row <= source.rows and not (row == 1 and source.late)
            )
            chunk = self._chunk(attempt, high, Content(rows, attempt.life))
            yield self._has_staged(shared, attempt, chunk, kind, words)

    def _transforms(
        self, shared: Shared, attempt: Attempt, kind: str, words: str
    ) -> Iterator[Move]:
        frontier = attempt.frontier
        source = next(
            (
                each
                for each in attempt.seen[0]
                if each.incarnation == frontier.incarnation
                and (each.seq, each.low) == (frontier.seq + 1, frontier.cursor)
            ),
            None,
        )
        if source is None:
            yield Move(kind, words, shared, attempt._replace(doing="lacking", chunks=()))
        elif shared.staged is not None and source.name not in shared.staged:
            missing = f"{words}; the file of extracted chunk {source.seq} is missing"
            yield Move("missing", missing, shared, attempt.ends())
        else:
            content = content_of(source)
            content = content._replace(life=min(content.life, attempt.life))
            chunk = replace(
                self._chunk(attempt, row_of(source.high), content), input_digest=source.digest
            )
            yield self._has_staged(shared, attempt, chunk, kind, words)

    def _chunk(self, attempt: Attempt, high: int, content: Content) -> Chunk:
        state = None
        if self.world.stateful and attempt.stage == self.makers[-1]:
            seq = attempt.frontier.seq + 1
            state = f'"state of {attempt.fence} in life {attempt.life} after chunk {seq}"'
        return make_chunk(attempt.stage, attempt.fence, attempt.frontier, high, content, state)

    def _has_staged(
        self, shared: Shared, attempt: Attempt, chunk: Chunk, kind: str, words: str
    ) -> Move:
        if shared.staged is not None:
            if not self.protocol.fence_in_name:
                chunk = replace(chunk, name=chunk.name.replace(f"-f{chunk.fence}-", "-"))
            shared = shared._replace(staged=shared.staged | {chunk.name})
        maker = attempt._replace(doing="appending", chunks=(chunk,))
        staged = f"{words}; stages chunk {chunk.seq} ({row_of(chunk.low)}, {row_of(chunk.high)}]"
        return Move(kind, staged, shared, maker)

    def _appends(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """E3: the compare-and-set append to the manifest."""
        index, (chunk,) = self.makers.index(attempt.stage), attempt.chunks
        record = shared.store.records[index]
        words = f"{attempt} appends chunk {chunk.seq}"
        mine = record.fence == attempt.fence and record.frontier.incarnation == chunk.incarnation
        stands = mine and (record.frontier.seq, record.frontier.cursor) == (
            chunk.seq - 1,
            chunk.low,
        )
        frontier = moved(attempt.frontier, chunk)
        further = attempt._replace(frontier=frontier)
        if record.fence > attempt.fence:
            yield Move("fenced", f"{words}: fenced by the store", shared, attempt.ends())
        elif stands or not self.protocol.appends_compare:
            entries = (*record.entries, chunk)
            after_it = self._stored(shared, index, Record(attempt.fence, frontier, entries))
            if self.protocol.state_from == "store" and chunk.state:
                after_it = after_it._replace(store=after_it.store._replace(state=chunk.state))
            yield from self._makes(after_it, further, "append", words)
            if self.world.lost_answers:
                yield Move("unheard", f"{words}, and the answer is lost", after_it, attempt)
        elif mine and record.entries and record.entries[-1] == chunk:
            yield from self._makes(shared, further, "already", f"{words}: it was there already")
        else:
            again = attempt._replace(doing="reading", frontier=None, chunks=(), seen=())
            yield Move("conflict", f"{words}: the store stands elsewhere", shared, again)

    def _lacks(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """Nothing continues the frontier: look again when something has changed."""
        entries = self._entries(shared, attempt.stage)
        if attempt.stage == "load":
            changed = (entries, shared.warehouse.lane) != (attempt.seen, attempt.frontier)
        else:
            changed = entries[1:] != attempt.seen
        if changed:
            again = attempt._replace(doing="reading", frontier=None, chunks=(), seen=())
            yield Move("again", f"{attempt} looks again", shared, again)

    # --- L, L6 and D -------------------------------------------------------------------------------

    def _further(self, attempt: Attempt) -> Attempt:
        """What a load does at its frontier."""
        if self.protocol.green_when == "manifest empty" and not attempt.chunks:
            return attempt._replace(doing="finishing", seen=())
        if until(attempt.frontier) >= attempt.target:
            return attempt._replace(doing="finishing", chunks=(), seen=())
        if attempt.chunks:
            return attempt._replace(doing="loading", seen=())
        return attempt._replace(doing="lacking")

    def _loads(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """L1-L5: compare and set, ledger row and rows, in one transaction."""
        chunk, protocol, warehouse = attempt.chunks[0], self.protocol, shared.warehouse
        words = f"{attempt} loads chunk {chunk.seq} ({row_of(chunk.low)}, {row_of(chunk.high)}]"
        if shared.staged is not None and chunk.name not in shared.staged:
            yield Move("missing", f"{words}: its file is missing", shared, attempt.ends())
            return
        newest = not protocol.fenced or warehouse.load_fence == attempt.fence
        stands = not protocol.compare_and_set or stands_at(warehouse.lane, chunk, protocol.compares)
        if newest and stands and not protocol.one_transaction:
            checked = attempt._replace(doing="writing")
            yield Move("check", f"{attempt} checks fence and lane", shared, checked)
        elif newest and stands:
            after_it = self._committed(shared, chunk)
            yield Move("load", words, after_it, self._loaded(attempt))
            lost = f"{words}, and the answer is lost"
            yield Move("in doubt", lost, after_it, attempt)
        elif warehouse.lane.incarnation != chunk.incarnation and "incarnation" in protocol.compares:
            yield Move("rewound", f"{words}: rewound", shared, attempt.ends())
        elif not newest:
            yield Move("fenced", f"{words}: fenced", shared, attempt.ends())
        elif chunk in warehouse.ledger:
            there = f"{words}: it was loaded already"
            yield Move("already", there, shared, self._loaded(attempt))
        else:
            again = attempt._replace(doing="reading", frontier=None, chunks=(), seen=())
            yield Move("conflict", f"{words}: the lane stands elsewhere", shared, again)

    def _writes(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """What a load does that has compared in a step of its own."""
        chunk = attempt.chunks[0]
        words = f"{attempt} writes the rows of ({row_of(chunk.low)}, {row_of(chunk.high)}]"
        yield Move("load", words, self._committed(shared, chunk), self._loaded(attempt))

    @staticmethod
    def _committed(shared: Shared, chunk: Chunk) -> Shared:
        warehouse = shared.warehouse
        lane = moved(warehouse.lane, chunk)
        after_it = warehouse._replace(lane=lane, ledger=(*warehouse.ledger, chunk))
        return shared._replace(warehouse=after_it)

    def _loaded(self, attempt: Attempt) -> Attempt:
        chunk, *rest = attempt.chunks
        frontier = moved(attempt.frontier, chunk)
        attempt = attempt._replace(frontier=frontier, chunks=tuple(rest))
        return attempt._replace(doing="noting") if self.notes else self._further(attempt)

    def _notes(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """L6: the store's copy of the load frontier, forwards only."""
        frontier, noted = attempt.frontier, shared.store.noted
        if noted is None or _is_ahead(frontier, noted):
            shared = shared._replace(store=shared.store._replace(noted=frontier))
        words = f"{attempt} notes in the store that {until(frontier)} is loaded"
        yield Move("note", words, shared, self._further(attempt))

    def _finishes(self, shared: Shared, attempt: Attempt) -> Iterator[Move]:
        """D: the run is done, and Airflow shows the load green."""
        warehouse, index = shared.warehouse, attempt.run
        if not self._is_newest(shared, attempt):
            yield Move("fenced", f"{attempt} does not finish: fenced", shared, attempt.ends())
            return
        run = warehouse.runs[index]
        reached = run is not None and (
            not self.protocol.finish_compares
            or (
                run.incarnation == warehouse.lane.incarnation
                and until(warehouse.lane) >= run.target
            )
        )
        if self.protocol.green_when == "target reached" and not reached:
            again = attempt._replace(doing="aiming", frontier=None, chunks=(), seen=())
            yield Move("unfinished", f"{attempt} finds its run unfinished", shared, again)
            return
        if run is not None:
            runs = put(warehouse.runs, index, run._replace(done=True))
            shared = shared._replace(warehouse=warehouse._replace(runs=runs))
        fault = harm_of_green(shared, index, self.world.rows)
        promise = shared.promises[index]._replace(green=True)
        after_it = shared._replace(promises=put(shared.promises, index, promise))
        yield Move("done", f"{attempt} is green", after_it, attempt.ends("done"), fault=fault)


def _is_ahead(noted: Frontier | None, lane: Frontier) -> bool:
    """Whether the store has seen more loaded, or a later life, than the warehouse knows of."""
    if noted is None:
        return False
    if noted.incarnation == lane.incarnation:
        return noted.seq > lane.seq
    return noted.generation > lane.generation
