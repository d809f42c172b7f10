"""Launching the sampling kernels. No host value depends on a device one: the whole of it can be captured."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton

from kernels.configs import tuned
from kernels.sampling.kernel import bias_kernel, finish_kernel, partial_kernel, process_kernel
from kernels.sampling.params import SampleOutput, SamplingTensors


@dataclass(frozen=True)
class SamplingConfig:
    """Scores per chunk, one size for every batch (see kernel.py), and warps of a program that narrows a row."""

    chunk: int = 4096
    warps: int = 16


@functools.cache
def sampling_config(device: torch.device) -> SamplingConfig:
    return SamplingConfig(**tuned(device).get("sampling", {}))


def process_triton(logits: torch.Tensor, params: SamplingTensors, chunk: int) -> torch.Tensor:
    """Scores [R, V] float32 after bias, allowed tokens and penalties; `logits` stay as they are."""
    rows, vocabulary = logits.shape
    scores = torch.empty_like(logits, dtype=torch.float32)
    source = logits
    if params.any_logit_bias:
        source = scores.copy_(logits)
        bias_kernel[(rows,)](
            scores, params.bias_start, params.bias_ids, params.bias_values, vocabulary, 128, num_warps=1
        )
    mask = params.allowed_mask
    if mask is None and not params.any_penalty:
        return scores
    unused = params.temperature
    process_kernel[(rows, triton.cdiv(vocabulary, chunk))](
        source, scores, unused if mask is None else mask,
        params.output_counts if params.any_penalty else unused,
        _as_bytes(params.prompt_mask) if params.any_penalty else unused,
        params.slot if params.any_penalty else unused,
        params.presence, params.frequency, params.repetition,
        vocabulary, 0 if mask is None else mask.stride(0),
        CHUNK=chunk, MASKED=mask is not None, PENALTIES=params.any_penalty, num_warps=8,
    )  # fmt: skip
    return scores


def _as_bytes(mask: torch.Tensor | None) -> torch.Tensor | None:
    return mask.view(torch.int8) if mask is not None and mask.dtype == torch.bool else mask


def sample_triton(
    logits: torch.Tensor,
    params: SamplingTensors,
    token_index: torch.Tensor,
    config: SamplingConfig | None = None,
) -> SampleOutput:
    """See `kernels.sampling.sample`."""
    config = config or sampling_config(logits.device)
    chunk, logits = config.chunk, logits.contiguous()
    rows, vocabulary = logits.shape
    chunks = triton.cdiv(vocabulary, chunk)
    scores = process_triton(logits, params, chunk) if params.has_processors else logits
    restricts = params.any_top_p_k and not params.all_greedy
    floats = torch.empty(4, rows, chunks, dtype=torch.float32, device=logits.device)
    highest, best, raw_highest, raw_sum = floats.unbind(0)
    best_id = torch.empty(rows, chunks, dtype=torch.int32, device=logits.device)
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        shared = (
            logits, scores, params.temperature, params.top_p, params.top_k, params.min_p, params.seed, token_index,
            highest, best, best_id, raw_highest, raw_sum,
        )  # fmt: skip
        partial_kernel[(rows, chunks)](
            *shared, vocabulary, CHUNK=chunk, TOP_P_K=restricts, GREEDY=params.all_greedy,
            PROCESSED=params.has_processors, LOGPROBS=params.needs_logprobs, num_warps=8,
        )  # fmt: skip
        finish_kernel[(rows,)](
            *shared, ids, logprobs, vocabulary, chunks, CHUNK=chunk, BLOCK_CHUNKS=triton.next_power_of_2(chunks),
            TOP_P_K=restricts, LOGPROBS=params.needs_logprobs, num_warps=config.warps if restricts else 1,
        )  # fmt: skip
    if not params.needs_logprobs:
        return SampleOutput(ids)
    if not params.max_top_logprobs:
        return SampleOutput(ids, logprobs)
    top = logits.topk(params.max_top_logprobs, dim=1)
    chosen = logits.gather(1, ids.unsqueeze(1)).float()
    log_sum = chosen - logprobs.unsqueeze(1)
    return SampleOutput(ids, logprobs, top.indices, top.values.float() - log_sum)
