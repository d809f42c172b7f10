"""RoPE of type "dynamic" for prompts longer than the model was trained for.

transformers rotates all tokens of such a prompt as its whole length has it (see layers/rope.py), so a position
alone does not name a row of the table. The rows of a step's long prompts are written behind the table, and their
tokens are pointed there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from services.worker.layers.rope import RopeConfig, prompt_rows, rope_table
from services.worker.runner.plan import PrefillChunk, SlotStart
from services.worker.runner.slots import Array
from services.worker.runner.staging import upload


def has_long_prompts(rope: RopeConfig, max_model_len: int) -> bool:
    return rope.type == "dynamic" and max_model_len > rope.max_position


class RopeRows:
    """The rows that a step's positions index: the table, and behind it room for one step's long prompts."""

    def __init__(
        self, rope: RopeConfig, max_model_len: int, max_step_tokens: int, max_slots: int, device: torch.device
    ) -> None:
        self._rope = rope
        # One position more than the longest sequence; see SlotTable.
        self._length = max_model_len + 1
        self._prompt_lengths = np.zeros(max_slots + 1, np.int64)
        self.cos_sin = rope_table(rope, self._length, device)
        self._has_long = has_long_prompts(rope, max_model_len)
        if self._has_long:
            room = self.cos_sin.new_zeros(max_step_tokens + max_slots, rope.dim)
            self.cos_sin = torch.cat((self.cos_sin, room))

    def start(self, start: SlotStart) -> None:
        self._prompt_lengths[start.slot] = start.prompt_length

    def place(self, positions: Array, first_token: int, chunks: list[PrefillChunk]) -> Array:
        """The row of each of the step's tokens [T], whose chunks begin at `first_token`. Fills rows as needed."""
        if not self._has_long:
            return positions
        rows = positions.copy()
        for chunk in chunks:
            end = first_token + len(chunk.token_ids)
            length = int(self._prompt_lengths[chunk.slot])
            if length > self._rope.max_position:
                # Ids generated before a resume come after the prompt and keep their positions' own rows.
                of_prompt = min(end, first_token + max(length - chunk.start, 0))
                rows[first_token:of_prompt] = self._fill(
                    first_token, positions[first_token:of_prompt], length
                )
            first_token = end
        return rows

    def _fill(self, token: int, positions: Array, prompt_length: int) -> Array:
        first = self._length + token
        device = self.cos_sin.device
        values: Tensor = prompt_rows(self._rope, upload(positions, device), prompt_length)
        self.cos_sin[first : first + len(positions)] = values
        return np.arange(first, first + len(positions))
