"""What may not be drawn, or is pushed: logit bias, min_tokens, bad words and allowed tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.worker.runner.plan import MAX_BAD_WORD_TOKENS, SlotSampling
from services.worker.sampling.history import Upload
from services.worker.sampling.slot_rows import SlotRows

Array = NDArray[Any]
PREFIX = MAX_BAD_WORD_TOKENS - 1


@dataclass(frozen=True, slots=True)
class SlotBias:
    """One slot's entries of the bias list, each token once.

    A bad word's last token has an entry too (0 unless biased otherwise), which `words` name by index: it
    becomes -inf in the steps where the tokens before it match.
    """

    ids: Array
    values: Array
    ids_until_min: Array
    """The same while min_tokens is not met: the ids that would end the sequence are at -inf."""
    values_until_min: Array
    word_ends: list[int] = field(default_factory=list)
    """Per bad word, the id of its last token."""
    word_prefixes: Array = field(default_factory=lambda: np.empty((0, PREFIX), np.int64))
    """Per bad word, the tokens before its last, right-aligned, -1 where it has none: int64 [words, PREFIX]."""


def slot_bias(sampling: SlotSampling) -> SlotBias:
    """Raises ValueError if a bad word is empty or has more than MAX_BAD_WORD_TOKENS tokens."""
    entries = dict(sampling.logit_bias)
    prefixes = np.full((len(sampling.bad_words), PREFIX), -1, np.int64)
    for prefix, word in zip(prefixes, sampling.bad_words, strict=True):
        if not 1 <= len(word) <= MAX_BAD_WORD_TOKENS:
            raise ValueError(f"a bad word has 1 to {MAX_BAD_WORD_TOKENS} tokens, not {len(word)}")
        entries.setdefault(word[-1], 0.0)
        if len(word) > 1:
            prefix[1 - len(word) :] = word[:-1]
    until_min = entries | dict.fromkeys(sampling.stop_ids, float("-inf"))
    return SlotBias(
        *_columns(entries), *_columns(until_min), [word[-1] for word in sampling.bad_words], prefixes
    )


def _columns(entries: dict[int, float]) -> tuple[Array, Array]:
    return np.fromiter(entries.keys(), np.int32), np.fromiter(entries.values(), np.float32)


@dataclass(slots=True)
class BiasList:
    """A step's bias entries, row after row, still on the host; see SamplingTensors."""

    start: Array
    ids: Array
    values: Array
    word_rows: list[int]
    word_entries: list[int]
    word_prefixes: Array


def gather_bias(biases: list[SlotBias | None], until_min: list[bool]) -> BiasList:
    """Joins the rows' entries; None is a row without any. `until_min`: whether min_tokens still holds."""
    ids = [
        _NO_IDS if b is None else b.ids_until_min if m else b.ids
        for b, m in zip(biases, until_min, strict=True)
    ]
    values = [
        _NO_VALUES if b is None else b.values_until_min if m else b.values
        for b, m in zip(biases, until_min, strict=True)
    ]
    start = np.zeros(len(biases) + 1, np.int32)
    np.cumsum([len(i) for i in ids], out=start[1:])
    rows: list[int] = []
    entries: list[int] = []
    prefixes = [np.empty((0, PREFIX), np.int64)]
    for row, bias in enumerate(biases):
        if bias is not None and bias.word_ends:
            place = {int(token): int(start[row]) + i for i, token in enumerate(ids[row])}
            rows += [row] * len(bias.word_ends)
            entries += [place[token] for token in bias.word_ends]
            prefixes.append(bias.word_prefixes)
    return BiasList(
        start, np.concatenate(ids), np.concatenate(values), rows, entries, np.concatenate(prefixes)
    )


_NO_IDS = np.empty(0, np.int32)
_NO_VALUES = np.empty(0, np.float32)


def forbid_bad_words(values: Tensor, entries: Tensor, prefixes: Tensor, recent: Tensor) -> None:
    """Puts -inf, in place, into the entries of `values` float32 [n] whose word the next token would complete.

    entries: int64 [words]; prefixes, recent: int64 [words, PREFIX], the word's tokens before its last and its
    sequence's last tokens. Runs on the device: the host need not know the last tokens.
    """
    completes = ((prefixes < 0) | (prefixes == recent)).all(dim=1)
    low = torch.where(completes, float("-inf"), float("inf")).to(values.dtype)
    values.scatter_reduce_(0, entries, low, "amin")


class AllowedTokens:
    """Per slot with allowed_token_ids: a bit per token. Row 0 allows all."""

    def __init__(self, vocab_size: int, max_slots: int, device: torch.device, upload: Upload) -> None:
        self.slots = SlotRows(max_slots)
        self._vocab_size = vocab_size
        self._upload = upload
        self.masks = torch.full((1, -(-vocab_size // 32)), -1, dtype=torch.int32, device=device)

    def start(self, slot: int, allowed: list[int]) -> None:
        row = self.slots.take(slot)
        missing = self.slots.capacity - self.masks.shape[0]
        if missing > 0:
            self.masks = torch.cat((self.masks, self.masks[:1].expand(missing, -1)))
        bits = np.zeros(self.masks.shape[1] * 32, np.uint8)
        bits[np.asarray(allowed, np.int64)] = 1
        self.masks[row] = self._upload(np.packbits(bits, bitorder="little").view(np.int32))
