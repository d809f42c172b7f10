"""Launching the sampling kernels: which of them a step needs, and their temporaries."""

from __future__ import annotations

import torch
import triton

from kernels.pdl import launch_options
from kernels.sampling.kernel import combine_kernel, draw_kernel, process_kernel, threshold_kernel
from kernels.sampling.noise import REACH
from kernels.sampling.params import SampleOutput, SamplingTensors

CHUNK = 4096  # tokens of the vocabulary per program of the draw; fixed, see kernel.py
SEARCH_BLOCK = 8192


def sample_triton(
    logits: torch.Tensor,
    params: SamplingTensors,
    token_index: torch.Tensor,
    *,
    search_block: int = SEARCH_BLOCK,
) -> SampleOutput:
    """See `kernels.sampling.sample`. No host sync; can be captured in a CUDA graph."""
    logits = logits.contiguous()
    rows, vocabulary = logits.shape
    device = logits.device
    scores = _process(logits, params) if params.has_processors else logits
    has_floor = params.any_top_p_k and not params.all_greedy
    floor = torch.empty(rows if has_floor else 1, dtype=torch.float32, device=device)
    if has_floor and rows:
        threshold_kernel[(rows,)](
            scores, params.temperature, params.top_p, params.top_k, params.min_p, floor, vocabulary,
            REACH=REACH, BLOCK=min(search_block, triton.next_power_of_2(vocabulary)), num_warps=16,
            **launch_options(device),
        )  # fmt: skip
    chunks = triton.cdiv(vocabulary, CHUNK)
    best, peak, mass = torch.empty(3, rows, chunks, dtype=torch.float32, device=device)
    best_ids = torch.empty(rows, chunks, dtype=torch.int32, device=device)
    ids = torch.empty(rows, dtype=torch.int64, device=device)
    chosen, log_mass = torch.empty(2, rows, dtype=torch.float32, device=device)
    if rows:
        draw_kernel[(rows, chunks)](
            scores, logits, params.temperature, params.seed, token_index, floor, best, best_ids, peak, mass,
            vocabulary, chunks, ALL_GREEDY=params.all_greedy, HAS_FLOOR=has_floor, LOGPROBS=params.needs_logprobs,
            BLOCK=CHUNK, num_warps=8, **launch_options(device),
        )  # fmt: skip
        combine_kernel[(rows,)](
            best, best_ids, peak, mass, logits, ids, chosen, log_mass, vocabulary, chunks,
            LOGPROBS=params.needs_logprobs, BLOCK=triton.next_power_of_2(chunks), num_warps=1,
            **launch_options(device),
        )  # fmt: skip
    if not params.needs_logprobs:
        return SampleOutput(ids)
    if not params.max_top_logprobs:
        return SampleOutput(ids, chosen)
    top = logits.float().topk(params.max_top_logprobs, dim=1)
    return SampleOutput(ids, chosen, top.indices, top.values - log_mass.unsqueeze(1))


def _process(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """Scores [R, V] float32 after bias, masks and penalties. Absent operands are replaced by one never read."""
    rows, vocabulary = logits.shape
    scores = torch.empty(rows, vocabulary, dtype=torch.float32, device=logits.device)
    bias = (
        (params.bias_start, params.bias_ids, params.bias_values) if params.any_logit_bias else (logits,) * 3
    )
    penalty = (
        (params.slot, params.output_counts, params.prompt_mask.view(torch.int8))
        if params.any_penalty
        else (logits,) * 3
    )
    mask = logits if params.allowed_mask is None else params.allowed_mask
    if rows:
        process_kernel[(rows, triton.cdiv(vocabulary, CHUNK))](
            logits, scores, *bias, mask, *penalty, params.presence, params.frequency, params.repetition, vocabulary,
            (vocabulary + 31) // 32, HAS_BIAS=params.any_logit_bias, HAS_MASK=params.allowed_mask is not None,
            HAS_PENALTY=params.any_penalty, BLOCK=CHUNK, num_warps=8, **launch_options(logits.device),
        )  # fmt: skip
    return scores
