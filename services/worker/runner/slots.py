"""The host's copy of where each slot's sequence is, as arrays: a step is laid out without a loop over its rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.worker.runner.plan import PrefillChunk, StepPlan

Array = NDArray[Any]


class Rows(NamedTuple):
    """A step's R rows (decodes first, then chunks) and their T tokens, all int64."""

    slots: Array
    """[R]"""
    positions: Array
    """[T]"""
    slot_mapping: Array
    """[T], where each token's KV is stored."""
    seq_lens: Array
    """[R], this step's tokens included."""
    query_lens: Array
    """[R]"""
    sampled: Array
    """[S], the rows that sample."""


class SlotTable:
    """Positions and block tables by slot. Index `max_slots` is the padding rows' slot."""

    def __init__(self, max_slots: int, max_model_len: int, block_size: int) -> None:
        self.max_slots = max_slots
        self.block_size = block_size
        slots = max_slots + 1
        # One column more than the longest sequence: a step launched before its end was noticed may write there.
        self.tables = np.zeros((slots, -(-max_model_len // block_size) + 1), np.int32)
        self._flat_tables = self.tables.reshape(-1)  # a view: one index is faster than two
        self.context = np.zeros(slots, np.int64)

    def write_blocks(self, plan: StepPlan) -> Array:
        """Applies the plan's block table writes; returns the flat indices written, int64."""
        slots, columns = np.asarray(plan.table_slots, np.int64), np.asarray(plan.table_columns, np.int64)
        index = slots * self.tables.shape[1] + columns
        self._flat_tables[index] = plan.table_blocks
        return index

    def place_decodes(self, slots: Array) -> tuple[Array, Array, Array]:
        """One more token for each of `slots` [R]: its position, where it is stored and the length then, int64 [R] each."""
        if slots.size == 1:
            return self._place_one(int(slots[0]))
        positions = self.context[slots]
        ends = self.context[slots] = positions + 1
        return positions, self._stored_at(slots, positions), ends

    def _place_one(self, slot: int) -> tuple[Array, Array, Array]:
        """As place_decodes, in plain numbers: for one row the calls of numpy are all that it costs."""
        position = int(self.context[slot])
        self.context[slot] = position + 1
        column, offset = divmod(position, self.block_size)
        stored = int(self.tables[slot, column]) * self.block_size + offset
        return np.array([position]), np.array([stored]), np.array([position + 1])

    def place_mixed(self, decode_slots: list[int], chunks: list[PrefillChunk]) -> Rows:
        """Lays out decodes and chunks, and moves their slots on by what the step computes."""
        num_decodes = len(decode_slots)
        slots = np.asarray([*decode_slots, *(chunk.slot for chunk in chunks)], np.int64)
        lens = np.ones(len(slots), np.int64)
        lens[num_decodes:] = [len(chunk.token_ids) for chunk in chunks]
        starts = self.context[slots]
        starts[num_decodes:] = [chunk.start for chunk in chunks]
        ends = starts + lens
        # Token t of row r is at position starts[r] + (t - first token of r).
        first = np.cumsum(lens) - lens
        positions = np.arange(first[-1] + lens[-1]) + np.repeat(starts - first, lens)
        slot_mapping = self._stored_at(np.repeat(slots, lens), positions)
        samples = np.ones(len(slots), bool)
        samples[num_decodes:] = [chunk.samples for chunk in chunks]
        self.context[slots] = ends
        return Rows(slots, positions, slot_mapping, ends, lens, np.flatnonzero(samples))

    def _stored_at(self, slots: Array, positions: Array) -> Array:
        columns = positions // self.block_size
        blocks = self._flat_tables.take(slots * self.tables.shape[1] + columns)
        # position - column * size is the offset in the block. (numpy's divmod takes ten times as long as //.)
        return positions + (blocks - columns) * self.block_size


NO_ROWS = Rows(*[np.empty(0, np.int64)] * 6)
