"""From logits to tokens for a step's rows: the slots' parameters and histories, handed to the sampling kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.sampling import SampleOutput, SamplingTensors, sample
from services.worker.runner.plan import SlotStart
from services.worker.sampling.history import PenaltyCounts, RecentTokens, Upload
from services.worker.sampling.masks import AllowedTokens, SlotBias, forbid_bad_words, gather_bias, slot_bias
from services.worker.sampling.parameters import Feature, SlotParameters, Slots

# Needed beyond a row's plain numbers: such steps sample outside the captured graphs.
UNCOMMON = (
    Feature.PENALTY | Feature.BIAS | Feature.MASK | Feature.LOGPROBS | Feature.MIN_TOKENS | Feature.BAD_WORDS
)
_BIASED = Feature.BIAS | Feature.MIN_TOKENS | Feature.BAD_WORDS


def row_tensors(views: dict[str, Tensor], features: int) -> SamplingTensors:
    """The sampling tensors of rows that use nothing UNCOMMON, straight from the staged numbers."""
    numbers: dict[str, Any] = {name: views[name] for name in _ROW_FIELDS}
    return SamplingTensors(
        **numbers,
        any_top_p_k=bool(features & Feature.TOP),
        all_greedy=not features & Feature.TEMPERATURE,
    )


_ROW_FIELDS = ("temperature", "top_p", "top_k", "min_p", "seed", "presence", "frequency", "repetition")


class Sampler:
    """Holds what slots need beyond their numbers. Everything it does is enqueued; nothing waits for the device."""

    def __init__(
        self, parameters: SlotParameters, vocab_size: int, device: torch.device, upload: Upload
    ) -> None:
        self._parameters = parameters
        self._upload = upload
        self._penalties = PenaltyCounts(vocab_size, parameters.max_slots, device, upload)
        self._allowed = AllowedTokens(vocab_size, parameters.max_slots, device, upload)
        self._recent = RecentTokens(parameters.max_slots, device, upload)
        self._biases: dict[int, SlotBias] = {}

    def start(self, start: SlotStart) -> None:
        """Rebuilds what the slot's sequence needs from its ids. `parameters` were told of the start before."""
        features = int(self._parameters.features[start.slot])
        if features & Feature.PENALTY:
            self._penalties.start(start)
        else:
            self._penalties.slots.release(start.slot)
        if features & Feature.MASK:
            self._allowed.start(start.slot, start.sampling.allowed_token_ids or [])
        else:
            self._allowed.slots.release(start.slot)
        self._biases.pop(start.slot, None)
        if features & _BIASED:
            self._biases[start.slot] = slot_bias(start.sampling)
        if features & Feature.BAD_WORDS:
            self._recent.start(start)

    def sample(self, logits: Tensor, views: dict[str, Tensor], slots: Slots, features: int) -> SampleOutput:
        """Draws a token for each row of logits [S, V] and records it. views: the staged numbers of the rows."""
        if not features & UNCOMMON:
            return sample(logits, row_tensors(views, features), views["token_index"])
        output = sample(logits, self._uncommon_tensors(views, slots, features), views["token_index"])
        self._record(slots, features, output.ids)
        return output

    def _uncommon_tensors(self, views: dict[str, Tensor], slots: Slots, features: int) -> SamplingTensors:
        extra: dict[str, Any] = {name: views[name] for name in _ROW_FIELDS}
        if features & Feature.PENALTY:
            extra["slot"] = self._upload(self._penalties.slots.rows(slots))
            extra["output_counts"] = self._penalties.output_counts
            extra["prompt_mask"] = self._penalties.prompt_mask
        if features & Feature.MASK:
            rows = self._upload(self._allowed.slots.rows(slots))
            extra["allowed_mask"] = self._allowed.masks.index_select(0, rows)
        if features & _BIASED:
            start, ids, values = self._bias_tensors(slots)
            extra |= {"bias_start": start, "bias_ids": ids, "bias_values": values}
        if features & Feature.LOGPROBS:
            extra["max_top_logprobs"] = int(self._parameters.num_logprobs[slots].max())
        return SamplingTensors(
            any_top_p_k=bool(features & Feature.TOP),
            all_greedy=not features & Feature.TEMPERATURE,
            any_penalty=bool(features & Feature.PENALTY),
            any_logit_bias=bool(features & _BIASED),
            any_logprobs=bool(features & Feature.LOGPROBS),
            **extra,
        )

    def _bias_tensors(self, slots: Slots) -> tuple[Tensor, Tensor, Tensor]:
        until_min = self._parameters.slots_with(Feature.MIN_TOKENS, slots)
        bias = gather_bias([self._biases.get(slot) for slot in slots.tolist()], until_min.tolist())
        values = self._upload(bias.values)
        if bias.word_rows:
            word_slots = self._upload(slots[bias.word_rows])
            forbid_bad_words(
                values,
                self._upload(np.asarray(bias.word_entries, np.int64)),
                self._upload(bias.word_prefixes),
                self._recent.tokens.index_select(0, word_slots),
            )
        return self._upload(bias.start), self._upload(bias.ids), values

    def _record(self, slots: Slots, features: int, ids: Tensor) -> None:
        if features & Feature.PENALTY:
            self._penalties.add(self._upload(self._penalties.slots.rows(slots)), ids)
        if features & Feature.BAD_WORDS:
            rows = np.flatnonzero(self._parameters.slots_with(Feature.BAD_WORDS, slots))
            self._recent.add(self._upload(slots[rows]), ids.index_select(0, self._upload(rows)))
