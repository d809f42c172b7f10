"""Who is in the batch, with which slot and blocks, and when those are given back."""

from __future__ import annotations

from services.worker.cache import PrefixCache
from services.worker.scheduler.sequence import Sequence, State


class Batch:
    """Owns the slots. A sequence that left while a step under way names it keeps its slot and blocks until then."""

    def __init__(self, num_slots: int, cache: PrefixCache) -> None:
        self.num_slots, self._cache = num_slots, cache
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        self.leaving: list[Sequence] = []  # have left and still hold blocks
        self._free_slots = list(range(num_slots - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    @property
    def running(self) -> list[Sequence]:
        return self.prefilling + self.decoding

    @property
    def has_slot(self) -> bool:
        return bool(self._free_slots)

    def enter(self, sequence: Sequence) -> None:
        sequence.state = State.PREFILL
        sequence.slot = self._free_slots.pop()
        self.prefilling.append(sequence)

    def add_blocks(self, sequence: Sequence, blocks: list[int]) -> None:
        sequence.blocks += blocks
        sequence.capacity += len(blocks) * self._cache.block_size

    def add_block_each(self, sequences: list[Sequence], blocks: list[int]) -> None:
        """One more block for each of the sequences."""
        size = self._cache.block_size
        for sequence, block in zip(sequences, blocks, strict=True):
            sequence.blocks.append(block)
            sequence.capacity += size

    def start_decoding(self, sequence: Sequence) -> None:
        """Its prompt is planned to the end. A sweep() must follow."""
        sequence.state = State.DECODE
        self.decoding.append(sequence)

    def leave(self, sequence: Sequence, state: State) -> None:
        """Takes a sequence out. A sweep() must follow."""
        if sequence.is_running:
            self.leaving.append(sequence)
        sequence.state = state

    def sweep(self) -> None:
        self.prefilling = [s for s in self.prefilling if s.state is State.PREFILL]
        self.decoding = [s for s in self.decoding if s.state is State.DECODE]

    def num_blocks_leaving(self) -> int:
        """Blocks that come free when the steps under way are done."""
        pool = self._cache.pool
        return sum(pool.references(block) == 1 for s in self.leaving for block in s.blocks)

    def release(self, last_step: int) -> list[Sequence]:
        """Frees what no step after ``last_step`` names; returns whom it belonged to."""
        done = [s for s in self.leaving if s.last_step <= last_step]
        if done:
            self.leaving = [s for s in self.leaving if s.last_step > last_step]
        for sequence in done:
            self._cache.pool.release(sequence.blocks)
            self._free_slots.append(sequence.slot)
            sequence.blocks, sequence.capacity, sequence.slot = [], 0, -1
        return done

    def check(self, last_step: int) -> None:
        """Asserts the invariants; ``last_step`` is the last one whose result is known."""
        holders = self.running + self.leaving
        self._cache.check([s.blocks for s in holders])
        slots = sorted([s.slot for s in holders] + self._free_slots)
        assert slots == list(range(self.num_slots)), "a slot is lost or doubled"
        assert all(s.state is State.PREFILL and s.num_planned < s.target for s in self.prefilling)
        assert all(s.state is State.DECODE and s.num_planned >= s.target for s in self.decoding)
        assert all(not s.is_running and s.last_step > last_step for s in self.leaving)
        assert all(s.num_planned <= s.capacity == len(s.blocks) * self._cache.block_size for s in holders)
