"""Per-row sampling parameters and results. R is the number of rows, V the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SamplingTensors:
    """Sampling parameters of R rows, on the device of the logits.

    temperature:  [R] float32; 0 is greedy (the highest logit, the lowest id among equals).
    top_p:        [R] float32, 1 = off.   top_k: [R] int32, 0 = off.   min_p: [R] float32, 0 = off.
    seed:         [R] int64.
    presence, frequency, repetition: [R] float32 penalties; 0, 0 and 1 are off.
    slot:         [R] int64 row of `output_counts` and `prompt_mask` for each row of the logits.
    output_counts: [slots, V] int16 or int32, how often each token was emitted.
    prompt_mask:  [slots, V] bool or int8, whether each token is in the prompt.
    bias_start, bias_ids, bias_values: [R + 1] int32, [n] int32 and [n] float32: row r adds bias_values[i] to token
                  bias_ids[i] for bias_start[r] <= i < bias_start[r + 1]. No token twice in a row.
    allowed_mask: [R, ceil(V / 32)] int32; bit `id % 32` of word `id // 32` says the token may be drawn. None = all.

    The flags are host values that let a step skip work; a flag that is set without need costs time, never changes
    a result. `any_top_p_k` covers top-p, top-k and min-p.
    """

    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    min_p: torch.Tensor
    seed: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor
    repetition: torch.Tensor
    slot: torch.Tensor | None = None
    output_counts: torch.Tensor | None = None
    prompt_mask: torch.Tensor | None = None
    bias_start: torch.Tensor | None = None
    bias_ids: torch.Tensor | None = None
    bias_values: torch.Tensor | None = None
    allowed_mask: torch.Tensor | None = None
    any_penalty: bool = False
    any_top_p_k: bool = False
    all_greedy: bool = False
    any_logit_bias: bool = False
    any_logprobs: bool = False
    max_top_logprobs: int = 0

    @property
    def has_processors(self) -> bool:
        """Whether anything changes the logits before the temperature."""
        return self.any_penalty or self.any_logit_bias or self.allowed_mask is not None

    @property
    def needs_logprobs(self) -> bool:
        return self.any_logprobs or self.max_top_logprobs > 0


@dataclass(frozen=True)
class SampleOutput:
    """What was drawn.

    ids: [R] int64.   logprobs: [R] float32 of the drawn ids, or None when no row asked.
    top_ids, top_logprobs: [R, max_top_logprobs] int64 and float32, most likely first, or None.
    Log-probabilities are of the model's raw logits, before bias, masks, penalties and temperature.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor | None = None
    top_ids: torch.Tensor | None = None
    top_logprobs: torch.Tensor | None = None
