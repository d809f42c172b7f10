"""The host's copy of what each slot holds, as arrays, so that a step is put together without a loop over rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.worker.runner.plan import StepPlan

Array = NDArray[Any]


class Rows(NamedTuple):
    """One step's rows and tokens; R rows, T tokens, S rows that sample (decodes first, then chunks)."""

    slots: Array
    """int64 [R]"""
    positions: Array
    """int64 [T]"""
    slot_mapping: Array
    """int64 [T]"""
    seq_lens: Array
    """int64 [R], this step's tokens included."""
    query_lens: Array
    """int64 [R]"""
    sampled: Array
    """int64 [S], the rows that sample."""


class SlotTable:
    """Positions and block tables by slot. Index `max_slots` is the padding rows' slot."""

    def __init__(self, max_slots: int, max_model_len: int, block_size: int) -> None:
        self.max_slots = max_slots
        self.block_size = block_size
        slots = max_slots + 1
        # One column more than the longest sequence: a step launched before its end was noticed may write there.
        self.tables = np.zeros((slots, -(-max_model_len // block_size) + 1), np.int32)
        self.context = np.zeros(slots, np.int64)

    def write_blocks(self, plan: StepPlan) -> Array:
        """Applies the plan's block table writes; returns the flat indices written, int64."""
        slots = np.asarray(plan.table_slots, np.int64)
        columns = np.asarray(plan.table_columns, np.int64)
        self.tables[slots, columns] = plan.table_blocks
        return slots * self.tables.shape[1] + columns

    def advance(self, plan: StepPlan) -> Rows:
        """Lays out the plan's rows and moves their slots on by what the step computes."""
        if not plan.prefills:
            return self._advance_decodes(np.asarray(plan.decode_slots, np.int64))
        num_decodes = len(plan.decode_slots)
        slots = np.asarray([*plan.decode_slots, *(c.slot for c in plan.prefills)], np.int64)
        lens = np.ones(len(slots), np.int64)
        lens[num_decodes:] = [len(c.token_ids) for c in plan.prefills]
        starts = self.context[slots]
        starts[num_decodes:] = [c.start for c in plan.prefills]
        ends = starts + lens
        # Token t of row r is at position starts[r] + (t - first token of r).
        first = np.cumsum(lens) - lens
        positions = np.arange(first[-1] + lens[-1]) + np.repeat(starts - first, lens)
        slot_mapping = self._stored_at(np.repeat(slots, lens), positions)
        samples = np.ones(len(slots), bool)
        samples[num_decodes:] = [c.samples for c in plan.prefills]
        sampled = np.flatnonzero(samples)
        self.context[slots] = ends
        return Rows(slots, positions, slot_mapping, ends, lens, sampled)

    def _advance_decodes(self, slots: Array) -> Rows:
        positions = self.context[slots]
        ends = positions + 1
        self.context[slots] = ends
        ones = np.ones_like(slots)
        return Rows(slots, positions, self._stored_at(slots, positions), ends, ones, np.arange(len(slots)))

    def _stored_at(self, slots: Array, positions: Array) -> Array:
        columns, offsets = np.divmod(positions, self.block_size)
        return self.tables[slots, columns].astype(np.int64) * self.block_size + offsets
