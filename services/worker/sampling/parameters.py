"""How each slot's next token is to be drawn, as host arrays: one number a slot and parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.worker.runner.plan import SlotSampling, SlotStart

Slots = NDArray[np.int64]


class Feature:
    """Bits that say what a slot's sampling needs; a step needs the union over its rows.

    Plain integers: every step tests several, and an enum's operators take microseconds each.
    """

    TEMPERATURE = 1
    TOP = 2
    """top-p, top-k or min-p."""
    PENALTY = 4
    BIAS = 8
    """logit_bias."""
    MASK = 16
    """allowed_token_ids."""
    LOGPROBS = 32
    MIN_TOKENS = 64
    """Cleared once the slot has generated its min_tokens."""
    BAD_WORDS = 128


def features_of(sampling: SlotSampling) -> int:
    """The union of the Features that the sampling needs."""
    warm = sampling.temperature > 0
    needs = {
        Feature.TEMPERATURE: warm,
        Feature.TOP: warm and (sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0),
        Feature.PENALTY: sampling.has_penalties,
        Feature.BIAS: bool(sampling.logit_bias),
        Feature.MASK: sampling.allowed_token_ids is not None,
        Feature.LOGPROBS: sampling.logprobs is not None,
        Feature.MIN_TOKENS: bool(sampling.min_tokens and sampling.stop_ids),
        Feature.BAD_WORDS: bool(sampling.bad_words),
    }
    return sum(feature for feature, needed in needs.items() if needed)


# Sampling parameters that travel to the device as one number a row.
ROW_PARAMETERS: dict[str, type] = {
    "seed": np.int64,
    "top_k": np.int32,
    "temperature": np.float32,
    "top_p": np.float32,
    "min_p": np.float32,
    "presence": np.float32,
    "frequency": np.float32,
    "repetition": np.float32,
}


class SlotParameters:
    """Sampling parameters by slot. Index `max_slots` is the padding rows' slot: greedy, nothing else."""

    def __init__(self, max_slots: int) -> None:
        slots = max_slots + 1
        self.max_slots = max_slots
        self.token_index = np.zeros(slots, np.int64)
        """The index of the slot's next token."""
        self.num_logprobs = np.zeros(slots, np.int64)
        self.features = np.zeros(slots, np.uint8)
        self.numbers: dict[str, NDArray[Any]] = {
            name: np.zeros(slots, kind) for name, kind in ROW_PARAMETERS.items()
        }
        self._min_tokens = np.zeros(slots, np.int64)
        self._taken: tuple[Slots, int] | None = None
        """What take_features last found, while nothing can have changed it."""
        self._set_numbers(max_slots, SlotSampling())

    def start(self, start: SlotStart) -> None:
        slot, sampling = start.slot, start.sampling
        self._taken = None
        self.token_index[slot] = len(start.output_ids)
        self.num_logprobs[slot] = sampling.logprobs or 0
        self.features[slot] = features_of(sampling)
        self._min_tokens[slot] = sampling.min_tokens
        self._set_numbers(slot, sampling)

    def take_features(self, slots: Slots) -> int:
        """What drawing these slots' next tokens needs; drops MIN_TOKENS where it has been met.

        A batch that stays the same comes with the same array, which its owner does not change.
        """
        if self._taken is not None and self._taken[0] is slots:
            return self._taken[1]
        used = int(np.bitwise_or.reduce(self.features[slots], initial=0))
        if used & Feature.MIN_TOKENS:
            met = slots[self.token_index[slots] >= self._min_tokens[slots]]
            self.features[met] &= np.uint8(~Feature.MIN_TOKENS & 0xFF)
            used = int(np.bitwise_or.reduce(self.features[slots], initial=0))
        self._taken = None if used & Feature.MIN_TOKENS else (slots, used)
        return used

    def advance(self, slots: Slots) -> None:
        """One more id is drawn for each of `slots`."""
        if slots.size == 1:
            self.token_index[int(slots[0])] += 1
        else:
            self.token_index[slots] += 1

    def slots_with(self, feature: int, slots: Slots) -> NDArray[np.bool_]:
        return (self.features[slots] & np.uint8(feature)) > 0

    def _set_numbers(self, slot: int, sampling: SlotSampling) -> None:
        numbers = self.numbers
        # Seeds are 64 bits without a sign on the wire, with one on the device: the same bits.
        numbers["seed"][slot] = np.uint64(sampling.seed & (2**64 - 1)).astype(np.int64)
        numbers["temperature"][slot] = sampling.temperature
        numbers["top_k"][slot] = sampling.top_k
        numbers["top_p"][slot] = sampling.top_p
        numbers["min_p"][slot] = sampling.min_p
        numbers["presence"][slot] = sampling.presence_penalty
        numbers["frequency"][slot] = sampling.frequency_penalty
        numbers["repetition"][slot] = sampling.repetition_penalty
