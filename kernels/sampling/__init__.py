"""Turning logits into tokens.

The order is: logit bias and allowed tokens, repetition, frequency and presence penalties, temperature, min-p,
top-k, top-p, draw. With z the score after the temperature:

- min-p keeps z >= max(z) + log(min_p); top-k keeps z >= the k-th largest z; top-p keeps the fewest highest scores
  that hold `top_p` of the mass left by the two before it. Tokens equal to the last one kept are kept too.
- The draw is Gumbel-max with counter-based noise (`noise`): a row's token is a function of its own logits,
  parameters, seed and token index, never of the batch.
- Log-probabilities are of the raw logits. A row without any allowed token, or with NaN, gives an arbitrary valid id.
"""

from __future__ import annotations

import torch

from kernels.checks import require, require_vector
from kernels.sampling import reference
from kernels.sampling.params import SampleOutput, SamplingTensors

__all__ = ["SampleOutput", "SamplingTensors", "sample"]


def sample(logits: torch.Tensor, params: SamplingTensors, token_index: torch.Tensor) -> SampleOutput:
    """Draw one token per row of `logits` [R, V] (any float dtype, left unchanged).

    token_index: [R] int64, the index of the token being drawn in its request: with the seed, the noise's counter.
    Raises ValueError for parameters that do not match the rows or for a flag without its tensors.
    """
    require(logits.dim() == 2, f"logits must be [R, V], got {tuple(logits.shape)}")
    rows, vocabulary = logits.shape
    require_vector("token_index", token_index, rows)
    require_vector("temperature", params.temperature, rows)
    if params.any_penalty:
        require(
            params.slot is not None and params.output_counts is not None and params.prompt_mask is not None,
            "penalties need slot, output_counts and prompt_mask",
        )
    if params.any_logit_bias:
        require(params.bias_start is not None, "logit bias needs bias_start, bias_ids and bias_values")
    if params.allowed_mask is not None:
        words = (vocabulary + 31) // 32
        require(tuple(params.allowed_mask.shape) == (rows, words), f"allowed_mask must be ({rows}, {words})")
    if not logits.is_cuda:
        return reference.sample(logits, params, token_index)
    from kernels.sampling.launch import sample_triton

    return sample_triton(logits, params, token_index)
