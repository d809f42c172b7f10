"""What a sequence's past tokens do to its next: penalty counts and the last tokens that bad words look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.worker.runner.plan import MAX_BAD_WORD_TOKENS, SlotStart
from services.worker.sampling.slot_rows import SlotRows

Upload = Callable[[NDArray[Any]], Tensor]


class PenaltyCounts:
    """Per slot with penalties: how often each token was generated, and which are in the prompt.

    Kept on the device, so that a step's counts include the step before it although the host has not seen it.
    """

    def __init__(self, vocab_size: int, max_slots: int, device: torch.device, upload: Upload) -> None:
        self.slots = SlotRows(max_slots)
        self._vocab_size = vocab_size
        self._upload = upload
        self.output_counts = torch.zeros(1, vocab_size, dtype=torch.int32, device=device)
        self.prompt_mask = torch.zeros(1, vocab_size, dtype=torch.bool, device=device)

    @staticmethod
    def bytes_per_slot(vocab_size: int) -> int:
        # Growing doubles the rows and holds the old ones meanwhile.
        return 3 * vocab_size * (4 + 1)

    def start(self, start: SlotStart) -> None:
        row = self.slots.take(start.slot)
        self._grow()
        self.output_counts[row].zero_()
        self.prompt_mask[row].zero_()
        if len(start.output_ids):
            ids, counts = np.unique(start.output_ids, return_counts=True)
            self.output_counts[row].index_copy_(
                0, self._upload(ids.astype(np.int64)), self._upload(counts.astype(np.int32))
            )
        if len(start.prompt_ids):
            self.prompt_mask[row].index_fill_(0, self._upload(start.prompt_ids.astype(np.int64)), True)

    def add(self, rows: Tensor, ids: Tensor) -> None:
        """Counts one drawn id per row: rows and ids int64 [n]. Row 0 gathers the counts of slots without one."""
        flat = rows * self._vocab_size + ids
        ones = torch.ones_like(ids, dtype=torch.int32)
        self.output_counts.view(-1).index_add_(0, flat, ones)
        self.output_counts[0].zero_()

    def _grow(self) -> None:
        missing = self.slots.capacity - self.output_counts.shape[0]
        if missing > 0:
            more = self.output_counts.new_zeros(missing, self._vocab_size)
            self.output_counts = torch.cat((self.output_counts, more))
            self.prompt_mask = torch.cat((self.prompt_mask, more.bool()))


class RecentTokens:
    """The last tokens that each slot with bad words generated, oldest first; -1 where there were none."""

    def __init__(self, max_slots: int, device: torch.device, upload: Upload) -> None:
        self.length = MAX_BAD_WORD_TOKENS - 1
        self._upload = upload
        self.tokens = torch.full((max_slots + 1, self.length), -1, dtype=torch.int64, device=device)

    def start(self, start: SlotStart) -> None:
        recent = np.full(self.length, -1, np.int64)
        tail = start.output_ids[-self.length :]
        if len(tail):
            recent[-len(tail) :] = tail
        self.tokens[start.slot] = self._upload(recent)

    def add(self, slots: Tensor, ids: Tensor) -> None:
        """Shifts one drawn id per slot in: slots and ids int64 [n]."""
        moved = torch.cat((self.tokens.index_select(0, slots)[:, 1:], ids.unsqueeze(1)), dim=1)
        self.tokens.index_copy_(0, slots, moved)
